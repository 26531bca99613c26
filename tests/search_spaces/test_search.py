"""Searches: checked when they are declared, blind to the test set, equal for all methods that are compared."""

from __future__ import annotations

import typing
from dataclasses import replace
from typing import Any

import pytest

from search_spaces import recipes
from search_spaces.search import LogUniform, OneOf, Search, Tuning, Uniform
from search_spaces.spaces import OF_METHODS, full_space, narrow_space
from trainer.config import Amp, Erm, Holdout, Method, TrialConfig
from trainer.declaration import ConfigError

AMP = recipes.digits_mlp(Amp(epsilon=0.2, inner_lr=1.0), seed=7)


def amp_search(**changes: Any) -> Search:
    given: dict[str, Any] = {"name": "amp", "base": AMP, "space": full_space(AMP.method), "settings": 20} | changes
    return Search(**given)


def test_the_first_setting_is_the_base_s_own() -> None:
    first = amp_search().first
    assert first == {
        "lr": 0.05,
        "method.epsilon": 0.2,
        "method.inner_lr": 1.0,
        "method.inner_steps": 1,
        "weight_decay": 1e-4,
    }
    (trial,) = amp_search().trials(first)
    assert trial == replace(AMP, seed=0, validation=Holdout(fraction=0.1, seed=0), evaluate="val")


def test_a_setting_is_a_trial_a_seed_each_on_a_split_of_its_own_and_none_reads_the_test_set() -> None:
    trials = amp_search(seeds=3).trials({"method.epsilon": 0.7, "method.inner_steps": 2})
    assert [trial.seed for trial in trials] == [0, 1, 2]
    assert [trial.validation for trial in trials] == [Holdout(fraction=0.1, seed=seed) for seed in range(3)]
    assert {trial.method for trial in trials} == {Amp(epsilon=0.7, inner_lr=1.0, inner_steps=2)}
    assert {trial.phase for trial in trials} == {"search"}


def test_seeds_and_splits_are_the_same_for_all_methods() -> None:
    other = Search(name="erm", base=recipes.digits_mlp(Erm(), 3), space=full_space(Erm()), settings=20, seeds=3)
    for one, two in zip(amp_search(seeds=3).trials({}), other.trials({}), strict=True):
        assert replace(one, method=Erm()) == two


def test_the_verdict_is_trained_on_all_images_and_reads_the_test_set() -> None:
    trials = amp_search().final_trials({"lr": 0.1}, range(10))
    assert [trial.seed for trial in trials] == list(range(10))
    assert {(trial.lr, trial.validation, trial.evaluate) for trial in trials} == {(0.1, None, "test")}


@pytest.mark.parametrize("method", typing.get_args(Method))
def test_every_method_has_a_space_that_holds_the_paper_s_setting(method: type[Method]) -> None:
    listed = [*recipes.DIGITS_TABLE1, *recipes.MNIST5K_TABLE1, recipes.amp(0.1, 0.2, "as_written")]
    known = [one for one in listed if type(one) is method]
    for one in known:
        search = Search(name="any", base=recipes.digits_mlp(one, 0), space=full_space(one), settings=1)
        assert set(search.space) == {*OF_METHODS[method], "lr", "weight_decay"}
    assert known or method.__name__ == "Sam"


def test_a_grid_has_every_combination_once() -> None:
    space = {"method.inner_steps": OneOf(values=(1, 2)), "method.epsilon": OneOf(values=(0.1, 0.2, 0.5))}
    grid = amp_search(space=space, sampler="grid", settings=6).grid
    assert [tuple(setting.items()) for setting in grid] == [
        (("method.epsilon", epsilon), ("method.inner_steps", steps)) for epsilon in (0.1, 0.2, 0.5) for steps in (1, 2)
    ]


def test_the_narrow_space_leaves_training_alone() -> None:
    assert narrow_space(Erm()) == {}
    assert set(narrow_space(AMP.method)) == {"method.epsilon", "method.inner_lr", "method.inner_steps"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "A B"}, "Search.name"),
        ({"settings": 0}, "Search.settings = 0"),
        ({"settings": True}, "Search.settings = True"),
        ({"seeds": 1.5}, "Search.seeds = 1.5"),
        ({"hours": 0.0}, "Search.hours = 0.0"),
        ({"metric": "test/nll"}, "Search.metric = 'test/nll'"),
        ({"sampler": "cma"}, "Search.sampler = 'cma'"),
        ({"sampler": "grid"}, "unless all of the space is OneOf"),
        (
            {"sampler": "grid", "space": {"method.inner_steps": OneOf(values=(1, 2))}},
            "settings = 20 of 'amp': must be <= 2",
        ),
        ({"fraction": 1.0}, "Holdout.fraction"),
        ({"space": {"method.epsilom": LogUniform(low=0.1, high=1.0)}}, "no such number: method.epsilon"),
        ({"space": {"method": OneOf(values=(1,))}}, "no such number"),
        ({"space": {"lr": 0.1}}, "must be LogUniform, Uniform or OneOf"),
        ({"space": {"method.epsilon": LogUniform(low=0.3, high=1.0)}}, "must hold the base's 0.2"),
        ({"space": {"method.inner_steps": OneOf(values=(0, 1))}}, "Amp.inner_steps = 0"),
        ({"space": {"method.inner_steps": Uniform(low=1.0, high=3.0)}}, "must be OneOf"),
        ({"space": {"seed": OneOf(values=(7, 8))}}, "not for a search to choose"),
        ({"space": {"validation.fraction": Uniform(low=0.1, high=0.5)}}, "not for a search to choose"),
        ({"space": {"method.epsilon": Uniform(low=-1.0, high=1.0)}}, "Amp.epsilon = -1.0"),
    ],
)
def test_what_cannot_be_searched_is_refused_when_it_is_declared(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        amp_search(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: LogUniform(low=0.0, high=1.0),
        lambda: LogUniform(low=2.0, high=1.0),
        lambda: Uniform(low=1.0, high=1.0),
        lambda: OneOf(values=()),
        lambda: OneOf(values=(1, 1.0)),
    ],
)
def test_what_is_no_distribution(declare: Any) -> None:
    with pytest.raises(ConfigError):
        declare()


def test_the_digest_follows_what_decides_the_outcome_and_not_the_budget() -> None:
    search = amp_search()
    assert search.digest == amp_search(settings=40, hours=2.0, name="other").digest
    changed = [
        amp_search(base=replace(AMP, epochs=41)),
        amp_search(space=narrow_space(AMP.method)),
        amp_search(space={**full_space(AMP.method), "lr": LogUniform(low=0.005, high=0.6)}),
        amp_search(space={**full_space(AMP.method), "lr": Uniform(low=0.005, high=0.5)}),
        amp_search(metric="val/error"),
        amp_search(seeds=2),
        amp_search(fraction=0.2),
        amp_search(sampler="random"),
        amp_search(sampler_seed=1),
        amp_search(pruner="median"),
    ]
    assert len({search.digest, *(other.digest for other in changed)}) == 1 + len(changed)


def erm_search(**changes: Any) -> Search:
    return replace(amp_search(**changes), name="erm", base=recipes.digits_mlp(Erm(), 0), space=full_space(Erm()))


def test_a_comparison_has_one_budget() -> None:
    for changes in ({"settings": 21}, {"hours": 1.0}, {"seeds": 2}, {"metric": "val/error"}, {"sampler": "random"}):
        with pytest.raises(ConfigError, match=f"{next(iter(changes))} differs"):
            Tuning(name="both", question="?", searches=[amp_search(), erm_search(**changes)])
    with pytest.raises(ConfigError, match="two have one name"):
        Tuning(name="both", question="?", searches=[amp_search(), amp_search()])
    with pytest.raises(ConfigError, match="one Search or more"):
        Tuning(name="both", question="?", searches=[])


def test_the_final_study_has_the_chosen_settings() -> None:
    tuning = Tuning(name="both", question="Which?", searches=[amp_search(), erm_search()], final_seeds=range(4))
    study = tuning.final_study({"amp": {"method.epsilon": 0.5}, "erm": {"weight_decay": 0.01}})
    assert (study.name, study.question, len(study.trials)) == ("both-final", "Which?", 16)
    assert {trial.method for trial in study.trials} == {Amp(epsilon=e, inner_lr=1.0) for e in (0.2, 0.5)} | {Erm()}
    assert {trial.weight_decay for trial in study.trials if isinstance(trial.method, Erm)} == {1e-4, 0.01}
    assert all(isinstance(trial, TrialConfig) and trial.phase == "final" for trial in study.trials)


def test_a_first_setting_that_is_chosen_is_trained_once() -> None:
    tuning = Tuning(name="one", question="?", searches=[amp_search()], final_seeds=range(4))
    assert len(tuning.final_study({"amp": amp_search().first}).trials) == 4


def test_a_space_of_few_settings_has_a_smaller_budget() -> None:
    few = {"method.inner_steps": OneOf(values=(1, 2, 3))}
    assert amp_search(space=few).budget == 3
    assert amp_search().budget == 20
    assert Search(name="erm", base=recipes.digits_mlp(Erm(), 0), space=narrow_space(Erm()), settings=9).budget == 1


def test_what_a_search_replaces_in_its_base_is_not_in_its_digest() -> None:
    other = replace(AMP, seed=1, validation=Holdout(fraction=0.2, seed=5), evaluate="val")
    assert amp_search(base=other).digest == amp_search().digest


@pytest.mark.parametrize(("pruner", "seeds"), [("wilcoxon", 1), ("wilcoxon", 4), ("median", 2), ("best", 1)])
def test_pruners_want_the_seeds_that_they_are_for(pruner: str, seeds: int) -> None:
    with pytest.raises(ConfigError, match=r"^Search\.pruner = "):
        amp_search(pruner=pruner, seeds=seeds)

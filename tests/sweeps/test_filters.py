"""Filters choose among the declared trials; what they cannot mean is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_spaces import recipes
from search_spaces.study import Study
from sweeps.cli import main
from sweeps.filters import ALL, Selection, refuse_hyper_parameters
from trainer.config import Amp, Augment, Erm, Mnist5k, Rmp, TrialConfig
from trainer.declaration import ConfigError

METHODS = (Erm(), Amp(epsilon=0.5), Amp(epsilon=1.0, inner_steps=2), Rmp(epsilon=0.5))
STUDY = Study(
    name="toy",
    question="?",
    trials=[
        recipe(method, seed)
        for recipe in (recipes.digits_mlp, recipes.mnist5k_mlp)
        for seed in (3, 1, 2)
        for method in METHODS
    ],
)


def chosen(*only: str, seeds: int | None = None) -> list[TrialConfig]:
    return list(Selection(only, seeds).of(STUDY).trials)


def by(condition: object) -> list[TrialConfig]:
    assert callable(condition)
    return [trial for trial in STUDY.trials if condition(trial)]


def test_nothing_asked_for_is_the_study_itself() -> None:
    assert ALL.of(STUDY) is STUDY


def test_a_field_has_a_value() -> None:
    assert chosen("method=Amp") == by(lambda trial: isinstance(trial.method, Amp))
    assert chosen("dataset=Mnist5k") == by(lambda trial: isinstance(trial.dataset, Mnist5k))


def test_several_fields_must_all_hold_and_one_field_any_of_its_values() -> None:
    assert chosen("method=Amp", "method.epsilon=0.5") == by(lambda trial: trial.method == Amp(epsilon=0.5))
    assert chosen("method=Amp", "method=Erm", "seed=3") == by(
        lambda trial: isinstance(trial.method, Amp | Erm) and trial.seed == 3
    )


def test_trials_without_the_parameter_are_not_chosen() -> None:
    assert chosen("method.epsilon=0.5") == by(lambda trial: getattr(trial.method, "epsilon", None) == 0.5)


@pytest.mark.parametrize(
    "item", ["method.epsilon=1", "method.epsilon=1.0", "method.epsilon=1e0", " method.epsilon = 1.00 "]
)
def test_a_number_may_be_written_in_any_way(item: str) -> None:
    assert chosen(item) == by(lambda trial: getattr(trial.method, "epsilon", None) == 1)


@pytest.mark.parametrize("item", ["lr_milestones=[15,22]", "lr_milestones=[15, 22]"])
def test_lists(item: str) -> None:
    assert chosen(item) == by(lambda trial: trial.lr_milestones == (15, 22))


@pytest.mark.parametrize("item", ["precision=float32", "augment=None", "momentum_form=classical", "augment=null"])
def test_a_field_left_out_of_the_identity_has_its_default(item: str) -> None:
    assert chosen(item) == list(STUDY.trials)


def test_a_part_that_some_trials_have() -> None:
    augmented = replace(STUDY.trials[0], augment=Augment(flip="horizontal", crop_padding=0))
    study = replace(STUDY, trials=(*STUDY.trials, augmented))
    assert list(Selection(("augment=Augment",)).of(study).trials) == [augmented]
    assert list(Selection(("augment.policy=none",)).of(study).trials) == [augmented]
    assert list(Selection(("augment=None",)).of(study).trials) == list(STUDY.trials)


def test_seeds_are_the_first_of_each_cell_and_the_order_stays() -> None:
    assert chosen(seeds=1) == by(lambda trial: trial.seed == 1)
    assert chosen(seeds=2) == by(lambda trial: trial.seed in (1, 2))
    assert chosen("method=Erm", seeds=9) == by(lambda trial: isinstance(trial.method, Erm))


@pytest.mark.parametrize(
    ("only", "parts"),
    [
        (("methd=Amp",), ("--only methd=Amp", "no trial has a parameter 'methd'", "method.epsilon", "batch_size")),
        (("method.epsilon=0.3",), ("--only method.epsilon=0.3", "there are 0.5, 1.0")),
        (("method=amp",), ("there are Erm, Amp, Rmp",)),
        (("seed=1.5",), ("there are 3, 1, 2",)),
        (("seed=true",), ("there are 3, 1, 2",)),
        (("method",), ("--only method: must be field=value",)),
        (("method=Erm", "method.epsilon=0.5"), ("--only method=Erm --only method.epsilon=0.5", "has all of these")),
        (("check=1",), ("no trial has a parameter 'check'",)),
    ],
)
def test_what_no_trial_has_is_refused_with_what_there_is(only: tuple[str, ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        chosen(*only)
    assert "\n" not in str(refused.value)
    for part in parts:
        assert part in str(refused.value)


def test_a_selection_can_be_typed_again() -> None:
    selection = Selection(("method=Amp", "lr_milestones=[15,22]"), 3)
    assert selection.as_options() == "--only method=Amp --only 'lr_milestones=[15,22]' --seeds 3"
    assert selection.as_make() == " ONLY='method=Amp lr_milestones=[15,22]' SEEDS=3"
    assert (ALL.as_options(), ALL.as_make()) == ("", "")


@pytest.mark.parametrize(
    "option",
    ["--epochs", "--lr", "--batch-size", "--batch_size", "--epsilon", "--method.epsilon", "--epsilon=0.5", "--seed",
     "--learning-rate", "--width", "--fraction", "--policy", "--max-norm"],
)  # fmt: skip
@pytest.mark.parametrize("command", ["plan", "run", "status"])
def test_hyper_parameters_are_refused_with_the_reason(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "fig8-digits", option, "3"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {option.partition('=')[0]}: ")
    assert "identity" in told
    assert "--only" in told
    assert len(told.splitlines()) == 1


def test_other_options_that_there_are_not_are_argparse_s(capsys: pytest.CaptureFixture[str]) -> None:
    refuse_hyper_parameters(["--frobnicate", "epochs"])
    with pytest.raises(SystemExit) as ended:
        main(["plan", "fig8-digits", "--frobnicate"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --frobnicate" in capsys.readouterr().err

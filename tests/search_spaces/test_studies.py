"""The built-in studies are the paper's artefacts, each with a small sister that needs no download."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces import paper
from search_spaces.catalog import built_in, built_in_tunings, find
from search_spaces.study import Study
from trainer.config import (
    Amp,
    Cifar10,
    Cifar100,
    Digits,
    Erm,
    Mlp,
    Mnist5k,
    PreActResNet18,
    PyramidNet,
    SmallCnn,
    Svhn,
    TrialConfig,
    TwoSpirals,
    Vgg16,
    WideResNet,
)
from trainer.loop import train
from trainer.machine import Machine
from trainer.probe_config import DecisionBoundary, LossAlongDirections

BIG = {
    "table1": (48, 10),
    "table1-released": (48, 10),
    "table2": (36, 10),
    "table2-released": (36, 10),
    "fig8": (11, 5),
    "fig8-cifar100": (11, 5),
    "fig8-svhn": (11, 5),
    "zeta": (8, 5),
    "inner-steps": (5, 5),
    "grid": (60, 3),
    "fig2": (2, 3),
    "fig6": (2, 10),
    "cost": (4, 3),
}
"""Cells and seeds of what the paper's hardware is for; Figure 6 alone is small by itself."""
SMALL = {
    "table1-small": (16, 5),
    "table2-small": (8, 5),
    "fig8-mnist5k": (11, 5),
    "fig8-digits": (8, 5),
    "zeta-small": (8, 5),
    "inner-steps-small": (5, 5),
    "grid-small": (20, 3),
    "fig2-small": (2, 5),
    "fig6-small": (2, 2),
    "cost-small": (2, 5),
}


FINAL = {"tune-table1-small-final": (32, 10)}
"""Of the tunings whose choices are frozen: of each search an untuned and a tuned cell."""


def ids(study: str) -> set[str]:
    return {trial.trial_id for trial in find(study).trials}


def amps(study: Study) -> list[Amp]:
    return [method for method in dict.fromkeys(trial.method for trial in study.trials) if isinstance(method, Amp)]


def test_these_are_all() -> None:
    assert set(built_in()) == {*BIG, *SMALL, *FINAL}
    assert {tuning.final_name for tuning in built_in_tunings().values()} == set(FINAL)


@pytest.mark.parametrize(("name", "size"), FINAL.items())
def test_a_verdict_has_untuned_and_tuned_cells_with_all_seeds(name: str, size: tuple[int, int]) -> None:
    cells, seeds = size
    assert [cell.seeds for cell in find(name).cells()] == [list(range(seeds))] * cells
    assert {(trial.evaluate, trial.validation) for trial in find(name).trials} == {("test", None)}


@pytest.mark.parametrize(("name", "size"), (BIG | SMALL).items())
def test_every_cell_has_the_same_seeds(name: str, size: tuple[int, int]) -> None:
    cells, seeds = size
    assert [cell.seeds for cell in find(name).cells()] == [list(range(seeds))] * cells


@pytest.mark.parametrize("name", BIG | SMALL)
def test_a_sweep_cut_short_has_whole_seeds(name: str) -> None:
    seeds = [trial.seed for trial in find(name).trials]
    assert seeds == sorted(seeds)


@pytest.mark.parametrize("name", BIG | SMALL)
def test_every_trial_has_an_erm_trial_to_be_compared_with(name: str) -> None:
    trials = find(name).trials
    twins = {replace(trial, method=Erm()) for trial in trials}
    assert twins == {trial for trial in trials if isinstance(trial.method, Erm)}


@pytest.mark.parametrize("name", sorted(set(BIG) - {"cost"}))
def test_the_papers_trials_train_on_everything_and_read_the_test_set(name: str) -> None:
    assert all(trial.validation is None and trial.evaluate == "test" for trial in find(name).trials)


@pytest.mark.parametrize("name", SMALL)
def test_small_sisters_need_no_download_and_no_large_network(name: str) -> None:
    for trial in find(name).trials:
        assert isinstance(trial.dataset, Mnist5k | Digits | TwoSpirals)
        assert isinstance(trial.model, Mlp | SmallCnn)


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"fig6-small", "cost-small"}))
def test_small_sisters_can_choose_on_validation(name: str) -> None:
    assert all(trial.validation is not None and trial.evaluate == "val+test" for trial in find(name).trials)


@pytest.mark.parametrize(("one", "other"), [("table1", "table1-released"), ("table2", "table2-released")])
def test_the_protocols_share_no_trial(one: str, other: str) -> None:
    assert not ids(one) & ids(other)


def test_table_1_is_whole() -> None:
    for name in ("table1", "table1-released"):
        found = {(type(trial.model), type(trial.dataset)) for trial in find(name).trials}
        assert found == {(model, dataset) for model in (PreActResNet18, Vgg16) for dataset in (Svhn, Cifar10, Cifar100)}


@pytest.mark.parametrize("name", ["table2", "table2-released"])
def test_table_2_has_its_radius_for_each_augmentation(name: str) -> None:
    settings = {
        (paper.augmentation(trial.augment), trial.method.epsilon, trial.method.inner_lr, trial.method.inner_steps)
        for trial in find(name).trials
        if isinstance(trial.method, Amp)
    }
    assert settings == {("vanilla", 0.5, 1.0, 1), ("cutout", 0.3, 0.5, 1), ("autoaugment", 0.1, 0.1, 1)}
    assert {type(trial.model) for trial in find(name).trials} == {WideResNet, PyramidNet}


@pytest.mark.parametrize("name", ["fig8", "fig8-cifar100", "fig8-svhn", "fig8-mnist5k", "fig8-digits"])
def test_figure_8_has_its_zeta_n_and_ball(name: str) -> None:
    methods = amps(find(name))
    assert {(method.inner_lr, method.inner_steps, method.ball) for method in methods} == {(2.0, 2, "global")}
    radii = [method.epsilon for method in methods]
    assert radii == sorted(radii)
    if not name.endswith(("mnist5k", "digits")):
        assert radii[0] < paper.FIG8_BEST_EPSILON.value < radii[-1]
        assert paper.FIG8_BEST_EPSILON.value in radii


def test_zeta_and_inner_steps_vary_one_thing_each() -> None:
    for name in ("zeta", "zeta-small"):
        assert {(method.epsilon, method.inner_steps) for method in amps(find(name))} == {(0.5, 1)}
    for name in ("inner-steps", "inner-steps-small"):
        assert {(method.epsilon, method.inner_lr) for method in amps(find(name))} == {(0.5, 1.0)}
    assert find("zeta").cells()[1].params["method"] == "Amp"


@pytest.mark.parametrize(
    ("name", "blocks", "zetas", "steps"),
    [("grid", 6, (0.2, 1.0, 5.0), (1, 2, 3)), ("grid-small", 4, (0.2, 5.0), (1, 2))],
)
def test_a_grid_is_a_product(name: str, blocks: int, zetas: tuple[float, ...], steps: tuple[int, ...]) -> None:
    found: dict[tuple[object, object], list[tuple[float, int]]] = {}
    for cell in find(name).cells():
        trial = cell.trials[0]
        if isinstance(trial.method, Amp):
            found.setdefault((trial.dataset, trial.model), []).append((trial.method.inner_lr, trial.method.inner_steps))
    assert len(found) == blocks
    assert all(product == [(zeta, n) for zeta in zetas for n in steps] for product in found.values())


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("fig8", "table1", 5),  # ERM
        ("fig8-cifar100", "table1", 5),
        ("fig8-svhn", "table1", 5),
        ("zeta", "table1", 10),  # ERM and AMP at ζ = 1
        ("inner-steps", "table1", 10),  # ERM and AMP at N = 1
        ("grid", "table1", 36),  # ERM and AMP with Table 1's ζ, in 6 blocks
        ("fig2", "table1", 6),
        ("table1-small", "fig8-mnist5k", 5),  # ERM
        ("table1-small", "fig8-digits", 5),
        ("zeta-small", "table1-small", 10),
        ("inner-steps-small", "table1-small", 10),
        ("fig2-small", "table1-small", 10),
        ("fig6-small", "fig6", 4),
    ],
)
def test_equal_settings_are_equal_trials_so_that_none_is_paid_for_twice(one: str, other: str, shared: int) -> None:
    assert len(ids(one) & ids(other)) == shared


@pytest.mark.parametrize("name", ["cost", "cost-small"])
def test_timed_trials_are_nobody_elses_and_read_no_test_set(name: str) -> None:
    others: set[str] = set().union(*(ids(other) for other in built_in() if other != name))
    assert not ids(name) & others
    trials = find(name).trials
    assert all(trial.evaluate == "val" and trial.epochs >= 3 and not trial.lr_milestones for trial in trials)
    assert all(trial.validation is not None and trial.validation.fraction < 0.05 for trial in trials)
    assert {method.inner_steps for method in amps(find(name))} == {1}
    for erm, amp in zip(trials[::2], trials[1::2], strict=True):  # side by side, so that drift of the machine cancels
        assert replace(amp, method=Erm()) == erm
        assert isinstance(amp.method, Amp)


def test_figures_2_and_6_have_their_probes() -> None:
    for name in ("fig2", "fig2-small"):
        assert [type(probe) for probe in find(name).probes] == [LossAlongDirections]
    for name in ("fig6", "fig6-small"):
        assert [type(probe) for probe in find(name).probes] == [DecisionBoundary]
        assert all(isinstance(trial.dataset, TwoSpirals) for trial in find(name).trials)


def test_questions_are_one_sentence_each() -> None:
    for study in built_in().values():
        assert study.question.endswith("?")
        assert study.question.count("?") == 1
    assert len({study.question for study in built_in().values()}) == len(built_in())


def kinds() -> list[TrialConfig]:
    """Of the small sisters' trials one of each network, data set, augmentation and kind of method."""
    found: dict[tuple[object, ...], TrialConfig] = {}
    for name in SMALL:
        for trial in find(name).trials:
            found.setdefault((trial.model, trial.dataset, trial.augment, type(trial.method)), trial)
    return list(found.values())


def test_every_kind_of_small_trial_can_be_trained(tmp_path: Path) -> None:
    machine = Machine(data_dir=tmp_path)
    for trial in kinds():
        (record,) = train(replace(trial, epochs=1, lr_milestones=()), machine)
        assert record.metrics["train/nll"] < 3

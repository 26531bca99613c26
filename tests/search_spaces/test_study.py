"""Studies and their cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search_spaces import recipes
from search_spaces.study import Study, varying_params
from trainer.config import Amp, Erm, Method, TrialConfig
from trainer.declaration import ConfigError, Scalar
from trainer.probe_config import Calibration, Sharpness


def make_trial(method: Method, seed: int, **changes: Any) -> TrialConfig:
    return replace(recipes.digits_mlp(method, seed), **changes)


def make_study(*trials: TrialConfig, name: str = "toy") -> Study:
    return Study(name=name, question="Does it work?", trials=trials)


GRID = make_study(*(make_trial(method, seed) for seed in (3, 0, 1) for method in (Erm(), Amp(epsilon=0.5))))


def test_a_cell_is_everything_but_the_seed() -> None:
    cells = GRID.cells()
    assert [cell.params["method"] for cell in cells] == ["Erm", "Amp"]
    for cell in cells:
        assert "seed" not in cell.params
        assert cell.seeds == [0, 1, 3] == [trial.seed for trial in cell.trials]
        assert all({**cell.params, "seed": trial.seed} == trial.params() for trial in cell.trials)


def test_cells_come_in_the_order_of_their_first_trial() -> None:
    epsilons = (0.5, 0.1, 2.0)
    study = make_study(*(make_trial(Amp(epsilon=epsilon), seed) for seed in (1, 0) for epsilon in epsilons))
    assert [cell.params["method.epsilon"] for cell in study.cells()] == list(epsilons)


def test_every_trial_is_in_one_cell() -> None:
    found = [trial.trial_id for cell in GRID.cells() for trial in cell.trials]
    assert sorted(found) == sorted(trial.trial_id for trial in GRID.trials)


def test_a_cell_has_the_same_id_in_every_study() -> None:
    amp = GRID.cells()[1]
    alone = make_study(make_trial(Amp(epsilon=0.5), seed=9), name="other").cells()[0]
    assert alone.cell_id == amp.cell_id
    assert alone.cell_id not in {GRID.cells()[0].cell_id, alone.trials[0].trial_id}


def test_a_label_tells_what_varies() -> None:
    methods = (Erm(), Amp(epsilon=0.5), Amp(epsilon=1.0))
    study = make_study(*(make_trial(method, 0) for method in methods))
    assert [cell.label for cell in study.cells()] == ["Erm", "Amp epsilon=0.5", "Amp epsilon=1.0"]


def test_a_label_names_no_more_than_that() -> None:
    assert [cell.label for cell in GRID.cells()] == ["Erm", "Amp"]
    assert make_study(make_trial(Erm(), 0)).cells()[0].label == "Erm"


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.2}, {"lr_milestones": (5,)}, {"validation": None, "evaluate": "test"}],
    ids=lambda changes: next(iter(changes)),
)
def test_labels_differ_wherever_cells_do(changes: dict[str, Any]) -> None:
    study = make_study(make_trial(Erm(), 0), make_trial(Erm(), 0, **changes))
    first, second = study.cells()
    assert first.label != second.label


@pytest.mark.parametrize("at_once", [0, -1, 1.5, "2"])
def test_trials_at_once_are_one_or_more(at_once: Any) -> None:
    with pytest.raises(ConfigError, match=r"Study.at_once = .*: must be a whole number >= 1"):
        Study(name="a", question="?", trials=[make_trial(Erm(), 0)], at_once=at_once)


def test_varying_are_the_params_with_several_values() -> None:
    cells: list[dict[str, Scalar]] = [
        {"m": "A", "m.e": 1, "m.n": 2, "b": 1, "c": 5},
        {"m": "A", "m.e": 3, "m.n": 2, "b": 1, "c": 5},
        {"m": "B", "m.x": [1, 2], "b": 1, "c": 5},
        {"m": "B", "m.x": [1, 3], "b": 1, "c": 5},
        {"m": "C", "b": 2, "c": 5},
    ]
    assert varying_params(cells) == ["m", "m.e", "m.x"]  # b follows from m
    assert varying_params([]) == []


def test_what_follows_from_the_data_set_is_left_out() -> None:
    cells: list[dict[str, Scalar]] = [
        {"epochs": epochs, "method": method, "method.rate": rate, "dataset": dataset, "dataset.digest": dataset * 2}
        for dataset, epochs, rate in (("a", 30, 0.1), ("b", 40, 0.2))
        for method in ("One", "Other")
    ]
    assert varying_params(cells) == ["method", "dataset"]
    cells.append({**cells[0], "epochs": 40})
    assert varying_params(cells) == ["epochs", "method", "dataset"]


def test_a_field_added_later_tells_cells_apart_though_it_is_absent_at_its_default() -> None:
    assert varying_params([{"m": "A"}, {"m": "A", "m.later": 3}, {"m": "B"}]) == ["m", "m.later"]
    assert varying_params([{"m": "A"}, {"m": "A", "later": 3}]) == ["later"]


def test_none_is_a_value_of_its_own() -> None:
    assert varying_params([{"a": None}, {"a": "None"}]) == ["a"]


@pytest.mark.parametrize(
    "twin",
    [make_trial(Amp(epsilon=0.5), 0), make_trial(Amp(epsilon=0.5, inner_lr=1, inner_steps=1), 0)],
    ids=["the same", "the same written otherwise"],
)
def test_a_trial_that_stands_twice_is_refused(twin: TrialConfig) -> None:
    with pytest.raises(ConfigError, match=r"^Study\.trials: Amp\(epsilon=0\.5.*seed 0.*twice[^\n]*$"):
        make_study(make_trial(Amp(epsilon=0.5), 0), make_trial(Erm(), 0), twin)


@pytest.mark.parametrize("name", ["", "Fig8", "fig 8", "fig_8", "-fig8", "fig8\n", "../fig8", "ä", "a" * 65, 8.5, None])
def test_a_bad_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"^Study\.name = [^\n]*$"):
        make_study(make_trial(Erm(), 0), name=name)


@pytest.mark.parametrize("name", ["fig8", "8", "a-b", "a" * 64])
def test_a_good_name_is_taken(name: str) -> None:
    assert make_study(make_trial(Erm(), 0), name=name).name == name


@pytest.mark.parametrize("trials", [(), ("trial",), (make_trial(Erm(), 0), None)])
def test_a_study_without_trials_is_refused(trials: Any) -> None:
    with pytest.raises(ConfigError, match=r"^Study\.trials of 'toy': [^\n]*$"):
        Study(name="toy", question="?", trials=trials)


def test_trials_may_come_from_a_generator() -> None:
    trials: Any = (make_trial(Erm(), seed) for seed in range(3))
    study = Study(name="toy", question="?", trials=trials)
    assert [trial.seed for trial in study.trials] == [0, 1, 2]
    assert len(study.cells()) == 1


PROBES = (Sharpness(radii=(0.1,)), Calibration())


def test_probes_are_no_part_of_what_is_trained() -> None:
    probed = Study(name="toy", question="?", trials=GRID.trials, probes=list(PROBES))
    assert probed.probes == PROBES
    assert [trial.trial_id for trial in probed.trials] == [trial.trial_id for trial in GRID.trials]
    assert probed.cells() == GRID.cells()


@pytest.mark.parametrize(
    ("probes", "message"),
    [((*PROBES, Sharpness(radii=(0.2,))), "a second Sharpness"), (("sharpness",), "'sharpness' is none")],
)
def test_bad_probes_are_refused(probes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Study(name="toy", question="?", trials=GRID.trials, probes=probes)

"""Golden files: no hyper-parameter of a built-in study changes unseen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_spaces import recipes
from search_spaces.catalog import built_in, built_in_tunings
from search_spaces.golden import golden, golden_tuning, main
from search_spaces.search import Search, Tuning
from search_spaces.spaces import full_space, narrow_space
from search_spaces.study import Study
from trainer.config import Amp, Erm, Holdout, Mlp, Mnist5k, TrialConfig
from trainer.probe_config import Sharpness

FOLDER = Path(__file__).parents[1] / "golden"
HINT = "a study has changed: if that is meant, run `make golden` and look at the difference"


@pytest.mark.parametrize("name", built_in())
def test_a_study_is_as_its_golden_file_says(name: str) -> None:
    file = FOLDER / f"{name}.txt"
    assert file.is_file(), f"{file.name} is missing: run `make golden`"
    assert golden(built_in()[name]) == file.read_text(encoding="utf-8"), HINT


@pytest.mark.parametrize("name", built_in_tunings())
def test_a_tuning_is_as_its_golden_file_says(name: str) -> None:
    file = FOLDER / f"{name}.txt"
    assert file.is_file(), f"{file.name} is missing: run `make golden`"
    assert golden_tuning(built_in_tunings()[name]) == file.read_text(encoding="utf-8"), HINT


def test_a_change_of_a_search_shows() -> None:
    base = recipes.digits_mlp(AMP, 0)
    search = Search(name="amp", base=base, space=narrow_space(AMP), settings=10)
    changed = (
        replace(search, base=replace(base, epochs=41)),
        replace(search, space=full_space(AMP)),
        replace(search, settings=11),
        replace(search, seeds=2),
        replace(search, metric="val/error"),
        replace(search, sampler_seed=1),
        replace(search, pruner="median"),
        replace(search, hours=1.0),
    )
    texts = {golden_tuning(Tuning(name="toy", question="?", searches=[one])) for one in (search, *changed)}
    assert len(texts) == 1 + len(changed)


def test_there_is_no_golden_file_without_its_study() -> None:
    declared = {f"{name}.txt" for name in (*built_in(), *built_in_tunings())}
    strays = {path.name for path in FOLDER.glob("*.txt")} - declared
    assert not strays, "no study has these golden files: delete them, or run `make golden` after a renaming"


def test_the_command_writes_what_is_compared(tmp_path: Path) -> None:
    main(tmp_path / "new")
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new").iterdir()}
    studies = {f"{name}.txt": golden(study) for name, study in built_in().items()}
    assert written == studies | {f"{name}.txt": golden_tuning(one) for name, one in built_in_tunings().items()}


AMP = Amp(epsilon=0.5)


def test_a_changed_probe_shows() -> None:
    plain = toy()
    few, many = (replace(plain, probes=(Sharpness(radii=(0.05,), examples=number),)) for number in (10, 11))
    assert "probe" not in golden(plain)
    assert "probe examples=10 probe=Sharpness radii=[0.05] revision=" in golden(few)
    assert golden(few) != golden(many)


def toy(*last: TrialConfig) -> Study:
    """Three ERM and three AMP trials, the last of which is exchanged for ``last``."""
    trials = [recipes.digits_mlp(method, seed) for method in (Erm(), AMP) for seed in range(3)]
    return Study(name="toy", question="?", trials=(*trials[: 6 - len(last)], *last))


CHANGES: dict[str, dict[str, Any]] = {
    "method": {"method": Erm(), "seed": 9},
    "method.epsilon": {"method": replace(AMP, epsilon=0.5000001)},
    "method.inner_lr": {"method": replace(AMP, inner_lr=2.0)},
    "method.inner_steps": {"method": replace(AMP, inner_steps=2)},
    "method.ball": {"method": replace(AMP, ball="per_tensor")},
    "method.bn_stats": {"method": replace(AMP, bn_stats="all")},
    "model.hidden": {"model": Mlp(hidden=(64, 65), norm="none")},
    "model.norm": {"model": Mlp(hidden=(64, 64), norm="batch")},
    "dataset": {"dataset": Mnist5k()},
    "validation": {"validation": None, "evaluate": "test"},
    "validation.fraction": {"validation": Holdout(fraction=0.3)},
    "validation.seed": {"validation": Holdout(fraction=1 / 3, seed=1)},
    "seed": {"seed": 3},
    "evaluate": {"evaluate": "val"},
    "epochs": {"epochs": 41},
    "batch_size": {"batch_size": 51},
    "lr": {"lr": 0.050000001},
    "lr_milestones": {"lr_milestones": (20, 31)},
    "lr_decay": {"lr_decay": 0.2},
    "momentum": {"momentum": 0.8},
    "weight_decay": {"weight_decay": 2e-4},
    "revision": {"revision": 0},
}
LAST = recipes.digits_mlp(AMP, 2)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_in_one_trial_shows(name: str) -> None:
    assert golden(toy(replace(LAST, **CHANGES[name]))) != golden(toy())


def test_no_hyper_parameter_was_left_out_above() -> None:
    derived = {"model", "dataset.digest"}  # there is one model; a digest comes with its data set
    assert set(LAST.params()) - derived <= set(CHANGES)


def test_the_order_of_trials_within_a_cell_does_not_show() -> None:
    study = toy()
    assert golden(replace(study, trials=(*study.trials[2::-1], *study.trials[3:]))) == golden(study)


def test_what_all_cells_share_stands_once() -> None:
    lines = golden(toy()).splitlines()
    assert lines[0] == "study toy"
    assert lines.count("lr = 0.05") == 1
    assert [line for line in lines if "seeds" in line] == [
        "method=Erm  seeds 0-2",
        "method=Amp method.ball=global method.bn_stats=clean method.epsilon=0.5 method.inner_lr=1.0"
        " method.inner_steps=1  seeds 0-2",
    ]
    assert lines[-1].startswith("6 trials, digest ")


@pytest.mark.parametrize(
    ("seeds", "text"),
    [([0], "0"), ([0, 1, 2, 3, 4], "0-4"), ([7, 4, 0, 2, 1, 3], "0-4, 7"), ([1, 3, 4], "1, 3-4"), ([5, 3], "3, 5")],
)
def test_seeds_are_shown_as_ranges(seeds: list[int], text: str) -> None:
    study = Study(name="toy", question="?", trials=tuple(recipes.digits_mlp(Erm(), seed) for seed in seeds))
    assert f"the one cell  seeds {text}" in golden(study).splitlines()

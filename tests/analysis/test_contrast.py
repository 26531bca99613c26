"""Two studies whose numbers are made up, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from analysis import contrast as module
from analysis.contrast import contrast, contrast_frame, contrast_report, pair_cells, settings_rows
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.frames import made_frame
from trainer.config import Amp, Erm, Method, Mlp, TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results

NOISE = (0.000, 0.012, -0.006, 0.004, -0.010, 0.015)
Change = Callable[[TrialConfig], TrialConfig]


def study(
    name: str, methods: tuple[Method, ...], change: Change = lambda trial: trial, seeds: range = range(4)
) -> Study:
    return Study(
        name=name,
        question="?",
        trials=[change(recipes.digits_mlp(method, seed)) for seed in seeds for method in methods],
    )


def decayed(trial: TrialConfig) -> TrialConfig:
    return replace(trial, weight_decay=0.001)


def wider(trial: TrialConfig) -> TrialConfig:
    return replace(trial, model=Mlp(hidden=(128,), norm="none"))


def numbers(trial: TrialConfig) -> Mapping[str, float]:
    """Decay lowers the NLL by 0.05, more or less, network and method change it too."""
    change = -0.05 + 0.001 * trial.seed if trial.weight_decay == 0.001 else 0.0
    value = 0.3 + NOISE[trial.seed] + change - 0.1 * (trial.model != recipes.digits_mlp(Erm(), 0).model)
    return {"test/nll": value, "test/error": value / 10, "test/ece": value / 20 + 0.001 * trial.seed}


NAMES = "base", "my decayed.py"
METHODS = (Erm(), Amp(epsilon=0.1), Amp(epsilon=0.3))
BASE, DECAYED, WIDER = study("base", METHODS), study("decayed", METHODS, decayed), study("wider", METHODS, wider)


def compared(a: Study, b: Study) -> pd.DataFrame:
    return contrast_frame(pair_cells(a, b), made_frame(a, numbers), made_frame(b, numbers))


def test_cells_correspond_that_differ_the_least() -> None:
    pairs = pair_cells(BASE, DECAYED)
    assert [(pair.first.label, pair.second.label) for pair in pairs] == [
        ("Erm", "Erm"),
        ("Amp epsilon=0.1", "Amp epsilon=0.1"),
        ("Amp epsilon=0.3", "Amp epsilon=0.3"),
    ]
    assert {pair.differs for pair in pairs} == {("weight_decay",)}
    assert pairs[0].settings() == "weight_decay 0.0001 | 0.001"


def test_a_cell_with_two_nearest_ones_corresponds_to_none() -> None:
    other = study("other", (Erm(), Amp(epsilon=0.2)), decayed)
    assert [pair.first.label for pair in pair_cells(BASE, other)] == ["Erm"]
    assert pair_cells(study("erm", (Erm(),)), study("amp", (Amp(epsilon=0.1),))) == []  # nor one of another method


def test_cells_of_both_studies_are_the_same_trials_and_not_compared() -> None:
    other = study("other", (Erm(), Amp(epsilon=0.1), Amp(epsilon=0.5)))
    pairs = pair_cells(BASE, other)
    assert [(pair.first.label, pair.second.label) for pair in pairs] == [("Amp epsilon=0.3", "Amp epsilon=0.5")]
    assert pairs[0].settings() == "method.epsilon 0.3 | 0.5"


def test_shared_seeds_are_pairs_where_weights_and_data_are_shared() -> None:
    frame = compared(BASE, DECAYED)
    row = frame[(frame["metric"] == "test/nll") & (frame["a/cell"] == "Erm")].iloc[0]
    # 0.05 less 0.001 a seed: sd of 0, 1, 2, 3 is 1.291, t(0.975, 3) = 3.1824.
    assert (row["difference/test"], row["difference/n"]) == ("paired", 4)
    half = 3.1824 * 1.2910e-3 / 2
    found = (row["difference/low"], row["difference/mean"], row["difference/high"])
    assert found == pytest.approx((0.0485 - half, 0.0485, 0.0485 + half), abs=1e-6)
    assert row["difference/p_holm"] == pytest.approx(3 * row["difference/p"])


def test_other_networks_are_no_pairs() -> None:
    frame = compared(BASE, WIDER)
    row = frame[frame["metric"] == "test/nll"].iloc[0]
    ours = [0.3 + noise for noise in NOISE[:4]]
    expected = stats.ttest_ind(ours, [value - 0.1 for value in ours], equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert row["difference/test"] == "Welch"
    assert (row["difference/low"], row["difference/high"]) == pytest.approx((low, high))
    assert row["difference/p"] == pytest.approx(expected.pvalue)


def test_without_shared_seeds_there_are_no_pairs() -> None:
    frame = compared(BASE, study("later", METHODS, decayed, seeds=range(4, 6)))
    assert set(frame["difference/test"]) == {"Welch"}
    assert set(frame["b/n"]) == {2}


def test_a_missing_seed_is_no_number() -> None:
    first = made_frame(BASE, lambda trial: "missing" if trial.seed == 1 else numbers(trial))
    frame = contrast_frame(pair_cells(BASE, DECAYED), first, made_frame(DECAYED, numbers))
    assert set(frame["difference/n"]) == {3}
    one = made_frame(BASE, lambda trial: numbers(trial) if trial.seed == 1 else "missing")
    frame = contrast_frame(pair_cells(BASE, DECAYED), one, made_frame(DECAYED, numbers))
    assert frame["difference/low"].isna().all()
    assert frame["difference/p_holm"].isna().all()


def test_settings_that_differ_are_listed_with_their_values() -> None:
    other = study("other", (Erm(), Amp(epsilon=0.1, inner_steps=2)), decayed, seeds=range(2))
    assert settings_rows(BASE, other) == [
        ["parameter", "base", "other"],
        ["seed", "0, 1, 2, 3", "0, 1"],
        ["weight_decay", "0.0001", "0.001"],
        ["method.epsilon", "0.1, 0.3", "0.1"],
        ["method.inner_steps", "1", "2"],
    ]
    images = study("images", METHODS, lambda trial: replace(recipes.mnist5k_mlp(trial.method, trial.seed), lr=0.1))
    assert "dataset" in [row[0] for row in settings_rows(BASE, images)]
    assert "dataset.digest" not in [row[0] for row in settings_rows(BASE, images)]
    assert pair_cells(BASE, images)[0].settings(but=["epochs"]).startswith("model.hidden, model.norm, dataset, ")
    assert settings_rows(study("erm", (Erm(),)), BASE) == [["parameter", "erm", "base"], ["method", "Erm", "Erm, Amp"]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", lambda study, results: made_frame(study, numbers))


@pytest.mark.usefixtures("made")
def test_it_is_said_what_differs_and_how_it_was_compared(tmp_path: Path) -> None:
    found = contrast(BASE, DECAYED, Results(tmp_path), NAMES).document
    assert "0 are in both, the same trials; of the others 3 correspond." in found.answer
    assert "higher in A: Erm, Amp epsilon=0.1, Amp epsilon=0.3" in found.answer
    assert found.tables["test NLL"][1][2:] == [
        *("0.3025 [0.2905, 0.3145]", "4", "0.2540 [0.2420, 0.2660]", "4"),
        *("+0.0485 [+0.0464, +0.0506]", "< 0.0001", "paired"),
    ]
    assert any("All pairs differ in: weight_decay." in line for line in found.notes)
    assert any(line.startswith("paired: ") for line in found.notes)
    welch = contrast(BASE, WIDER, Results(tmp_path), NAMES).document
    assert any(line.startswith("Welch: ") for line in welch.notes)


@pytest.mark.usefixtures("made")
def test_report_is_written_and_nothing_corresponding_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = contrast_report(BASE, DECAYED, Results(tmp_path), NAMES)
    folder = tmp_path / "reports" / "base-and-decayed"
    assert folder / "contrast.csv" in files
    assert "+0.0485 [+0.0464, +0.0506]" in capsys.readouterr().out
    assert "make compare STUDY=base OTHER='my decayed.py'" in (folder / "report.md").read_text()
    contrast_report(BASE, replace(BASE, name="twin"), Results(tmp_path), NAMES)
    assert "3 are in both, the same trials; of the others 0 correspond." in capsys.readouterr().out


@pytest.mark.usefixtures("made")
def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    fewer = replace(DECAYED, name="fewer", trials=[trial for trial in DECAYED.trials if isinstance(trial.method, Erm)])
    lines = contrast(BASE, fewer, Results(tmp_path), NAMES).document.notes
    assert "Of base without a counterpart: Amp epsilon=0.1, Amp epsilon=0.3." in lines
    assert not any(line.startswith("Of fewer without") for line in lines)


def test_a_study_is_not_compared_with_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base: a study does not differ from itself: name another one as OTHER"):
        contrast(BASE, BASE, Results(tmp_path), NAMES)


def test_nothing_finished_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "load", lambda study, results: made_frame(study, lambda trial: "missing"))
    with pytest.raises(ConfigError, match=r"base: no trial is finished in .*: make sweep STUDY=base$"):
        contrast(BASE, DECAYED, Results(tmp_path), NAMES)


def test_searches_are_compared_on_validation() -> None:
    frames = [made_frame(one, lambda trial: {"val/nll": 0.1 + 0.01 * trial.seed}) for one in (BASE, DECAYED)]
    found = contrast_frame(pair_cells(BASE, DECAYED), *frames)
    assert set(found["metric"]) == {"val/nll"}
    assert math.isnan(found["difference/p"].iloc[0])  # all differences are 0: no test

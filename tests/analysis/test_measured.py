"""What probes and clocks say, on made-up measurements whose differences are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.figures.base import Material
from analysis.measured import answers, probe_rows
from analysis.tables import cells_table
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.frames import made_frame
from trainer.config import Amp, Erm, TrialConfig
from trainer.machine import Results
from trainer.measurement import Measurement
from trainer.probe_config import DecisionBoundary, Sharpness

BOUNDARY, SHARPNESS = DecisionBoundary(), Sharpness(radii=(0.1,))
STUDY = Study(
    name="measured",
    question="?",
    trials=[recipes.spirals_mlp(method, seed) for seed in range(3) for method in (Erm(), Amp(epsilon=0.1))],
    probes=(BOUNDARY, SHARPNESS),
)
CHANGES = {"Erm": (0.30, 0.32, 0.34), "Amp": (0.25, 0.28, 0.28)}
"""Differences -0.05, -0.04, -0.06: mean -0.05, and a half-interval of 4.3027 · 0.01 / √3."""


def changes(trial: TrialConfig) -> float:
    return CHANGES[type(trial.method).__name__][trial.seed]


def material(results: Results, study: Study = STUDY) -> Material:
    frame = made_frame(study, lambda trial: {"test/nll": 0.3 + 0.01 * trial.seed})
    return Material(study=study, frame=frame, table=cells_table(study, frame), results=results)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """All boundaries are measured, and the sharpness of ERM alone."""
    found = Results(tmp_path)
    for trial in STUDY.trials:
        measured = Measurement({"probe/boundary/changes": changes(trial)}, {"u": np.zeros(2)})
        measured.save(found.measurement(trial.trial_id, BOUNDARY.probe_id), BOUNDARY)
        if isinstance(trial.method, Erm):
            sharp = Measurement({"probe/sharpness/0.1": 0.5}, {"radii": np.zeros(1)})
            sharp.save(found.measurement(trial.trial_id, SHARPNESS.probe_id), SHARPNESS)
    return found


def test_a_probe_that_the_study_asks_about_is_its_answer(results: Results) -> None:
    (line,) = answers(material(results))
    assert line.startswith("TwoSpirals, Amp: the share of neighbouring grid points that are predicted apart is 0.27 [")
    assert line.endswith("paired difference to ERM -0.05 [-0.07484, -0.02516], n = 3.")


def test_rows_have_every_number_and_no_difference_without_pairs(results: Results) -> None:
    rows = {(row[0], row[1]): row[2:] for row in probe_rows(material(results))[1:]}
    assert rows["Amp", "probe/boundary/changes"][1:] == ["-0.05 [-0.07484, -0.02516]", "3"]
    assert rows["Erm", "probe/boundary/changes"][1:] == ["–", "3"]
    assert rows["Erm", "probe/sharpness/0.1"] == ["0.5", "–", "3"]
    assert ("Amp", "probe/sharpness/0.1") not in rows


def test_a_seed_that_is_not_measured_is_in_no_pair(results: Results) -> None:
    results.measurement(STUDY.trials[0].trial_id, BOUNDARY.probe_id).unlink()
    (line,) = answers(material(results))
    assert line.endswith("n = 2.")


def test_nothing_measured_is_no_answer(tmp_path: Path) -> None:
    nothing = material(Results(tmp_path))
    assert answers(nothing) == []
    assert probe_rows(nothing) == []


def test_costs_are_those_of_trials_that_ran_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"Erm": 1.0, "Amp": 2.0}
    rows = [
        (trial.trial_id, "", trial.seed, "epoch_seconds", epoch, 0, seconds[type(trial.method).__name__] + off)
        for trial in STUDY.trials
        for epoch, off in ((1, 9.0), (2, 0.0), (3, 0.0), (4, 9.0))
    ]
    names = ["trial_id", "cell", "seed", "metric", "epoch", "timestamp", "value"]
    monkeypatch.setattr("analysis.figures.base.load_history", lambda *_: pd.DataFrame(rows, columns=names))
    (line,) = answers(material(Results(tmp_path), replace(STUDY, at_once=1)))
    assert line.startswith("An epoch of TwoSpirals Amp takes 2.00 ")
    assert "the paper states 1.8 for N = 1" in line
    assert answers(material(Results(tmp_path))) == []

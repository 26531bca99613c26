"""Frames as ``analysis.runs.load`` gives them, of trials whose numbers are made up and so known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from search_spaces.study import Study
from trainer.config import TrialConfig


def made_frame(study: Study, numbers: Callable[[TrialConfig], Mapping[str, float] | str]) -> pd.DataFrame:
    """numbers: the metrics of a trial, or the outcome of one that did not finish."""
    labels = {trial.trial_id: cell.label for cell in study.cells() for trial in cell.trials}
    return pd.DataFrame([_row(trial, labels[trial.trial_id], numbers(trial)) for trial in study.trials])


def _row(trial: TrialConfig, label: str, found: Mapping[str, float] | str) -> dict[str, object]:
    params = {name: str(value) if isinstance(value, list) else value for name, value in trial.params().items()}
    outcome, metrics = (found, {}) if isinstance(found, str) else ("finished", dict(found))
    row: dict[str, object] = {"trial_id": trial.trial_id, "cell": label, **params, "outcome": outcome}
    run = None if outcome == "missing" else f"run-{trial.trial_id}"
    return row | {"run_id": run, "commit": "c0ffee", "version.torch": "2.14.1", "cause": None, **metrics}

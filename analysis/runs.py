"""MLflow read into tidy frames: a row a declared trial, whatever became of it, and a row a trial, epoch and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.typing import NaTType

from analysis.cache import cached_histories
from analysis.selection import selections
from analysis.store import Store, StoredRun, frame_of, open_store
from search_spaces.study import Study
from trainer.config import TrialConfig
from trainer.machine import Results

FINAL = "final/"
TAGS = ("commit", "version.torch", "cause")
HISTORY = ("trial_id", "cell", "seed", "metric", "epoch", "timestamp", "value")


def load(study: Study, results: Results) -> pd.DataFrame:
    """One row a trial of ``study``, in declared order.

    Columns: ``trial_id``; ``cell``, the label of its cell; every parameter under its own name (``method.epsilon``);
    ``outcome``: finished, diverged, failed, running, interrupted or missing; ``run_id``; the tags in ``TAGS``; every
    metric of the last epoch under its own name (``test/nll``), unless a parameter has that name; and those of other
    epochs, ``oracle/test/nll`` and ``best_val/test/nll`` say, see ``analysis.selection``. Metrics of trials that are
    not finished are NaN, so that none of them can enter a mean. Raises ConfigError when the tracking store does not
    answer.
    """
    with open_store(results) as store:
        runs = _runs_by_trial(store, study)
        finals, history = _finals(study, runs), _history(study, runs, store, results)
    chosen = selections(history).reindex(finals["trial_id"]).reset_index(drop=True)
    return pd.concat([finals, chosen.where(finals["outcome"] == "finished")], axis=1)


def load_finals(study: Study, results: Results) -> pd.DataFrame:
    """``load`` without the other epochs than the last: what needs no history, and so less time."""
    with open_store(results) as store:
        return _finals(study, _runs_by_trial(store, study))


def load_history(study: Study, results: Results) -> pd.DataFrame:
    """One row a trial, epoch and metric, of trials that are not finished too.

    Columns: ``trial_id``; ``cell``, the label of its cell; ``seed``; ``metric``; ``epoch``, from 1; ``timestamp`` in
    milliseconds since 1970; ``value``, one for each of these; the newest, should MLflow have more. Texts are
    categories. Raises ConfigError as ``load``.
    """
    with open_store(results) as store:
        return _history(study, _runs_by_trial(store, study), store, results)


def begun(results: Results) -> set[str]:
    """The names of the experiments that there are. Raises ConfigError as ``load``."""
    with open_store(results) as store:
        return set(store.experiments()) if store else set()


def _finals(study: Study, runs: Mapping[str, StoredRun]) -> pd.DataFrame:
    labels = _labels(study)
    return pd.DataFrame([_row(trial, labels[trial.trial_id], runs.get(trial.trial_id)) for trial in study.trials])


def _labels(study: Study) -> dict[str, str]:
    return {trial.trial_id: cell.label for cell in study.cells() for trial in cell.trials}


def _row(trial: TrialConfig, label: str, run: StoredRun | None) -> dict[str, Any]:
    row: dict[str, Any] = {"trial_id": trial.trial_id, "cell": label}
    row |= {key: str(value) if isinstance(value, list) else value for key, value in trial.params().items()}
    row["outcome"] = _outcome(run)
    row["run_id"] = run.run_id if run else None
    row |= {tag: run.tags.get(tag) if run else None for tag in TAGS}
    if run is not None and row["outcome"] == "finished":
        finals = {name.removeprefix(FINAL): value for name, value in run.metrics.items() if name.startswith(FINAL)}
        row = finals | row  # ``lr`` is a parameter; the metric of that name is where its schedule ended
    return row


def _outcome(run: StoredRun | None) -> str:
    if run is None:
        return "missing"
    if run.status == "FINISHED":
        return "finished"
    if run.status == "FAILED":
        return str(run.tags.get("outcome", "failed"))
    return "running" if run.status == "RUNNING" else "interrupted"


def _history(study: Study, runs: Mapping[str, StoredRun], store: Store | None, results: Results) -> pd.DataFrame:
    declared = {trial.trial_id: trial for trial in study.trials if trial.trial_id in runs}
    wanted = [runs[trial_id] for trial_id in declared]
    points = cached_histories(store, wanted, results, study.name) if store else frame_of([])
    of_run = {runs[trial_id].run_id: trial_id for trial_id in declared}
    trials = [of_run[run_id] for run_id in points["run_id"].cat.categories]
    cells, labels = _labels(study), [cell.label for cell in study.cells()]
    code = points["run_id"].cat.codes.to_numpy()  # a number a trial: a million rows of names would take their time
    cell_of_code = np.array([labels.index(cells[trial_id]) for trial_id in trials], dtype=int)
    named: dict[str, Any] = {
        "trial_id": pd.Categorical.from_codes(code, pd.Index(trials, dtype=str)),
        "cell": pd.Categorical.from_codes(cell_of_code[code], pd.Index(labels)),
        "seed": np.array([declared[trial_id].seed for trial_id in trials], dtype=int)[code],
    }
    newest = _newest(points, _places(study, trials)[code])
    return points.assign(**named)[list(HISTORY)].take(newest).reset_index(drop=True)


def _newest(points: pd.DataFrame, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of ``points`` count, in order of trial, metric and epoch: of an epoch that was written twice the newest."""
    keys = places, points["metric"].cat.codes, points["epoch"]
    order = np.lexsort([points["timestamp"], *reversed(keys)])
    changes = [np.diff(np.asarray(key)[order], append=-1) != 0 for key in keys]
    return order[np.logical_or.reduce(changes)]


def _places(study: Study, trials: Sequence[str]) -> NDArray[np.int64]:
    """Where each of ``trials`` stands in the study."""
    declared = {trial.trial_id: place for place, trial in enumerate(study.trials)}
    return np.array([declared[trial_id] for trial_id in trials], dtype=int)


def load_records(experiment: str, results: Results) -> pd.DataFrame:
    """One row a trial's run that ``experiment`` has, declared or not: when it ran, and whether it saw the test set.

    Columns: ``trial_id``; ``phase``, as its run was tagged; ``has_test``, whether any test metric is recorded;
    ``started`` and ``ended``, UTC, of the original where the run is a copy; ``copied``. Raises ConfigError as ``load``.
    """
    names = ["trial_id", "phase", "has_test", "started", "ended", "copied"]
    with open_store(results) as store:
        runs = _runs(store, experiment)
    return pd.DataFrame([_record(run, original) for run, original in runs], columns=names)


def _record(run: StoredRun, original: StoredRun | None) -> tuple[Any, ...]:
    started, ended = (_utc(original.started), _utc(original.ended)) if original else (pd.NaT, pd.NaT)
    has_test = any(name.removeprefix(FINAL).startswith("test/") for name in run.metrics)
    return run.tags.get("trial_id"), run.tags.get("phase"), has_test, started, ended, original is not run


def _utc(milliseconds: int | None) -> pd.Timestamp | NaTType:
    return pd.NaT if milliseconds is None else pd.Timestamp(milliseconds, unit="ms", tz="UTC")


def _runs_by_trial(store: Store | None, study: Study) -> dict[str, StoredRun]:
    """Runs by trial id; for a copy the run of the study that trained it."""
    by_trial: dict[str, StoredRun] = {}
    for run, original in _runs(store, study.name):
        if original is not None and "trial_id" in run.tags:
            by_trial.setdefault(run.tags["trial_id"], original)
    return by_trial


def _runs(store: Store | None, experiment: str) -> list[tuple[StoredRun, StoredRun | None]]:
    """Every trial's run with its original: itself, for a copy the run it is of, None where that one is gone."""
    if store is None:
        return []
    runs = store.trial_runs(experiment)
    originals = store.runs([run.tags["copy_of"] for run in runs if "copy_of" in run.tags])
    return [(run, originals.get(run.tags["copy_of"]) if "copy_of" in run.tags else run) for run in runs]

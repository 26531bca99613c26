"""MLflow read into one tidy frame: a row a declared trial, whatever became of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.typing import NaTType

from search_spaces.study import Study
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results, hide_passwords, set_tracking_defaults

set_tracking_defaults()

from mlflow.entities import Run  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

FINAL = "final/"
TAGS = ("commit", "version.torch", "cause")


def load(study: Study, results: Results) -> pd.DataFrame:
    """One row a trial of ``study``, in declared order.

    Columns: ``trial_id``; ``cell``, the label of its cell; every parameter under its own name (``method.epsilon``);
    ``outcome``: finished, diverged, failed, running, interrupted or missing; ``run_id``; the tags in ``TAGS``; every
    metric of the last epoch under its own name (``test/nll``), unless a parameter has that name. Metrics of trials that
    are not finished are NaN, so that none of them can enter a mean. Raises ConfigError when the tracking store does not
    answer.
    """
    runs = _runs_by_trial(study, results)
    labels = {trial.trial_id: cell.label for cell in study.cells() for trial in cell.trials}
    return pd.DataFrame([_row(trial, labels[trial.trial_id], runs.get(trial.trial_id)) for trial in study.trials])


def _row(trial: TrialConfig, label: str, run: Run | None) -> dict[str, Any]:
    row: dict[str, Any] = {"trial_id": trial.trial_id, "cell": label}
    row |= {key: str(value) if isinstance(value, list) else value for key, value in trial.params().items()}
    row["outcome"] = _outcome(run)
    row["run_id"] = run.info.run_id if run else None
    row |= {tag: run.data.tags.get(tag) if run else None for tag in TAGS}
    if run is not None and row["outcome"] == "finished":
        finals = {name.removeprefix(FINAL): value for name, value in run.data.metrics.items() if name.startswith(FINAL)}
        row = finals | row  # ``lr`` is a parameter; the metric of that name is where its schedule ended
    return row


def _outcome(run: Run | None) -> str:
    if run is None:
        return "missing"
    if run.info.status == "FINISHED":
        return "finished"
    if run.info.status == "FAILED":
        return str(run.data.tags.get("outcome", "failed"))
    return "running" if run.info.status == "RUNNING" else "interrupted"


def load_records(experiment: str, results: Results) -> pd.DataFrame:
    """One row a trial's run that ``experiment`` has, declared or not: when it ran, and whether it saw the test set.

    Columns: ``trial_id``; ``phase``, as its run was tagged; ``has_test``, whether any test metric is recorded;
    ``started`` and ``ended``, UTC, of the original where the run is a copy; ``copied``. Raises ConfigError as ``load``.
    """
    names = ["trial_id", "phase", "has_test", "started", "ended", "copied"]
    return pd.DataFrame([_record(run, original) for run, original in _runs(experiment, results)], columns=names)


def _record(run: Run, original: Run | None) -> tuple[Any, ...]:
    started, ended = (_utc(original.info.start_time), _utc(original.info.end_time)) if original else (pd.NaT, pd.NaT)
    has_test = any(name.removeprefix(FINAL).startswith("test/") for name in run.data.metrics)
    tags = run.data.tags
    return tags.get("trial_id"), tags.get("phase"), has_test, started, ended, original is not run


def _utc(milliseconds: int | None) -> pd.Timestamp | NaTType:
    return pd.NaT if milliseconds is None else pd.Timestamp(milliseconds, unit="ms", tz="UTC")


def _runs_by_trial(study: Study, results: Results) -> dict[str, Run]:
    """Runs by trial id; for a copy the run of the study that trained it."""
    by_trial: dict[str, Run] = {}
    for run, original in _runs(study.name, results):
        if original is not None and "trial_id" in run.data.tags:
            by_trial.setdefault(run.data.tags["trial_id"], original)
    return by_trial


def _runs(experiment_name: str, results: Results) -> list[tuple[Run, Run | None]]:
    """Every trial's run with its original: itself, for a copy the run it is of, None where that one is gone."""
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    database = results.tracking_uri.removeprefix("sqlite:///")
    if database != results.tracking_uri and not Path(database).is_file():
        return []  # reading makes no database
    try:
        client = MlflowClient(tracking_uri=results.tracking_uri, registry_uri=results.tracking_uri)
        experiment = client.get_experiment_by_name(experiment_name)
        runs = _all_runs(client, experiment.experiment_id) if experiment else ()
        return [(run, _original(client, run)) for run in runs]
    except (MlflowException, OSError) as error:
        message = f"MLFLOW_TRACKING_URI: {results.tracking_uri} does not answer: {str(error).splitlines()[0]}"
        raise ConfigError(hide_passwords(message)) from error


def _original(client: MlflowClient, run: Run) -> Run | None:
    copied = run.data.tags.get("copy_of")
    if copied is None:
        return run
    try:
        return client.get_run(copied)
    except MlflowException:
        return None


def _all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], "tags.kind = 'trial'", max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return

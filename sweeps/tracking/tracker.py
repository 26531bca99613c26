"""Writing trials to MLflow: the record for people.

One experiment a study, or tuning; in it a summary run, a run a cell, or search, and in each of these a run a trial.
Whatever is written here can be written again without changing anything: metrics go with the timestamps of the trial's
own records, and runs are found before they are made.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from search_spaces.study import Study
from sweeps.ledger import Ledger, State
from sweeps.provenance import provenance
from sweeps.tracking.outline import ENDED, RUN_COLOUR, Outline, StudyOutline
from trainer.config import TrialConfig
from trainer.declaration import ConfigError, Scalar
from trainer.machine import Results, set_tracking_defaults
from trainer.passwords import answered, hide_passwords
from trainer.records import EpochRecord

set_tracking_defaults()

from mlflow.entities import Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from requests.exceptions import RequestException  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from sweeps.tracking.inputs import dataset_inputs  # noqa: E402

RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
STATUS_OF: dict[State, RunStatus] = {
    "finished": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "pending": "KILLED",
    "leased": "RUNNING",
}
UNREACHABLE = (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError)
"""What a tracking store that does not answer raises, or one for which a driver is not installed."""

PERMANENT = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "PERMISSION_DENIED"}

SQLITE = "sqlite:///"
METRICS_A_CALL = 1000  # MLflow's limit for one log_batch
SUMMARY = "summary"
RUN_NAME = "mlflow.runName"
NOTE = "mlflow.note.content"


def connect(results: Results) -> MlflowClient:
    """A client of the tracking store, which answers. Raises ConfigError, one line, when it does not.

    An SQLite store that does not exist yet is made.
    """
    set_tracking_defaults()
    for name in ("mlflow", "alembic", "urllib3"):  # which print whole tracebacks of what we say in a line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        if results.tracking_uri.startswith(SQLITE):
            _make_database(Path(results.tracking_uri.removeprefix(SQLITE)))
        return _answering_client(results.tracking_uri)
    except (*UNREACHABLE, ValueError) as error:  # ValueError: an address that is none
        raise ConfigError(
            f"MLFLOW_TRACKING_URI: {hide_passwords(results.tracking_uri)} {answered(first_line(error))}"
        ) from error


def _answering_client(uri: str) -> MlflowClient:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    return client


def _make_database(path: Path) -> None:
    """Make MLflow's tables beside ``path`` and put them in place whole.

    MLflow makes them in dozens of steps: a kill between two would leave a database that it can never open again, and
    two processes at it at a time would race.
    """
    if path.exists():
        return
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder: RESULTS=... names the one of the results")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / path.name
        # Hidden, for nothing is ever put into it: MLflow's first experiment, which comes with the tables.
        _answering_client(f"{SQLITE}{fresh}").delete_experiment("0")
        with contextlib.suppress(FileExistsError):  # somebody else was first
            os.link(fresh, path)


def open_tracker(study: Study | Outline, ledger: Ledger, results: Results) -> Tracker:
    """The study's experiment, with the runs of its groups made. Raises ConfigError when the store does not answer.

    Tried a few times: of two drivers that start together, one can trip over the other's rows.
    """
    client = connect(results)
    for patience in (0.2, 0.5, 1.0):
        with contextlib.suppress(*UNREACHABLE):
            return _prepared(Tracker(client, study, ledger, results))
        time.sleep(patience)
    try:
        return _prepared(Tracker(client, study, ledger, results))
    except UNREACHABLE as error:
        raise refusal(results, "stopped", error) from error


def _prepared(tracker: Tracker) -> Tracker:
    tracker.prepare()
    return tracker


def first_line(error: Exception) -> str:
    """The beginning of an error's message, or of the database's behind it, for a line of ours, without passwords."""
    error = getattr(error.__cause__, "orig", None) or error
    return (hide_passwords(str(error)).strip().splitlines() or [type(error).__name__])[0][:300]


def refusal(results: Results, what: str, error: Exception) -> ConfigError:
    """The one line for a tracking store that does something else than it should."""
    return ConfigError(f"MLFLOW_TRACKING_URI: {hide_passwords(results.tracking_uri)} {what}: {first_line(error)}")


def is_passing(error: Exception) -> bool:
    """Whether trying again can help: not with a run that was deleted, or a value that MLflow refuses."""
    return isinstance(error, UNREACHABLE) and getattr(error, "error_code", None) not in PERMANENT


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be written of one trial: its state and the records that are on disk."""

    trial: TrialConfig
    state: State
    records: Sequence[EpochRecord] = ()
    cause: str | None = None


@dataclass(slots=True)
class _KnownRun:
    """shown: the timestamps of the epochs that it shows; None where that was not looked up yet. looks: name, colour."""

    run_id: str
    status: str
    has_params: bool
    has_data: bool
    copy_of: str | None
    shown: dict[int, int] | None
    looks: dict[str, str]


class Tracker:
    """An MLflow experiment, that of a study say.

    Not thread-safe; raises what ``UNREACHABLE`` lists when the store is gone.
    """

    def __init__(self, client: MlflowClient, study: Study | Outline, ledger: Ledger, results: Results) -> None:
        self._client, self._ledger = client, ledger
        self._outline: Outline = StudyOutline(study) if isinstance(study, Study) else study
        self._provenance = provenance()
        self._remote = not results.tracking_uri.startswith(SQLITE)
        self._experiment_id = self._ensure_experiment(results)
        self._runs = self._known_runs()

    def _ensure_experiment(self, results: Results) -> str:
        local = results.tracking_uri.startswith(SQLITE)
        location = (results.artifacts / self._outline.name).as_uri() if local else None
        note = {NOTE: self._outline.question, "mlflow.experimentKind": "custom_model_development"}
        existing = self._client.get_experiment_by_name(self._outline.name)
        if existing is None:
            try:
                return str(self._client.create_experiment(self._outline.name, location, tags=note))
            except MlflowException:
                existing = self._client.get_experiment_by_name(self._outline.name)
                if existing is None:  # not that another driver was first
                    raise
        if existing.lifecycle_stage != "active":
            self._client.restore_experiment(existing.experiment_id)
        return str(existing.experiment_id)

    def _known_runs(self) -> dict[str, _KnownRun]:
        """The one run of each key. A killed driver can have left a second, and so can an answer that never came."""
        recorded = self._ledger.run_ids(self._outline.name)
        found: dict[str, dict[str, Run]] = {}
        for run in self._all_runs():
            if key := run.data.tags.get("key"):
                found.setdefault(key, {})[run.info.run_id] = run
        return {key: self._only_run(key, runs, recorded.get(key)) for key, runs in found.items()}

    def _only_run(self, key: str, runs: Mapping[str, Run], recorded: str | None) -> _KnownRun:
        """The recorded one of ``runs``, else one that is recorded from now on; the others are deleted.

        If another driver has made one of these at this very moment it finds that its own is not the recorded one.
        """
        winner = recorded if recorded in runs else None
        if winner is None:
            winner = self._ledger.claim_run(self._outline.name, key, next(iter(runs)), instead_of=recorded)
        for run_id in runs.keys() - {winner}:
            self._client.delete_run(run_id)
        return _known(runs.get(winner) or self._client.get_run(winner))

    def _all_runs(self) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment_id], max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def prepare(self) -> None:
        """Make the summary run and the groups' runs. They are SCHEDULED until the last of their trials is over."""
        name = self._outline.name
        self._run_of(SUMMARY, name, {"kind": "summary", "study": name}, "SCHEDULED")
        for group in self._outline.groups:
            run = self._run_of(group.key, group.name, group.tags, "SCHEDULED")
            self._log(run, group.params)

    def stale(self, states: Mapping[str, State]) -> list[TrialConfig]:
        """Of the trials in ``states``, those whose run does not show that state; leased ones are their owner's."""

        def is_stale(trial: TrialConfig) -> bool:
            state, run = states.get(trial.trial_id, "leased"), self._runs.get(trial.trial_id)
            if run is None:
                return state in ENDED
            return state != "leased" and run.copy_of is None and run.status != STATUS_OF[state]

        return [trial for trial in self._outline.trials if is_stale(trial)]

    def write(self, delivery: Delivery) -> None:
        """Bring the trial's run up to date. The status comes last: a run that is FINISHED is complete."""
        trial, records = delivery.trial, delivery.records
        run = self._run_of(trial.trial_id, self._outline.run_name(trial), self._trial_tags(trial), "RUNNING")
        if any(self._shown(run, record) not in (None, record.timestamp) for record in records):
            run = self._anew(trial, run)
        metrics = [
            Metric(name, value, record.timestamp, record.epoch)
            for record in records
            for name, value in record.metrics.items()
        ]
        if records and delivery.state in ENDED:
            metrics += final_metrics(records[-1])
        tags = {"outcome": delivery.state, "cause": (delivery.cause or "")[-5000:]}
        self._log(run, trial.params(), metrics, tags)
        if run.shown is not None:
            run.shown |= {record.epoch: record.timestamp for record in records}
        self._set_status(run, STATUS_OF[delivery.state])

    def _shown(self, run: _KnownRun, record: EpochRecord) -> int | None:
        """The timestamp under which the run shows the epoch of ``record``; None when it does not."""
        if run.shown is None:
            points = self._client.get_metric_history(run.run_id, next(iter(record.metrics)))
            run.shown = {point.step: point.timestamp for point in points}
        return run.shown.get(record.epoch)

    def _anew(self, trial: TrialConfig, old: _KnownRun) -> _KnownRun:
        """A new run instead of ``old``, whose epochs are of a training that is lost with its checkpoint.

        Both would be shown, each epoch twice: MLflow can take no metric back.
        """
        self._client.delete_run(old.run_id)
        del self._runs[trial.trial_id]
        return self._run_of(trial.trial_id, self._outline.run_name(trial), self._trial_tags(trial), "RUNNING")

    def _log(
        self,
        run: _KnownRun,
        params: Mapping[str, Scalar],
        metrics: Sequence[Metric] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """In as few calls as MLflow takes; parameters once, for they cannot change, and so the data that they name."""
        self._log_data(run, params)
        new_params = [] if run.has_params else [Param(key, str(value)) for key, value in params.items()]
        run_tags = [RunTag(key, value) for key, value in (tags or {}).items()]
        if new_params or run_tags or metrics:
            self._client.log_batch(run.run_id, metrics[:METRICS_A_CALL], new_params, run_tags)
        for start in range(METRICS_A_CALL, len(metrics), METRICS_A_CALL):
            self._client.log_batch(run.run_id, metrics[start : start + METRICS_A_CALL])
        run.has_params = True

    def _set_status(self, run: _KnownRun, status: RunStatus) -> None:
        if run.status == status:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self._client.update_run(run.run_id, status)
        else:
            self._client.set_terminated(run.run_id, status)
        run.status = status

    def finish(self, states: Mapping[str, State]) -> None:
        """Close the runs of groups, and the summary, whose trials are all over; reopen those that have work again.

        Of what was made twice, because a server's answer was lost, one is left.
        """
        if self._remote:
            self._runs |= self._known_runs()
        over = {group.key: self._outline.is_over(group, states) for group in self._outline.groups}
        for key, ended in {**over, SUMMARY: all(over.values())}.items():
            self._set_status(self._runs[key], "FINISHED" if ended else "SCHEDULED")

    def copy(self, trial: TrialConfig, trained_by: str) -> bool:
        """Show a trial that another study trained: a FINISHED run with its parameters and final metrics.

        False when this store does not have the original; True when there is nothing left to do.
        """
        known = self._runs.get(trial.trial_id)
        if known is not None and known.status == "FINISHED":
            return True
        original_id = self._ledger.run_ids(trained_by).get(trial.trial_id)
        original = self._get(original_id) if original_id else None
        if original_id is None or original is None:
            return False
        finals = [
            Metric(name, value, original.info.end_time or 0, 0)
            for name, value in original.data.metrics.items()
            if name.startswith("final/")
        ]
        tags = self._trial_tags(trial) | {"copy_of": original_id}
        run = self._run_of(trial.trial_id, self._outline.run_name(trial), tags, "RUNNING")
        self._log(run, trial.params(), finals, tags)
        run.copy_of = original_id
        self._set_status(run, "FINISHED")
        return True

    def add(self, trial: TrialConfig, metrics: Mapping[str, float], tags: Mapping[str, str]) -> bool:
        """Write numbers found after the training, finite ones, at step 0; those that the run shows already are not.

        tags: what they are of. What is written last is what MLflow shows. Returns whether anything was written. Raises
        KeyError where there is no run of the trial.
        """
        run_id, now = self.run_id(trial.trial_id), time.time_ns() // 1_000_000
        shown = self._client.get_run(run_id).data
        new = [Metric(name, value, now, 0) for name, value in metrics.items() if shown.metrics.get(name) != value]
        new_tags = [RunTag(name, value) for name, value in tags.items() if shown.tags.get(name) != value]
        if new or new_tags:
            self._client.log_batch(run_id, new[:METRICS_A_CALL], tags=new_tags)
        for start in range(METRICS_A_CALL, len(new), METRICS_A_CALL):
            self._client.log_batch(run_id, new[start : start + METRICS_A_CALL])
        return bool(new or new_tags)

    @property
    def outline(self) -> Outline:
        """Of the experiment."""
        return self._outline

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment."""
        return self._experiment_id

    def mend(self) -> None:
        """Give runs that an earlier version has made the names, colours and data that they would have now."""
        for group in self._outline.groups:
            self._mend(group.key, group.name, group.tags, group.params)
        for trial in self._outline.trials:
            group = self._outline.group(trial.trial_id)
            self._mend(trial.trial_id, self._outline.run_name(trial), group.tags, trial.params())

    def _mend(self, key: str, name: str, tags: Mapping[str, str], params: Mapping[str, Scalar]) -> None:
        run, looks = self._runs.get(key), _looks(name, tags)
        if run is None:
            return
        self._log_data(run, params)
        if run.looks != looks:
            self._client.log_batch(run.run_id, tags=[RunTag(key, value) for key, value in looks.items()])
            run.looks = looks

    def _log_data(self, run: _KnownRun, params: Mapping[str, Scalar]) -> None:
        if not run.has_data and params:
            self._client.log_inputs(run.run_id, dataset_inputs(params))
            run.has_data = True

    def has_run(self, trial: TrialConfig) -> bool:
        """Whether this experiment has a run of the trial, of whatever status."""
        return trial.trial_id in self._runs

    def run_id(self, key: str) -> str:
        """MLflow's id of the run of a trial id, a cell id or ``SUMMARY``. Raises KeyError where there is none."""
        return self._runs[key].run_id

    def _run_of(self, key: str, name: str, tags: Mapping[str, str], status: RunStatus) -> _KnownRun:
        """The run of ``key``: the known one, else the one that a killed or a second driver made, else a new one."""
        if key not in self._runs:
            self._runs[key] = self._claim(key, lambda: self._create(key, name, tags, status))
        return self._runs[key]

    def _create(self, key: str, name: str, tags: Mapping[str, str], status: RunStatus) -> Run:
        all_tags = {**self._provenance, **tags, "key": key}
        run = self._client.create_run(self._experiment_id, tags=all_tags, run_name=name)
        if status == "RUNNING":
            return run
        self._client.update_run(run.info.run_id, status)
        return self._client.get_run(run.info.run_id)

    def _claim(self, key: str, create: Callable[[], Run]) -> _KnownRun:
        recorded = self._ledger.run_ids(self._outline.name).get(key)
        found = self._find(key, recorded)
        run = found or create()
        if run.info.run_id != recorded:
            winner = self._ledger.claim_run(self._outline.name, key, run.info.run_id, instead_of=recorded)
            if winner != run.info.run_id:
                if found is None:
                    self._client.delete_run(run.info.run_id)
                run = self._client.get_run(winner)
        return _known(run)

    def _find(self, key: str, recorded: str | None) -> Run | None:
        """The recorded run if this store has it, else one with the key as its tag (its driver died between the two)."""
        run = self._get(recorded) if recorded is not None else None
        if run is not None and run.info.experiment_id == self._experiment_id:
            return run
        tagged = self._client.search_runs([self._experiment_id], f"tags.key = '{key}'", max_results=1)
        return tagged[0] if tagged else None

    def _get(self, run_id: str) -> Run | None:
        """The run, or None where this store has none of that id or it was deleted there."""
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _trial_tags(self, trial: TrialConfig) -> dict[str, str]:
        group = self._outline.group(trial.trial_id)
        return {
            **group.tags,
            "kind": "trial",
            "trial_id": trial.trial_id,
            "seed": str(trial.seed),
            "phase": trial.phase,
            "mlflow.parentRunId": self._runs[group.key].run_id,
            **self._outline.tags(trial),
        }


def _known(run: Run) -> _KnownRun:
    shown: dict[int, int] | None = None if run.data.metrics else {}
    tags = run.data.tags
    looks = _looks(tags.get(RUN_NAME, ""), tags)
    has_data = bool(run.inputs and run.inputs.dataset_inputs)
    has_params, copy_of = bool(run.data.params), tags.get("copy_of")
    return _KnownRun(run.info.run_id, run.info.status, has_params, has_data, copy_of, shown, looks)


def _looks(name: str, tags: Mapping[str, str]) -> dict[str, str]:
    return {RUN_NAME: name, RUN_COLOUR: tags.get(RUN_COLOUR, "")}


def final_metrics(record: EpochRecord) -> list[Metric]:
    """The last epoch again as ``final/*`` at step 0: one number to sort by in MLflow's table."""
    return [Metric(f"final/{name}", value, record.timestamp, 0) for name, value in record.metrics.items()]

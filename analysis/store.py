"""MLflow read in bulk: all runs of an experiment, all points of their metrics, from its database or over HTTP."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd
import sqlalchemy as sql
from pandas.api.types import union_categoricals
from sqlalchemy.exc import SQLAlchemyError

from trainer.declaration import ConfigError
from trainer.machine import Results, set_tracking_defaults
from trainer.passwords import answered, hide_passwords

set_tracking_defaults()

from mlflow.entities import Run  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from mlflow.utils.credentials import get_default_host_creds  # noqa: E402
from mlflow.utils.rest_utils import http_request_safe  # noqa: E402

TRIAL = "trial"
"""The tag ``kind`` of the runs that trials have."""
POINTS = ("run_id", "metric", "epoch", "timestamp", "value")
"""Columns of a frame of histories: the epoch is MLflow's step, the timestamp in milliseconds since 1970."""
NOT_BY_EPOCH = ("final/", "probe/")
"""What metrics begin with that have no history."""
CHUNK = 500  # runs in one query: twice as many bound values, and SQLite takes 32,766
BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
PAGE = 1000  # runs or experiments in one answer
CONNECTIONS = 4
"""To a server at a time: as many as MLflow's server has workers unless it is told otherwise."""
BULK_RUNS, BULK_POINTS = 100, 25_000
"""What MLflow's bulk call takes and gives at most; the points beyond it are left out without a word."""


class Last(NamedTuple):
    """A metric's point of the highest step; the timestamp in milliseconds since 1970."""

    value: float
    step: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as MLflow has it. started, ended: milliseconds since 1970. last: of each metric its last point."""

    run_id: str
    status: str
    started: int | None
    ended: int | None
    tags: Mapping[str, str]
    last: Mapping[str, Last]

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each."""
        return {name: point.value for name, point in self.last.items()}

    @property
    def history_metrics(self) -> list[str]:
        """The metrics that have a point an epoch."""
        return [name for name in self.last if not name.startswith(NOT_BY_EPOCH)]


class Store(Protocol):
    """A tracking store, read only."""

    def experiments(self) -> list[str]:
        """The names of those that are not deleted."""

    def trial_runs(self, experiment: str) -> list[StoredRun]:
        """All that the experiment has of trials, but for deleted ones; none of an experiment that is not there."""

    def runs(self, run_ids: Sequence[str]) -> dict[str, StoredRun]:
        """Those of these ids that are there, by id."""

    def histories(self, runs: Sequence[StoredRun]) -> pd.DataFrame:
        """Every point of the metrics that ``runs`` have by epoch: ``POINTS``; no order is promised."""


@contextlib.contextmanager
def open_store(results: Results) -> Iterator[Store | None]:
    """The store of ``results``; None where that is a file that does not exist, for reading makes no database.

    Raises ConfigError, one line, when it is none that can be read, or does not answer.
    """
    set_tracking_defaults()
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = results.tracking_uri
    file = uri.removeprefix("sqlite:///")
    try:
        if file != uri and not Path(file).is_file():
            yield None
        elif uri.startswith(("http://", "https://")):
            yield ServerStore(uri)
        else:
            with contextlib.closing(DatabaseStore(uri)) as store:
                yield store
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        cause = getattr(error.__cause__, "orig", None) or getattr(error, "orig", None) or error
        message = f"MLFLOW_TRACKING_URI: {uri} {answered((str(cause).splitlines() or ['?'])[0])}"
        raise ConfigError(hide_passwords(message)) from error


def frame_of(points: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """A frame of histories of rows as ``POINTS`` has columns. MLflow itself keeps a point that is sent twice once."""
    found = pd.DataFrame(points, columns=list(POINTS))
    return found.astype({"run_id": "category", "metric": "category", "epoch": int, "timestamp": int, "value": float})


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames of histories as one."""
    parts = [frame for frame in frames if len(frame)]
    if not parts:
        return frame_of([])
    names = {column: union_categoricals([part[column] for part in parts]) for column in ("run_id", "metric")}
    numbers = pd.concat([part.drop(columns=list(names)) for part in parts], ignore_index=True)
    return numbers.assign(**names)[list(POINTS)]


def _chunks(ids: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


_runs = sql.table(
    "runs", *map(sql.column, ("run_uuid", "status", "start_time", "end_time", "lifecycle_stage", "experiment_id"))
)
_experiments = sql.table("experiments", *map(sql.column, ("experiment_id", "name", "lifecycle_stage")))
_tags = sql.table("tags", *map(sql.column, ("run_uuid", "key", "value")))
POINT = ("run_uuid", "key", "value", "step", "timestamp", "is_nan")
_latest, _metrics = (sql.table(name, *map(sql.column, POINT)) for name in ("latest_metrics", "metrics"))


class DatabaseStore:
    """MLflow's own tables. Which columns they have is MLflow's affair: a test reads what its client has written."""

    def __init__(self, uri: str) -> None:
        patience = {"timeout": 30.0} if uri.startswith("sqlite") else {}
        try:
            self._engine = sql.create_engine(uri, connect_args=patience)
        except ValueError as error:  # a port that is none
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def experiments(self) -> list[str]:
        with self._engine.connect() as connection:
            query = sql.select(_experiments.c.name).where(_experiments.c.lifecycle_stage == "active")
            return list(connection.scalars(query))

    def trial_runs(self, experiment: str) -> list[StoredRun]:
        of_trials = sql.select(_runs.c.run_uuid).join(_tags, _tags.c.run_uuid == _runs.c.run_uuid)
        of_trials = of_trials.join(_experiments, _experiments.c.experiment_id == _runs.c.experiment_id)
        of_trials = of_trials.where(_experiments.c.name == experiment, _tags.c.key == "kind", _tags.c.value == TRIAL)
        newest_first = of_trials.order_by(_runs.c.start_time.desc(), _runs.c.run_uuid)
        with self._engine.connect() as connection:
            run_ids = list(connection.scalars(newest_first))
        found = self.runs(run_ids)
        return [found[run_id] for run_id in run_ids if run_id in found]

    def runs(self, run_ids: Sequence[str]) -> dict[str, StoredRun]:
        found: dict[str, StoredRun] = {}
        with self._engine.connect() as connection:
            for ids in _chunks(run_ids, CHUNK):
                found |= self._runs(connection, ids)
        return found

    def _runs(self, connection: sql.Connection, ids: Sequence[str]) -> dict[str, StoredRun]:
        """The status first: a sweep writes it last, so that what is read of a finished run is all of it."""
        query = sql.select(_runs.c.run_uuid, _runs.c.status, _runs.c.start_time, _runs.c.end_time)
        active = query.where(_runs.c.run_uuid.in_(ids), _runs.c.lifecycle_stage == "active")
        runs = connection.execute(active).all()
        tags: dict[str, dict[str, str]] = {run_id: {} for run_id in ids}
        last: dict[str, dict[str, Last]] = {run_id: {} for run_id in ids}
        for run_id, key, value in connection.execute(sql.select(_tags).where(_tags.c.run_uuid.in_(ids))):
            tags[run_id][key] = value
        for run_id, key, value, step, timestamp, is_nan in connection.execute(
            sql.select(_latest).where(_latest.c.run_uuid.in_(ids))
        ):
            last[run_id][key] = Last(math.nan if is_nan else value, step, timestamp)
        return {
            run_id: StoredRun(run_id, status, started, ended, tags[run_id], last[run_id])
            for run_id, status, started, ended in runs
        }

    def histories(self, runs: Sequence[StoredRun]) -> pd.DataFrame:
        return joined(self._points(chunk) for chunk in _chunks(runs, CHUNK))

    def _points(self, runs: Sequence[StoredRun]) -> pd.DataFrame:
        """Runs travel as numbers: a million rows with their ids would take most of the time."""
        run_ids = [run.run_id for run in runs]
        numbered = sql.values(sql.column("name", sql.String), sql.column("number", sql.Integer), name="wanted")
        # SQLite names no columns of VALUES but in WITH
        wanted = numbered.data([(run_id, number) for number, run_id in enumerate(run_ids)]).cte("wanted")
        value = sql.case((sql.cast(_metrics.c.is_nan, sql.Integer) != 0, None), else_=_metrics.c.value)
        query = sql.select(wanted.c.number, _metrics.c.key, _metrics.c.step, _metrics.c.timestamp, value)
        query = query.select_from(wanted.join(_metrics, _metrics.c.run_uuid == wanted.c.name))
        query = query.where(*(_metrics.c.key.not_like(f"{prefix}%") for prefix in NOT_BY_EPOCH))
        with self._engine.connect() as connection:
            cursor = connection.execute(query).cursor
            assert cursor is not None
            points = frame_of(cursor.fetchall())
        return points.assign(run_id=points["run_id"].cat.rename_categories(lambda number: run_ids[number]))


class ServerStore:
    """A tracking server. How one signs in to it is MLflow's own affair, environment variables and all."""

    def __init__(self, uri: str) -> None:
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._uri = uri

    def experiments(self) -> list[str]:
        return [experiment.name for experiment in self._experiments()]

    def _experiments(self) -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self._client.search_experiments(max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def trial_runs(self, experiment: str) -> list[StoredRun]:
        found = self._client.get_experiment_by_name(experiment)
        return self._search([found.experiment_id], f"tags.kind = '{TRIAL}'") if found else []

    def runs(self, run_ids: Sequence[str]) -> dict[str, StoredRun]:
        everywhere = [experiment.experiment_id for experiment in self._experiments()] if run_ids else []
        found: dict[str, StoredRun] = {}
        for ids in _chunks(run_ids, BULK_RUNS):
            listed = ", ".join(f"'{run_id}'" for run_id in ids)
            found |= {run.run_id: run for run in self._search(everywhere, f"attributes.run_id IN ({listed})")}
        return found

    def _search(self, experiment_ids: list[str], condition: str) -> list[StoredRun]:
        found: list[StoredRun] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(experiment_ids, condition, max_results=PAGE, page_token=token)
            found.extend(map(_stored, page))
            token = page.token
            if not token:
                return found

    def histories(self, runs: Sequence[StoredRun]) -> pd.DataFrame:
        names = sorted({name for run in runs for name in run.history_metrics})
        asked = [(portion, name) for name in names for portion in _portions(runs, name)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return joined(pool.map(lambda one: frame_of(self._points(*one)), asked))

    def _points(self, runs: Sequence[StoredRun], name: str) -> list[tuple[Any, ...]]:
        """All of them: where the answer can have left some out it is asked for in halves."""
        if len(runs) == 1:
            history = self._client.get_metric_history(runs[0].run_id, name)
            return [(runs[0].run_id, name, one.step, one.timestamp, one.value) for one in history]
        asked = [("run_id", run.run_id) for run in runs] + [("metric_key", name), ("max_results", str(BULK_POINTS))]
        credentials = get_default_host_creds(self._uri)  # type: ignore[no-untyped-call]
        response = http_request_safe(credentials, BULK, "GET", params=asked)  # type: ignore[no-untyped-call]
        answer = response.json()["metrics"]
        points = [(one["run_id"], name, one["step"], one["timestamp"], one["value"]) for one in answer]
        if len(points) < BULK_POINTS and _has_the_last(points, runs, name):
            return points
        middle = len(runs) // 2
        return [*self._points(runs[:middle], name), *self._points(runs[middle:], name)]


def _portions(runs: Sequence[StoredRun], name: str) -> Iterator[list[StoredRun]]:
    """Those of ``runs`` that have the metric, as many at a time as one answer has room for."""
    portion: list[StoredRun] = []
    room = BULK_POINTS
    for run in (run for run in runs if name in run.last):
        expected = run.last[name].step + 1
        if portion and (len(portion) == BULK_RUNS or expected >= room):
            yield portion
            portion, room = [], BULK_POINTS
        portion.append(run)
        room -= expected
    if portion:
        yield portion


def _has_the_last(points: Sequence[tuple[Any, ...]], runs: Sequence[StoredRun], name: str) -> bool:
    """Whether each run's last point is among ``points``: another server may give fewer in one answer."""
    seen = {(run_id, step, timestamp) for run_id, _, step, timestamp, _ in points}
    return all((run.run_id, run.last[name].step, run.last[name].timestamp) in seen for run in runs)


def _stored(run: Run) -> StoredRun:
    info, points = run.info, run.data.to_proto().metrics
    last = {point.key: Last(point.value, point.step, point.timestamp) for point in points}
    return StoredRun(info.run_id, info.status, info.start_time, info.end_time, run.data.tags, last)

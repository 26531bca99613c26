"""MLflow read in bulk: what its own client says, run by run, is what databases and a real server must give as well."""

from __future__ import annotations

import contextlib
import itertools
import math
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from mlflow.utils import rest_utils

from analysis import store as store_module
from analysis.runs import begun
from analysis.store import POINTS, Last, Store, StoredRun, frame_of, joined, open_store
from sweeps.tracking.tracker import connect
from tests.analysis.conftest import Place
from trainer.declaration import ConfigError
from trainer.machine import TRACKING_SETTINGS, TRACKING_VARIABLE, Results

_names = (f"experiment-{number}" for number in itertools.count())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Empty; nothing is said of another tracking store than the one that would lie in it."""
    for name in (TRACKING_VARIABLE, *TRACKING_SETTINGS):
        monkeypatch.setenv(name, "")  # so that it is noted and put back, even where it was not set
        monkeypatch.delenv(name)
    return Results(tmp_path)


@pytest.fixture
def client(place: Place) -> MlflowClient:
    return place.client


@pytest.fixture
def store(results: Results) -> Iterator[Store]:
    with open_store(results) as found:
        assert found is not None
        yield found


class Experiment:
    """A new one, and the runs that a test puts into it."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.name = client, next(_names)
        self.id = client.create_experiment(self.name)
        self._seconds = itertools.count(1)

    def run(self, *points: Metric, status: str = "FINISHED", **tags: str) -> str:
        """A trial's run, unless ``tags`` say otherwise; each starts a second after the one before."""
        started = 1000 * next(self._seconds)
        run_id = str(self.client.create_run(self.id, started, {"kind": "trial"} | tags).info.run_id)
        for start in range(0, len(points), 1000):
            self.client.log_batch(run_id, points[start : start + 1000])
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, started + 500)
        return run_id


@pytest.fixture
def experiment(client: MlflowClient) -> Experiment:
    return Experiment(client)


def epochs(name: str, *values: float, start: int = 1) -> list[Metric]:
    return [Metric(name, value, 10 * epoch, epoch) for epoch, value in enumerate(values, start)]


def told(client: MlflowClient, run_ids: Sequence[str]) -> list[str]:
    """Every point of the metrics by epoch as MLflow's client tells them, one after the other."""
    rows = []
    for run_id in run_ids:
        for name in client.get_run(run_id).data.metrics:
            if not name.startswith(("final/", "probe/")):
                history = client.get_metric_history(run_id, name)
                rows += [(run_id, name, one.step, one.timestamp, one.value) for one in history]
    return sorted(map(repr, rows))


def read(store: Store, runs: Sequence[StoredRun]) -> list[str]:
    found = store.histories(runs)
    assert list(found.columns) == list(POINTS)
    return sorted(repr((row.run_id, row.metric, row.epoch, row.timestamp, row.value)) for row in found.itertuples())


def test_runs_are_told_whole(store: Store, experiment: Experiment) -> None:
    points = [*epochs("test/nll", 0.5, 0.25), Metric("final/test/nll", 0.25, 20, 0)]
    run_id = experiment.run(*points, status="FAILED", trial_id="abc", cause="a\nb")
    [run] = store.trial_runs(experiment.name)
    assert (run.run_id, run.status, run.started, run.ended) == (run_id, "FAILED", 1000, 1500)
    assert {key: run.tags[key] for key in ("kind", "trial_id", "cause")} == {
        "kind": "trial",
        "trial_id": "abc",
        "cause": "a\nb",
    }
    assert run.last == {"test/nll": Last(0.25, 2, 20), "final/test/nll": Last(0.25, 0, 20)}
    assert run.metrics == {"test/nll": 0.25, "final/test/nll": 0.25}
    assert run.history_metrics == ["test/nll"]


def test_a_run_that_runs_has_no_end(store: Store, experiment: Experiment) -> None:
    experiment.run(status="RUNNING")
    [run] = store.trial_runs(experiment.name)
    assert (run.status, run.ended, run.last) == ("RUNNING", None, {})


def test_the_newest_comes_first(store: Store, experiment: Experiment) -> None:
    made = [experiment.run() for _ in range(3)]
    assert [run.run_id for run in store.trial_runs(experiment.name)] == made[::-1]


def test_other_kinds_deleted_runs_and_other_experiments_are_left_out(
    store: Store, experiment: Experiment, client: MlflowClient
) -> None:
    kept = experiment.run()
    experiment.run(kind="cell")
    client.delete_run(experiment.run())
    Experiment(client).run()
    assert [run.run_id for run in store.trial_runs(experiment.name)] == [kept]


def test_an_experiment_that_is_not_there_has_none(store: Store) -> None:
    assert store.trial_runs("nowhere") == []


def test_an_experiment_that_was_deleted_has_none(store: Store, experiment: Experiment, client: MlflowClient) -> None:
    experiment.run()
    assert experiment.name in store.experiments()
    client.delete_experiment(experiment.id)
    assert experiment.name not in store.experiments()
    assert store.trial_runs(experiment.name) == []


def test_runs_of_all_experiments_by_id(store: Store, experiment: Experiment, client: MlflowClient) -> None:
    here, there, deleted = experiment.run(), Experiment(client).run(*epochs("lr", 0.1)), experiment.run()
    client.delete_run(deleted)
    found = store.runs([here, there, deleted, "0" * 32])
    assert sorted(found) == sorted([here, there])
    assert found[there].metrics == {"lr": 0.1}
    assert store.runs([]) == {}


def test_histories_are_whole(store: Store, experiment: Experiment, client: MlflowClient) -> None:
    run_ids = [
        experiment.run(*epochs("test/nll", 0.5, math.nan, 0.1 + 0.2), *epochs("lr", 0.1, 0.1, 0.1)),
        experiment.run(*epochs("test/nll", 1e-300, 1 / 3), Metric("final/test/nll", 1 / 3, 1, 0), status="FAILED"),
        experiment.run(*epochs("val/nll", -0.0, start=0), Metric("probe/sharpness", 1.0, 1, 0), status="RUNNING"),
        experiment.run(),
    ]
    found = read(store, store.trial_runs(experiment.name))
    assert found == told(client, run_ids)
    assert len(found) == 9


def test_the_last_value_may_be_no_number(store: Store, experiment: Experiment, client: MlflowClient) -> None:
    run_id = experiment.run(*epochs("test/nll", 0.5, math.nan))
    [run] = store.trial_runs(experiment.name)
    assert math.isnan(run.metrics["test/nll"])
    assert read(store, [run]) == told(client, [run_id])


def test_an_epoch_that_stands_twice_is_told_twice_and_a_point_once(
    store: Store, experiment: Experiment, client: MlflowClient
) -> None:
    run_id = experiment.run(*epochs("lr", 0.5, 0.25), *epochs("lr", 0.5), Metric("lr", 0.75, 99, 1))
    assert len(read(store, store.trial_runs(experiment.name))) == 3
    assert read(store, store.trial_runs(experiment.name)) == told(client, [run_id])


def test_no_runs_have_no_points(store: Store) -> None:
    assert read(store, []) == []


def test_more_than_one_call_tells(
    store: Store, experiment: Experiment, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = [experiment.run(*epochs("lr", 0.1, 0.2), *epochs("val/nll", 1, place)) for place in range(5)]
    for name in ("CHUNK", "PAGE", "BULK_RUNS"):
        monkeypatch.setattr(store_module, name, 2)
    runs = store.trial_runs(experiment.name)
    assert [run.run_id for run in runs] == run_ids[::-1]
    assert sorted(store.runs(run_ids)) == sorted(run_ids)
    assert {Experiment(client).name for _ in range(3)} | {experiment.name} <= set(store.experiments())
    assert read(store, runs) == told(client, run_ids)


LONG = [7, 1, 30, 12, 3]
"""Epochs of runs, of a metric that never changes and of one that does."""


@pytest.fixture
def long_runs(experiment: Experiment) -> list[str]:
    return [
        experiment.run(*epochs("lr", *[0.1] * count), *epochs("val/nll", *(place / 64 for place in range(count))))
        for count in LONG
    ]


@pytest.mark.parametrize("points", [1, 2, 7, 8, 13, 100])
def test_answers_that_are_full_are_asked_for_in_parts(
    store: Store,
    experiment: Experiment,
    client: MlflowClient,
    long_runs: list[str],
    points: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "BULK_POINTS", points)
    assert read(store, store.trial_runs(experiment.name)) == told(client, long_runs)


@pytest.mark.parametrize("points", [1, 2, 7, 8, 13, 100])
def test_a_server_that_gives_less_than_is_asked_for(
    store: Store,
    experiment: Experiment,
    client: MlflowClient,
    long_runs: list[str],
    points: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As another version may, which says nothing of it either."""
    ask = rest_utils.http_request_safe

    def sparing(credentials: Any, endpoint: str, method: str, params: list[tuple[str, str]]) -> Any:
        params = [(name, str(points) if name == "max_results" else value) for name, value in params]
        return ask(credentials, endpoint, method, params=params)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(store_module, "http_request_safe", sparing)
    assert read(store, store.trial_runs(experiment.name)) == told(client, long_runs)


@pytest.mark.slow
@pytest.mark.parametrize("module_place", ["server"], indirect=True)
def test_more_points_than_a_server_gives_at_a_time(
    place: Place, store: Store, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own limit is real: asked for more it gives 25,000, and says nothing."""
    counts = [9_001, 9_001, 9_001, 25_001]
    lengths = {experiment.run(Metric("lr", 0.5, count, count)): count for count in counts}
    insert(place, [(run_id, epoch) for run_id, count in lengths.items() for epoch in range(1, count)])
    for points in (10**6, store_module.BULK_POINTS):  # all runs in one answer, and as many as have room in one
        monkeypatch.setattr(store_module, "BULK_POINTS", points)
        history = store.histories(store.trial_runs(experiment.name))
        assert history.groupby("run_id", observed=True)["epoch"].nunique().to_dict() == lengths
        assert len(history) == sum(counts)


def insert(place: Place, epochs: Sequence[tuple[str, int]]) -> None:
    """Points past MLflow, by which writing so many would take a minute."""
    engine = sql.create_engine(place.database)
    tables = sql.MetaData()
    tables.reflect(engine, only=["metrics"])
    same = {"key": "lr", "value": 0.5, "is_nan": False}
    rows = [same | {"run_uuid": run_id, "step": epoch, "timestamp": epoch} for run_id, epoch in epochs]
    with engine.begin() as connection:
        connection.execute(tables.tables["metrics"].insert(), rows)
    engine.dispose()


def test_infinity_is_what_mlflow_makes_of_it(store: Store, experiment: Experiment, client: MlflowClient) -> None:
    run_id = experiment.run(*epochs("test/nll", math.inf, -math.inf, 5e-324))
    assert read(store, store.trial_runs(experiment.name)) == told(client, [run_id])


def test_histories_have_their_types_even_without_a_point(store: Store, experiment: Experiment) -> None:
    experiment.run(*epochs("test/nll", 0.5))
    for history in (store.histories(store.trial_runs(experiment.name)), store.histories([])):
        assert [str(dtype) for dtype in history.dtypes] == ["category", "category", "int64", "int64", "float64"]


def test_a_full_answer_can_have_the_last_epoch_and_yet_not_all(
    store: Store, experiment: Experiment, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of epochs that were written twice: points come by their time."""
    again = [Metric("lr", 0.5, 999, epoch) for epoch in (1, 2, 3)]
    run_ids = [experiment.run(*epochs("lr", *[0.1] * 5), *again) for _ in range(2)]
    monkeypatch.setattr(store_module, "BULK_POINTS", 13)
    found = read(store, store.trial_runs(experiment.name))
    assert found == told(client, run_ids)
    assert len(found) == 16


def test_a_run_grows_between_two_looks(store: Store, experiment: Experiment, client: MlflowClient) -> None:
    run_id = experiment.run(*epochs("lr", 0.1), status="RUNNING")
    runs = store.trial_runs(experiment.name)
    client.log_batch(run_id, epochs("lr", 0.2, start=2))
    assert read(store, runs) == told(client, [run_id])


def portions(*steps: int) -> list[int]:
    runs = [
        StoredRun(str(place), "FINISHED", 0, 0, {}, {"lr": Last(0.1, step, 0)} if step >= 0 else {})
        for place, step in enumerate(steps)
    ]
    return [len(portion) for portion in store_module._portions(runs, "lr")]


def test_so_many_runs_are_asked_for_at_once_as_an_answer_has_room_for() -> None:
    assert portions(*[200] * 250) == [100, 100, 50]
    assert portions(*[299] * 100) == [83, 17]  # of 83 the answer is not full, of 84 it would be
    assert portions(30_000, 30_000, 5, 5) == [1, 1, 2]
    assert portions(-1, 5, -1) == [1]
    assert portions() == []


class Recorder(BaseHTTPRequestHandler):
    """A server that has no points and notes who asked."""

    seen: list[str | None]
    said: bytes

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.said)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def recorder(folder: Results, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorder]]:
    """The tracking store, while the test lasts."""
    Recorder.seen, Recorder.said = [], b'{"metrics": []}'
    listening = HTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv(TRACKING_VARIABLE, f"http://127.0.0.1:{listening.server_port}")
    yield Recorder
    listening.shutdown()
    thread.join()
    listening.server_close()


TWO_RUNS = [StoredRun(name, "FINISHED", 0, 0, {}, {"lr": Last(0.1, 1, 0)}) for name in "ab"]


def test_one_signs_in_as_mlflow_does(
    recorder: type[Recorder], folder: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with open_store(folder) as store:
        assert store is not None
        assert store.histories(TWO_RUNS).empty
    assert len(recorder.seen) == 3  # both at once, and as the answer lacks them, each of them
    assert set(recorder.seen) == {"Basic bWU6c2VjcmV0"}


def test_a_server_of_somebody_else(recorder: type[Recorder], folder: Results) -> None:
    recorder.said = b"<p>Welcome!"
    with open_store(folder) as store:
        assert store is not None
        with pytest.raises(ConfigError, match=f"{TRACKING_VARIABLE}: .* does not answer"), open_store(folder):
            store.histories(TWO_RUNS)


def test_reading_makes_no_database(folder: Results) -> None:
    with open_store(folder) as store:
        assert store is None
    assert list(folder.root.iterdir()) == []


def refused(folder: Results) -> str:
    with pytest.raises(ConfigError) as refusal:
        begun(folder)
    said = str(refusal.value)
    assert said.startswith(f"{TRACKING_VARIABLE}: ")
    assert "\n" not in said
    return said


def test_a_file_that_is_no_database(folder: Results) -> None:
    (folder.root / "mlflow.db").write_text("no database at all, but long enough to be read as the head of one" * 9)
    assert "file is not a database" in refused(folder)


def test_a_database_of_somebody_else(folder: Results) -> None:
    sqlite3.connect(folder.root / "mlflow.db").close()
    (folder.root / "mlflow.db").touch()
    assert "no such table" in refused(folder)


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1", "postgresql+psycopg://me:secret@127.0.0.1:1/x", "nonsense://me:secret@there/x"]
)
def test_a_store_that_does_not_answer(uri: str, folder: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, uri)
    said = refused(folder)
    assert "does not answer" in said
    assert "secret" not in said


def test_a_database_that_is_being_written_is_waited_for(folder: Results) -> None:
    experiment = Experiment(connect(folder))
    run_id = experiment.run()
    with contextlib.closing(sqlite3.connect(folder.root / "mlflow.db", check_same_thread=False)) as writer:
        writer.isolation_level = None
        writer.execute("BEGIN EXCLUSIVE")
        ready = threading.Timer(0.3, lambda: writer.execute("COMMIT"))
        ready.start()
        with open_store(folder) as store:
            assert store is not None
            assert [run.run_id for run in store.trial_runs(experiment.name)] == [run_id]
        ready.join()


def test_a_run_that_ends_while_it_is_read_is_not_taken_for_finished_without_its_numbers(folder: Results) -> None:
    """Its status is written last, and so it is read first."""
    client = connect(folder)
    experiment = Experiment(client)
    run_id = experiment.run(status="RUNNING")
    with open_store(folder) as store:
        assert isinstance(store, store_module.DatabaseStore)
        read_of: list[str] = []

        def finish(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            """Once the first of what is known of a run was read."""
            read_of.append(statement)
            if len(read_of) == 2:
                client.log_batch(run_id, [Metric("final/test/nll", 0.5, 1, 0)])
                client.set_terminated(run_id, "FINISHED")

        sql.event.listen(store._engine, "before_cursor_execute", finish)
        [run] = store.runs([run_id]).values()
        assert len(read_of) == 3
        assert run.status == "RUNNING" or run.metrics


def test_frames_of_different_runs_are_one() -> None:
    one, other = frame_of([("a", "lr", 1, 10, 0.5)]), frame_of([("b", "lr", 1, 10, None), ("b", "nll", 1, 10, 1)])
    whole = joined([frame_of([]), one, other])
    assert list(whole["run_id"]) == ["a", "b", "b"]
    assert list(whole["metric"]) == ["lr", "lr", "nll"]
    assert whole["value"].isna().to_list() == [False, True, False]
    assert whole.dtypes.to_dict() == frame_of([("a", "lr", 1, 10, 0.5)]).dtypes.to_dict() | {
        name: whole[name].dtype for name in ("run_id", "metric")
    }
    assert joined([]).empty

"""Histories that are kept: never other ones than the store would give now, and read once where that can be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import cache
from analysis.cache import cached_histories
from analysis.store import Last, StoredRun, frame_of
from trainer.machine import TRACKING_VARIABLE, Results

Point = tuple[int, int, float]
"""Epoch, timestamp, value."""


class FakeStore:
    """Runs and the points of their one metric; notes which runs it is asked for."""

    def __init__(self) -> None:
        self.points: dict[str, list[Point]] = {}
        self.about: dict[str, StoredRun] = {}
        self.asked: list[str] = []

    def put(self, run_id: str, points: Sequence[Point], status: str = "FINISHED", ended: int | None = 9) -> None:
        last = {"test/nll": Last(points[-1][2], points[-1][0], points[-1][1])} if points else {}
        self.points[run_id] = list(points)
        self.about[run_id] = StoredRun(run_id, status, 1, ended, {}, last)

    def histories(self, runs: Sequence[StoredRun]) -> pd.DataFrame:
        self.asked += [run.run_id for run in runs]
        return frame_of([(run.run_id, "test/nll", *point) for run in runs for point in self.points[run.run_id]])

    def experiments(self) -> list[str]:
        raise NotImplementedError

    def trial_runs(self, experiment: str) -> list[StoredRun]:
        raise NotImplementedError

    def runs(self, run_ids: Sequence[str]) -> dict[str, StoredRun]:
        raise NotImplementedError


POINTS: list[Point] = [(1, 10, 0.5), (2, 20, math.nan), (3, 30, 0.25)]
OTHERS: list[Point] = [(1, 11, 1.5), (2, 21, 1.25)]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.delenv(TRACKING_VARIABLE, raising=False)
    return Results(tmp_path)


@pytest.fixture
def store() -> FakeStore:
    store = FakeStore()
    store.put("a", POINTS)
    store.put("b", OTHERS)
    return store


def read(store: FakeStore, results: Results) -> list[str]:
    """Read all and check it against the store itself; which runs were asked for is returned."""
    store.asked = []
    found = cached_histories(store, list(store.about.values()), results, "study")
    asked = sorted(store.asked)
    rows = sorted(map(repr, found.itertuples(index=False)))
    assert rows == sorted(map(repr, store.histories(list(store.about.values())).itertuples(index=False)))
    return asked


def kept(results: Results) -> Path:
    [file] = (results.root / "cache" / "histories").iterdir()
    return file


def test_what_is_over_is_read_once(store: FakeStore, results: Results) -> None:
    assert read(store, results) == ["a", "b"]
    assert read(store, results) == []


def test_a_failed_run_is_over_too(store: FakeStore, results: Results) -> None:
    store.put("b", OTHERS, "FAILED")
    assert read(store, results) == ["a", "b"]
    assert read(store, results) == []


@pytest.mark.parametrize("status", ["RUNNING", "KILLED", "SCHEDULED"])
def test_what_can_go_on_is_read_again(store: FakeStore, results: Results, status: str) -> None:
    store.put("b", OTHERS, status, None)
    assert read(store, results) == ["a", "b"]
    store.put("b", [(1, 12, 1.5), *OTHERS[1:]], status, None)  # of which its last point shows nothing
    assert read(store, results) == ["b"]
    store.put("b", [*OTHERS, (3, 31, 1.125)], status, None)
    assert read(store, results) == ["b"]
    store.put("b", [(0, 1, 2.0), *OTHERS, (3, 31, 1.125)], status, None)  # an earlier epoch, brought later
    assert read(store, results) == ["b"]


def test_of_a_study_that_grows_what_is_new_is_read(store: FakeStore, results: Results) -> None:
    read(store, results)
    store.put("c", POINTS)
    assert read(store, results) == ["c"]
    assert read(store, results) == []


def test_a_run_that_was_deleted_is_gone_for_good(store: FakeStore, results: Results) -> None:
    read(store, results)
    del store.about["a"]
    assert read(store, results) == []
    found = cached_histories(store, [store.about["b"]], results, "study")
    assert list(found["run_id"].cat.categories) == ["b"]
    assert b"test/nll" in kept(results).read_bytes()
    assert [name["run_id"] for name in pq.read_table(kept(results), columns=["run_id"]).to_pylist()] == ["b", "b"]


def test_a_run_in_place_of_another_is_read(store: FakeStore, results: Results) -> None:
    read(store, results)
    del store.about["a"]
    store.put("anew", [(1, 90, 0.75)])
    assert read(store, results) == ["anew"]


@pytest.mark.parametrize(
    ("points", "ended"),
    [
        ([*POINTS, (4, 40, 0.25)], 9),  # a further epoch of the same value
        ([*POINTS[:2], (3, 31, 0.25)], 9),  # the same epoch of another time
        ([*POINTS[:2], (3, 30, 0.125)], 9),
        ([(1, 10, 0.75), *POINTS[1:]], 10),  # ended again, and its last epoch is as it was
    ],
)
def test_points_that_came_later_are_read(store: FakeStore, results: Results, points: list[Point], ended: int) -> None:
    read(store, results)
    store.put("a", points, ended=ended)
    assert read(store, results) == ["a"]


def test_a_run_that_is_trained_on_is_kept_once_it_is_over(store: FakeStore, results: Results) -> None:
    read(store, results)
    store.put("a", POINTS, "RUNNING")
    assert read(store, results) == ["a"]
    store.put("a", [*POINTS, (4, 40, 0.125)])
    assert read(store, results) == ["a"]
    assert read(store, results) == []


def test_a_run_without_points(store: FakeStore, results: Results) -> None:
    store.put("a", [])
    assert read(store, results) == ["a", "b"]
    assert read(store, results) == []


def test_another_store_at_another_address(store: FakeStore, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs may even have the same ids, where one database was copied from the other."""
    read(store, results)
    monkeypatch.setenv(TRACKING_VARIABLE, f"sqlite:///{results.root}/other.db")
    assert read(store, results) == ["a", "b"]


def test_another_study_has_a_file_of_its_own(store: FakeStore, results: Results) -> None:
    read(store, results)
    assert not cached_histories(store, [store.about["b"]], results, "other").empty
    assert read(store, results) == []


def test_a_new_password_makes_no_new_store(store: FakeStore, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    for password, asked in (("old", ["a", "b"]), ("new", [])):
        monkeypatch.setenv(TRACKING_VARIABLE, f"postgresql://me:{password}@somewhere/mlflow")
        assert read(store, results) == asked


@pytest.mark.parametrize("length", [0, 4, 200, -1])
def test_a_file_that_was_cut_off_is_written_anew(store: FakeStore, results: Results, length: int) -> None:
    read(store, results)
    kept(results).write_bytes(kept(results).read_bytes()[:length])
    assert read(store, results) == ["a", "b"]
    assert read(store, results) == []


def test_wherever_a_byte_is_damaged_no_number_is_another(store: FakeStore, results: Results) -> None:
    read(store, results)
    whole = kept(results).read_bytes()
    for place in range(0, len(whole), 13):  # each of them would take half a minute
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        kept(results).write_bytes(damaged)
        assert read(store, results) in (["a", "b"], []), place


@pytest.mark.parametrize(("column", "kind"), [("epoch", pa.duration("s")), ("run_id", pa.string())])
def test_the_same_bits_of_another_type_are_read_anew(
    store: FakeStore, results: Results, column: str, kind: pa.DataType
) -> None:
    read(store, results)
    table = pq.read_table(kept(results))
    place = table.column_names.index(column)
    described = pq.read_schema(kept(results)).metadata
    changed = table.set_column(place, column, table[column].cast(kind))
    pq.write_table(changed.replace_schema_metadata({b"histories": described[b"histories"]}), kept(results))
    assert read(store, results) == ["a", "b"]


def test_a_file_of_another_version_is_written_anew(
    store: FakeStore, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    read(store, results)
    monkeypatch.undo()
    monkeypatch.delenv(TRACKING_VARIABLE, raising=False)
    assert read(store, results) == ["a", "b"]
    assert read(store, results) == []


def test_somebody_elses_file_is_written_anew(store: FakeStore, results: Results) -> None:
    read(store, results)
    pq.write_table(pa.table({"run_id": ["a"], "value": [1.0]}), kept(results))
    assert read(store, results) == ["a", "b"]
    assert read(store, results) == []


def test_a_folder_that_cannot_be_written_is_no_error(store: FakeStore, results: Results) -> None:
    (results.root / "cache").write_text("in the way")
    assert read(store, results) == read(store, results) == ["a", "b"]


def test_what_fails_half_way_leaves_the_old_file(
    store: FakeStore, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(store, results)
    before = kept(results).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("analysis.cache.pq.write_table", full)
    store.put("c", POINTS)
    assert read(store, results) == ["c"]
    assert kept(results).read_bytes() == before  # and nothing stands beside it


def test_a_run_is_told_by_all_that_shows_a_change() -> None:
    run = StoredRun("a", "FINISHED", 1, 2, {}, {"test/nll": Last(0.5, 3, 30)})
    others = [
        dataclasses.replace(run, status="FAILED"),
        dataclasses.replace(run, ended=3),
        dataclasses.replace(run, last={}),
        dataclasses.replace(run, last={"test/nll": Last(math.nan, 3, 30)}),
    ]
    assert len({cache._print(one) for one in (run, *others)}) == 5

"""What reading costs, as ratios: ``make bench-analysis`` prints them and writes ``benchmarks/analysis.json``.

MLflow makes the database and serves it; its rows are inserted past it, which would take hours. They are those that a
sweep leaves: parameters, tags, a point an epoch and metric, final metrics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import sqlalchemy as sql
from mlflow.tracking import MlflowClient

from analysis.report import report
from analysis.runs import load, load_finals, load_history
from benchmarks.ratios import Ratio, interleaved, printed, ratio, write
from benchmarks.tracking import server
from search_spaces import recipes
from search_spaces.study import Study
from sweeps.hardware import hardware
from sweeps.tracking.tracker import connect
from trainer.config import Amp, Erm, Method, TrialConfig
from trainer.machine import TRACKING_VARIABLE, Results

METRICS = ("train/criterion", "lr", "epoch_seconds", "val/error", "val/nll", "test/error", "test/nll", "test/ece")
RUNS, EPOCHS = 1000, 200
SAMPLE = 20
"""Runs that are read one by one in a round: all of them would take minutes."""
MANY = 10_000
REPORTED, REPORTED_EPOCHS, SEEDS = 500, 40, 5
ROUNDS = 3
WORKERS = 4
"""Of MLflow's server unless it is told otherwise. An answer then comes about 45 ms later than from one process, for
their common socket holds back what is small: run by run waits for that 8,000 times, in bulk 80 times."""
FIRST_TIMESTAMP = 1_700_000_000_000
Row = dict[str, Any]
TAGS = {"kind": "trial", "outcome": "finished", "commit": "0" * 40, "version.torch": "2.14.1", "phase": "final"}


def synthetic_study(name: str, trials: int, epochs: int) -> Study:
    """ERM and AMP of rising ε, each with a few seeds."""
    methods: list[Method] = [Erm(), *(Amp(epsilon=place / 1000) for place in range(1, trials // SEEDS))]
    plain = [recipes.digits_mlp(method, seed) for seed in range(SEEDS) for method in methods]
    declared = [dataclasses.replace(trial, epochs=epochs, lr_milestones=()) for trial in plain]
    return Study(name=name, question="How long does reading take?", trials=declared)


def run_id_of(number: int) -> str:
    """Of the run that has this place among the trials."""
    return f"{number:032x}"


def value_of(run: int, metric: int, epoch: int) -> float:
    """Of a metric; a multiple of 1/1024 below 1, so that sums are exact in any order."""
    return (run * 7 + metric * 131 + epoch * 17) % 1024 / 1024


def fill(study: Study, results: Results, with_history: bool) -> float:
    """Make the database of ``results`` and have every trial of ``study`` finished; the sum of all points is returned.

    with_history: whether each metric has a point an epoch, or only its last one, as far as reading finals can tell.
    """
    client = connect(results)
    model = client.create_run(client.create_experiment(study.name)).info.run_id
    engine = sql.create_engine(results.tracking_uri)
    tables = sql.MetaData()
    tables.reflect(engine, only=("runs", "params", "tags", "metrics", "latest_metrics"))
    with engine.begin() as connection:
        runs = tables.tables["runs"]
        row = connection.execute(sql.select(runs).where(runs.c.run_uuid == model)).mappings().one()
        total = sum(
            _insert(connection, tables, dict(row), number, trial, with_history)
            for number, trial in enumerate(study.trials)
        )
    engine.dispose()
    client.delete_run(model)
    return total


def _insert(
    connection: sql.Connection, tables: sql.MetaData, model: Row, number: int, trial: TrialConfig, with_history: bool
) -> float:
    """One run, like ``model`` where nothing else is said; the sum of its points."""
    run_id, last = run_id_of(number), len(METRICS)
    points = _points(run_id, number, range(1 if with_history else trial.epochs, trial.epochs + 1))
    finals = [one | {"key": f"final/{one['key']}", "step": 0} for one in points[-last:]]
    times = {"start_time": FIRST_TIMESTAMP, "end_time": FIRST_TIMESTAMP + 10**6}
    tags = TAGS | {"trial_id": trial.trial_id, "key": trial.trial_id}
    rows: dict[str, list[Row]] = {
        "runs": [model | times | {"run_uuid": run_id, "status": "FINISHED"}],
        "params": [_item(run_id, key, str(value)) for key, value in trial.params().items()],
        "tags": [_item(run_id, key, value) for key, value in tags.items()],
        "metrics": points + finals,
        "latest_metrics": points[-last:] + finals,
    }
    for table, own in rows.items():
        connection.execute(tables.tables[table].insert(), own)
    return float(sum(one["value"] for one in points))


def _item(run_id: str, key: str, value: str) -> Row:
    return {"run_uuid": run_id, "key": key, "value": value}


def _points(run_id: str, run: int, epochs: Sequence[int]) -> list[Row]:
    return [
        _item(run_id, name, "")
        | {"value": value_of(run, place, epoch), "step": epoch, "timestamp": FIRST_TIMESTAMP + epoch, "is_nan": False}
        for epoch in epochs
        for place, name in enumerate(METRICS)
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class Filled:
    """A study whose trials are all in a store. total: the sum of all points of their histories."""

    study: Study
    results: Results
    total: float

    def read_anew(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Finals and histories, with nothing from files of an earlier reading."""
        shutil.rmtree(self.results.root / "cache", ignore_errors=True)
        return self.read()

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The same, where files may help."""
        return load_finals(self.study, self.results), load_history(self.study, self.results)

    def check(self) -> None:
        """Raises AssertionError when what is read lacks a number, or has one twice, or another."""
        finals, history = self.read()
        trials, epochs = len(self.study.trials), self.study.trials[0].epochs
        assert (finals["outcome"] == "finished").all()
        assert finals[list(METRICS[1:])].notna().all(axis=None)
        assert len(finals) == trials
        assert len(history) == trials * epochs * len(METRICS)
        assert not history.duplicated(["trial_id", "metric", "epoch"]).any()
        assert history["value"].sum() == self.total

    def report(self) -> None:
        """The whole report, with nothing from files of an earlier reading; what it prints is not shown."""
        shutil.rmtree(self.results.root / "cache", ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):
            report(self.study, self.results, self.study.name)

    def read_one_by_one(self) -> None:
        """The histories of ``SAMPLE`` runs as MLflow's client gives them."""
        client = MlflowClient(tracking_uri=self.results.tracking_uri)
        for number in range(SAMPLE):
            for name in METRICS:
                assert len(client.get_metric_history(run_id_of(number), name)) == EPOCHS


@contextlib.contextmanager
def filled(name: str, trials: int, epochs: int, with_history: bool = True) -> Iterator[Filled]:
    """A synthetic study in a database of its own."""
    with tempfile.TemporaryDirectory(prefix="analysis-") as folder:
        results, study = Results(Path(folder)), synthetic_study(name, trials, epochs)
        with mock.patch.dict(os.environ, {TRACKING_VARIABLE: f"sqlite:///{folder}/server.db"}):
            yield Filled(study, results, fill(study, results, with_history))


def reading_ratios() -> Iterator[Ratio]:
    """How many times faster than run by run, from the database and over HTTP; and the second reading."""
    with filled("read", RUNS, EPOCHS) as store:
        yield faster(store, "SQLite", ">= 30")
        store.check()
        yield in_seconds(f"{RUNS:,} runs read again", store.read, "<= 1")
        selected = functools.partial(load, store.study, store.results)
        yield in_seconds("load again, with the selected epochs", selected)
        for workers in (1, WORKERS):
            with server(store.results, workers) as uri, mock.patch.dict(os.environ, {TRACKING_VARIABLE: uri}):
                yield faster(store, f"HTTP, server workers: {workers}", ">= 5")
                store.check()


def faster(store: Filled, where: str, asked: str) -> Ratio:
    """The time that all runs would take one by one, from that of a sample, over ours for finals and histories."""
    times = list(interleaved([store.read_one_by_one, store.read_anew], ROUNDS))
    slow, fast = (", ".join(f"{each[side]:.2f}" for each in times) for side in (0, 1))
    print(f"  {where}, seconds: {SAMPLE} runs one by one {slow}; all {RUNS:,} in bulk {fast}", flush=True)
    pairs = [(one_by_one * RUNS / SAMPLE, in_bulk) for one_by_one, in_bulk in times]
    return ratio(f"{RUNS:,} runs one by one / in bulk, {where}", pairs, asked)


def in_seconds(name: str, work: Callable[[], object], asked: str = "") -> Ratio:
    """Wall time."""
    return ratio(f"seconds: {name}", [(taken, 1.0) for (taken,) in interleaved([work], ROUNDS)], asked)


def finals_ratios() -> Iterator[Ratio]:
    """Seconds for the finals of many runs."""
    with filled("many", MANY, EPOCHS, with_history=False) as store:
        read = functools.partial(load_finals, store.study, store.results)
        assert read()["test/nll"].notna().sum() == MANY
        yield in_seconds(f"finals of {MANY:,} runs", read, "<= 5")


def report_ratios() -> Iterator[Ratio]:
    """Seconds for the whole report of many trials: page, tables, frames and figures."""
    with filled("reported", REPORTED, REPORTED_EPOCHS) as store:
        yield in_seconds(f"report of {REPORTED} trials", store.report, "<= 20")


def main() -> None:
    """Measure, print as it goes, write the file."""
    print("Medians and [quartiles]. The stores are filled by SQL; MLflow's client reads run by run,")
    print(f"and the time of {RUNS:,} runs follows from that of {SAMPLE}.\n")
    sources: list[Callable[[], Iterator[Ratio]]] = [finals_ratios, reading_ratios, report_ratios]
    write("analysis", printed(sources), hardware=hardware("cpu"))


if __name__ == "__main__":
    main()

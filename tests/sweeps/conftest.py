"""A ledger, an MLflow store of SQLite and toy studies for the tests of ``sweeps``. Nothing trains here."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sql
from mlflow.entities import Experiment, Run, ViewType
from mlflow.tracking import MlflowClient

from search_spaces import recipes
from search_spaces.study import Study
from sweeps import ledger as ledger_module
from sweeps.cluster.ray_token import MODE_VARIABLE, PATH_VARIABLE, TOKEN_VARIABLE
from sweeps.ledger import Ledger
from sweeps.tracking.tracker import Tracker, connect
from trainer.checkpoint import Checkpoint
from trainer.config import Amp, Erm, TrialConfig
from trainer.machine import TRACKING_SETTINGS, TRACKING_VARIABLE, Results
from trainer.records import EpochRecord

POSTGRES_VARIABLE = "SWEEPS_TEST_POSTGRES"
FIRST_TIMESTAMP = 1_700_000_000_000


def make_trial(seed: int = 0, epsilon: float | None = None) -> TrialConfig:
    """A small trial: ERM, or AMP where an ε is given."""
    method = Erm() if epsilon is None else Amp(epsilon=epsilon)
    return replace(recipes.digits_mlp(method, seed), epochs=3, lr_milestones=())


def make_study(name: str = "toy", seeds: Sequence[int] = (0, 1)) -> Study:
    """Two cells, ERM and AMP."""
    trials = tuple(make_trial(seed, epsilon) for seed in seeds for epsilon in (None, 0.5))
    return Study(name=name, question="Does it work?", trials=trials)


def make_records(epochs: int = 3, names: Sequence[str] = ("val/error", "val/nll")) -> tuple[EpochRecord, ...]:
    """Records whose every number and timestamp differs from every other."""
    return tuple(
        EpochRecord(
            epoch=epoch,
            timestamp=FIRST_TIMESTAMP + 1000 * epoch,
            metrics={name: epoch + place / 1024 for place, name in enumerate(names)},
        )
        for epoch in range(1, epochs + 1)
    )


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once ``condition`` holds; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and no token in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (TOKEN_VARIABLE, PATH_VARIABLE, MODE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that the ledger's contract holds for."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'contract.db'}"
    url = os.environ.get(POSTGRES_VARIABLE)
    if not url:
        pytest.skip(f"{POSTGRES_VARIABLE} is not set")
    engine = sql.create_engine(url)
    tables = sql.MetaData()
    tables.reflect(
        engine,
        only=lambda name, _: (
            name in {"ledger_version", "trials", "mlflow_runs", "measured", "failures", "gpu_memory", "locks"}
        ),
    )
    tables.drop_all(engine)
    engine.dispose()
    return url


@contextlib.contextmanager
def lapsing() -> Iterator[None]:
    """Leases taken within are over as soon as they are taken: no test need sleep until one lapses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "LEASE_SECONDS", -1.0)
        yield


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the caller's tracking server nor what ``connect`` puts into the environment crosses a test's border."""
    for name in (TRACKING_VARIABLE, *TRACKING_SETTINGS):
        monkeypatch.setenv(name, "")  # so that it is noted and put back, even where it was not set
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with nothing in it: making one takes a second, copying it does not."""
    results = Results(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        for name in (TRACKING_VARIABLE, *TRACKING_SETTINGS):
            patch.setenv(name, "")
            patch.delenv(name)
        connect(results)
    return results.root / "mlflow.db"


@pytest.fixture
def store(empty_store: Path) -> Path:
    """An MLflow database, empty again for each test. Its place stays, for MLflow is slow with a new one."""
    place = empty_store.with_name("store.db")
    with contextlib.closing(sqlite3.connect(empty_store)) as source, contextlib.closing(sqlite3.connect(place)) as copy:
        source.backup(copy)
    return place


@dataclass(frozen=True, slots=True)
class Desk:
    """One results folder: its ledger, its store, and what a test wants to see of them."""

    results: Results
    ledger: Ledger
    client: MlflowClient

    def tracker(self, study: Study, client: MlflowClient | None = None) -> Tracker:
        """What a driver of this study makes when it starts."""
        self.ledger.declare(study.name, study.trials)
        tracker = Tracker(client or self.client, study, self.ledger, self.results)
        tracker.prepare()
        return tracker

    def settle(self, study: Study, trial: TrialConfig, state: ledger_module.State, cause: str | None = None) -> None:
        """Have ``study`` train this trial, as far as the ledger knows."""
        self.ledger.declare(study.name, study.trials)
        assert self.ledger.lease([trial.trial_id], "driver", study.name)
        assert self.ledger.settle(trial.trial_id, "driver", state, cause)

    def save(self, trial: TrialConfig, records: Sequence[EpochRecord]) -> None:
        """The checkpoint that a worker leaves."""
        Checkpoint(trial.trial_id, tuple(records), {}).save(self.results.checkpoint(trial.trial_id))

    def experiment(self, study: str) -> Experiment:
        experiment = self.client.get_experiment_by_name(study)
        assert experiment is not None
        return experiment

    def runs(self, study: str, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        """All runs of the experiment that are not deleted, or those that are."""
        return list(self.client.search_runs([self.experiment(study).experiment_id], run_view_type=view))

    def run(self, study: str, key: str) -> Run:
        """The one run of a trial id, a cell id or ``summary``."""
        [run] = [run for run in self.runs(study) if run.data.tags["key"] == key]
        return run

    def history(self, run: Run, metric: str) -> list[tuple[int, int, float]]:
        """(step, timestamp, value) of all points that the store has."""
        points = self.client.get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.timestamp, point.value) for point in points)


@pytest.fixture
def desk(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv(TRACKING_VARIABLE, f"sqlite:///{store}")
    results = Results(tmp_path / "results")
    results.root.mkdir()
    ledger = Ledger(results.ledger_url)
    yield Desk(results, ledger, connect(results))
    ledger.close()

"""What writing a trial to MLflow costs, over what the trial takes: to an SQLite file and to a server."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import psutil

from benchmarks.ratios import Ratio, ratio, seconds
from search_spaces import recipes
from search_spaces.study import Study
from sweeps.ledger import Ledger
from sweeps.tracking.tracker import Delivery, connect, open_tracker
from trainer.config import Erm, TrialConfig
from trainer.declaration import ConfigError
from trainer.loop import train
from trainer.machine import TRACKING_VARIABLE, Machine, Results
from trainer.records import EpochRecord

EPOCHS, EPOCHS_A_REPORT, TRIALS = 30, 5, 9
SERVER_PATIENCE_SECONDS = 60.0
HOST = "127.0.0.1"


def tracking_ratios() -> Iterator[Ratio]:
    """Seconds of all that is written to MLflow of a trial, in this process and on the server, over the trial's."""
    with tempfile.TemporaryDirectory() as scratch:
        metrics = next(iter(train(recipes.digits_mlp(Erm(), 0), Machine(data_dir=Path(scratch) / "data")))).metrics
        for store in ("SQLite", "server"):
            results = Results(Path(scratch) / store)
            results.root.mkdir()
            place = server(results) if store == "server" else contextlib.nullcontext("")  # by default an SQLite file
            with place as uri, mock.patch.dict(os.environ, {TRACKING_VARIABLE: uri}):
                pairs = [(written, float(EPOCHS)) for written in delivery_seconds(results, dict(metrics))]
            yield ratio(f"tracking / {EPOCHS} epochs of 1 s, {store}", pairs, "<= 0.02")


def delivery_seconds(results: Results, metrics: dict[str, float]) -> Iterator[float]:
    """For each of a few trials: its start, a report every five seconds, its outcome. The first one warms up."""
    plain = recipes.digits_mlp(Erm(), seed=0)
    trials = [dataclasses.replace(plain, seed=seed, epochs=EPOCHS, lr_milestones=()) for seed in range(TRIALS)]
    study = Study(name="tracked", question="What does tracking cost?", trials=tuple(trials))
    ledger = Ledger(results.ledger_url)
    tracker = open_tracker(study, ledger, results)
    for number, trial in enumerate(trials):
        taken = sum(seconds(functools.partial(tracker.write, delivery)) for delivery in deliveries(trial, metrics))
        if number:
            yield taken
    ledger.close()


def deliveries(trial: TrialConfig, metrics: dict[str, float]) -> Iterator[Delivery]:
    """What the courier is sent of a trial whose epochs take a second each."""
    now = time.time_ns() // 1_000_000
    records = [EpochRecord(epoch, now + 1000 * epoch, metrics) for epoch in range(1, EPOCHS + 1)]
    yield Delivery(trial, "leased")
    for start in range(0, EPOCHS, EPOCHS_A_REPORT):
        last = start + EPOCHS_A_REPORT == EPOCHS
        yield Delivery(trial, "finished" if last else "leased", records[start : start + EPOCHS_A_REPORT])


@contextlib.contextmanager
def server(results: Results, workers: int = 1) -> Iterator[str]:
    """An MLflow server of its own on a free port, of so many processes; its address."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{results.root / 'server.db'}"]
    place = ["--host", HOST, "--port", str(port), "--workers", str(workers)]
    command = [sys.executable, "-m", "mlflow", "server", *place, *store]
    command += ["--default-artifact-root", results.artifacts.as_uri()]
    settings, quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, subprocess.DEVNULL
    with subprocess.Popen(command, env=settings, stdout=quiet, stderr=quiet) as started:
        family = psutil.Process(started.pid)
        try:
            uri = f"http://{HOST}:{port}"
            wait_for(uri, results)
            yield uri
        finally:
            for one in (*family.children(recursive=True), family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def wait_for(uri: str, results: Results) -> None:
    """Return once the server answers. Raises ConfigError when it does not in time."""
    deadline = time.monotonic() + SERVER_PATIENCE_SECONDS
    with mock.patch.dict(os.environ, {TRACKING_VARIABLE: uri}):
        while time.monotonic() < deadline:
            with contextlib.suppress(ConfigError):
                connect(results)
                return
            time.sleep(0.2)
        connect(results)

"""Whole runs of ours as processes of their own, for ``benchmarks.engine`` to time: trials of no work, and a study.

``python -m benchmarks.our_runs idle|tracked N FILE`` and ``python -m benchmarks.our_runs study NAME FILE``; results go
to the folder that ``SWEEPS_RESULTS`` names.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from search_spaces import recipes
from search_spaces.catalog import find
from search_spaces.study import Study
from sweeps import launch
from sweeps.cluster import worker
from sweeps.cost.estimate import Known
from sweeps.cost.eta import expected_work
from sweeps.ledger import Ledger
from sweeps.progress import Progress
from sweeps.run import run
from sweeps.sweep import StudySweep
from sweeps.tracking.delivery import Courier
from sweeps.tracking.tracker import Delivery, open_tracker
from trainer.config import Erm, TrialConfig
from trainer.machine import Machine, Results
from trainer.records import EpochRecord

JOBS = 2
INSIDE = ".cpu"
"""Ending of the file beside a trial's checkpoint that holds the CPU seconds spent inside ``trainer.loop.train``."""


def last_epoch(trial: TrialConfig, *_: Any, **__: Any) -> Iterator[EpochRecord]:
    """In place of the training: the last epoch's record, at once."""
    yield EpochRecord(trial.epochs, time.time_ns() // 1_000_000, {"epoch_seconds": 0.0, "val/error": 0.5, "val/nll": 1})


def no_work(config: dict[str, Any]) -> None:
    """The worker's own function with nothing to train; torch is imported, as always."""
    with mock.patch("trainer.loop.train", last_epoch):
        worker.run_trial(config)


def timed_trial(config: dict[str, Any]) -> None:
    """The worker's own function, which also leaves the CPU seconds of the training."""
    from trainer.loop import train

    def timed(trial: TrialConfig, machine: Machine, checkpoint: Path, **options: Any) -> Iterator[EpochRecord]:
        epochs, spent = train(trial, machine, checkpoint, **options), 0.0
        while True:
            began = time.thread_time()  # of this thread: Ray's own in the process are not training
            record = next(epochs, None)
            spent += time.thread_time() - began
            if record is None:
                break
            yield record
        checkpoint.with_suffix(INSIDE).write_text(str(spent), encoding="utf-8")

    with mock.patch("trainer.loop.train", timed):
        worker.run_trial(config)


class Nowhere(Courier):
    """Delivers nothing: the overhead without MLflow."""

    def __init__(self) -> None:
        pass

    def send(self, delivery: Delivery) -> None:
        """Dropped."""

    def close(self, patience: float) -> int:
        """Nothing is due."""
        return 0


class Stopwatch(Progress):
    """Notes when trials end."""

    ends: list[float]

    def ended(self, trial_id: str, *outcome: Any) -> None:
        super().ended(trial_id, *outcome)
        self.ends = [*getattr(self, "ends", ()), time.perf_counter()]


def sweep_of(study: Study) -> StudySweep:
    """``study`` on the CPU, its trials declared in the ledger of the results folder."""
    results = Results.here()
    results.root.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(results.ledger_url)
    ledger.declare(study.name, study.trials)
    return StudySweep(study, study.name, results, ledger, jobs=JOBS, device="cpu")


def idle_run(trials: int, tracked: bool) -> dict[str, float]:
    """Seconds of the whole run, Ray's start and end included, and from trial to trial after the first one."""
    declared = tuple(recipes.digits_mlp(Erm(), seed) for seed in range(trials))
    sweep = sweep_of(Study(name="idle", question="What does a trial cost that trains nothing?", trials=declared))
    courier = Courier(open_tracker(sweep.study, sweep.ledger, sweep.results), warn=print) if tracked else Nowhere()
    states = {trial_id: row.state for trial_id, row in sweep.rows().items()}
    work = expected_work(declared, Known([], peak=None))
    progress, began = Stopwatch(sweep.study, work, states, JOBS, file=io.StringIO()), time.perf_counter()
    with mock.patch.object(launch, "run_trial", no_work):
        launch.run_to_the_end(launch.Launch(sweep, courier, progress))
    undelivered = courier.close(patience=600)
    whole = time.perf_counter() - began
    progress.close()
    finished = sum(row.state == "finished" for row in sweep.rows().values())
    if finished != trials or undelivered:
        raise SystemExit(f"{finished} of {trials} trials finished, {undelivered} not delivered: nothing was measured")
    return {"whole": whole, "each": (progress.ends[-1] - progress.ends[0]) / (trials - 1)}


def study_run(name: str) -> dict[str, float]:
    """CPU seconds inside the training of all trials of a built-in study, run as ``python -m sweeps run`` does."""
    sweep = sweep_of(find(name))
    with mock.patch.object(launch, "run_trial", timed_trial):
        if run(sweep):
            raise SystemExit(f"{name} did not finish: nothing was measured")
    files = [sweep.results.checkpoint(trial_id).with_suffix(INSIDE) for trial_id in sweep.trial_ids]
    return {"inside": sum(float(file.read_text(encoding="utf-8")) for file in files)}


if __name__ == "__main__":
    kind, what, file = sys.argv[1:]
    found = study_run(what) if kind == "study" else idle_run(int(what), tracked=kind == "tracked")
    Path(file).write_text(json.dumps(found), encoding="utf-8")

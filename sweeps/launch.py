"""Ray Tune schedules, the ledger decides.

Tune is never asked to restore anything: it is given what the ledger has not finished, through a Searcher that leases
one trial at a time, and its actors are reused: starting a process and importing torch costs more than a small trial.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from sweeps.children import children_join, group_that_ends_with_us
from sweeps.delivery import Courier, Heartbeat
from sweeps.estimate import measured
from sweeps.hardware import hardware
from sweeps.ledger import LEASE_SECONDS, Failure, LedgerRow, Measured, State
from sweeps.progress import Progress
from sweeps.sweep import INTERRUPTED, Sweep
from sweeps.tracking import Delivery
from trainer.declaration import ConfigError
from trainer.files import is_alive
from trainer.machine import Machine
from trainer.records import EpochRecord

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_process_group_cleanup_enabled": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
"""Ray's settings: no table, no reports home, workers in the raylet's process group (it ends with us; theirs would not),
no files a trial, and time for a reused actor's last thread to end."""

os.environ.update(QUIET)  # Ray reads some of them, and how it authenticates, when it is imported
# A token in the environment keeps Ray from writing one to the home folder; without one its ports would be open.
os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from sweeps.worker import Report, job, run_trial  # noqa: E402

SHORT_FOLDER = "/tmp"  # noqa: S108  only folders that mkdtemp makes there are used
OBJECT_STORE_BYTES = 100 * 2**20
LOST_WORKER_TRIES = 3
STATES: dict[str, State] = {
    "finished": "finished",
    "diverged": "diverged",
    "failed": "failed",
    "out_of_memory": "failed",
    "stopped": "pending",
}
"""What the ledger makes of a worker's outcome."""
FAILURES: dict[str, Failure] = {"failed": "bug", "out_of_memory": "out_of_memory"}
GRACE_SECONDS = 10.0  # after a signal: for trials and Tune to end before the process goes all the same


@dataclass(frozen=True, slots=True)
class Launch:
    """One driver at work on a sweep. owner: its name in the ledger."""

    sweep: Sweep
    courier: Courier
    progress: Progress
    owner: str = field(default_factory=lambda: f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}")

    def show(self) -> dict[str, LedgerRow]:
        """Bring the view up to date; the trials are returned as the ledger has them."""
        rows = self.sweep.rows()
        self.progress.show({trial_id: row.state for trial_id, row in rows.items()})
        return rows


@dataclass(slots=True)
class Stop:
    """Set by Ctrl-C or SIGTERM: no trial is started any more and running ones end at their next batch."""

    launch: Launch
    file: Path
    event: threading.Event = field(default_factory=threading.Event)

    def __call__(self, *_: int | FrameType | None) -> None:
        """The signal handler."""
        if not self.event.is_set():
            self.event.set()
            self.file.touch()
            watchdog = threading.Timer(GRACE_SECONDS, self._leave)
            watchdog.daemon = True
            watchdog.start()

    def _leave(self) -> None:
        """Where the signal took Ray down as well Tune waits for ever: give everything back and go without it."""
        launch, sweep = self.launch, self.launch.sweep
        rows = sweep.rows()
        sweep.ledger.release(launch.owner)
        for trial in sweep.study.trials:
            if rows[trial.trial_id].state == "leased" and rows[trial.trial_id].owner == launch.owner:
                launch.courier.send(Delivery(trial, "pending"))
        launch.courier.close(GRACE_SECONDS / 2)
        launch.progress.note(sweep.how_to_go_on)
        launch.progress.close()
        os._exit(INTERRUPTED)


def run_to_the_end(launch: Launch) -> bool:
    """Train what the ledger has not finished; True when it was not interrupted.

    Trials that another driver holds are waited for: they finish there, or their lease lapses and they are taken over.
    Those that ran out of memory come again when all others are over, one at a time, in a process that is new: one
    that trained before holds on to memory.
    """
    heartbeat = Heartbeat(launch.sweep.ledger, launch.owner, every=LEASE_SECONDS / 5)
    try:
        with _local_ray(launch) as stop:
            while (left := _left(launch)) and not stop.event.is_set():
                if any(row.state == "pending" and row.failure is None for row in left.values()):
                    _fit(launch, list(left), stop)
                elif all(row.state == "pending" for row in left.values()):
                    _fit(launch, list(left), stop, second_pass=True)
                else:
                    stop.event.wait(0.5)
            launch.sweep.ledger.release(launch.owner)
            return not stop.event.is_set()
    finally:
        heartbeat.close()


def _left(launch: Launch) -> dict[str, LedgerRow]:
    return {trial_id: row for trial_id, row in launch.show().items() if row.state in ("pending", "leased")}


def _fit(launch: Launch, trial_ids: Sequence[str], stop: Stop, second_pass: bool = False) -> None:
    gpus = _gpus_a_trial(launch.sweep.device)
    jobs = min(launch.sweep.jobs, int(_cluster_gpus())) if gpus else launch.sweep.jobs
    jobs = 1 if second_pass else jobs
    launch.progress.at_once(jobs)
    searcher = LedgerSearcher(launch, trial_ids, jobs, stop, second_pass)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"cpu": 1.0, "gpu": gpus}),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, max_concurrent_trials=jobs, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(stop.file.parent / "tune"),
            verbose=0,
            callbacks=[_KeepTrials(searcher)],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()
    searcher.give_back()


def _cluster_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def _gpus_a_trial(device: str) -> float:
    """Raises ConfigError when GPUs are asked for that Ray does not see: Tune would wait for them for ever."""
    if device == "cpu":
        return 0.0
    if _cluster_gpus() < 1:
        raise ConfigError("--device cuda: Ray sees no GPU on this machine: train with --device cpu")
    return 1.0


class _KeepTrials(tune.Callback):
    """Shows the searcher Tune's own list of trials: Tune tells nobody of a trial lost while its actor was reused."""

    def __init__(self, searcher: LedgerSearcher) -> None:
        self._searcher = searcher

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._searcher.tune_trials = trials


class LedgerSearcher(Searcher):
    """Leases trials one at a time and settles them. Tune's trial ids are its own; ``_live`` maps them to ours.

    second_pass: of the trials that ran out of memory once, which then fail; else of all others.
    """

    def __init__(
        self, launch: Launch, trial_ids: Sequence[str], jobs: int, stop: Stop, second_pass: bool = False
    ) -> None:
        super().__init__()
        self.tune_trials: list[Any] = []
        self._launch, self._sweep, self._jobs, self._stop = launch, launch.sweep, jobs, stop
        self._second_pass = second_pass
        self._wanted = set(trial_ids)
        self._trials = [trial for trial in launch.sweep.study.trials if trial.trial_id in self._wanted]
        self._by_id = {trial.trial_id: trial for trial in self._trials}
        self._live: dict[str, str] = {}
        self._deaths: dict[str, int] = {}
        self._records: dict[str, list[EpochRecord]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its searcher for a restore that never happens here."""
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        return True  # suggest keeps the limit itself: Tune's wrapper for those that do not can hang

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        self._fail_lost_trials()
        if self._stop.event.is_set():
            return Searcher.FINISHED
        if len(self._live) >= self._jobs:
            return None
        ids = [trial.trial_id for trial in self._trials if trial.trial_id in self._wanted]
        row = self._sweep.ledger.lease(ids, self._launch.owner, self._sweep.study.name, self._second_pass)
        if row is None:
            return None if self._live else Searcher.FINISHED
        self._launch.progress.started(row.trial_id)
        self._live[trial_id] = row.trial_id
        self._launch.courier.send(Delivery(self._by_id[row.trial_id], "leased"))
        machine = Machine(
            data_dir=self._sweep.results.data, device=self._sweep.device, threads=1, code_dir=self._sweep.code_dir
        )
        return job(row.params, self._sweep.results.checkpoint(row.trial_id), machine, self._stop.file)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report of the worker: deliver its records; settle the trial when it says how it ended."""
        ours = self._live.get(trial_id)
        if ours is None or "report" not in result:
            return
        report = Report.decode(result)
        self._records.setdefault(ours, []).extend(report.records)
        self._launch.progress.trained(ours, report.records)
        if report.outcome is not None:
            del self._live[trial_id]
            self._ended(ours, report, report.outcome)
        elif self._sweep.ledger.holds(ours, self._launch.owner):
            self._launch.courier.send(Delivery(self._by_id[ours], "leased", report.records))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a Tune trial. One that has not said how it ended lost its worker: again, from its checkpoint."""
        if result is not None:
            self.on_trial_result(trial_id, result)
        ours = self._live.pop(trial_id, None)
        if ours is not None:
            self._worker_lost(ours)

    def _ended(self, ours: str, report: Report, outcome: str) -> None:
        state = STATES[outcome]
        if outcome == "out_of_memory" and not self._second_pass:
            state = "pending"
            self._launch.progress.note(f"trial {ours} ran out of memory: once more, alone, when the others are over")
        self._settle(ours, report, state, FAILURES.get(outcome))

    def _worker_lost(self, ours: str) -> None:
        self._deaths[ours] = self._deaths.get(ours, 0) + 1
        cause = f"its worker process was lost {self._deaths[ours]} times"
        state: State = "pending" if self._deaths[ours] < LOST_WORKER_TRIES else "failed"
        if state == "failed":
            self._settle(ours, Report((), state, cause), state, "lost_worker")
        else:
            self._settle(ours, Report((), state), state)

    def _settle(self, ours: str, report: Report, state: State, failure: Failure | None = None) -> None:
        """The ledger first: what it refuses, for the lease has lapsed, is another driver's to deliver."""
        records = self._records.pop(ours, [])
        found = self._measured(ours, records) if state == "finished" else None
        held = self._sweep.ledger.settle(ours, self._launch.owner, state, report.cause, found, failure)
        if held:
            self._launch.courier.send(Delivery(self._by_id[ours], state, report.records, report.cause))
        self._launch.progress.ended(ours, state if held else "pending", report.cause)
        if state != "pending":
            self._wanted.discard(ours)

    def _measured(self, ours: str, records: Sequence[EpochRecord]) -> Measured | None:
        stored = self._sweep.results.checkpoint(ours)
        size = stored.stat().st_size if stored.exists() else None
        return measured(self._by_id[ours], records, hardware(self._sweep.device), size)

    def _fail_lost_trials(self) -> None:
        for trial in self.tune_trials:
            if trial.status in ("ERROR", "TERMINATED") and trial.trial_id in self._live:
                self._worker_lost(self._live.pop(trial.trial_id))

    def give_back(self) -> None:
        """After the experiment: what is still live was interrupted."""
        for ours in self._live.values():
            self._settle(ours, Report((), "stopped"), "pending")
        self._live.clear()


@contextlib.contextmanager
def _local_ray(launch: Launch) -> Iterator[Stop]:
    """A Ray of our own on this machine, quiet, behind a token; signals set the Stop that is given."""
    folder = _private_folder()
    stop = Stop(launch, folder / "stop")
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, stop) for number in signals}
    try:
        with group_that_ends_with_us(folder) as group, _ray_in(group, folder, launch.sweep.jobs):
            for number in signals:
                signal.signal(number, stop)  # again: Ray has put a handler of its own in place of one of them
            yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ray_in(group: int, folder: Path, jobs: int) -> Iterator[None]:
    try:
        with children_join(group):
            ray.init(
                address="local",
                num_cpus=jobs,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(folder),
            )
        yield
    finally:
        ray.shutdown()


def _private_folder() -> Path:
    """A folder for Ray's sockets, sessions and Tune's files, with a short name: a socket's path has 107 bytes."""
    short = Path(SHORT_FOLDER if Path(SHORT_FOLDER).is_dir() else tempfile.gettempdir())
    for old in short.glob("sweep-*-*"):
        with contextlib.suppress(OSError, ValueError):  # somebody else's folder, or one that goes away just now
            if not is_alive(int(old.name.split("-")[1])) and time.time() - old.stat().st_mtime > 60:
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"sweep-{os.getpid()}-", dir=short))

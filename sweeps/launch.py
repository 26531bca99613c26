"""Ray Tune schedules, the ledger decides.

Tune is never asked to restore anything: it is given what the ledger has not finished, through a Searcher that leases
one trial at a time, and its actors are reused: starting a process and importing torch costs more than a small trial.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from sweeps.cluster.connection import (  # first: Ray finds its settings made when it is imported
    private_folder,
    ray_for,
    shared_folder,
)

# isort: split
from ray import tune
from ray.tune.error import TuneError
from ray.tune.search import Searcher

from sweeps.cluster.node import Node
from sweeps.cluster.nodes import ONE_FOLDER, alive, require_fit
from sweeps.cluster.packing import Place
from sweeps.cluster.resources import Room
from sweeps.cluster.worker import Report, demand, given_up, job, run_trial
from sweeps.cost.estimate import measured
from sweeps.ledger import LEASE_SECONDS, Failure, LedgerRow, Measured, State
from sweeps.progress import Progress
from sweeps.sweep import INTERRUPTED, Growth, Sweep, joined
from sweeps.tracking.delivery import Courier, Heartbeat
from sweeps.tracking.tracker import Delivery
from trainer.declaration import ConfigError
from trainer.machine import Machine
from trainer.records import EpochRecord

LOST_WORKER_TRIES = 3
LOOK_EVERY_SECONDS = 5.0
"""At the nodes that there are."""
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

    def grow(self) -> bool:
        """Let the sweep look for other trials to train; whether there are some."""
        growth = self.sweep.grow()
        if growth != Growth():
            self.progress.follow(growth)
        return bool(growth.added)


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
        giving_back = threading.Thread(target=self._give_back, daemon=True)
        giving_back.start()
        giving_back.join(GRACE_SECONDS)  # a ledger that does not answer takes its leases back by itself
        self.launch.progress.note(self.launch.sweep.how_to_go_on)
        self.launch.progress.close()
        os._exit(INTERRUPTED)

    def _give_back(self) -> None:
        launch, sweep = self.launch, self.launch.sweep
        rows = sweep.rows()
        sweep.ledger.release(launch.owner)
        for trial_id, row in rows.items():
            if row.state == "leased" and row.owner == launch.owner:
                launch.courier.send(Delivery(sweep.trials[trial_id], "pending"))
        launch.courier.close(GRACE_SECONDS / 2)


def run_to_the_end(launch: Launch) -> bool:
    """Train what the ledger has not finished; True when it was not interrupted.

    Trials that another driver holds are waited for: they finish there, or their lease lapses and they are taken over.
    Those that ran out of memory come again when all others are over, one at a time, in a process that is new: one
    that trained before holds on to memory.
    """
    heartbeat = Heartbeat(launch.sweep.ledger, launch.owner, every=LEASE_SECONDS / 5)
    try:
        with _stoppable_ray(launch) as stop:
            while not stop.event.is_set() and (left := _left(launch)):
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
    launch.grow()
    return {trial_id: row for trial_id, row in launch.show().items() if row.state in ("pending", "leased")}


def _fit(launch: Launch, trial_ids: Sequence[str], stop: Stop, second_pass: bool = False) -> None:
    room = Room(launch.sweep, alive(), alone=second_pass)
    searcher = LedgerSearcher(launch, trial_ids, room, stop, second_pass, look=alive)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, demand),
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=-1, max_concurrent_trials=room.jobs, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=str(stop.file.parent / "tune"),
            verbose=0,
            callbacks=[_KeepTrials(searcher)],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        tuner.fit()
    except TuneError as error:  # Tune makes text of what its searcher raises: of the ledger's errors
        raise error.__context__ or error from None
    searcher.give_back()


class _KeepTrials(tune.Callback):
    """Shows the searcher Tune's own list of trials: Tune tells nobody of a trial lost while its actor was reused."""

    def __init__(self, searcher: LedgerSearcher) -> None:
        self._searcher = searcher

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._searcher.tune_trials = trials


class LedgerSearcher(Searcher):
    """Leases trials one at a time and settles them. Tune's trial ids are its own; ``_live`` maps them to ours.

    second_pass: of the trials that ran out of memory once, which then fail; else of all others. look: at the nodes that
    there are now, where these may change: as many trials run at a time as the sweep wants and they have room for.
    """

    def __init__(
        self,
        launch: Launch,
        trial_ids: Sequence[str],
        room: Room,
        stop: Stop,
        second_pass: bool = False,
        look: Callable[[], list[Node]] | None = None,
    ) -> None:
        super().__init__()
        self.tune_trials: list[Any] = []
        self._launch, self._sweep, self._room, self._stop = launch, launch.sweep, room, stop
        self._second_pass, self._look, self._looked = second_pass, look, -math.inf
        self._shunned: set[str] = set()
        self._over = set(launch.sweep.wanted()) - set(trial_ids)
        self._live: dict[str, str] = {}
        self._places: dict[str, Place] = {}
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
        self._follow_nodes()
        if len(self._live) >= self._room.jobs:
            return None
        row = self._lease() or (self._lease() if self._launch.grow() else None)
        if row is None:
            return None if self._live else Searcher.FINISHED
        place = self._room.place(row.trial_id, self._held())
        assert place is not None, "a trial was leased for which there is no room"
        self._live[trial_id] = row.trial_id
        self._places[row.trial_id] = place
        return self._started(row, place)

    def _follow_nodes(self) -> None:
        """Some may have come or gone. Raises ConfigError when trials cannot be trained on any."""
        if self._look is None or time.monotonic() - self._looked < LOOK_EVERY_SECONDS:
            return
        self._looked, nodes = time.monotonic(), self._look()
        with contextlib.suppress(OSError):
            os.utime(self._stop.file.parent)  # by which other drivers know that this one lives
        fit = [node for node in nodes if node.id not in self._shunned]
        if any(node.cpus for node in nodes) and not any(node.cpus for node in fit):
            raise ConfigError(f"no node sees {self._stop.file.parent}: {ONE_FOLDER}")
        self._room.follow(fit)

    def _lease(self) -> LedgerRow | None:
        return self._sweep.ledger.lease(self._fitting(), self._launch.owner, self._sweep.name, self._second_pass)

    def _fitting(self) -> list[str]:
        """What is left of the trials, in order, but for those that would have to wait for room.

        And but for those that run here: where their leases have lapsed, as when the machine slept, they would be
        leased once more and have two trainers.
        """
        taken = self._over.union(self._live.values())
        left = (trial_id for trial_id in self._sweep.wanted() if trial_id not in taken)
        return self._room.fitting(left, self._held())

    def _held(self) -> list[Place]:
        return [self._places[trial_id] for trial_id in self._live.values()]

    def _started(self, row: LedgerRow, place: Place) -> dict[str, Any]:
        """The job of a trial that was just leased."""
        trial, sweep = self._sweep.trials[row.trial_id], self._sweep
        self._launch.progress.at_once(self._room.at_once(row.trial_id))
        self._launch.progress.started(row.trial_id)
        self._launch.courier.send(Delivery(trial, "leased"))
        machine = Machine(data_dir=sweep.results.data, device=sweep.device, threads=1, code_dir=sweep.code_dir)
        checkpoint = sweep.results.checkpoint(row.trial_id)
        return job(row.params, checkpoint, machine, self._stop.file, place, self._shunned)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report of the worker: deliver its records; settle the trial when it says how it ended."""
        ours = self._live.get(trial_id)
        if ours is None or "report" not in result:
            return
        report = Report.decode(result)
        self._records.setdefault(ours, []).extend(report.records)
        self._launch.progress.trained(ours, report.records)
        if report.note is not None:
            self._launch.progress.note(report.note)
        if report.memory is not None:
            self._room.learn(ours, self._places[ours], report.memory)
        if self._sweep.gives_up(ours, report.records):
            given_up(self._stop.file, ours).touch()
        if report.misplaced is not None:
            del self._live[trial_id]
            self._misplaced(ours, report.misplaced)
        elif report.outcome is not None:
            del self._live[trial_id]
            self._ended(ours, report, report.outcome)
        elif self._sweep.ledger.holds(ours, self._launch.owner):
            self._launch.courier.send(Delivery(self._sweep.trials[ours], "leased", report.records))

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

    def _misplaced(self, ours: str, node_id: str) -> None:
        """On a node that has come later and does not see the results. It is told once, and gets no trial any more."""
        if node_id not in self._shunned:
            names = [node.name for node in self._look() if node.id == node_id] if self._look else []
            name = " ".join(names) or node_id
            root = self._sweep.results.root
            self._launch.progress.note(f"node {name} does not see {root}, and gets no trials: {ONE_FOLDER}")
        self._shunned.add(node_id)
        self._settle(ours, Report((), "pending"), "pending")
        self._looked = -math.inf  # suggest looks again: what is raised here Tune would take for the trial's fault

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
        found = self._measured(ours, records, report.hardware) if state == "finished" else None
        held = self._sweep.ledger.settle(ours, self._launch.owner, state, report.cause, found, failure)
        if held:
            self._launch.courier.send(Delivery(self._sweep.trials[ours], state, report.records, report.cause))
        self._launch.progress.ended(ours, state if held else "pending", report.cause)
        if state != "pending":
            self._over.add(ours)
            self._launch.grow()

    def _measured(self, ours: str, records: Sequence[EpochRecord], ran_on: str) -> Measured | None:
        stored = self._sweep.results.checkpoint(ours)
        size = stored.stat().st_size if stored.exists() else None
        return measured(self._sweep.trials[ours], records, ran_on, size)

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
def _stoppable_ray(launch: Launch) -> Iterator[Stop]:
    """Ray, for as long as this lasts; signals set the Stop that is given."""
    signals = (signal.SIGINT, signal.SIGTERM)
    with private_folder() as folder, _folder_of_stops(launch, folder) as seen_by_trials:
        stop = Stop(launch, seen_by_trials / "stop")
        previous = {number: signal.signal(number, stop) for number in signals}
        try:
            with ray_for(launch.sweep.jobs, folder):
                if joined():
                    require_fit(alive(), stop.file.parent)
                yield stop
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _folder_of_stops(launch: Launch, folder: Path) -> contextlib.AbstractContextManager[Path]:
    """Trials on other machines do not see ``folder``."""
    return shared_folder(launch.sweep.results) if joined() else contextlib.nullcontext(folder)

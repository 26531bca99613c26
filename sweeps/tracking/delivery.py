"""Delivery of trials to MLflow, beside the training and without ever holding it up.

What could not be delivered is not lost: a trial's checkpoint keeps all its records, and the next run of the study
delivers whatever MLflow does not show yet.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from search_spaces.study import Study
from sweeps.ledger import Ledger, LedgerRow, State
from sweeps.tracking.outline import ENDED, Outline
from sweeps.tracking.tracker import UNREACHABLE, Delivery, Tracker, first_line, is_passing
from trainer.config import TrialConfig
from trainer.machine import Results
from trainer.records import EpochRecord


@dataclass(frozen=True, slots=True)
class MadeGood:
    """Ids of trials. written: whose runs are now up to date. gone: finished ones whose records are lost."""

    written: list[str]
    gone: list[str]


def deliver_missing(study: Study | Outline, rows: dict[str, LedgerRow], tracker: Tracker, results: Results) -> MadeGood:
    """Write what the ledger has and MLflow lacks: outcomes of killed drivers, trials other studies trained."""
    states: dict[str, State] = {}
    made = MadeGood([], [])
    for trial in study.trials:
        row, known = rows[trial.trial_id], tracker.has_run(trial)
        if row.study == study.name:
            states[trial.trial_id] = row.state
        elif row.state != "finished":
            states[trial.trial_id] = "pending"  # whatever becomes of it there, it does not run here any more
        elif not tracker.copy(trial, row.study):
            states[trial.trial_id] = "finished"
        elif not known:
            made.written.append(trial.trial_id)
    for trial in tracker.stale(states):
        state, cause = states[trial.trial_id], rows[trial.trial_id].cause
        records = _stored_records(trial, results)
        if state == "finished" and not records:
            made.gone.append(trial.trial_id)
            state, cause = "pending", "finished, but its records are lost"
        if state in ENDED or tracker.has_run(trial):
            tracker.write(Delivery(trial, state, records, cause))
            if trial.trial_id not in made.gone:
                made.written.append(trial.trial_id)
    return made


def lost(trial_id: str, results: Results) -> str:
    """The line for a finished trial without records."""
    where = results.checkpoint(trial_id)
    return f"trial {trial_id} is finished, but its records are neither in MLflow nor in {where}"


def _stored_records(trial: TrialConfig, results: Results) -> tuple[EpochRecord, ...]:
    from trainer.checkpoint import load_checkpoint  # torch, which a run with nothing to deliver does not need

    stored = load_checkpoint(results.checkpoint(trial.trial_id), trial.trial_id)
    return stored.records if stored else ()


class Courier:
    """A thread that writes deliveries to MLflow in the order in which they were sent, trying again until it may not."""

    LONGEST_PAUSE_SECONDS = 10.0

    def __init__(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._tracker, self._warn = tracker, warn
        self._queue: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._give_up = threading.Event()
        self._due = 0  # outcomes sent and not written yet
        self._thread = threading.Thread(target=self._work, name="mlflow-delivery", daemon=True)
        self._thread.start()

    def send(self, delivery: Delivery) -> None:
        """Have ``delivery`` written soon; returns at once."""
        self._due += delivery.state in ENDED
        self._queue.put(delivery)

    def close(self, patience: float) -> int:
        """Wait until all is written, at most ``patience`` seconds; how many outcomes are not delivered is returned."""
        self._queue.put(None)
        self._thread.join(patience)
        self._give_up.set()
        self._thread.join(1.0)  # a write under way may end; a server that hangs is not waited for
        return self._due or int(self._thread.is_alive())

    def _work(self) -> None:
        while (delivery := self._queue.get()) is not None:
            if self._write(delivery):
                self._due -= delivery.state in ENDED

    def _write(self, delivery: Delivery) -> bool:
        pause, warned = 0.5, False
        while not self._give_up.is_set():
            try:
                self._tracker.write(delivery)
                return True
            except Exception as error:  # nothing that MLflow does may end this thread
                if not warned:
                    self._warn(f"MLflow does not take a record ({first_line(error)}): training goes on")
                    warned = True
                if not is_passing(error):
                    return False
            self._give_up.wait(pause)
            pause = min(2 * pause, self.LONGEST_PAUSE_SECONDS)
        return False


class Heartbeat:
    """A thread that renews an owner's leases well before they lapse. A ledger that is busy is asked again."""

    def __init__(self, ledger: Ledger, owner: str, every: float) -> None:
        self._ledger, self._owner, self._every = ledger, owner, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._ledger.renew(self._owner)
            except UNREACHABLE:
                time.sleep(0.1)

    def close(self) -> None:
        """Stop renewing."""
        self._over.set()
        self._thread.join()

"""What a run tells of itself while it goes on: a view on a terminal, elsewhere a line now and then.

Whoever trains only notes what happens; a thread of its own shows it, a few times a second.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import typing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO

from rich.console import Console
from rich.live import Live

from search_spaces.study import Study
from sweeps.cost.eta import Eta, Work, trained_since
from sweeps.ledger import State
from sweeps.sweep import Growth
from sweeps.table import short_labels
from sweeps.tracking.outline import Outline
from sweeps.view import EndedTrial, RunningTrial, Snapshot, line, picture
from trainer.config import TrialConfig
from trainer.records import EpochRecord

SHOW_EVERY_SECONDS = 0.5
LINE_EVERY_SECONDS = 10.0
LONGEST_SILENCE_SECONDS = 300.0
ASK_EVERY_SECONDS = 2.0
LEAST_TIMES_BETWEEN_ASKING = 50  # as long as asking takes
PATIENCE_SECONDS = 2.0  # with a ledger that hangs
ENDED_KEPT = 24
SAME_CAUSE_TOLD = 3

States = Mapping[str, State]
ALL_STATES: tuple[State, ...] = typing.get_args(State)


@dataclass(slots=True)
class _Running:
    started: float
    since_1970: float
    records: list[EpochRecord] = field(default_factory=list)


class Progress:
    """Of the trials of ``study``, which are expected to take ``work``, ``jobs`` at a time.

    states: of the trials when it begins. work and states may have more: places of trials that are not known yet.
    labels: by trial id, what trials are called; those of a study by what tells their cells apart. ask: says how they
    stand for all drivers together; it is called from another thread and may fail, as when a ledger is busy. file: to
    write to, else standard output. All methods may be called from any thread.
    """

    def __init__(
        self,
        study: Study | Outline,
        work: Mapping[str, Work],
        states: States,
        jobs: int,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        ask: Callable[[], States] | None = None,
        file: IO[str] | None = None,
    ) -> None:
        self._name, self._ask = name or study.name, ask
        self._labels = _labels(study) if isinstance(study, Study) else dict(labels or {})
        self._trials = {trial.trial_id: trial for trial in study.trials}
        self._states = dict(states)
        self._eta = Eta(work, jobs)
        self._running: dict[str, _Running] = {}
        self._ended: deque[EndedTrial] = deque(maxlen=ENDED_KEPT)
        self._told: Counter[str] = Counter()
        self._changed: dict[str, float] = {}  # when this driver last had a trial
        self._lock = threading.RLock()
        self._began = self._line_at = time.monotonic()
        for trial_id, state in states.items():
            self._follow(trial_id, state)
        self._console = Console(file=file, highlight=False, markup=False, emoji=False)
        self._live = self._started_live()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)
        self._thread.start()

    def _started_live(self) -> Live | None:
        """None where lines must do. Rich alone would write control sequences into a file when colours are forced."""
        if not (self._console.file.isatty() and self._console.is_interactive):
            return None
        live = Live(console=self._console, auto_refresh=False, transient=True)
        live.start()
        return live

    def started(self, trial_id: str) -> None:
        """This driver trains the trial."""
        with self._lock:
            if trial_id not in self._running:
                self._states[trial_id] = "leased"
                now = time.monotonic()
                self._running[trial_id] = _Running(now, time.time())
                self._eta.start(trial_id, now)

    def trained(self, trial_id: str, records: Iterable[EpochRecord]) -> None:
        """The trial, which this driver trains, has come to the last of these further records."""
        with self._lock:
            running = self._running[trial_id]
            running.records.extend(records)
            if running.records:
                epochs, seconds = trained_since(running.records, running.since_1970)
                self._eta.train(trial_id, running.records[-1].epoch, epochs, seconds, time.monotonic())

    def ended(self, trial_id: str, state: State, cause: str | None = None) -> None:
        """This driver trains the trial no more; ``pending`` when it comes again. Failures are told at once."""
        with self._lock:
            running = self._running.pop(trial_id)
            now = self._changed[trial_id] = time.monotonic()
            self._states[trial_id] = state
            self._eta.end(trial_id, now, over=state != "pending")
            if state != "pending":
                self._ended.appendleft(self._ended_trial(trial_id, state, running, now))
        if state in ("failed", "diverged") and cause is not None:
            self._tell(trial_id, state, cause)

    def at_once(self, jobs: int) -> None:
        """From now on so many trials of this driver run at a time."""
        with self._lock:
            self._eta.jobs = jobs

    def show(self, states: States, asked_at: float | None = None) -> None:
        """How trials stand for all drivers together; of those that this one trained since it asked it knows better."""
        with self._lock:
            for trial_id, state in states.items():
                known_better = asked_at is not None and self._changed.get(trial_id, -math.inf) >= asked_at
                known = trial_id in self._states and trial_id not in self._running
                if known and state != self._states[trial_id] and not known_better:
                    self._follow(trial_id, state)

    def follow(self, growth: Growth) -> None:
        """What has changed in what is trained."""
        with self._lock:
            for added in growth.added:
                trial_id, known = added.trial.trial_id, added.trial.trial_id in self._trials
                self._forget(added.place)
                if not known:  # else a setting was suggested a second time
                    self._trials[trial_id], self._labels[trial_id] = added.trial, added.label
                    self._states[trial_id] = "pending"
                    self._eta.add(trial_id, added.work)
            for dropped in growth.dropped:
                if dropped not in self._running:
                    self._forget(dropped)

    def _forget(self, place: str) -> None:
        self._states.pop(place, None)
        self._eta.drop(place)

    def _follow(self, trial_id: str, state: State) -> None:
        self._states[trial_id] = state
        if state == "leased":
            self._eta.start(trial_id, time.monotonic(), elsewhere=True)
        else:
            self._eta.end(trial_id, time.monotonic(), over=state != "pending")

    def note(self, message: str) -> None:
        """A line that stays."""
        self._console.print(message, soft_wrap=True)

    def close(self) -> None:
        """Take the view away and leave the terminal as it was."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE_SECONDS)
        if self._live is not None:
            self._live.stop()

    def snapshot(self) -> Snapshot:
        """How things stand now."""
        with self._lock:
            now = time.monotonic()
            return Snapshot(
                name=self._name,
                count=dict.fromkeys(ALL_STATES, 0) | Counter(self._states.values()),
                share=self._eta.share(),
                elapsed=now - self._began,
                left=self._eta.left(now),
                part=_part(next(iter(self._trials.values()))),
                running=[self._running_trial(trial_id, one, now) for trial_id, one in self._running.items()],
                ended=list(self._ended),
            )

    def _running_trial(self, trial_id: str, running: _Running, now: float) -> RunningTrial:
        trial = self._trials[trial_id]
        epoch = running.records[-1].epoch if running.records else 0
        epochs = self._eta.epochs(trial_id)
        return RunningTrial(self._labels[trial_id], trial.seed, epoch, epochs, now - running.started)

    def _ended_trial(self, trial_id: str, state: State, running: _Running, now: float) -> EndedTrial:
        trial, metrics = self._trials[trial_id], running.records[-1].metrics if running.records else {}
        error, nll, ece = (metrics.get(f"{_part(trial)}/{name}") for name in ("error", "nll", "ece"))
        seconds = sum(record.metrics["epoch_seconds"] for record in running.records) or now - running.started
        return EndedTrial(self._labels[trial_id], trial.seed, state, error, nll, ece, seconds)

    def _tell(self, trial_id: str, state: State, cause: str) -> None:
        last = (cause.strip().splitlines() or ["no cause recorded"])[-1].strip()
        self._told[last] += 1
        what = f"{self._labels[trial_id]} seed {self._trials[trial_id].seed} {state} (trial {trial_id}): {last}"
        if self._told[last] == SAME_CAUSE_TOLD:
            what += " (no more of this cause are told here: make status has all)"
        if self._told[last] <= SAME_CAUSE_TOLD:
            self.note(what)

    def _work(self) -> None:
        ask_at = self._began + ASK_EVERY_SECONDS
        while not self._over.is_set():
            self._present()
            self._over.wait(SHOW_EVERY_SECONDS)
            if self._ask and time.monotonic() > ask_at and not self._over.is_set():
                took = self._ask_others(self._ask)
                ask_at = time.monotonic() + max(ASK_EVERY_SECONDS, LEAST_TIMES_BETWEEN_ASKING * took)

    def _ask_others(self, ask: Callable[[], States]) -> float:
        """How long it took is returned."""
        asked_at = time.monotonic()
        with contextlib.suppress(Exception):  # another time then; whoever trains hears of it from the ledger itself
            self.show(ask(), asked_at)
        return time.monotonic() - asked_at

    def _present(self) -> None:
        now = time.monotonic()
        if self._live is not None:
            size = self._console.size
            # A typed ^C is echoed at the end of the last line: where it wrapped the view would be a line out of place.
            self._live.update(picture(self.snapshot(), size.width - 2, size.height - 1), refresh=True)
        elif now - self._line_at >= min(max(LINE_EVERY_SECONDS, (now - self._began) / 60), LONGEST_SILENCE_SECONDS):
            self.note(line(self.snapshot()))
            self._line_at = now


def _labels(study: Study) -> dict[str, str]:
    """What tells each trial's cell from the others, by trial id."""
    cells = study.cells()
    labels = short_labels([cell.params for cell in cells])
    named = zip(cells, labels, strict=True)
    return {trial.trial_id: label or str(cell.params["method"]) for cell, label in named for trial in cell.trials}


def _part(trial: TrialConfig) -> str:
    return "test" if trial.phase == "final" else "val"

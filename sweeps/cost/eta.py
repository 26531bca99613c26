"""How long the rest of a study will take, as a pure class: what trials should cost, corrected by what they do cost.

What is left is laid out as the scheduler will do it: running trials first, the others in order, so many at a time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sweeps.cost.estimate import Known, kind, passes, wall_seconds
from trainer.config import TrialConfig
from trainer.records import EpochRecord

HALF_LIFE = 0.25
"""Of the time in which anything was observed: after it an observation counts half, for machines change their pace."""
PRIOR = 0.3
"""Of a trial: how much of it the expectation counts for against what was observed of its like."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a trial is expected to take: ``epochs`` of ``epoch_seconds``; 0 epochs for trials without any.

    kinds: names of groups that the trial belongs to, each within the one before it, whose members take longer or
    shorter than expected by about the same factor. guessed: of the expectation only its proportion to those of the
    first group means something.
    """

    epochs: int
    epoch_seconds: float
    kinds: tuple[str, ...]
    guessed: bool = False

    @property
    def seconds(self) -> float:
        return self.epochs * self.epoch_seconds


def expected_work(trials: Iterable[TrialConfig], known: Known) -> dict[str, Work]:
    """By trial id, from what a plan's estimates are from. Where nothing is known a pass over the data is a unit."""
    work = {}
    for trial in trials:
        seconds, steps, alike = known.estimate(trial).seconds, passes(trial.method).total, kind(trial)
        epoch = steps if seconds is None else seconds / trial.epochs
        groups = ("known" if seconds is not None else "guessed", alike, f"{alike} {steps:g}")
        work[trial.trial_id] = Work(trial.epochs, epoch, groups, guessed=seconds is None)
    return work


def trained_since(records: Iterable[EpochRecord], since: float) -> tuple[int, float]:
    """Epochs that were begun after ``since`` (seconds since 1970) and the time from the first one's start on.

    What came before was trained in another process: a resumed trial tells all its epochs again.
    """
    fresh = [record for record in records if _began(record) >= since]
    return (len(fresh), fresh[-1].timestamp / 1000 - _began(fresh[0])) if fresh else (0, 0.0)


def _began(record: EpochRecord) -> float:
    return record.timestamp / 1000 - record.metrics["epoch_seconds"]


@dataclass(slots=True)
class _Stint:
    """One go at a trial and what is known of it.

    waited: how long its place was free before. epoch: the last one known; ``trained`` of them took ``seconds``.
    """

    work: Work
    since: float
    news: float
    first_of_worker: bool
    waited: float = 0.0
    epoch: int = 0
    trained: int = 0
    seconds: float = 0.0


class Eta:
    """The time that is left. ``now`` is any clock that goes on; jobs: trials at a time.

    A trial's time is that of its epochs and of what comes around them: between trials as well, and of the first trials
    not, for their worker processes were being started. The median of what was seen of it counts.
    """

    def __init__(self, work: Mapping[str, Work], jobs: int) -> None:
        self.jobs = jobs
        self._work = dict(work)
        self._running: dict[str, _Stint] = {}
        self._elsewhere: dict[str, _Stint] = {}
        self._over: set[str] = set()
        self._seen: list[_Stint] = []
        self._around: list[float] = []
        self._freed: list[float] = []  # when the places fell free that are

    def start(self, trial_id: str, now: float, elsewhere: bool = False) -> None:
        """The trial runs, here or at another driver's, of which no more is known."""
        self._over.discard(trial_id)
        stint = _Stint(self._work[trial_id], now, now, len(self._seen) < self.jobs)
        (self._elsewhere if elsewhere else self._running)[trial_id] = stint
        if not elsewhere:
            stint.waited = now - self._freed.pop() if self._freed else 0.0
            self._seen.append(stint)

    def train(self, trial_id: str, epoch: int, trained: int, seconds: float, now: float) -> None:
        """The trial is at the end of ``epoch``; since it was started here ``trained`` epochs took ``seconds``."""
        stint = self._running[trial_id]
        stint.epoch, stint.trained, stint.seconds, stint.news = epoch, trained, seconds, now

    def end(self, trial_id: str, now: float, over: bool) -> None:
        """The trial does not run any more: it is over, or comes again."""
        stint = self._running.pop(trial_id, None)
        self._elsewhere.pop(trial_id, None)
        if over:
            self._over.add(trial_id)
        if stint:
            self._freed.append(now)
        if over and stint and not stint.first_of_worker:
            self._around.append(stint.waited + now - stint.since - stint.seconds)

    def add(self, trial_id: str, work: Work) -> None:
        """A trial that was not known before."""
        self._work[trial_id] = work

    def drop(self, trial_id: str) -> None:
        """A trial, or the place of one, that will not be trained; nothing where it is not known."""
        self._work.pop(trial_id, None)
        self._elsewhere.pop(trial_id, None)
        self._over.discard(trial_id)

    def epochs(self, trial_id: str) -> int:
        """Of the trial; 0 for one without."""
        return self._work[trial_id].epochs

    def share(self) -> float:
        """Of the expected work, how much is done: 0 to 1."""
        unit = 0.0 if any(work.seconds for work in self._work.values()) else 1.0
        done = sum(self._work[trial_id].seconds + unit for trial_id in self._over)
        done += sum(stint.epoch * stint.work.epoch_seconds for stint in self._running.values())
        return done / sum(work.seconds + unit for work in self._work.values()) if self._work else 1.0

    def left(self, now: float) -> float | None:
        """Seconds until all trials are over; None as long as nothing is known of what some of them take."""
        at_work = {**self._elsewhere, **self._running}
        coming = [work for id_, work in self._work.items() if id_ not in self._over and id_ not in at_work]
        costs = _Costs(self._seen, self._around)
        if not all(map(costs.is_known, [*coming, *(stint.work for stint in at_work.values())])):
            return None
        rest = [costs.rest(stint, now) for stint in at_work.values()]
        return wall_seconds([costs.whole(work) for work in coming], self.jobs + len(self._elsewhere), rest)


class _Costs:
    """What trials take, judging by the stints that were seen."""

    def __init__(self, seen: Iterable[_Stint], around: list[float]) -> None:
        self._around = statistics.median(around[-20:]) if around else None
        self._sums: dict[str, tuple[float, float]] = {}
        trained = [stint for stint in seen if stint.trained]
        starts = [stint.news - stint.since - stint.seconds for stint in trained if stint.first_of_worker]
        self._start_up = statistics.median(starts) if starts else 0.0
        if not trained:
            return
        last = max(stint.news for stint in trained)
        half_life = HALF_LIFE * max(last - min(stint.since for stint in trained), 1e-9)
        for stint in trained:
            weight = 0.5 ** ((last - stint.news) / half_life)
            for group in stint.work.kinds:
                seconds, expected = self._sums.get(group, (0.0, 0.0))
                more = stint.trained * stint.work.epoch_seconds
                self._sums[group] = (seconds + weight * stint.seconds, expected + weight * more)

    def is_known(self, work: Work) -> bool:
        """Whether there is anything to tell the trial's time from."""
        if work.epochs == 0:
            return self._around is not None
        return not work.guessed or work.kinds[0] in self._sums

    def factor(self, work: Work) -> float:
        """By which the trial's epochs take longer than expected: its own group's, as far as that was seen."""
        first, *others = work.kinds
        seconds, expected = self._sums.get(first, (1.0, 1.0))
        factor, prior = seconds / expected, PRIOR * work.seconds
        for group in others:
            seconds, expected = self._sums.get(group, (0.0, 0.0))
            factor = (seconds + prior * factor) / (expected + prior)
        return factor

    def whole(self, work: Work) -> float:
        """Of a trial from its start to its end."""
        return (self._around or 0.0) + (work.seconds * self.factor(work) if work.epochs else 0.0)

    def rest(self, stint: _Stint, now: float) -> float:
        """Of a trial that runs, by its own pace as well as by that of its like."""
        if not stint.trained:
            before = self._start_up if stint.first_of_worker else 0.0
            return max(self.whole(stint.work) - max(now - stint.since - before, 0.0), 0.0)
        prior, one = PRIOR * stint.work.seconds, stint.work.epoch_seconds
        factor = (stint.seconds + prior * self.factor(stint.work)) / (stint.trained * one + prior)
        return max((stint.work.epochs - stint.epoch) * one * factor - (now - stint.news), 0.0)

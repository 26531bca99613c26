"""The time left, against simulated studies whose end is known: costs, orders, machines and resumed trials vary."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from sweeps.cost.estimate import Known, kind, passes
from sweeps.cost.eta import Eta, Work, expected_work, trained_since
from sweeps.ledger import Measured
from tests.sweeps.conftest import make_trial
from trainer.config import Custom
from trainer.records import EpochRecord

TRIES = range(100)
REPORT_SECONDS = 10.0  # a worker tells of epochs that are in a checkpoint


@dataclass(frozen=True)
class Trial:
    """epoch: real seconds. around: what comes on top of the epochs. done: epochs of an earlier, interrupted run."""

    name: str
    work: Work
    epoch: float
    around: float = 0.0
    done: int = 0


@dataclass
class Simulation:
    """Trials in order, ``jobs`` at a time; epochs take ``pace(share of the work that is done)`` times as long.

    left: what Eta said, once a third of the work was done, ``end - asked`` being the truth.
    """

    trials: list[Trial]
    jobs: int
    pace: Callable[[float], float] = lambda share: 1.0
    start_up: float = 0.0
    left: float | None = None
    asked: float = 0.0
    end: float = 0.0
    _events: list[tuple[float, int, Iterator[float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._eta = Eta({trial.name: trial.work for trial in self.trials}, self.jobs)
        self._total = sum((trial.work.epochs - trial.done) * trial.epoch for trial in self.trials)
        self._done, self._coming, self._numbers = 0.0, iter(enumerate(self.trials)), itertools.count()
        for _ in range(self.jobs):
            self._begin()
        while self._events:
            self.end, _, trial = heapq.heappop(self._events)
            self._go_on(trial)
            if self.left is None and self._done >= self._total / 3:
                self.left, self.asked = self._eta.left(self.end), self.end

    def _begin(self) -> None:
        for number, trial in itertools.islice(self._coming, 1):
            self._go_on(self._life(trial, self.start_up if number < self.jobs else 0.0))

    def _go_on(self, life: Iterator[float]) -> None:
        for seconds in itertools.islice(life, 1):
            heapq.heappush(self._events, (self.end + seconds, next(self._numbers), life))

    def _life(self, trial: Trial, start_up: float) -> Iterator[float]:
        """Yields the seconds until the next thing happens."""
        self._eta.start(trial.name, self.end)
        yield start_up + trial.around / 2
        begun = reported = self.end
        for epoch in range(trial.done + 1, trial.work.epochs + 1):
            yield trial.epoch * self.pace(self._done / self._total)
            self._done += trial.epoch
            if epoch == trial.work.epochs or self.end - reported >= REPORT_SECONDS:
                reported = self.end
                self._eta.train(trial.name, epoch, epoch - trial.done, reported - begun, reported)
        yield trial.around / 2
        self._eta.end(trial.name, self.end, over=True)
        self._begin()

    @property
    def error(self) -> float:
        """Of what Eta said, relative to the truth."""
        assert self.left is not None
        return abs(self.left - (self.end - self.asked)) / (self.end - self.asked)


@dataclass(frozen=True)
class Law:
    """Of random studies: 8 cells × 5 seeds of 1 to 4 passes and three networks.

    off: the estimates are wrong by one of these factors, in all. of_kind, of_trial: and by up to these shares, each
    kind (network and passes) or each trial by itself. order: seeds outermost, as studies are declared, or sorted by
    cost. unit: seconds of ERM's epoch with the smallest network.
    """

    off: tuple[float, ...] = (0.3, 1.0, 5.0)
    of_kind: float = 0.0
    of_trial: float = 0.0
    order: str = "seeds"
    unit: float = 1.0
    around: float = 0.0
    guessed: bool = False

    def draw(self, rng: random.Random) -> list[Trial]:
        cells = [(rng.choice((1, 2, 3, 4)), rng.choice((1.0, 1.0, 2.5, 6.0))) for _ in range(8)]
        trials = [(f"{seed} {number}", cell) for seed in range(5) for number, cell in enumerate(cells)]
        if self.order != "seeds":
            trials.sort(key=lambda trial: trial[1][0] * trial[1][1], reverse=self.order == "dear first")
        off, factors = rng.choice(self.off), {cell: 1 + rng.uniform(-1, 1) * self.of_kind for cell in cells}
        return [
            self._trial(name, *cell, off * factors[cell] * (1 + rng.uniform(-1, 1) * self.of_trial))
            for name, cell in trials
        ]

    def _trial(self, name: str, steps: int, network: float, factor: float) -> Trial:
        real, expected = self.unit * steps * network, self.unit * steps * (1.0 if self.guessed else network)
        work = Work(12, expected, ("all", f"{network}", f"{network} {steps}"), self.guessed)
        return Trial(name, work, real * factor, self.around)


def errors(law: Law, jobs: int, pace: Callable[[float], float] = lambda share: 1.0, start_up: float = 0) -> list[float]:
    """Sorted, of one study a seed."""
    return sorted(Simulation(law.draw(random.Random(seed)), jobs, pace, start_up).error for seed in TRIES)


@pytest.mark.parametrize("jobs", [1, 2, 4])
@pytest.mark.parametrize(
    "law",
    [
        Law(of_kind=0.3),
        Law(order="cheap first"),
        Law(order="dear first"),
        Law(guessed=True),
    ],
    ids=["kinds off by 30%", "cheap first", "dear first", "networks of unknown cost"],
)
def test_after_a_third_of_the_work_it_is_right_within_a_fifth(law: Law, jobs: int) -> None:
    assert errors(law, jobs, start_up=5.0)[-1] < 0.2


@pytest.mark.parametrize("jobs", [1, 2, 4])
@pytest.mark.parametrize(
    "pace",
    [
        lambda share: 1.7 if share > 0.15 else 1.0,
        lambda share: 1 + 0.4 * share,
        lambda share: 1.0 if share < 0.1 else 0.7,
    ],
    ids=["slower by 70% from 15% on", "slower and slower", "from 10% on a third faster"],
)
def test_so_it_is_on_a_machine_that_changes_its_pace(pace: Callable[[float], float], jobs: int) -> None:
    assert errors(Law(of_kind=0.1), jobs, pace)[-1] < 0.2


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_so_it_is_nearly_always_where_trials_take_a_second(jobs: int) -> None:
    """Not where the dearest kind, off by itself, is first seen when a third of the work is done."""
    assert errors(Law(of_kind=0.3, unit=0.01, around=0.05), jobs, start_up=5.0)[97] < 0.2


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_where_each_trial_is_off_by_itself_nine_of_ten_are_right(jobs: int) -> None:
    assert errors(Law(of_trial=0.3), jobs)[89] < 0.2


@pytest.mark.parametrize("order", ["cheap first", "dear first"])
def test_where_later_kinds_are_off_as_nothing_can_tell_half_are_right(order: str) -> None:
    assert errors(Law(of_kind=0.3, order=order), 2)[49] < 0.2


@pytest.mark.parametrize("jobs", [1, 2])
def test_few_long_trials_of_which_some_go_on_from_a_checkpoint(jobs: int) -> None:
    def study(rng: random.Random) -> list[Trial]:
        off = rng.choice((0.3, 5.0))
        works = [Work(40, 3.0 * steps, ("all", "net", f"net {steps}")) for steps in (1, 2, 1, 2)]
        done = [rng.randrange(40) if number < jobs else 0 for number in range(4)]
        return [Trial(str(n), work, off * work.epoch_seconds, 0.1, done[n]) for n, work in enumerate(works)]

    assert max(Simulation(study(random.Random(seed)), jobs, start_up=5.0).error for seed in TRIES) < 0.2


def work(epochs: int = 10, seconds: float = 1.0, group: str = "net", guessed: bool = False) -> Work:
    return Work(epochs, seconds, ("guessed" if guessed else "known", group), guessed)


def test_before_anything_is_seen_the_expectation_stands() -> None:
    eta = Eta({"a": work(), "b": work(20), "c": work()}, jobs=2)
    assert eta.left(100.0) == 20.0
    eta.start("a", 100.0)
    eta.start("b", 100.0)
    assert eta.left(104.0) == 16.0
    assert eta.share() == 0.0


def test_an_epoch_that_is_known_moves_all() -> None:
    eta = Eta({"a": work(), "b": work()}, jobs=1)
    eta.start("a", 0.0)
    eta.train("a", epoch=5, trained=5, seconds=10.0, now=12.0)
    assert eta.share() == 0.25
    assert eta.left(12.0) == pytest.approx(5 * 2.0 + 10 * 2.0)
    assert eta.left(15.0) == pytest.approx(5 * 2.0 + 10 * 2.0 - 3.0)


def test_a_trial_that_is_given_back_is_all_to_do_again() -> None:
    eta = Eta({"a": work()}, jobs=1)
    eta.start("a", 0.0)
    eta.end("a", 4.0, over=False)
    assert (eta.share(), eta.left(4.0)) == (0.0, 10.0)
    eta.start("a", 5.0)
    eta.end("a", 15.0, over=True)
    assert (eta.share(), eta.left(15.0)) == (1.0, 0.0)


def test_another_drivers_trials_take_work_off_this_one() -> None:
    eta = Eta({name: work() for name in "abcd"}, jobs=1)
    eta.start("a", 0.0)
    assert eta.left(0.0) == 40.0
    eta.start("b", 0.0, elsewhere=True)
    assert eta.left(0.0) == 20.0
    eta.end("b", 9.0, over=True)
    assert eta.left(9.0) == 21.0
    eta.end("a", 9.0, over=False)
    eta.start("c", 9.0, elsewhere=True)
    assert eta.left(9.0) == 20.0  # a and d here, while c runs there
    eta.start("b", 9.0, elsewhere=True)  # it failed, and is tried again
    assert eta.share() == 0.0


def test_what_nobody_knows_is_not_told() -> None:
    eta = Eta({"a": work(guessed=True), "b": work(guessed=True, group="other"), "c": work()}, jobs=1)
    eta.start("c", 0.0)
    eta.train("c", 10, 10, 30.0, 30.0)
    eta.end("c", 30.0, over=True)
    assert eta.left(30.0) is None
    eta.start("a", 30.0)
    eta.train("a", 10, 10, 70.0, 100.0)
    eta.end("a", 100.0, over=True)
    assert eta.left(100.0) == pytest.approx(70.0)


def test_trials_without_epochs_take_what_the_others_took_but_those_that_started_workers() -> None:
    eta = Eta({name: Work(0, 0.0, ("probes",)) for name in "abcd"}, jobs=1)
    eta.start("a", 0.0)
    eta.end("a", 9.0, over=True)
    assert (eta.left(9.0), eta.share()) == (None, 0.25)
    eta.start("b", 9.0)
    eta.end("b", 11.0, over=True)
    assert eta.left(11.0) == 4.0


def test_the_time_between_trials_counts() -> None:
    eta = Eta({name: work() for name in "abcd"}, jobs=1)
    for name, since in (("a", 0.0), ("b", 10.5)):
        eta.start(name, since)
        eta.train(name, 10, 10, 10.0, since + 10)
        eta.end(name, since + 10, over=True)
    assert eta.left(20.5) == pytest.approx(21.0)


def test_the_start_of_workers_is_no_work() -> None:
    eta = Eta({"a": work(), "b": work(20)}, jobs=2)
    eta.start("a", 0.0)
    eta.start("b", 0.0)
    eta.train("a", 10, 10, 10.0, now=16.0)
    eta.end("a", 16.0, over=True)
    assert eta.left(16.0) == 10.0


def test_what_is_expected_is_what_a_plan_estimates() -> None:
    erm, amp = make_trial(), make_trial(epsilon=0.5)
    known = Known([Measured(kind(erm), "here", passes(erm.method).total, 2.0, None, None, None)], peak=None)
    found = expected_work([erm, amp], known)
    for trial in (erm, amp):
        assert found[trial.trial_id].seconds == known.estimate(trial).seconds
    assert found[erm.trial_id].kinds[:2] == found[amp.trial_id].kinds[:2]
    assert found[erm.trial_id].kinds[2] != found[amp.trial_id].kinds[2]


def test_of_an_unknown_cost_the_passes_are_known() -> None:
    model = Custom("somewhere:net", digest="0" * 16)
    erm, amp = (replace(make_trial(epsilon=epsilon), model=model) for epsilon in (None, 0.5))
    found = expected_work([erm, amp], Known([], peak=None))
    assert found[erm.trial_id].guessed
    assert found[amp.trial_id].seconds == 2 * found[erm.trial_id].seconds


def test_epochs_of_an_earlier_run_are_not_counted() -> None:
    records = [EpochRecord(n, 1000 * at, {"epoch_seconds": 2.0}) for n, at in ((1, 12), (2, 14), (3, 103), (4, 108))]
    assert trained_since(records, 100.0) == (2, 7.0)
    assert trained_since(records, 0.0) == (4, 98.0)
    assert trained_since(records, 200.0) == (0, 0.0)

"""Classes of failures: what the ledger keeps of them, and which trials are trained again, when and how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from sweeps.cluster.node import Node
from sweeps.cluster.resources import Room
from sweeps.cluster.worker import Report
from sweeps.launch import LOOK_EVERY_SECONDS, LOST_WORKER_TRIES, Launch, LedgerSearcher, Stop, _left
from sweeps.ledger import Failure, Ledger, State
from sweeps.sweep import StudySweep
from sweeps.tracking.tracker import Delivery
from tests.sweeps.conftest import lapsing, make_records, make_study
from trainer.declaration import ConfigError
from trainer.machine import Results

STUDY = make_study()
IDS = [trial.trial_id for trial in STUDY.trials]
FIRST = IDS[0]
CLASSES: list[Failure] = ["bug", "lost_worker", "out_of_memory"]


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    ledger.declare("toy", STUDY.trials)
    yield ledger
    ledger.close()


def settle(ledger: Ledger, state: State, failure: Failure | None = None, second_pass: bool = False) -> None:
    assert ledger.lease([FIRST], "driver", "toy", second_pass)
    assert ledger.settle(FIRST, "driver", state, "because", failure=failure)


def failure(ledger: Ledger) -> Failure | None:
    return ledger.rows([FIRST])[FIRST].failure


@pytest.mark.parametrize("kind", CLASSES)
def test_the_class_of_a_failure_is_kept_until_it_is_retried(ledger: Ledger, kind: Failure) -> None:
    settle(ledger, "failed", kind)
    assert (ledger.rows([FIRST])[FIRST].state, failure(ledger)) == ("failed", kind)
    ledger.retry_failed(IDS[1:])
    assert failure(ledger) == kind
    ledger.retry_failed(IDS)
    assert failure(ledger) is None
    assert ledger.lease(IDS, "driver", "toy")


def test_trials_that_ran_out_of_memory_are_for_the_second_pass_alone(ledger: Ledger) -> None:
    settle(ledger, "pending", "out_of_memory")
    assert failure(ledger) == "out_of_memory"
    assert ledger.lease([FIRST], "driver", "toy") is None
    assert ledger.lease(IDS[1:], "driver", "toy", second_pass=True) is None
    row = ledger.lease(IDS, "driver", "toy", second_pass=True)
    assert row is not None
    assert (row.trial_id, row.failure) == (FIRST, "out_of_memory")


def test_the_second_pass_outlives_its_driver_and_a_lost_worker(ledger: Ledger) -> None:
    settle(ledger, "pending", "out_of_memory")
    with lapsing():
        assert ledger.lease([FIRST], "killed", "toy", second_pass=True)
    ledger.retry_failed(IDS)
    settle(ledger, "pending", second_pass=True)
    assert ledger.lease([FIRST], "driver", "toy") is None
    settle(ledger, "finished", second_pass=True)
    assert failure(ledger) is None


@pytest.mark.parametrize("state", ["finished", "diverged"])
def test_what_ends_well_after_all_is_no_failure(ledger: Ledger, state: State) -> None:
    settle(ledger, "pending", "out_of_memory")
    settle(ledger, state, second_pass=True)
    assert failure(ledger) is None


def test_the_class_that_a_lapsed_lease_tells_is_refused(ledger: Ledger) -> None:
    with lapsing():
        assert ledger.lease([FIRST], "driver", "toy")
    assert not ledger.settle(FIRST, "driver", "failed", "too late", failure="bug")
    assert failure(ledger) is None


def test_a_ledger_from_before_loses_nothing(ledger: Ledger, ledger_url: str) -> None:
    settle(ledger, "failed", "bug")
    before = ledger.rows(IDS)
    engine = sql.create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(sql.text("DROP TABLE failures"))
    engine.dispose()
    again = Ledger(ledger_url)
    row = again.rows(IDS)[FIRST]
    assert (row.state, row.cause, row.failure) == ("failed", "because", None)
    assert {id_: again.rows(IDS)[id_] for id_ in IDS[1:]} == {id_: before[id_] for id_ in IDS[1:]}
    again.retry_failed(IDS)
    settle(again, "failed", "lost_worker")
    assert failure(again) == "lost_worker"
    again.close()


def test_an_unknown_trial_is_refused_with_the_nearest(ledger: Ledger) -> None:
    assert ledger.find(FIRST) == ledger.rows(IDS)[FIRST]
    with pytest.raises(ConfigError, match=f"no trial .* Nearest: .*{FIRST}") as error:
        ledger.find(FIRST[:-1] + "-")
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="Nearest: none"):
        ledger.find("zzz")


class Office:
    """Courier and progress line in one: keeps what was sent and said."""

    def __init__(self) -> None:
        self.sent: list[Delivery] = []
        self.said: list[str] = []

    def send(self, delivery: Delivery) -> None:
        self.sent.append(delivery)

    def note(self, message: str) -> None:
        self.said.append(message)

    def show(self, _states: object) -> None: ...

    def at_once(self, _jobs: int) -> None: ...

    def started(self, _trial_id: str) -> None: ...

    def trained(self, _trial_id: str, _records: object) -> None: ...

    def ended(self, _trial_id: str, _state: str, _cause: str | None = None) -> None: ...


class Driver:
    """Searchers of one launch without Ray: ``ask`` is what Tune asks of them, ``tell`` what it tells them."""

    def __init__(self, ledger: Ledger, folder: Path, jobs: int = 2) -> None:
        self.office, self.ledger, self.jobs, self.folder = Office(), ledger, jobs, folder
        office: Any = self.office
        self.launch = Launch(StudySweep(STUDY, "toy", Results(folder), ledger, jobs, "cpu"), office, office)
        self.asked = 0
        self.searcher = self.searchers(second_pass=False)

    def searchers(self, second_pass: bool) -> LedgerSearcher:
        room = Room(self.launch.sweep, [Node("a", "a", cpus=self.jobs)], alone=second_pass)
        return LedgerSearcher(self.launch, list(IDS), room, Stop(self.launch, self.folder / "stop"), second_pass)

    def ask(self) -> str | None:
        """The id of the trial that is handed out, by which it is told of as well; None when there is none now."""
        self.asked += 1
        name = f"tune-{self.asked}"
        job = self.searcher.suggest(name)
        if not isinstance(job, dict):
            return job
        ours = Path(job["checkpoint"]).stem
        self.searcher._live[ours] = self.searcher._live.pop(name)
        return ours

    def tell(self, trial_id: str, outcome: str, cause: str | None = None) -> None:
        self.searcher.on_trial_result(
            trial_id, Report(make_records(names=("val/nll", "val/error", "epoch_seconds")), outcome, cause).encode()
        )
        self.searcher.on_trial_complete(trial_id, {})

    def row(self, trial_id: str) -> tuple[State, Failure | None, str | None]:
        row = self.ledger.rows([trial_id])[trial_id]
        return row.state, row.failure, row.cause


@pytest.fixture
def driver(ledger: Ledger, tmp_path: Path) -> Driver:
    return Driver(ledger, tmp_path)


def out_of_memory(driver: Driver) -> str:
    """The trial that ran out of memory in the first pass, at whose end the others are finished."""
    first = driver.ask()
    assert first is not None
    driver.tell(first, "out_of_memory", "out of memory on cpu")
    while (other := driver.ask()) in IDS:
        assert other is not None
        assert other != first
        driver.tell(other, "finished")
    assert other == "FINISHED"
    return first


def test_out_of_memory_comes_again_after_all_others(driver: Driver) -> None:
    first = out_of_memory(driver)
    assert driver.row(first) == ("pending", "out_of_memory", "out of memory on cpu")
    assert len(driver.office.said) == 1
    assert first in driver.office.said[0]
    assert [(delivery.trial.trial_id, delivery.state) for delivery in driver.office.sent[:2]] == [
        (first, "leased"),
        (first, "pending"),
    ]
    driver.searcher = driver.searchers(second_pass=True)
    assert driver.ask() == first
    driver.tell(first, "finished")
    assert driver.row(first) == ("finished", None, None)
    assert driver.ask() == "FINISHED"
    assert _left(driver.launch) == {}


def test_out_of_memory_again_is_a_failure(driver: Driver) -> None:
    first = out_of_memory(driver)
    driver.searcher = driver.searchers(second_pass=True)
    assert driver.ask() == first
    driver.tell(first, "out_of_memory", "still")
    assert driver.row(first) == ("failed", "out_of_memory", "still")
    assert driver.ask() == "FINISHED"
    assert driver.office.sent[-1].state == "failed"


def test_the_second_pass_is_one_trial_at_a_time(driver: Driver) -> None:
    for _ in range(2):
        trial_id = driver.ask()
        assert trial_id is not None
        driver.tell(trial_id, "out_of_memory")
    driver.searcher = driver.searchers(second_pass=True)
    first = driver.ask()
    assert first == IDS[0]
    assert driver.ask() is None
    driver.tell(first, "finished")
    assert driver.ask() == IDS[1]


def test_a_lost_worker_is_tried_three_times(driver: Driver) -> None:
    for number in (1, 2, 3):
        assert driver.row(FIRST)[0] == "pending", number
        assert driver.ask() == FIRST
        driver.searcher.on_trial_complete(FIRST, None, error=True)
    assert driver.row(FIRST) == ("failed", "lost_worker", "its worker process was lost 3 times")
    assert driver.ask() == IDS[1]


def test_a_trial_that_runs_is_not_leased_again_though_its_lease_has_lapsed(driver: Driver) -> None:
    """As when the machine slept: it would have two trainers."""
    with lapsing():
        assert driver.ask() == FIRST
    assert driver.row(FIRST)[0] == "pending"
    assert driver.ask() == IDS[1]
    assert driver.ask() is None, "two at a time"
    driver.tell(FIRST, "finished")
    assert driver.row(FIRST)[0] == "pending", "what comes after the lease is refused"
    assert driver.ask() == IDS[2]
    for trial_id in (IDS[1], IDS[2]):
        driver.tell(trial_id, "finished")
    assert driver.ask() == IDS[3]
    driver.tell(IDS[3], "finished")
    assert driver.ask() == "FINISHED"
    assert list(_left(driver.launch)) == [FIRST], "the next round takes it, from its last checkpoint"


def misplaced(driver: Driver, node: str) -> str:
    """A trial that such a node has refused."""
    trial_id = driver.ask()
    assert trial_id is not None
    driver.searcher.on_trial_result(trial_id, Report((), misplaced=node).encode())
    driver.searcher.on_trial_complete(trial_id, {})
    return trial_id


def test_a_node_that_does_not_see_the_results_gets_no_trial_any_more(driver: Driver) -> None:
    """It is no trial's fault: none fails of it, and it is told once."""
    nodes = [Node("good", "good (10.0.0.1)", 2), Node("blind", "blind (10.0.0.2)", 2)]
    driver.searcher._look = lambda: nodes
    for _ in range(LOST_WORKER_TRIES + 1):
        assert driver.row(misplaced(driver, "blind")) == ("pending", None, None)
    [note] = driver.office.said
    assert note.startswith(f"node blind (10.0.0.2) does not see {driver.folder}, and gets no trials: RESULTS")
    sent = driver.searcher.suggest("next")
    assert isinstance(sent, dict)
    assert sent["shunned"] == "blind"
    driver.searcher.on_trial_result("next", Report((), misplaced="blind").encode())
    nodes.pop(0)
    with pytest.raises(ConfigError, match="no node sees "):
        driver.ask()


def test_trials_follow_the_nodes_that_there_are(ledger: Ledger, tmp_path: Path) -> None:
    driver = Driver(ledger, tmp_path, jobs=3)
    nodes = [Node("a", "a", 1)]
    driver.searcher._look = lambda: nodes
    assert driver.ask() in IDS
    assert driver.ask() is None, "one core"
    nodes.append(Node("b", "b", 9))
    driver.searcher._looked -= LOOK_EVERY_SECONDS + 1
    assert [driver.ask() in IDS for _ in range(2)] == [True, True]
    assert driver.ask() is None, "no more than --jobs"


def test_a_bug_is_a_failure_and_the_study_goes_on(driver: Driver) -> None:
    assert driver.ask() == FIRST
    driver.tell(FIRST, "failed", "Traceback\nValueError: no")
    assert driver.row(FIRST) == ("failed", "bug", "Traceback\nValueError: no")
    assert driver.ask() == IDS[1]


def test_a_divergence_is_no_failure_and_stays(driver: Driver) -> None:
    assert driver.ask() == FIRST
    driver.tell(FIRST, "diverged", "val/nll is nan")
    driver.ledger.retry_failed(IDS)
    assert driver.row(FIRST) == ("diverged", None, "val/nll is nan")
    assert driver.ask() == IDS[1]


@pytest.mark.parametrize("others", ["pending", "leased", "over"])
def test_the_passes_follow_each_other(driver: Driver, monkeypatch: pytest.MonkeyPatch, others: str) -> None:
    """With what ``run_to_the_end`` starts in place of Ray: second passes only when nothing else is left anywhere."""
    from sweeps import launch as module

    first, ledger = STUDY.trials[0].trial_id, driver.ledger
    assert ledger.lease([first], "d", "toy")
    assert ledger.settle(first, "d", "pending", "because", failure="out_of_memory")
    for trial_id in IDS[1:] if others != "pending" else []:
        assert ledger.lease([trial_id], "another", "toy")
        assert others == "leased" or ledger.settle(trial_id, "another", "finished")
    stop, passes = Stop(driver.launch, driver.folder / "stop"), []

    def fit(_launch: Launch, _ids: list[str], stop: Stop, second_pass: bool = False) -> None:
        passes.append(second_pass)
        while row := ledger.lease(IDS, "me", "toy", second_pass):
            assert ledger.settle(row.trial_id, "me", "finished")

    def wait(_seconds: float) -> bool:
        assert not passes
        return all(ledger.settle(trial_id, "another", "finished") for trial_id in IDS[1:])

    monkeypatch.setattr(module, "_fit", fit)
    monkeypatch.setattr(module, "_stoppable_ray", lambda _launch: _Entered(stop))
    monkeypatch.setattr(stop.event, "wait", wait)
    assert module.run_to_the_end(driver.launch)
    assert passes == {"pending": [False, True], "leased": [True], "over": [True]}[others]


class _Entered:
    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def __enter__(self) -> Stop:
        return self.stop

    def __exit__(self, *_: object) -> None: ...

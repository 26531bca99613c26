"""How records reach MLflow, and what is made good after a driver died."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as NoConnection
from sqlalchemy.exc import OperationalError

from search_spaces.study import Study
from sweeps import ledger as ledger_module
from sweeps.ledger import Ledger, State
from sweeps.tracking.delivery import Courier, Heartbeat, deliver_missing
from sweeps.tracking.tracker import Delivery, Tracker
from tests.sweeps.conftest import Desk, lapsing, make_records, make_study, make_trial, wait_for
from trainer.config import TrialConfig
from trainer.declaration import ConfigError

STUDY = make_study()
TRIAL = STUDY.trials[0]
RECORDS = make_records()
BUSY = OperationalError("UPDATE trials", {}, Exception("database is locked"))
CourierOf = Callable[..., Courier]
OUTAGES = [MlflowException("API request failed\nwith 503"), NoConnection("refused"), BUSY, OSError("no route to host")]


def deliveries(number: int) -> list[Delivery]:
    return [Delivery(make_trial(seed), "finished", RECORDS) for seed in range(number)]


class FakeTracker(Tracker):
    """Keeps what it is given; raises the errors it is told to first; blocks while ``door`` is shut."""

    def __init__(self, *errors: Exception) -> None:
        self.written: list[Delivery] = []
        self.errors = list(errors)
        self.door = threading.Event()
        self.door.set()

    def write(self, delivery: Delivery) -> None:
        self.door.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.written.append(delivery)


class DeadTracker(FakeTracker):
    def write(self, delivery: Delivery) -> None:
        raise OSError("no route to host")


@pytest.fixture
def courier_of() -> Iterator[CourierOf]:
    """Makes couriers, and ends them after the test."""
    made: list[Courier] = []

    def make(tracker: Tracker, said: list[str] | None = None) -> Courier:
        warnings: list[str] = [] if said is None else said
        made.append(Courier(tracker, warn=warnings.append))
        return made[-1]

    yield make
    for courier in made:
        courier.close(0)


def test_deliveries_arrive_in_order(courier_of: CourierOf) -> None:
    said: list[str] = []
    tracker, sent = FakeTracker(), deliveries(20)
    courier = courier_of(tracker, said)
    for delivery in sent:
        courier.send(delivery)
    assert courier.close(10.0) == 0
    assert tracker.written == sent
    assert said == []


def test_sending_does_not_wait_for_mlflow(courier_of: CourierOf) -> None:
    tracker, sent = FakeTracker(), deliveries(3)
    tracker.door.clear()
    courier = courier_of(tracker)
    for delivery in sent:
        courier.send(delivery)
    assert tracker.written == []
    tracker.door.set()
    assert courier.close(10.0) == 0
    assert tracker.written == sent


def test_an_outage_is_told_once_and_loses_nothing(courier_of: CourierOf) -> None:
    sent = deliveries(3)
    rows = [([outage], FakeTracker(outage)) for outage in OUTAGES]
    rows.append((OUTAGES[:2], FakeTracker(*OUTAGES[:2])))
    said: list[list[str]] = [[] for _ in rows]
    couriers = [courier_of(tracker, told) for (_, tracker), told in zip(rows, said, strict=True)]
    for courier in couriers:  # side by side, for each pauses before it tries again
        for delivery in sent:
            courier.send(delivery)
    assert [courier.close(10.0) for courier in couriers] == [0] * len(rows)
    for (outages, tracker), told in zip(rows, said, strict=True):
        assert tracker.written == sent
        assert len(told) == 1
        assert str(outages[0]).splitlines()[0] in told[0]
        assert "\n" not in told[0]


def test_what_a_dead_server_did_not_take_is_counted(courier_of: CourierOf) -> None:
    courier = courier_of(DeadTracker())
    courier.send(Delivery(make_trial(seed=9), "leased", RECORDS))  # its outcome is still to come
    for delivery in deliveries(3):
        courier.send(delivery)
    assert courier.close(0.2) == 3


def test_what_a_hanging_server_did_not_take_is_counted(courier_of: CourierOf) -> None:
    tracker = FakeTracker()
    tracker.door.clear()
    courier = courier_of(tracker)
    for delivery in deliveries(3):
        courier.send(delivery)
    try:
        assert courier.close(0.1) == 3
    finally:
        tracker.door.set()


def test_a_heartbeat_keeps_a_lease_alive_until_it_is_closed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LEASE_SECONDS", 0.8)
    desk.ledger.declare("toy", STUDY.trials)
    row = desk.ledger.lease([TRIAL.trial_id], "driver", "toy")
    other = desk.ledger.lease([STUDY.trials[1].trial_id], "another", "toy")
    assert row is not None
    assert other is not None
    heartbeat = Heartbeat(desk.ledger, "driver", every=0.05)
    wait_for(lambda: not desk.ledger.holds(other.trial_id, "another"))  # so the first lease too is past its time
    assert desk.ledger.holds(row.trial_id, "driver")
    heartbeat.close()
    wait_for(lambda: not desk.ledger.holds(row.trial_id, "driver"))


def test_a_heartbeat_outlives_a_busy_ledger(desk: Desk) -> None:
    beats: list[str] = []

    class Busy(Ledger):
        def renew(self, owner: str) -> None:
            beats.append(owner)
            if len(beats) <= 2:
                raise BUSY

    busy = Busy(desk.results.ledger_url)
    heartbeat = Heartbeat(busy, "driver", every=0.01)
    wait_for(lambda: len(beats) > 3)
    heartbeat.close()
    busy.close()
    assert set(beats) == {"driver"}


def missing(desk: Desk, study: Study = STUDY) -> list[str]:
    """What the next driver of the study does; the ids it cannot deliver."""
    tracker = desk.tracker(study)
    rows = desk.ledger.rows([trial.trial_id for trial in study.trials])
    return deliver_missing(study, rows, tracker, desk.results).gone


def statuses(desk: Desk, study: str = "toy") -> dict[str, str]:
    """Of trials, by id."""
    runs = desk.runs(study)
    return {run.data.tags["key"]: run.info.status for run in runs if run.data.tags.get("kind") == "trial"}


def test_with_nothing_missing_nothing_is_written(desk: Desk) -> None:
    assert missing(desk) == []
    assert statuses(desk) == {}


@pytest.mark.parametrize("begun", [True, False])
def test_a_finished_trial_is_delivered_after_its_driver_died(desk: Desk, begun: bool) -> None:
    if begun:
        desk.tracker(STUDY).write(Delivery(TRIAL, "leased", RECORDS[:1]))
    desk.settle(STUDY, TRIAL, "finished")
    desk.save(TRIAL, RECORDS)
    assert missing(desk) == []
    run = desk.run("toy", TRIAL.trial_id)
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
    for name in ("val/error", "val/nll"):
        expected = [(record.epoch, record.timestamp, record.metrics[name]) for record in RECORDS]
        assert desk.history(run, name) == expected
        assert run.data.metrics[f"final/{name}"] == expected[-1][2]


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_so_is_one_that_did_not_end_well(desk: Desk, state: State) -> None:
    desk.settle(STUDY, TRIAL, state, "val/nll is nan")
    desk.save(TRIAL, RECORDS[:2])
    assert missing(desk) == []
    run = desk.run("toy", TRIAL.trial_id)
    assert (run.info.status, run.data.tags["outcome"]) == ("FAILED", state)
    assert run.data.tags["cause"] == "val/nll is nan"
    assert [step for step, _, _ in desk.history(run, "val/nll")] == [1, 2]


def test_one_that_failed_before_its_first_checkpoint_is_shown(desk: Desk) -> None:
    desk.settle(STUDY, TRIAL, "failed", "no such data set")
    assert missing(desk) == []
    assert desk.run("toy", TRIAL.trial_id).data.tags["cause"] == "no such data set"


def killed(desk: Desk, *trials: TrialConfig) -> None:
    """A driver began these and was killed; its leases have lapsed since."""
    tracker = desk.tracker(STUDY)
    with lapsing():
        for trial in trials:
            assert desk.ledger.lease([trial.trial_id], "killed", "toy")
            tracker.write(Delivery(trial, "leased", RECORDS[:1]))


def test_a_run_whose_driver_was_killed_does_not_stay_running(desk: Desk) -> None:
    killed(desk, TRIAL)
    desk.save(TRIAL, RECORDS[:2])
    assert statuses(desk) == {TRIAL.trial_id: "RUNNING"}
    assert missing(desk) == []
    run = desk.run("toy", TRIAL.trial_id)
    assert run.info.status == "KILLED"
    assert [step for step, _, _ in desk.history(run, "val/nll")] == [1, 2]


def test_a_run_that_another_driver_is_at_is_left_to_it(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "leased", RECORDS[:1]))
    assert desk.ledger.lease([TRIAL.trial_id], "another", "toy")
    desk.save(TRIAL, RECORDS[:2])
    assert missing(desk) == []
    run = desk.run("toy", TRIAL.trial_id)
    assert run.info.status == "RUNNING"
    assert [step for step, _, _ in desk.history(run, "val/nll")] == [1]


def test_a_finished_trial_whose_records_are_gone_is_named(desk: Desk) -> None:
    desk.settle(STUDY, TRIAL, "finished")
    desk.settle(STUDY, STUDY.trials[1], "finished")
    desk.save(STUDY.trials[1], RECORDS)
    assert missing(desk) == [TRIAL.trial_id]
    assert statuses(desk) == {STUDY.trials[1].trial_id: "FINISHED"}


def test_a_run_without_its_records_is_never_shown_as_finished_or_running(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "leased", RECORDS[:1]))
    desk.settle(STUDY, TRIAL, "finished")
    assert missing(desk) == [TRIAL.trial_id]
    assert statuses(desk)[TRIAL.trial_id] not in ("FINISHED", "RUNNING")


def test_another_trials_checkpoint_is_refused(desk: Desk) -> None:
    desk.settle(STUDY, TRIAL, "finished")
    desk.save(STUDY.trials[1], RECORDS)
    desk.results.checkpoint(STUDY.trials[1].trial_id).rename(desk.results.checkpoint(TRIAL.trial_id))
    with pytest.raises(ConfigError, match=STUDY.trials[1].trial_id):
        missing(desk)


def test_delivering_what_is_missing_twice_changes_nothing(desk: Desk) -> None:
    desk.settle(STUDY, TRIAL, "finished")
    desk.save(TRIAL, RECORDS)
    missing(desk)
    before = desk.run("toy", TRIAL.trial_id).to_dictionary()
    desk.results.checkpoint(TRIAL.trial_id).unlink()  # nor is it looked for: the run is complete
    assert missing(desk) == []
    assert desk.run("toy", TRIAL.trial_id).to_dictionary() == before


NEW = make_trial(seed=7)
LATER = Study(name="later", question="And now?", trials=(TRIAL, STUDY.trials[1], NEW))


def copies(desk: Desk) -> set[str]:
    return {run.data.tags["key"] for run in desk.runs("later") if "copy_of" in run.data.tags}


def test_trials_that_another_study_trained_are_copied(desk: Desk) -> None:
    desk.settle(STUDY, TRIAL, "finished")
    desk.save(TRIAL, RECORDS)
    missing(desk)
    desk.settle(LATER, NEW, "finished")
    desk.save(NEW, RECORDS)
    assert missing(desk, LATER) == []
    assert statuses(desk, "later") == {TRIAL.trial_id: "FINISHED", NEW.trial_id: "FINISHED"}
    assert copies(desk) == {TRIAL.trial_id}
    assert statuses(desk, "toy") == {TRIAL.trial_id: "FINISHED"}


def test_a_store_without_the_original_gets_the_trial_from_its_checkpoint(desk: Desk) -> None:
    desk.settle(STUDY, TRIAL, "finished")
    assert missing(desk, LATER) == [TRIAL.trial_id]
    desk.save(TRIAL, RECORDS)
    for _ in range(3):
        assert missing(desk, LATER) == []
        run = desk.run("later", TRIAL.trial_id)
        assert (run.info.status, run.data.tags["outcome"], copies(desk)) == ("FINISHED", "finished", set())
        assert [step for step, _, _ in desk.history(run, "val/nll")] == [1, 2, 3]


def test_a_trial_begun_here_and_finished_by_another_study_becomes_a_copy(desk: Desk) -> None:
    killed(desk, TRIAL)
    desk.settle(LATER, TRIAL, "finished")
    desk.save(TRIAL, RECORDS)
    assert missing(desk, LATER) == []
    for _ in range(2):
        assert missing(desk) == []
        run = desk.run("toy", TRIAL.trial_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["copy_of"] == desk.run("later", TRIAL.trial_id).info.run_id
        assert run.data.metrics["final/val/nll"] == RECORDS[-1].metrics["val/nll"]


def test_a_trial_begun_here_and_lost_by_another_study_is_named_once(desk: Desk) -> None:
    killed(desk, TRIAL)
    desk.settle(LATER, TRIAL, "finished")
    for _ in range(2):
        assert missing(desk) == [TRIAL.trial_id]
        assert statuses(desk)[TRIAL.trial_id] == "KILLED"


def test_a_run_does_not_stay_running_when_another_study_trained_on_and_failed(desk: Desk) -> None:
    killed(desk, TRIAL)
    desk.settle(LATER, TRIAL, "diverged", "val/nll is nan")
    missing(desk)
    assert statuses(desk)[TRIAL.trial_id] != "RUNNING"

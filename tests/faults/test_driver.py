"""Drivers that are killed, interrupted or doubled, and trials whose process is lost: the study ends as without."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from random import Random

import psutil
import pytest

from sweeps.ledger import LEASE_SECONDS, LedgerRow
from sweeps.sweep import INTERRUPTED
from tests.faults.harness import (
    PAUSE,
    STORE_EVERY,
    TRACE,
    Numbers,
    Workplace,
    assert_equals_undisturbed,
    driver_of,
    forward_passes,
    processes,
    turns,
)
from tests.sweeps.test_children import is_gone
from trainer.config import TrialConfig

SEED = "SWEEPS_TEST_SEED"
"""The seed of the random moments, to have a failure again."""
KILLS = 10
GRACE_SECONDS = 5.0
KILLED = 128 + signal.SIGKILL  # what the shell makes of it

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def traced(place: Workplace) -> None:
    place.variables[TRACE] = str(place.folder / "trace")


def held_by(place: Workplace, driver: psutil.Process) -> list[LedgerRow]:
    """The trials that this driver has a lease on, be it alive or not."""
    rows = [row for row in place.rows().values() if row.state == "leased" and row.owner]
    return [row for row in rows if str(driver.pid) in str(row.owner).split(":")]


def assert_one_trainer_at_a_time(place: Workplace) -> None:
    for trial_id, pids in place.trace().items():
        assert len(turns(pids)) == len(set(pids)), (trial_id, turns(pids))


def moments(random: Random) -> list[tuple[str, float]]:
    """When to kill: so many seconds after a driver's start, while Ray starts, or after its first training step."""
    while_starting = [("start", random.uniform(0, 6)) for _ in range(3)]
    while_training = [("first step", (part + random.random()) * 4 / 7) for part in range(7)]
    return random.sample(while_starting + while_training, KILLS)


def test_killed_ten_times_at_random_moments(place: Workplace, undisturbed: Numbers) -> None:
    seed = int(os.environ.get(SEED) or secrets.randbelow(10**6))
    print(f"{SEED}={seed}")
    for since, seconds in moments(Random(seed)):
        steps = passes_traced(place)
        process = place.run(**{PAUSE: "0.02"})
        if since == "first step":
            place.wait_until(partial(has_traced_more_than, place, steps))
        time.sleep(seconds)
        driver_of(process).kill()
        assert process.wait(timeout=10) == KILLED, f"ended before it was killed: {place.printed}"
        print(f"killed {seconds:.2f} s after its {since}; {place.states()['finished']} trials finished")
    assert 0 < place.states()["finished"] < len(place.study.trials)
    place.finish()
    assert_equals_undisturbed(place, undisturbed)
    assert_one_trainer_at_a_time(place)


def passes_traced(place: Workplace) -> int:
    return sum(map(len, place.trace().values()))


def has_traced_more_than(place: Workplace, passes: int) -> bool:
    return passes_traced(place) > passes


def test_a_trial_whose_process_is_lost_goes_on_and_fails_the_third_time(place: Workplace, undisturbed: Numbers) -> None:
    thrice, once = place.study.trials[:2]
    process = place.run("--jobs", "1", "--seeds", "1", **{PAUSE: "0.03"})
    for trial, life in ((thrice, 1), (thrice, 2), (thrice, 3), (once, 1)):
        kill_trainer(place, trial, life)
    assert process.wait(timeout=60) == 1, place.printed
    row = place.rows()[thrice.trial_id]
    assert (row.state, row.failure, row.cause) == ("failed", "lost_worker", "its worker process was lost 3 times")
    trace = place.trace()
    assert len(turns(trace[once.trial_id])) == 2
    assert len(trace[once.trial_id]) < forward_passes(once) + forward_passes(once, 3), "not from its checkpoint"
    assert place.start("status", str(place.file)).wait(timeout=60) == 0
    assert "lost worker (1 trial): its worker process was lost 3 times" in place.printed
    place.finish()
    assert_equals_undisturbed(place, undisturbed)
    assert_one_trainer_at_a_time(place)


def kill_trainer(place: Workplace, trial: TrialConfig, life: int) -> None:
    """Kill the process that trains this trial, the ``life``-th that does, when it has trained three epochs more."""

    def trained() -> list[int]:
        pids = place.trace()[trial.trial_id]
        return pids if len(turns(pids)) == life and pids.count(pids[-1]) >= forward_passes(trial, 3) else []

    place.wait_until(lambda: bool(trained()))
    os.kill(trained()[-1], signal.SIGKILL)


def test_of_two_drivers_one_goes_on_for_both(place: Workplace, undisturbed: Numbers) -> None:
    process, other = (place.run("--jobs", "1", **{PAUSE: "0.015"}) for _ in range(2))
    driver = driver_of(process)
    place.wait_until(lambda: is_in_the_middle_of_its_third_trial(place, driver))
    children = driver.children(recursive=True)
    driver.kill()
    assert process.wait(timeout=10) == KILLED, place.printed
    [held] = held_by(place, driver)
    place.wait_until(lambda: all(map(is_gone, children)), seconds=LEASE_SECONDS)
    assert held_by(place, driver) == [held], "while something of a driver lives nobody else may take its trials"
    assert other.wait(timeout=120) == 0, place.printed
    assert_equals_undisturbed(place, undisturbed)
    trace, ours = place.trace(), {child.pid for child in children}
    before, after = turns(trace[held.trial_id])
    assert before in ours
    assert after not in ours
    others = [trial for trial in place.study.trials if trial.trial_id != held.trial_id]
    assert {trial.trial_id: len(trace[trial.trial_id]) for trial in others} == {
        trial.trial_id: forward_passes(trial) for trial in others
    }, "each is trained once in all"
    assert len({pid for trial in others for pid in trace[trial.trial_id]}) == 2


def test_a_driver_with_nothing_left_waits_for_a_trial_that_takes_longer_than_a_lease(place: Workplace) -> None:
    pause = 1.2 * LEASE_SECONDS / max(map(forward_passes, place.study.trials))
    drivers = [place.run("--jobs", "1", "--seeds", "1", **{PAUSE: str(pause)}) for _ in range(2)]
    assert [driver.wait(timeout=90) for driver in drivers] == [0, 0], place.printed
    trace = place.trace()
    for trial in place.study.trials[:2]:
        assert len(trace[trial.trial_id]) == forward_passes(trial)
    assert_one_trainer_at_a_time(place)


def is_in_the_middle_of_its_third_trial(place: Workplace, driver: psutil.Process) -> bool:
    pids, trace = {child.pid for child in driver.children(recursive=True)}, place.trace()
    begun = [trial for trial in place.study.trials if set(trace[trial.trial_id]) & pids]
    trained = [len(trace[trial.trial_id]) / forward_passes(trial) for trial in begun]
    return len(begun) >= 3 and any(0.2 < part < 0.6 for part in trained)


@pytest.mark.parametrize("whole_group", [True, False])
def test_terminated_it_keeps_all_but_the_epochs_under_way(
    place: Workplace, undisturbed: Numbers, whole_group: bool
) -> None:
    """As batch schedulers do it: SIGTERM, and 5 s later SIGKILL. No checkpoint is due in the meantime."""
    process = place.run(**{PAUSE: "0.05", STORE_EVERY: "1000"})
    driver = driver_of(process)
    place.wait_until(lambda: two_are_well_under_way(place))
    os.killpg(process.pid, signal.SIGTERM) if whole_group else driver.terminate()
    assert code_after_grace(process) == INTERRUPTED, place.printed
    assert "To go on: make sweep" in place.printed
    assert place.states()["leased"] == 0
    assert Counter(run.info.status for run in place.trial_runs()) == {"KILLED": 2}
    place.finish()
    assert_equals_undisturbed(place, undisturbed)
    trace = place.trace()
    again = {trial: len(trace[trial.trial_id]) - forward_passes(trial) for trial in place.study.trials}
    assert all(0 <= passes <= forward_passes(trial, 1) for trial, passes in again.items()), again.values()
    assert_one_trainer_at_a_time(place)


def test_terminated_with_all_that_it_has_started_it_goes_on_from_checkpoints(
    place: Workplace, undisturbed: Numbers
) -> None:
    """As batch schedulers do it that know every process of a job: Ray cannot tell the trials to stop any more."""
    process = place.run(**{PAUSE: "0.05"})
    place.wait_until(lambda: two_are_well_under_way(place))
    for each in processes(place):
        with contextlib.suppress(psutil.Error):  # it may have ended with another
            each.terminate()
    assert code_after_grace(process) in (-signal.SIGKILL, INTERRUPTED), place.printed
    assert "Traceback" not in place.printed
    place.finish()
    assert_equals_undisturbed(place, undisturbed)
    trained_twice = passes_traced(place) - sum(map(forward_passes, place.study.trials))
    assert trained_twice < 80, "not from their checkpoints: each had trained more than 40"
    assert_one_trainer_at_a_time(place)


def two_are_well_under_way(place: Workplace) -> bool:
    return sum(len(pids) > 40 for pids in place.trace().values()) == 2


def code_after_grace(process: subprocess.Popen[bytes]) -> int:
    """How it ends within the time that it is given, for then it is killed with all of its group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()

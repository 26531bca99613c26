"""Whole sweeps with real processes: Ray, the ledger and MLflow. What breaks them worse is in ``tests.faults``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.harness import (
    NETWORK_FILE,
    PAUSE,
    Workplace,
    assert_equals_undisturbed,
    driver_of,
    study_file,
    undisturbed_numbers,
    workplace_in,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """Six trials."""
    with workplace_in(tmp_path, study_file(seeds=3, epochs=10), paced=NETWORK_FILE) as place:
        yield place


def groups_of_children(process: subprocess.Popen[bytes]) -> set[int]:
    """The process groups of all that the driver has started, workers and daemons of Ray alike.

    But for Python's tracker of what processes share, which a look at one's own network leaves: it is deaf to signals
    for the group, and ends with its pipe to the driver, at once.
    """
    groups = set()
    for child in driver_of(process).children(recursive=True):
        with contextlib.suppress(ProcessLookupError, psutil.Error):  # an agent may end just now
            if "resource_tracker" not in " ".join(child.cmdline()):
                groups.add(os.getpgid(child.pid))
    return groups


def test_killed_it_goes_on_to_the_same_table(place: Workplace) -> None:
    process = place.run(**{PAUSE: "0.02"})
    place.wait_until_finished(2)
    groups = groups_of_children(process)
    assert len(groups) == 1, "a worker in another group outlives its driver until it notices"
    assert not groups & {process.pid}, "Ctrl-C would reach it before the driver can tell it to save"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert place.states()["finished"] < 6
    place.finish()
    assert_equals_undisturbed(place, undisturbed_numbers(place.study, place.folder))
    assert place.finish() == "faults: 6 of 6 already finished\n"


def test_interrupted_it_says_how_to_go_on_and_leaves_no_run_running(place: Workplace) -> None:
    process = place.run(**{PAUSE: "0.02"})
    place.wait_until_finished(1)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=30)
    assert f"To go on: make sweep STUDY={place.file}" in place.printed
    assert "Traceback" not in place.printed
    assert place.states()["leased"] == 0
    assert {run.info.status for run in place.trial_runs()} <= {"FINISHED", "KILLED"}
    place.finish()
    assert_equals_undisturbed(place, undisturbed_numbers(place.study, place.folder))


OWN_NETWORK_FILE = """
from torch import nn


def make(shape, classes, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], width), nn.ReLU(), nn.Linear(width, classes))
"""
OWN_NETWORK_STUDY = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Custom, Erm

NETWORK = Custom("my_network:make", arguments={"width": 8})
STUDY = Study(
    name="own-network",
    question="Is a network beside the study's file found by the workers?",
    trials=[replace(recipes.digits_mlp(Erm(), 0), model=NETWORK, epochs=2, lr_milestones=())],
)
"""


def test_workers_find_a_network_beside_the_studys_file(tmp_path: Path) -> None:
    with workplace_in(tmp_path, OWN_NETWORK_STUDY, my_network=OWN_NETWORK_FILE) as place:
        place.finish()
        assert place.states() == {"finished": 1}

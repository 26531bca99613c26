"""A Ray that the user has started: a sweep joins it, leaves it when told to, and survives the loss of a node."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import time
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.children import children_join, group_that_ends_with_us
from sweeps.cluster.connection import private_folder  # before Ray, for which it sets a token
from sweeps.sweep import ADDRESS_VARIABLE, INTERRUPTED
from tests.docker.servers import free_ports
from tests.faults.harness import (
    NETWORK_FILE,
    PAUSE,
    TRACE,
    Numbers,
    Workplace,
    assert_equals_undisturbed,
    forward_passes,
    study_file,
    turns,
    undisturbed_numbers,
    workplace_in,
)
from trainer.config import TrialConfig

# isort: split
import ray.cluster_utils

pytestmark = pytest.mark.faults

EPOCHS = 10


class Nodes:
    """A Ray of one node, with so many cores, to which others can be added. Their processes are in ``group``."""

    def __init__(self, group: int, folder: Path, cpus: int = 1) -> None:
        self._group = group
        self._cluster = ray.cluster_utils.Cluster(shutdown_at_exit=False)
        (port,) = free_ports(1)  # Ray looks whether it is free although there is no dashboard
        (folder / "ray").mkdir()
        with unittest.mock.patch.dict(os.environ, RAY_TMPDIR=str(folder)):  # where it notes what auto means
            self._head = self.add(cpus, include_dashboard=False, dashboard_port=port, temp_dir=str(folder))
        self.address = str(self._cluster.address)

    def add(self, num_cpus: int = 1, **settings: Any) -> psutil.Process:
        """One more node: its raylet, whose children train."""
        with children_join(self._group):
            node = self._cluster.add_node(num_cpus=num_cpus, object_store_memory=80 * 2**20, **settings)
        return psutil.Process(node.all_processes["raylet"][0].process.pid)

    def is_up(self) -> bool:
        """Whether the first node still runs."""
        return self._head.is_running() and self._head.status() != psutil.STATUS_ZOMBIE

    def reap(self) -> None:
        """Once all processes of the group were killed."""
        self._cluster.global_state.disconnect()  # type: ignore[no-untyped-call]
        for node in self._cluster.list_all_nodes():  # type: ignore[no-untyped-call]
            for started in itertools.chain(*node.all_processes.values()):
                started.process.wait(timeout=10)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """Eight trials of 80 forward passes (ERM) or 160 (AMP)."""
    with workplace_in(tmp_path, study_file(seeds=4, epochs=EPOCHS), paced=NETWORK_FILE) as place:
        place.variables[TRACE] = str(place.folder / "trace")
        yield place


@pytest.fixture
def undisturbed(place: Workplace) -> Numbers:
    """To be asked for before ``nodes``, whose environment paces the network in this process as well."""
    return undisturbed_numbers(place.study, place.folder)


@pytest.fixture
def nodes(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Its workers pace the study's network: they have their environment from it, not from a driver."""
    for name, value in place.environment(**{PAUSE: "0.02"}).items():
        monkeypatch.setenv(name, value)
    with private_folder() as folder, contextlib.ExitStack() as stack, group_that_ends_with_us(folder) as group:
        nodes = Nodes(group, folder)
        stack.callback(nodes.reap)
        place.variables[ADDRESS_VARIABLE] = nodes.address
        yield nodes


def in_the_middle(place: Workplace, raylet: psutil.Process) -> TrialConfig | None:
    """A trial that it has not yet brought to its end, but to a checkpoint, if there is one."""
    return place.in_the_middle({child.pid for child in raylet.children(recursive=True)})


def kill_node(raylet: psutil.Process) -> None:
    """As when its machine loses power: nothing on it lives on, not even to say so."""
    raylet.suspend()
    for process in [*raylet.children(recursive=True), raylet]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_a_node_is_lost(place: Workplace, undisturbed: Numbers, nodes: Nodes) -> None:
    second = nodes.add()
    process = place.run()
    place.wait_until(lambda: in_the_middle(place, second) is not None)
    lost = in_the_middle(place, second)
    assert lost is not None
    kill_node(second)
    before = len(place.trace()[lost.trial_id])
    assert before < forward_passes(lost)
    assert process.wait(timeout=100) == 0, place.printed
    assert_equals_undisturbed(place, undisturbed)
    pids = place.trace()[lost.trial_id]
    assert len(turns(pids)) == 2
    assert len(pids) - before < forward_passes(lost), "it did not go on from its checkpoint"


def test_a_ray_is_joined_and_left(place: Workplace, nodes: Nodes) -> None:
    """With a wrong token not at all; by SIGTERM with its trials given back."""
    wrong = place.run(RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert wrong.wait(timeout=60) == 2, place.printed
    [told] = [line for line in place.printed.splitlines() if line.startswith("error: ")]
    assert "cannot join this Ray" in told
    assert "is RAY_AUTH_TOKEN its token?" in told
    process = place.run("--address", nodes.address, **{ADDRESS_VARIABLE: "local"})
    place.wait_until(lambda: any(place.trace().values()))
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == INTERRUPTED, place.printed
    assert place.states() == {"pending": len(place.study.trials)}, "its trial was not stopped, but trained to its end"
    traced = place.trace()
    time.sleep(1)
    assert place.trace() == traced, "its trials train on"
    assert nodes.is_up()

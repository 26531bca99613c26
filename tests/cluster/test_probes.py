"""Probes are measured by the nodes of a Ray that was joined, whatever becomes of one; the driver's has no core."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sweeps.children import group_that_ends_with_us
from sweeps.cluster.connection import private_folder  # before Ray, for which it sets a token
from sweeps.sweep import ADDRESS_VARIABLE, INTERRUPTED
from tests.faults.harness import Workplace, workplace_in
from tests.faults.test_node import Nodes, kill_node
from trainer.machine import Machine
from trainer.measurement import load_measurement
from trainer.probes.measure import measure
from trainer.trained import load_trained

pytestmark = pytest.mark.cluster

PAUSE, TRACE, DEADLY = "SWEEPS_TEST_PROBE_PAUSE", "SWEEPS_TEST_PROBE_TRACE", "SWEEPS_TEST_PROBE_DEADLY"
NETWORK = f"""
import os
import time

import torch
from torch import nn


class Watched(nn.Sequential):
    def forward(self, images):
        file = os.environ.get("{TRACE}")
        if file and not self.training and torch.is_grad_enabled():  # as neither training nor evaluation is
            time.sleep(float(os.environ["{PAUSE}"]))
            with open(file, "a") as trace:
                trace.write(f"{{os.getpid()}}\\n")
            if len(self) == 3 and os.path.exists(os.environ["{DEADLY}"]):
                os._exit(1)
        return super().forward(images)


def make(shape, classes, layers):
    more = [nn.Identity()] if layers == 3 else []
    return Watched(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes), *more)
"""
STUDY = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Custom, Erm
from trainer.probe_config import Calibration, Sharpness

TRIALS = [
    replace(
        recipes.digits_mlp(Erm(), seed),
        model=Custom("watched:make", arguments={"layers": 3 if seed == 5 else 2}),
        epochs=2,
        lr_milestones=(),
    )
    for seed in range(6)
]
STUDY = Study(name="probed", question="?", trials=TRIALS, probes=[Sharpness(radii=(0.1, 0.2)), Calibration()])
"""


@dataclass(frozen=True)
class Ward:
    """A study at a Ray of three nodes: the driver's, without a core, and two with one each."""

    place: Workplace
    nodes: Nodes
    workers: list[psutil.Process]

    def pids(self) -> list[int]:
        """The processes that measure, a line for each look at the network."""
        file = self.place.folder / "trace"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def at_work(self) -> psutil.Process | None:
        """A node on which something is being measured, if any."""
        seen = self.pids()[-1:]
        return next((node for node in self.workers if seen and seen[0] in descendants(node)), None)


def descendants(node: psutil.Process) -> set[int]:
    try:
        return {child.pid for child in node.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    with workplace_in(tmp_path, STUDY, watched=NETWORK) as place:
        place.variables[DEADLY] = str(place.folder / "deadly")
        traced = {TRACE: str(place.folder / "trace"), PAUSE: "0.15"}
        for name, value in place.environment(**traced).items():
            monkeypatch.setenv(name, value)
        with private_folder() as folder, contextlib.ExitStack() as stack, group_that_ends_with_us(folder) as group:
            nodes = Nodes(group, folder, cpus=0)
            stack.callback(nodes.reap)
            place.variables[ADDRESS_VARIABLE] = nodes.address
            yield Ward(place, nodes, [nodes.add(), nodes.add()])
        for name in traced:
            monkeypatch.delenv(name, raising=False)


def assert_measured(place: Workplace, but_for: int = 0) -> None:
    """All that is stored is what this process measures; all is, but for so many of the last trials."""
    machine = Machine(data_dir=place.results.data, code_dir=place.folder)
    by_id = {run.data.tags["key"]: run for run in place.trial_runs()}
    for trial in place.study.trials[: len(place.study.trials) - but_for]:
        trained = load_trained(trial, machine, place.results.checkpoint(trial.trial_id))
        for probe in place.study.probes:
            stored = load_measurement(place.results.measurement(trial.trial_id, probe.probe_id))
            assert stored is not None
            assert stored.metrics == pytest.approx(measure(probe, trained).metrics)  # with threads of its own
            assert stored.finite_metrics().items() <= by_id[trial.trial_id].data.metrics.items()


def test_a_node_is_lost_while_it_measures(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    process = ward.place.run()
    ward.place.wait_until(lambda: ward.at_work() is not None)
    seen = {pid for node in ward.workers for pid in descendants(node)}
    lost = ward.at_work()
    assert lost is not None
    assert set(ward.pids()) <= seen, "somebody else measures than the two nodes"
    kill_node(lost)
    assert process.wait(timeout=120) == 0, ward.place.printed
    assert "probed: probes of 6 of 6 trials measured" in ward.place.printed
    monkeypatch.delenv(TRACE)
    assert_measured(ward.place)


def test_all_nodes_are_lost_and_another_comes(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    process = ward.place.run()
    ward.place.wait_until(lambda: ward.at_work() is not None)
    lost = {pid for node in ward.workers for pid in descendants(node)}
    for node in ward.workers:
        kill_node(node)
    ward.place.wait_until(lambda: "another one is waited for" in ward.place.printed)
    ward.nodes.add()
    assert process.wait(timeout=120) == 0, ward.place.printed
    assert "probed: probes of 6 of 6 trials measured" in ward.place.printed
    assert set(ward.pids()) - lost, "the new node measured nothing"
    monkeypatch.delenv(TRACE)
    assert_measured(ward.place)


def test_interrupted_it_goes_on_and_one_that_kills_its_workers_is_told(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ward.place.folder / "deadly").touch()
    process = ward.place.run()
    ward.place.wait_until(lambda: ward.at_work() is not None)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == INTERRUPTED, ward.place.printed
    assert ward.place.printed.splitlines()[-1].startswith("Interrupted; what was measured is kept")
    assert ward.nodes.is_up()
    before = len(ward.place.printed)
    assert ward.place.start("probe", str(ward.place.file), "--jobs", "2").wait(timeout=120) == 1, ward.place.printed
    printed = ward.place.printed[before:]
    trial_id = ward.place.study.trials[-1].trial_id
    assert f"trial {trial_id}: its worker process was lost 3 times (The worker died unexpectedly" in printed
    assert "probed: probes of 5 of 6 trials measured" in printed
    monkeypatch.delenv(TRACE)
    assert_measured(ward.place, but_for=1)

"""Nodes that differ: trials fill all of them, know no password of theirs, and a node that is unfit is named."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.children import group_that_ends_with_us
from sweeps.cluster.connection import private_folder  # before Ray, for which it sets a token
from sweeps.sweep import ADDRESS_VARIABLE
from tests.faults.test_node import Nodes
from tests.sweeps.cluster.fake_gpus import GIVEN
from trainer.machine import LEDGER_VARIABLE, RESULTS_VARIABLE

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Hall:
    """Three raylets: one with two GPUs and few cores, one with one GPU of another kind, one with cores alone."""

    address: str
    given: Path
    small: psutil.Process

    def call(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A driver, which joins this Ray."""
        settings = os.environ | {ADDRESS_VARIABLE: self.address, "PYTHONPATH": str(ROOT)} | variables
        return subprocess.run(
            [sys.executable, *command], env=settings, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
        )

    def script(self, code: str, *arguments: str, **variables: str) -> Any:
        """What a driver prints as JSON."""
        done = self.call("-c", code, *arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    given = tmp_path_factory.mktemp("hall") / "given"
    of_nodes = {GIVEN: str(given), "OMP_NUM_THREADS": "7", "PGPASSWORD": "secret", LEDGER_VARIABLE: "db://x:secret@y/z"}
    environment, ends = pytest.MonkeyPatch.context(), contextlib.ExitStack()
    with environment as patch, private_folder() as folder, ends as stack, group_that_ends_with_us(folder) as group:
        for name, value in of_nodes.items():
            patch.setenv(name, value)
        nodes = Nodes(group, folder)
        stack.callback(nodes.reap)
        nodes.add(2, num_gpus=2, resources={"accelerator_type:T4": 1})
        small = nodes.add(4, num_gpus=1, resources={"accelerator_type:H100": 1})
        for name in of_nodes:
            patch.delenv(name)
        yield Hall(nodes.address, given, small)


NODES = """
import json, sys
from pathlib import Path
from sweeps.cluster.connection import ray_for
from sweeps.cluster.nodes import alive

with ray_for(1, Path()):
    print(json.dumps({node.id: [node.cpus, node.gpus, node.gpu_kind] for node in alive()}))
"""


def test_gpus_of_all_kinds_are_used_and_none_twice(hall: Hall, tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(
        "from tests.sweeps.conftest import make_study\nSTUDY = make_study('hall', seeds=range(6))\n"
    )
    study, results = str(tmp_path / "study.py"), {RESULTS_VARIABLE: str(tmp_path / "results")}
    done = hall.call("-m", "tests.sweeps.cluster.fake_gpus", "run", study, "--device", "cuda", "--yes", **results)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 trials, 0 finished before; 6 at a time" in done.stdout, "a core of the node without GPUs is of no use"
    nodes = {id_: kind for id_, (_, _, kind) in hall.script(NODES).items()}
    given = [json.loads(line) for line in hall.given.read_text().splitlines()]
    assert {one["kind"] for one in given} == {"T4", "H100"}
    assert all(nodes[one["node"]] == one["kind"] for one in given)
    held, most = Counter[tuple[str, str]](), Counter[str]()
    for one in given:
        gpu = one["node"], one["visible"]
        held[gpu] += one["share"] if one["event"] == "start" else -one["share"]
        most[one["kind"]] = max(most[one["kind"]], sum(held[other] > 0 for other in held if other[0] == one["node"]))
        assert held[gpu] <= 1 + 1e-6
    assert most == {"T4": 2, "H100": 1}
    shares = {kind: {one["share"] for one in given if one["kind"] == kind} for kind in most}
    assert shares == {"T4": {1.0}, "H100": {1.0, 0.3333}}, "of 24 GiB three such trials; beside a T4 there is one core"


def test_by_default_as_many_trials_at_a_time_as_the_nodes_have_cores(hall: Hall, tmp_path: Path) -> None:
    folder = {RESULTS_VARIABLE: str(tmp_path / "results")}
    planned = hall.call("-m", "sweeps", "plan", "fig8-digits", **folder)
    assert ", 7 at a time;" in planned.stdout, planned.stdout + planned.stderr


WORKER = """
import json, os
from pathlib import Path
from sweeps.cluster.connection import ray_for
import ray

@ray.remote(num_cpus=1)
def environment():
    import torch
    return dict(os.environ), torch.get_num_threads()

with ray_for(1, Path()):
    print(json.dumps(ray.get([environment.remote() for _ in range(7)])))
"""


def test_workers_have_one_thread_and_no_password_whatever_their_nodes_say(hall: Hall) -> None:
    for environment, threads in hall.script(WORKER, **{LEDGER_VARIABLE: "db://x:secret@z"}):
        assert [name for name, value in environment.items() if "secret" in value] == []
        assert (environment["OMP_NUM_THREADS"], threads) == ("1", 1)


UNFIT = """
import json, os, sys
from pathlib import Path
from unittest.mock import patch
from sweeps.cluster.connection import ray_for
from sweeps.cluster.nodes import alive, require_fit
from trainer.declaration import ConfigError

os.chdir(sys.argv[1])
with ray_for(1, Path()), patch("sweeps.cluster.nodes.ANSWER_SECONDS", float(sys.argv[3])):
    nodes = {node.name for node in alive()}
    try:
        require_fit(alive(), Path(sys.argv[2]))
        print(json.dumps("fit"))
    except ConfigError as error:
        print(json.dumps(str(error)))
"""


def test_nodes_that_see_another_folder_are_named(hall: Hall, tmp_path: Path) -> None:
    """``/proc/self/cwd`` is a path under which each process sees another folder, as hosts do that share no disk."""
    (tmp_path / "drivers" / "mine").mkdir(parents=True)
    shared, own = str(tmp_path / "drivers/mine"), "/proc/self/cwd/drivers/mine"
    assert hall.script(UNFIT, str(tmp_path), shared, "60") == "fit"
    told = hall.script(UNFIT, str(tmp_path), own, "60")
    assert told.startswith("nodes ")
    assert told.count(", ") >= 2
    assert ": /proc/self/cwd is not there, or is not the driver's: RESULTS" in told
    assert "\n" not in told


def test_a_node_that_does_not_answer_is_named(hall: Hall, tmp_path: Path) -> None:
    (tmp_path / "drivers" / "mine").mkdir(parents=True)
    stuck = [hall.small, *hall.small.children(recursive=True)]
    try:
        for process in stuck:
            process.suspend()
        told = hall.script(UNFIT, str(tmp_path), str(tmp_path / "drivers/mine"), "8")
    finally:
        for process in stuck:
            process.resume()
    assert told.startswith("node ")
    assert told.endswith(": no answer in 8 seconds: mend it, or take it out of the Ray")


PROBED = """
import json, os, sys, time
from pathlib import Path
from unittest.mock import patch
from sweeps.cluster import probes
from sweeps.probe_worker import Job
from tests.sweeps.conftest import make_trial
from trainer.machine import Machine, Results

def where(job):
    import ray
    time.sleep(0.5)
    gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
    return [ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES"), *gpus, str(os.getpid())]

results = Results(Path(sys.argv[1]))
jobs = [Job(make_trial(seed), (), Machine(data_dir=results.data, device="cuda"), results) for seed in range(9)]
with patch.object(probes, "measure_probes", where):
    done = probes.measured_on_nodes(jobs, results, 99, lambda _: None, print)
    print(json.dumps([found for _, found in done]))
"""


def test_a_probe_has_a_gpu_to_itself_and_its_process_ends_with_it(hall: Hall, tmp_path: Path) -> None:
    """A process that has begun on a GPU stays on it, whatever Ray says later, and keeps memory there."""
    kinds = {id_: kind for id_, (_, _, kind) in hall.script(NODES).items()}
    done = hall.script(PROBED, str(tmp_path))
    assert len(done) == 9
    assert all(visible == given for _, visible, given, _ in done)
    assert len({pid for *_, pid in done}) == 9
    assert {(kinds[node], visible) for node, visible, *_ in done} == {("T4", "0"), ("T4", "1"), ("H100", "0")}


PLACED = """
import json, sys
from pathlib import Path
from sweeps.cluster.connection import ray_for
from sweeps.cluster.packing import Place
from sweeps.cluster.worker import demand, job
from trainer.machine import Machine
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

@ray.remote(num_cpus=1)
def here():
    return ray.get_runtime_context().get_node_id()

with ray_for(1, Path()):
    shunned = sys.argv[1].split(",")
    config = job("{}", Path("a"), Machine(data_dir=Path()), Path("b"), Place(), shunned)
    group = demand(config)()
    strategy = PlacementGroupSchedulingStrategy(group)
    print(json.dumps(ray.get(here.options(scheduling_strategy=strategy).remote(), timeout=60)))
"""


def test_a_trial_goes_to_none_of_the_nodes_that_it_shuns(hall: Hall) -> None:
    nodes = sorted(hall.script(NODES))
    for only in nodes:
        assert hall.script(PLACED, ",".join(set(nodes) - {only})) == only

"""Two machines of a lab, by the make targets of docs/cluster.md: one loses its power and comes back.

Each is a set of namespaces: host name, address, processes, home, Ray's folder and shared memory are its own; the files
of the lab are common, as on NFS. There is no server to say goodbye for a machine without power, as there is for a
process that is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sweeps.cluster.ray_token import MODE_VARIABLE, PATH_VARIABLE, TOKEN_VARIABLE
from sweeps.sweep import ADDRESS_VARIABLE
from tests.cluster.lab import wait_until
from tests.docker.parts import ROOT
from tests.faults.harness import (
    NETWORK_FILE,
    PAUSE,
    TRACE,
    Workplace,
    assert_equals_undisturbed,
    study_file,
    undisturbed_numbers,
    workplace_in,
)
from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE

pytestmark = pytest.mark.cluster

TOOLS = ("unshare", "nsenter", "ip", "mount", "make")
OF_THE_LAB = (
    *(TRACKING_VARIABLE, LEDGER_VARIABLE, OPTUNA_VARIABLE),
    *(ADDRESS_VARIABLE, MODE_VARIABLE, PATH_VARIABLE, TOKEN_VARIABLE),
)
"""Variables of whoever tests that would mean something on these machines."""
RAYS_FOLDER = Path(f"/tmp/amp-ray-{os.geteuid()}")
"""Where make ray-head and ray-worker keep it; it is in the way where somebody's own Ray runs on this machine."""
SET_UP = f"""
set -e
hostname "$1"
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=1777 none /dev/shm
mount --bind "$2" {RAYS_FOLDER}
ip link set lo up
touch "$2/up"
exec sleep infinity
"""


@dataclass
class Machine:
    """One with an address of its own, while it has power.

    folder: on its own disk. variables: of all that runs on it.
    """

    name: str
    address: str
    folder: Path
    variables: dict[str, str]
    rays_folder: Path = Path()
    _init: subprocess.Popen[bytes] | None = None
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> Path:
        """What is printed by all that is started on it."""
        return self.folder / "log"

    def power_on(self) -> None:
        """Its disk is as it was, but for Ray's folder."""
        of_ray = self.rays_folder = self.folder / f"ray-{time.monotonic_ns()}"
        of_ray.mkdir(parents=True)
        self.home.mkdir(exist_ok=True)
        spaces = ("--fork", "--pid", "--mount", "--uts", "--net", "--ipc", "--kill-child")
        with self.log.open("ab") as log:
            self._init = subprocess.Popen(
                ["unshare", *spaces, "sh", "-c", SET_UP, "sh", self.name, str(of_ray)], stdout=log, stderr=log
            )
        wait_until(lambda: (of_ray / "up").exists() or self._init.poll() is not None, lambda: self.printed, seconds=10)  # type: ignore[union-attr]
        if self._init.poll() is not None:
            pytest.skip(f"no namespaces here: {self.printed}")

    @property
    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> str:
        """Of its first process, whose end is everyone's on it."""
        assert self._init is not None
        return Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text(encoding="utf-8").split()[0]

    def power_off(self) -> None:
        """Nothing on it can do anything any more."""
        if self._init is None:
            return
        self._init.kill()  # which takes its child along
        self._init.wait(timeout=10)
        for process in self._started:
            process.wait(timeout=10)
        self._init = None
        self._started.clear()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A command there, in the folder of the code."""
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid")
        kept = {name: value for name, value in os.environ.items() if name not in OF_THE_LAB}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["nsenter", "--target", self.pid, *spaces, "env", f"--chdir={ROOT}", *command],
                env=kept | {"HOME": str(self.home)} | self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def make(self, target: str, **variables: str) -> subprocess.Popen[bytes]:
        """What is installed is taken for complete: there is no network to ask."""
        named = [f"{name}={value}" for name, value in variables.items()]
        return self.start("make", "--assume-old=.venv/installed-cluster", target, *named)

    def ip(self, *arguments: str) -> None:
        """A change of its network."""
        subprocess.run(["nsenter", "--target", self.pid, "--net", "ip", *arguments], check=True)


def connect(head: Machine, node: Machine) -> None:
    """Plug the node's cable into the head's switch: the head keeps its address when the node goes."""
    head.ip("link", "add", "port", "type", "veth", "peer", "name", "lan", "netns", node.pid)
    head.ip("link", "set", "port", "master", "lan", "up")
    set_address(node)


def set_address(machine: Machine) -> None:
    machine.ip("addr", "add", f"{machine.address}/24", "dev", "lan")
    machine.ip("link", "set", "lan", "up")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """Ten trials, on files that both machines see."""
    with workplace_in(tmp_path / "lab", study_file(seeds=5, epochs=10, name="machines"), paced=NETWORK_FILE) as place:
        yield place


@pytest.fixture
def machines(place: Workplace) -> Iterator[tuple[Machine, Machine]]:
    """A head, with a core for trials, and a node; without Ray as yet."""
    if os.geteuid() or not all(map(shutil.which, TOOLS)):
        pytest.skip(f"machines of namespaces need root and {', '.join(TOOLS)}")
    if not (ROOT / ".venv/bin/ray").exists():
        pytest.skip("no .venv here: make test-cluster")
    made = not RAYS_FOLDER.exists()
    RAYS_FOLDER.mkdir(mode=0o700, exist_ok=True)
    folders = {name: place.folder.parent / name for name in ("head", "node")}
    variables = {name: {PAUSE: "0.05", TRACE: str(folder / "trace")} for name, folder in folders.items()}
    head = Machine("head", "10.77.77.1", folders["head"], variables["head"])
    node = Machine("node", "10.77.77.2", folders["node"], variables["node"])
    try:
        head.power_on()
        head.ip("link", "add", "lan", "type", "bridge")
        set_address(head)
        node.power_on()
        connect(head, node)
        yield head, node
    finally:
        for machine in (node, head):
            machine.power_off()
        if made:
            with contextlib.suppress(OSError):  # somebody else's Ray has begun
                RAYS_FOLDER.rmdir()


def in_the_middle(place: Workplace, machine: Machine) -> bool:
    """Whether it trains a trial of which a checkpoint is on disk."""
    place.variables[TRACE] = machine.variables[TRACE]
    pids = {pid for pids in place.trace().values() for pid in pids}
    return place.in_the_middle(pids) is not None


def trained_on(place: Workplace, machine: Machine) -> set[str]:
    """Trials of which it has trained a part, or all."""
    place.variables[TRACE] = machine.variables[TRACE]
    return {trial_id for trial_id, pids in place.trace().items() if pids}


def test_a_machine_loses_power_and_comes_back(place: Workplace, machines: tuple[Machine, Machine]) -> None:
    head, node = machines
    results = str(place.results.root)
    head.make("ray-head", RESULTS=results, CPUS="1", IP=head.address)
    token = head.home / ".ray/auth_token"
    wait_until(lambda: "Ray runtime started" in head.printed, lambda: head.printed)
    shutil.copytree(token.parent, node.home / ".ray")
    node.make("ray-worker", HEAD=f"{head.address}:6379", CPUS="1", RESULTS=results)
    wait_until(lambda: "Ray runtime started" in node.printed, lambda: node.printed)
    for machine in machines:
        assert stat.S_IMODE(machine.rays_folder.stat().st_mode) == 0o700, "others could change the code of jobs"
        assert list((machine.rays_folder / "ray").glob("session_*/sockets/raylet"))
    job = head.make("submit", STUDY=str(place.file), RESULTS=results)
    wait_until(lambda: in_the_middle(place, node), lambda: head.printed, seconds=240)
    before = trained_on(place, node)
    node.power_off()
    place.wait_until_finished(place.states()["finished"] + 1)
    node.power_on()
    connect(head, node)
    node.make("ray-worker", HEAD=f"{head.address}:6379", CPUS="1", RESULTS=results)
    assert job.wait(timeout=300) == 0, head.printed
    assert "10 of 10" in head.printed
    assert trained_on(place, node) - before, "what has come back trains again"
    assert len(trained_on(place, head) | trained_on(place, node)) == len(place.study.trials)
    assert_equals_undisturbed(place, undisturbed_numbers(place.study, place.folder))

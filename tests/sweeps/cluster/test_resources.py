"""What trials are given of a Ray: shares of its GPUs by the memory that their like took, and which Ray that is."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import given as given_by_hypothesis
from hypothesis import strategies as st

from search_spaces.study import Study
from sweeps.cli import main
from sweeps.cluster.node import Node
from sweeps.cluster.packing import Place
from sweeps.cluster.resources import Room
from sweeps.cluster.worker import Report, _Scout, demand, job
from sweeps.cost.estimate import memory_kind
from sweeps.ledger import Ledger
from sweeps.sweep import ADDRESS_VARIABLE, StudySweep
from tests.sweeps.cluster.fake_gpus import GIVEN
from tests.sweeps.conftest import make_study
from trainer.checkpoint import load_checkpoint
from trainer.config import Amp, TrialConfig
from trainer.declaration import ConfigError
from trainer.loop import train
from trainer.machine import RESULTS_VARIABLE, Machine, Results
from trainer.records import EpochRecord, GpuMemory

ROOT = Path(__file__).parents[3]
GIB = 2**30
STUDY = make_study()
ERM, AMP = STUDY.trials[:2]
ERM_ID, AMP_ID, OTHER_ERM_ID, _ = (trial.trial_id for trial in STUDY.trials)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


def of_kind(gpu_kind: str, gpus: int, cpus: int, count: int = 1) -> list[Node]:
    """So many nodes with GPUs of this kind, each with so many of them and of cores."""
    return [Node(f"{gpu_kind}-{number}", f"{gpu_kind}-{number}", cpus, gpus, gpu_kind) for number in range(count)]


class Rooms:
    """Of drivers with one ledger."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger, self.results = ledger, Results(folder)

    def of(self, jobs: int = 16, gpus: int = 2, given: float | None = None, alone: bool = False, **more: Any) -> Room:
        nodes = more.get("nodes", [Node("a", "a", more.get("cpus", jobs), gpus)])
        sweep = StudySweep(
            STUDY, "toy", self.results, self.ledger, jobs, more.get("device", "cuda"), gpus_per_trial=given
        )
        return Room(sweep, nodes, alone)


@pytest.fixture
def rooms(ledger: Ledger, tmp_path: Path) -> Rooms:
    return Rooms(ledger, tmp_path)


def memory(gib: float) -> GpuMemory:
    """What a trial takes of a GPU of 24 GiB."""
    return GpuMemory(int(gib * GIB), 24 * GIB)


def given(room: Room, *trial_ids: str) -> list[tuple[float, int]]:
    """What each would get were it alone: its share, and how many may share a GPU where it is to find that out."""
    places = [room.place(trial_id, []) for trial_id in trial_ids]
    return [(place.share, place.to_find_out) for place in places if place]


def test_the_first_of_a_kind_finds_out_and_its_like_share(rooms: Rooms) -> None:
    room = rooms.of()
    assert (given(room, ERM_ID), room.at_once(ERM_ID)) == ([(1.0, 8)], 2)
    room.learn(ERM_ID, Place(), memory(5))  # 24 / 5.5 = 4.4
    assert given(room, ERM_ID, OTHER_ERM_ID, AMP_ID) == [(0.25, 0), (0.25, 0), (1.0, 8)]
    assert room.at_once(ERM_ID) == 8
    assert given(rooms.of(), ERM_ID, AMP_ID) == [(0.25, 0), (1.0, 8)], "of another driver, later"


def test_what_was_found_out_last_stands(rooms: Rooms) -> None:
    rooms.of().learn(ERM_ID, Place(), memory(5))
    rooms.of().learn(ERM_ID, Place(), memory(10))
    assert given(rooms.of(), ERM_ID) == [(0.5, 0)]


def test_another_gpu_is_another_story(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms.of().learn(ERM_ID, Place(), memory(5))
    monkeypatch.setattr("sweeps.cluster.resources.hardware", lambda _device: "another GPU")
    assert given(rooms.of(), ERM_ID) == [(1.0, 8)]


def test_methods_take_different_memory_and_their_numbers_do_not() -> None:
    more_of_it = replace(AMP, seed=7, lr=0.3, method=Amp(epsilon=0.1))
    assert memory_kind(AMP) == memory_kind(more_of_it)
    different = [ERM, AMP, replace(AMP, batch_size=AMP.batch_size + 1), replace(AMP, precision="bfloat16")]
    assert len({memory_kind(trial) for trial in different}) == 4


def test_no_more_trials_on_a_gpu_than_it_has_cores(rooms: Rooms) -> None:
    room = rooms.of(jobs=6)
    room.learn(ERM_ID, Place(), memory(1))
    assert given(room, ERM_ID) == [(0.3333, 0)]
    few = rooms.of(jobs=3)
    assert given(few, ERM_ID, AMP_ID) == [(1.0, 0), (1.0, 0)], "there is nothing to find out: they cannot share"
    assert rooms.of(jobs=16, cpus=3).jobs == 3


def test_a_share_that_the_user_gives_stands(rooms: Rooms) -> None:
    rooms.of().learn(ERM_ID, Place(), memory(5))
    room = rooms.of(given=0.4)
    assert given(room, ERM_ID, AMP_ID) == [(0.4, 0), (0.4, 0)]
    assert room.jobs == room.at_once(ERM_ID) == 4, "two on each of two GPUs, though all shares together would be five"
    assert rooms.of(given=1.0).jobs == 2


def test_the_second_pass_has_a_gpu_to_itself(rooms: Rooms) -> None:
    rooms.of().learn(ERM_ID, Place(), memory(5))
    for share in (None, 0.25):
        room = rooms.of(given=share, alone=True)
        assert (given(room, ERM_ID, AMP_ID), room.jobs) == ([(1.0, 0), (1.0, 0)], 1)


def test_only_what_fits_beside_the_others_is_leased(rooms: Rooms) -> None:
    room, whole = rooms.of(jobs=6, gpus=2), Place("", 1.0)
    room.learn(ERM_ID, Place(), memory(7))  # thirds, of 0.3333
    third = room.place(ERM_ID, [])
    assert third is not None
    assert room.fitting([AMP_ID, ERM_ID, OTHER_ERM_ID], []) == [AMP_ID, ERM_ID, OTHER_ERM_ID]
    assert room.fitting([AMP_ID, ERM_ID, OTHER_ERM_ID], [whole, third]) == [ERM_ID, OTHER_ERM_ID]
    assert room.fitting([AMP_ID, ERM_ID], [whole, third, third]) == [ERM_ID]
    assert room.fitting([AMP_ID, ERM_ID], [whole, whole]) == []


def test_on_cpus_there_is_room_for_as_many_as_there_are_cores_on_all_nodes(rooms: Rooms) -> None:
    room = rooms.of(device="cpu", nodes=[Node("a", "a", 3), Node("b", "b", 8, gpus=2), Node("c", "c", 0)])
    assert (given(room, ERM_ID), room.jobs, room.at_once(ERM_ID)) == ([(0.0, 0)], 11, 11)
    assert room.fitting([AMP_ID, ERM_ID], [Place()] * 10) == [AMP_ID, ERM_ID]
    assert room.fitting([AMP_ID, ERM_ID], [Place()] * 11) == []


def test_what_would_wait_for_ever_is_refused(rooms: Rooms) -> None:
    with pytest.raises(ConfigError, match="--device cuda: Ray sees no GPU"):
        rooms.of(gpus=0)
    with pytest.raises(ConfigError, match="no node of this Ray has a CPU for trials: make ray-worker"):
        rooms.of(cpus=0)
    with pytest.raises(ConfigError, match="nodes with GPUs have no CPU"):
        rooms.of(nodes=[Node("a", "a", 8), Node("b", "b", 0, gpus=1)])


# Nodes that differ, that come and go

SMALL, LARGE = of_kind("T4", gpus=4, cpus=8), of_kind("H100", gpus=2, cpus=32)


def test_cores_on_nodes_without_a_gpu_are_not_counted_for_trials_on_gpus(rooms: Rooms) -> None:
    assert rooms.of(jobs=100, nodes=[Node("a", "a", 64), *SMALL]).jobs == 8
    assert rooms.of(jobs=100, device="cpu", nodes=[Node("a", "a", 64), *SMALL]).jobs == 72


def test_each_kind_of_gpu_is_learnt_by_itself(rooms: Rooms) -> None:
    room = rooms.of(jobs=40, nodes=[*SMALL, *LARGE])
    first = room.place(ERM_ID, [])
    assert first == Place("T4", 1.0, to_find_out=2), "of four GPUs four are free"
    room.learn(ERM_ID, Place("H100", 1.0), GpuMemory(5 * GIB, 80 * GIB))  # 80 / 5.5 = 14.5
    assert room.place(ERM_ID, []) == Place("H100", 0.0714), "28 of its like fit there"
    assert room.at_once(ERM_ID) == 4 + 28
    later = rooms.of(jobs=40, nodes=of_kind("T4", 4, 8))
    assert given(later, ERM_ID) == [(1.0, 2)], "what an H100 holds says nothing of a T4"


def test_a_trial_goes_where_most_of_its_like_still_fit(rooms: Rooms) -> None:
    room = rooms.of(given=0.5, jobs=40, nodes=[*of_kind("T4", 1, 8), *of_kind("H100", 2, 8)])
    held: list[Place] = []
    while place := room.place(ERM_ID, held):
        held.append(place)
    assert [place.gpu_kind for place in held[:2]] == ["H100", "H100"]
    assert Counter(place.gpu_kind for place in held) == {"H100": 4, "T4": 2}
    held.remove(Place("T4", 0.5))
    assert room.place(ERM_ID, held) == Place("T4", 0.5)


def test_a_gpu_without_a_free_core_beside_it_is_no_room(rooms: Rooms) -> None:
    room = rooms.of(given=0.25, jobs=40, nodes=[*of_kind("T4", 4, 1), *of_kind("H100", 1, 8)])
    held: list[Place] = []
    while place := room.place(ERM_ID, held):
        held.append(place)
    assert held[0] == Place("H100", 0.25), "of a T4 sixteen could have a share, but one a core"
    assert Counter(place.gpu_kind for place in held) == {"H100": 4, "T4": 1}
    assert room.jobs == room.at_once(ERM_ID) == 1 + 4


def test_a_demand_names_the_kind_of_gpu_and_the_nodes_that_are_not_meant(tmp_path: Path) -> None:
    def asked(place: Place, shunned: tuple[str, ...] = ()) -> dict[str, Any]:
        return job("{}", tmp_path / "a.pt", Machine(data_dir=tmp_path), tmp_path / "stop", place, shunned)

    assert demand(asked(Place())).required_resources == {"CPU": 1.0}
    assert demand(asked(Place("", 0.25))).required_resources == {"CPU": 1.0, "GPU": 0.25}
    of_a_kind = demand(asked(Place("T4", 0.25))).required_resources
    assert of_a_kind == {"CPU": 1.0, "GPU": 0.25, "accelerator_type:T4": 0.001}
    elsewhere: Any = demand(asked(Place(), ("b", "a")))._bound
    assert elsewhere.kwargs["bundle_label_selector"] == [{"ray.io/node-id": "!in(a,b)"}]


def test_room_follows_the_nodes_as_far_as_the_user_wants(rooms: Rooms) -> None:
    room = rooms.of(jobs=12, nodes=SMALL)
    assert room.jobs == 8
    room.follow([*SMALL, *LARGE])
    assert room.jobs == 12
    room.follow(SMALL)
    assert room.jobs == 8
    room.follow([])
    assert room.place(ERM_ID, []) is not None, "it waits for a node, which an autoscaler sees"


@dataclass
class Gpu:
    """A made-up one, on a node with so many cores, of which trials take one each."""

    node: Node
    free: float = 1.0


@dataclass
class Cluster:
    """Made-up nodes on which trials are put as Ray does it: on the GPU whose rest is the smallest that will do."""

    nodes: list[Node]
    trials: dict[int, tuple[Place, Gpu]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gpus = [Gpu(node) for node in self.nodes for _ in range(node.gpus)]

    def fits(self, gpu_kind: str, share: float) -> list[Gpu]:
        """The GPUs of this kind, the fullest first, on which there is room for one more."""
        taken = Counter(gpu.node.id for _, gpu in self.trials.values())
        free = [gpu for gpu in self.gpus if gpu.node.gpu_kind == gpu_kind and taken[gpu.node.id] < gpu.node.cpus]
        return sorted((gpu for gpu in free if gpu.free + 1e-9 >= share), key=lambda gpu: gpu.free)

    def start(self, name: int, place: Place, gpu: Gpu) -> None:
        gpu.free -= place.share
        self.trials[name] = place, gpu

    def end(self, name: int) -> None:
        place, gpu = self.trials.pop(name)
        gpu.free += place.share


node_sizes = st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 3), st.integers(1, 8)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_by_hypothesis(
    node_sizes,
    st.integers(1, 30),
    st.dictionaries(st.sampled_from("AB"), st.floats(0.5, 30)),
    st.lists(st.integers(0, 9), max_size=40),
)
def test_no_gpu_is_given_more_than_once_and_none_is_idle_while_something_fits(
    tmp_path: Path, sizes: list[tuple[str, int, int]], jobs: int, taken: dict[str, float], moves: list[int]
) -> None:
    """Trials start and end in any order on nodes of any two kinds, of which memory is known, or not."""
    nodes = [Node(str(number), str(number), cpus, gpus, kind) for number, (kind, gpus, cpus) in enumerate(sizes)]
    assume(any(node.gpus for node in nodes))
    room = Rooms(_NoLedger(), tmp_path).of(jobs=jobs, nodes=nodes)  # type: ignore[arg-type]
    for kind, gib in taken.items():
        room.learn(ERM_ID, Place(kind), memory(gib))
    cluster = Cluster(nodes)
    for name, move in enumerate(moves):
        held = [place for place, _ in cluster.trials.values()]
        if move < 3 and cluster.trials:
            cluster.end(sorted(cluster.trials)[move % len(cluster.trials)])
        elif place := room.place(ERM_ID, held):
            if gpus := cluster.fits(place.gpu_kind, place.share):  # else Ray has it wait
                cluster.start(name, place, gpus[0])
        elif len(held) < room.jobs:
            assert not any(cluster.fits(kind, _share_on(room, kind)) for kind in "AB")
        assert all(gpu.free > -1e-9 for gpu in cluster.gpus)
        assert len(cluster.trials) <= jobs


def _share_on(room: Room, gpu_kind: str) -> float:
    pools = [pool for pool in room._pools if pool.gpu_kind == gpu_kind]
    return room._share(ERM_ID, pools[0]) if pools else math.inf


class _NoLedger:
    """Knows nothing, and forgets what it is told."""

    def gpu_memory(self, _kinds: list[str], _hardware: str) -> dict[str, GpuMemory]:
        return {}

    def keep_gpu_memory(self, _kind: str, _hardware: str, _memory: GpuMemory) -> None: ...


@pytest.mark.parametrize(("most", "taken", "shares"), [(4, 5.0, True), (4, 23.0, False), (0, 5.0, False)])
def test_a_scout_gives_way_when_others_fit_beside_it(
    monkeypatch: pytest.MonkeyPatch, most: int, taken: float, shares: bool
) -> None:
    found: list[GpuMemory | None] = [None, memory(taken), memory(1)]
    monkeypatch.setattr("trainer.memory.gpu_memory", lambda _device: found.pop(0))
    scout = _Scout("cpu", most)
    assert not scout.should_share(), "an epoch from the checkpoint: nothing is on the GPU yet"
    assert scout.should_share() == shares
    assert scout.memory == (memory(taken) if most else None)
    assert not scout.should_share()


def test_a_report_brings_the_memory() -> None:
    for found in (None, memory(3)):
        report = Report((), "stopped", None, found)
        assert Report.decode(report.encode()) == report


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--gpus-per-trial", "2", "--device", "cuda"], "a trial uses one GPU, or a share of it"),
        (["--gpus-per-trial", "0", "--device", "cuda"], "not a share of a GPU from 0.0001 to 1"),
        (["--gpus-per-trial", "nan", "--device", "cuda"], "not a share of a GPU"),
        (["--gpus-per-trial", "half", "--device", "cuda"], "not a share of a GPU"),
        (["--gpus-per-trial", "0.5"], "trials on a CPU take no GPU"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_shares_that_are_none_are_refused(
    command: str, options: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([command, "fig8-digits", *options])
    except SystemExit as exit_:
        code = int(str(exit_.code))
    assert code == 2
    assert error in capsys.readouterr().err.splitlines()[-1]


# Declared GPUs, real Ray, real workers


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, list[dict[str, Any]]]:
    """A study trained on two GPUs that are declared to Ray: its folder, itself, and what its trials were given."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "study.py").write_text(
        "from tests.sweeps.conftest import make_study\nSTUDY = make_study('packed', seeds=range(5))\n"
    )
    variables = {
        RESULTS_VARIABLE: str(folder / "results"),
        "RAY_OVERRIDE_RESOURCES": '{"GPU": 2}',
        GIVEN: str(folder / "given"),
        "PYTHONPATH": str(ROOT),
    }
    options = ["run", str(folder / "study.py"), "--jobs", "4", "--device", "cuda", "--yes"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweeps.cluster.fake_gpus", *options],
        env=os.environ | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    given = [json.loads(line) for line in (folder / "given").read_text().splitlines()]
    return folder, make_study("packed", seeds=range(5)), given


def trained(packed: tuple[Path, Study, list[dict[str, Any]]]) -> Iterator[tuple[TrialConfig, list[float]]]:
    """Each trial and the shares that it was given, in order."""
    _, study, given = packed
    shares = defaultdict(list)
    for one in given:
        if one["event"] == "start":
            shares[one["trial"]].append(one["share"])
    for trial in study.trials:
        yield trial, shares[trial.trial_id]


@pytest.mark.slow
def test_each_trial_sees_the_gpu_that_it_was_given(packed: tuple[Path, Study, list[dict[str, Any]]]) -> None:
    given = packed[2]
    assert all(one["visible"] == ",".join(map(str, one["ray"])) for one in given)
    assert {one["visible"] for one in given} == {"0", "1"}
    by_process = {(one["pid"], one["visible"], one["share"]) for one in given}
    assert len(by_process) == len({one["pid"] for one in given})
    trials = Counter(one["pid"] for one in given if one["event"] == "start")
    assert max(trials.values()) > 1, "no process was reused"


@pytest.mark.slow
def test_trials_share_gpus_and_none_holds_more_than_one(packed: tuple[Path, Study, list[dict[str, Any]]]) -> None:
    held: Counter[str] = Counter()
    at_once: list[int] = []
    by_gpu: dict[str, set[str]] = {"0": set(), "1": set()}
    for one in packed[2]:
        starts, gpu = one["event"] == "start", one["visible"]
        held[gpu] += one["share"] if starts else -one["share"]
        (by_gpu[gpu].add if starts else by_gpu[gpu].discard)(one["trial"])
        assert held[gpu] <= 1 + 1e-6
        at_once.append(len(by_gpu[gpu]))
    assert max(at_once) == 2, "24 GiB hold three such trials, but there are two cores for each GPU"


@pytest.mark.slow
def test_the_first_of_each_kind_has_a_gpu_to_itself_and_the_others_half(
    packed: tuple[Path, Study, list[dict[str, Any]]],
) -> None:
    scouts = Counter[str]()
    for trial, shares in trained(packed):
        assert shares in ([0.5], [1.0, 0.5])
        scouts[type(trial.method).__name__] += shares[0] == 1.0
    assert all(1 <= scouts[kind] <= 2 for kind in ("Erm", "Amp"))


@pytest.mark.slow
def test_numbers_are_those_of_trials_that_never_gave_way(packed: tuple[Path, Study, list[dict[str, Any]]]) -> None:
    folder = packed[0]
    gave_way = [trial for trial, shares in trained(packed) if len(shares) == 2]
    assert gave_way
    for trial in gave_way[:2]:
        stored = load_checkpoint(Results(folder / "results").checkpoint(trial.trial_id), trial.trial_id)
        assert stored is not None
        expected = train(trial, Machine(data_dir=folder / "results" / "data"))
        assert [numbers(record) for record in stored.records] == [numbers(record) for record in expected]


def numbers(record: EpochRecord) -> dict[str, float]:
    return {name: value for name, value in record.metrics.items() if name != "epoch_seconds"}


# Which Ray


def environment_after_import(**variables: str) -> dict[str, str]:
    """What importing ``sweeps.cluster.connection`` leaves in the environment that Ray finds."""
    code = "import json, os; import sweeps.cluster.connection; print(json.dumps(dict(os.environ)))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | variables, cwd=ROOT, capture_output=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_ray_of_our_own_has_a_token_of_its_own_and_another_keeps_the_users() -> None:
    ours = [environment_after_import(RAY_AUTH_TOKEN="theirs")["RAY_AUTH_TOKEN"] for _ in range(2)]
    assert len({*ours, "theirs"}) == 3
    joining = environment_after_import(RAY_ADDRESS="somewhere:1", RAY_AUTH_TOKEN="theirs")
    assert (joining["RAY_AUTH_TOKEN"], joining.get("RAY_AUTH_MODE")) == ("theirs", None)
    assert "RAY_AUTH_TOKEN" not in environment_after_import(RAY_ADDRESS="somewhere:1")
    assert environment_after_import(RAY_ADDRESS="local")["RAY_AUTH_MODE"] == "token"


def test_the_page_for_jobs_is_no_ray_to_join(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sweeps.cluster.connection import ray_for

    monkeypatch.setenv(ADDRESS_VARIABLE, "http://127.0.0.1:8265")
    with (
        pytest.raises(ConfigError, match="HOST:PORT or auto: a page for jobs is for make submit"),
        ray_for(1, tmp_path),
    ):
        pytest.fail("was joined")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sweeps.cluster.connection import ray_for

    monkeypatch.setenv(ADDRESS_VARIABLE, address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS = {address}: ") as error, ray_for(1, tmp_path):
        pass
    assert "\n" not in str(error.value)


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sweeps.cluster.connection import ray_for

    with socket.socket() as bound:  # not listening: nobody else has the port and nobody answers
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ADDRESS_VARIABLE, f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(ConfigError, match=r"nothing answers there .*: is Ray up"), ray_for(1, tmp_path):
            pass


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ConnectionError("Failed to connect to Ray cluster"), "Failed to connect to Ray cluster; is RAY_AUTH_TOKEN"),
        (RuntimeError("Version mismatch:\n    Ray: 1\n    Python: 3"), "Version mismatch: Ray: 1 Python: 3$"),
    ],
)
def test_why_a_ray_cannot_be_joined_is_one_line(
    raised: Exception, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sweeps.cluster.connection import ray_for

    def refuse(**_: object) -> None:
        raise raised

    monkeypatch.setenv(ADDRESS_VARIABLE, "auto")
    monkeypatch.setattr("ray.init", refuse)
    told = pytest.raises(ConfigError, match=f"RAY_ADDRESS = auto: cannot join this Ray: {said}")
    with told, ray_for(1, tmp_path):
        pass

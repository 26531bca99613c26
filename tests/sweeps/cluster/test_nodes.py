"""Nodes of a Ray that is joined: what is told of them, what makes them unfit, and what a driver leaves for them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.cli import main
from sweeps.cluster.connection import shared_folder
from sweeps.cluster.job_code import CODE, JOB_VARIABLE, at_hand, code_travels, portable, require_lasting_results
from sweeps.cluster.node import Node, trials_at_once
from sweeps.cluster.nodes import Seen, _faults_of, faults, look, require_fit, versions
from sweeps.cluster.packing import Place
from sweeps.cluster.worker import Report, job, run_trial
from sweeps.sweep import ADDRESS_VARIABLE
from trainer.declaration import ConfigError
from trainer.files import HOST
from trainer.machine import LEDGER_VARIABLE, RESULTS_VARIABLE, Machine, Results

TOLD = {
    "NodeID": "ab12",
    "Alive": True,
    "NodeManagerAddress": "10.0.0.7",
    "NodeManagerHostname": "big",
    "Resources": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:A100": 1.0, "node:10.0.0.7": 1.0, "memory": 1e9},
}


def test_a_node_is_what_ray_tells_of_it() -> None:
    assert Node.of(TOLD) == Node("ab12", "big (10.0.0.7)", cpus=8, gpus=2, gpu_kind="A100")
    assert Node.of(TOLD | {"Resources": {}}) == Node("ab12", "big (10.0.0.7)", cpus=0)


@pytest.mark.parametrize(("device", "per_gpu", "trials"), [("cpu", None, 15), ("cuda", None, 11), ("cuda", 2, 7)])
def test_as_many_trials_as_cores_that_are_of_use(device: str, per_gpu: int | None, trials: int) -> None:
    nodes = [Node("a", "a", 4), Node("b", "b", 8, gpus=2), Node("c", "c", 3, gpus=2)]
    assert trials_at_once(nodes, device, per_gpu) == trials


# Fit or not


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A driver's, in its results."""
    with shared_folder(Results(tmp_path)) as folder:
        yield folder


def told(seen: Seen, folder: Path, answer: str = "answer") -> list[str]:
    """What is wrong with a node that answers so, at once."""
    return list(faults(seen, versions(), seen.clock, seen.clock, folder / answer))


def test_a_node_that_is_like_the_drivers_is_fit(folder: Path) -> None:
    assert told(look(str(folder), "answer"), folder) == []


def test_a_node_that_does_not_see_the_drivers_folder_is_told(folder: Path, tmp_path: Path) -> None:
    [line] = told(look(str(folder.with_name("another")), "answer"), folder)
    assert line.startswith(f"{tmp_path} is not there, or is not the driver's: RESULTS (SWEEPS_RESULTS) must be one")


def test_a_copy_of_the_folder_is_not_the_folder(folder: Path, tmp_path: Path) -> None:
    seen = look(str(folder), "answer")
    (folder / "answer").unlink()
    [line] = told(seen, folder)
    assert line.startswith(f"what it writes to {tmp_path} is not seen by the driver")
    (folder / "answer").write_text("of another")
    assert len(told(seen, folder)) == 1


def test_a_node_that_cannot_write_is_told(folder: Path, tmp_path: Path) -> None:
    seen = look(str(folder), "no/such/folder")
    [line] = told(seen, folder)
    assert line.startswith(f"cannot write to {tmp_path} (No such file or directory)")


def test_other_versions_are_told(folder: Path) -> None:
    seen = look(str(folder), "answer")
    other = replace(seen, versions={**seen.versions, "torch": "2.13.0", "code": "12345678"})
    [line] = told(other, folder)
    ours = versions()
    assert line.startswith(f"torch 2.13.0, not {ours['torch']}, code 12345678, not {ours['code']}: install the same")


@pytest.mark.parametrize(("off", "lines"), [(-60.0, 1), (-4.0, 0), (4.0, 0), (60.0, 1)])
def test_a_clock_that_is_off_is_told(folder: Path, off: float, lines: int) -> None:
    seen = look(str(folder), "answer")
    found = list(faults(replace(seen, clock=seen.clock + off), versions(), seen.clock, seen.clock, folder / "answer"))
    assert found == ["its clock is off by 60 s: let NTP set it"] * lines


class _Context:
    """Of a process on a node of this name."""

    def get_node_id(self) -> str:
        return "this-node"


def test_a_node_that_cannot_run_the_code_is_told_why(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fails(_: object) -> None:
        raise ModuleNotFoundError("The remote function failed:\nNo module named 'sweeps'")

    monkeypatch.setattr("sweeps.cluster.nodes.ray.get", fails)
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    reference: Any = None
    [line] = _faults_of(reference, folder / "answer", versions(), 0.0)
    assert line.startswith("cannot run this code (The remote function failed: No module named 'sweeps'): must be at ")
    as_a_job(monkeypatch, working_dir="gcs://_ray_pkg_1.zip")
    [line] = _faults_of(reference, folder / "answer", versions(), 0.0)
    assert line.endswith("'sweeps')"), "it has gone along already"


@pytest.mark.parametrize(("died", "names"), [("", "nodes a, b"), ("b", "node a"), ("ab", "")])
def test_only_nodes_that_still_live_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, died: str, names: str
) -> None:
    nodes = [Node("a", "a", 1), Node("b", "b", 1)]
    monkeypatch.setattr("sweeps.cluster.nodes.ray.get_runtime_context", _Context)
    monkeypatch.setattr("sweeps.cluster.nodes._faults", lambda asked, _folder: [(node, "is broken") for node in asked])
    monkeypatch.setattr("sweeps.cluster.nodes.alive", lambda: [node for node in nodes if node.id not in died])
    refused = pytest.raises(ConfigError, match=f"^{names}: is broken$") if names else contextlib.nullcontext()
    with refused:
        require_fit(nodes, tmp_path)


def test_nobody_is_asked_where_trials_run_on_the_drivers_node_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sweeps.cluster.nodes.ray.get_runtime_context", _Context)
    monkeypatch.setattr("sweeps.cluster.nodes._faults", lambda *_: pytest.fail("nodes are asked"))
    require_fit([Node("this-node", "a", 4), Node("b", "b", 0)], tmp_path)


# What a driver leaves in the results


def test_a_drivers_folder_is_there_as_long_as_it_runs(tmp_path: Path) -> None:
    with shared_folder(Results(tmp_path)) as one, shared_folder(Results(tmp_path)) as other:
        assert one.is_dir()
        assert one != other
        (one / "stop").touch()
    assert list((tmp_path / "drivers").iterdir()) == []


def test_what_killed_drivers_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    hour, month = time.time() - 3600, time.time() - 30 * 24 * 3600
    made = {
        f"{HOST}-{dead.pid}-aa": hour,
        f"{HOST}-{os.getpid()}-bb": hour,
        f"other-{dead.pid}-cc": hour,
        f"other-{dead.pid}-dd": month,
        "notes": month,
    }
    for name, age in made.items():
        (tmp_path / "drivers" / name).mkdir(parents=True)
        os.utime(tmp_path / "drivers" / name, (age, age))
    with shared_folder(Results(tmp_path)) as ours:
        left = {path.name for path in (tmp_path / "drivers").iterdir()} - {ours.name}
    assert left == {f"{HOST}-{os.getpid()}-bb", f"other-{dead.pid}-cc", "notes"}


def test_results_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "drivers").write_text("")
    refused = pytest.raises(ConfigError, match=f"RESULTS: cannot write to {tmp_path}/drivers")
    with refused as error, shared_folder(Results(tmp_path)):
        pass
    assert "\n" not in str(error.value)


# The code of a job


def as_a_job(monkeypatch: pytest.MonkeyPatch, **runtime_env: Any) -> None:
    monkeypatch.setenv(JOB_VARIABLE, json.dumps({"runtime_env": runtime_env}))


def test_code_travels_with_a_job_that_has_a_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    assert not code_travels()
    as_a_job(monkeypatch, env_vars={"A": "1"})
    assert not code_travels(), "its code is in the image"
    as_a_job(monkeypatch, working_dir="gcs://_ray_pkg_1.zip")
    assert code_travels()


@pytest.mark.parametrize("results", ["", "results", "./x"])
def test_a_job_without_a_lasting_results_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, results: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RESULTS_VARIABLE, results)
    as_a_job(monkeypatch, working_dir="gcs://_ray_pkg_1.zip")
    for command in ("run", "fetch", "status"):
        assert main([command, "fig8-digits"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: RESULTS (SWEEPS_RESULTS) is {results or 'not set'} in this job: it must be")
    assert list(tmp_path.iterdir()) == []


def test_outside_a_job_any_folder_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, "results")
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    require_lasting_results()
    as_a_job(monkeypatch, working_dir="gcs://_ray_pkg_1.zip")
    with pytest.raises(ConfigError):
        require_lasting_results()


def test_a_folder_in_the_code_is_found_beside_the_code_of_another_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent = job("{}", tmp_path / "a.pt", Machine(data_dir=tmp_path, code_dir=CODE / "study"), tmp_path / "stop", Place())
    assert sent["code_dir"] == "study"
    monkeypatch.setattr("sweeps.cluster.job_code.CODE", tmp_path)
    assert at_hand(sent["code_dir"]) == tmp_path / "study"
    assert at_hand(portable(Path("/elsewhere/mine"))) == Path("/elsewhere/mine")


def test_a_trial_is_refused_where_the_drivers_folder_is_not_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reported: list[Report] = []
    monkeypatch.setattr("sweeps.cluster.worker.tune.report", lambda told: reported.append(Report.decode(told)))
    monkeypatch.setattr("sweeps.cluster.worker.ray.get_runtime_context", _Context)
    unseen = tmp_path / "drivers" / "of-the-driver" / "stop"
    run_trial(job("{}", tmp_path / "checkpoints" / "a.pt", Machine(data_dir=tmp_path), unseen, Place()))
    assert reported == [Report((), misplaced="this-node")]
    assert list(tmp_path.iterdir()) == [], "nothing is trained into a folder that is nobody's"


# What workers find in their environment

SECRETS = {
    LEDGER_VARIABLE: "postgresql+psycopg://ledger:secret@db/ledger",
    "SWEEPS_OPTUNA_URL": "postgresql+psycopg://optuna:secret@db/optuna",
    "MLFLOW_TRACKING_URI": "http://admin:secret@mlflow:5000",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "MLFLOW_TRACKING_TOKEN": "secret",
    "PGPASSWORD": "secret",
}
OF_A_WORKER = """
import json, os
from sweeps.cluster.connection import private_folder, ray_for

import ray

before = dict(os.environ)

@ray.remote
def environment():
    return dict(os.environ)

with private_folder() as folder, ray_for(1, folder):
    found = [before, dict(os.environ), ray.get(environment.remote()), {"mode": f"{folder.stat().st_mode & 0o777:o}"}]
    print(json.dumps(found))
"""


def environments(**variables: str) -> list[dict[str, str]]:
    """Of a driver before Ray and with it, and of a worker; last the mode of the folder of Ray's files."""
    kept = {name: value for name, value in os.environ.items() if name != ADDRESS_VARIABLE}
    command, settings = [sys.executable, "-c", OF_A_WORKER], kept | variables | {"PYTHONPATH": str(CODE)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_workers_of_our_own_ray_have_one_thread_and_know_no_database_and_nobody_else_comes_in() -> None:
    before, driver, worker, folder = environments(**SECRETS, OMP_NUM_THREADS="7", SWEEPS_RESULTS="/somewhere")
    named = (*SECRETS, "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    assert [driver.get(name) for name in named] == [before.get(name) for name in named], "the driver keeps its own"
    assert [name for name, value in worker.items() if "secret" in value] == []
    assert [worker[f"{library}_NUM_THREADS"] for library in ("OMP", "MKL", "OPENBLAS")] == ["1"] * 3
    assert worker["SWEEPS_RESULTS"] == "/somewhere", "nothing else is kept from it"
    assert folder["mode"] == "700"

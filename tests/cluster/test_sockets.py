"""Every socket that Ray opens, on one machine and as a cluster, is known here and tried without the token.

One that is not in ``KNOWN`` fails a test, so that what a new Ray opens is noticed. docs/security.md says the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url

from sweeps.doctor.sockets import CALLS, Answer, Listener, ask_grpc, ask_http, attempt, name_of, of_calls, of_listeners
from tests.cluster.lab import HEAD, Lab, wait_until
from tests.docker.parts import ROOT
from tests.docker.servers import free_ports
from trainer.machine import RESULTS_VARIABLE

pytest.importorskip("aiohttp_cors", reason="Ray has no job server: pip install '.[cluster]'")

pytestmark = pytest.mark.cluster

KNOWN: dict[tuple[str, Answer], str] = {
    ("Ray's GCS", "refuses"): "the cluster's state, and through it code on every node",
    ("Ray's raylet", "refuses"): "two: the node's manager, and the one for its objects",
    ("Ray's worker", "refuses"): "whatever trials, actors and drivers are asked to do",
    ("Ray's client server", "refuses"): "drivers elsewhere",
    ("Ray's node agent", "refuses"): "three: jobs, logs and profiles over HTTP, and gRPC; bound twice",
    ("Ray's runtime environment agent", "refuses"): "packages to be installed",
    ("Ray's dashboard", "page"): "its front page, which asks for the token; everything behind it is refused",
    ("Ray's dashboard", "metrics"): "exception: counters of requests",
    ("Ray's monitor", "metrics"): "exception: counters of the autoscaler",
    ("Ray's node agent", "metrics"): "exception: load, memory and names of processes of the node",
}
WHAT_A_CLUSTER_HAS = set(KNOWN)
WHAT_A_SWEEP_HAS = {
    ("Ray's GCS", "refuses"),
    ("Ray's raylet", "refuses"),
    ("Ray's worker", "refuses"),
    ("Ray's node agent", "refuses"),
    ("Ray's node agent", "metrics"),
    ("Ray's runtime environment agent", "refuses"),
}
"""At most: there are fewer where Ray's extra ``default`` is not installed."""
JOB = """
import ray, time

@ray.remote(num_cpus=1)
def work():
    time.sleep(600)

ray.init(address="auto")
task = work.remote()
ray.get(task)
"""
OF_A_SWEEP = """
import sys
from sweeps.cluster.connection import private_folder, ray_for
import ray

@ray.remote(num_cpus=1)
def work():
    return 0

with private_folder() as folder, ray_for(1, folder):
    ray.get(work.remote())
    print("up", flush=True)
    sys.stdin.readline()
"""
EVIL = "evil.example"


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started. Ray's agents hide the environment by which others are recognised."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def command_of(process: psutil.Process) -> str:
    """Its command line; empty once it has gone."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


def listening(processes: list[psutil.Process]) -> set[Listener]:
    """All TCP sockets of ``processes`` that listen, whatever they are."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            name = name_of(process.cmdline()) or command_of(process)
            for here in process.net_connections("tcp"):
                if here.status == psutil.CONN_LISTEN:
                    found.add(Listener(name, here.laddr.ip, here.laddr.port))
    return found


def all_are_up(processes: list[psutil.Process]) -> bool:
    """Whether each server that is known listens, and no further socket has come within a second."""
    before = listening(processes)
    time.sleep(1)
    return {name for name, _ in KNOWN} <= {listener.name for listener in before} and listening(processes) == before


@dataclass(frozen=True)
class Ray:
    """One that runs. token: what opens it. tried: what each socket answers to somebody without it."""

    token: str
    tried: dict[Listener, Answer]

    def by_answer(self, *answers: Answer) -> list[Listener]:
        return [listener for listener, answer in self.tried.items() if answer in answers]


def request(url: str, method: str = "GET", body: object = None, **headers: str) -> int:
    """The status of an answer."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, sent, method=method), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def lab(folder: Path, secrets: Path) -> Iterator[Lab]:
    """A head and a worker, on which a job's task runs. No database: nothing here asks one."""
    assert secrets.is_dir()
    lab = Lab(folder, make_url("postgresql+psycopg://nobody@127.0.0.1:9/none"))
    try:
        lab.start_head()
        lab.start_worker("worker")
        yield lab
    finally:
        lab.end()


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Ray]:
    token = lab.secret("ray_token")
    job = {"entrypoint": f"{sys.executable} -c '{JOB}'", "submission_id": "sockets"}
    assert request(f"{lab.jobs}/api/jobs/", "POST", job, Authorization=f"Bearer {token}") == 200

    def processes() -> list[psutil.Process]:
        return [found for name in (HEAD, "worker") for found in family(lab.service(name).process.pid)]

    def is_at_work() -> bool:
        return any("ray::work" in command_of(process) for process in processes())

    wait_until(is_at_work, lambda: str(processes()))
    wait_until(lambda: all_are_up(processes()), lambda: str(listening(processes())))
    drivers = {JOB.strip(): "Ray's worker"}  # a driver is a worker to Ray: it has the same socket
    found = {
        Listener(next((to for text, to in drivers.items() if text in each.name), each.name), each.host, each.port)
        for each in listening(processes())
    }
    yield Ray(token, {listener: attempt(listener.reached_at) for listener in sorted(found)})
    header = {"Authorization": f"Bearer {token}"}
    assert request(f"{lab.jobs}/api/jobs/sockets/stop", "POST", **header) == 200  # Ray's head would wait for its end
    wait_until(lambda: not is_at_work(), lambda: str(processes()))


@pytest.fixture(scope="module")
def of_a_sweep(folder: Path) -> Iterator[Ray]:
    """The one that make sweep starts, as long as its trials run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-W", "ignore", "-c", OF_A_SWEEP]
    settings = kept | {"PYTHONPATH": str(ROOT), "HOME": str(folder)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=settings, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"up\n"
        (raylet,) = [p for p in family(driver.pid) if name_of(p.cmdline()) == "Ray's raylet"]
        found = listening(family(driver.pid))
        named = [Listener("Ray's worker" if OF_A_SWEEP.strip() in n else n, host, port) for n, host, port in found]
        token = raylet.environ()["RAY_AUTH_TOKEN"]
        yield Ray(token, {listener: attempt(listener.reached_at) for listener in sorted(named)})
        driver.communicate(b"\n", timeout=60)
    assert driver.returncode == 0


def test_all_sockets_of_a_cluster_are_known_and_answer_as_is_said(cluster: Ray) -> None:
    assert {(listener.name, answer) for listener, answer in cluster.tried.items()} == WHAT_A_CLUSTER_HAS


def test_all_sockets_of_a_sweep_are_known_and_answer_as_is_said(of_a_sweep: Ray) -> None:
    found = {(listener.name, answer) for listener, answer in of_a_sweep.tried.items()}
    assert found <= WHAT_A_SWEEP_HAS
    assert {("Ray's GCS", "refuses"), ("Ray's raylet", "refuses"), ("Ray's worker", "refuses")} <= found


def test_the_dashboard_is_bound_to_loopback(cluster: Ray) -> None:
    assert [listener.is_loopback for listener in cluster.by_answer("page")] == [True]


def test_every_node_has_two_sockets_of_its_raylet(cluster: Ray, of_a_sweep: Ray) -> None:
    for ray, nodes in (cluster, 2), (of_a_sweep, 1):
        assert Counter(listener.name for listener in ray.tried)["Ray's raylet"] == 2 * nodes


@pytest.mark.parametrize("wrong", ["", "0" * 64, "RIGHT REVERSED"])
def test_a_wrong_token_opens_no_more_than_none(cluster: Ray, wrong: str) -> None:
    shown = cluster.token[::-1] if wrong == "RIGHT REVERSED" else wrong
    again = {listener: attempt(listener.reached_at, shown) for listener in cluster.tried}
    assert again == cluster.tried


def test_the_token_opens_what_refuses_without_it(cluster: Ray) -> None:
    """So it was for want of the token that they refused, and not because nobody is answered there."""
    calls = CALLS[:-1]  # not to the one of the manager of objects, whose empty request names no object
    opened = set()
    for listener in cluster.by_answer("refuses", "page"):
        header = {"Authorization": f"Bearer {cluster.token}"}
        called = of_calls(ask_grpc(listener.reached_at, method, cluster.token) for method in calls)
        if called == "open" or ask_http(listener.reached_at, "/api/version", header)[0] in (200, 404):
            opened.add(listener)
    closed = [each for each in cluster.by_answer("refuses", "page") if each not in opened]
    assert [listener.name for listener in closed] == ["Ray's raylet"] * 2  # the managers of objects, one a node


def test_what_answers_whoever_comes_tells_no_secret(cluster: Ray, lab: Lab) -> None:
    pages = [ask_all(listener.reached_at, "/metrics") for listener in cluster.by_answer("metrics")]
    assert len(pages) == 4
    assert all("# HELP" in page for page in pages)
    told = "".join(pages)
    assert [file.name for file in lab.secrets.iterdir() if file.read_text() in told] == []


def ask_all(address: str, path: str) -> str:
    """The whole page."""
    with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as page:
        return str(page.read().decode())


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/job_agent/jobs/"])
@pytest.mark.parametrize("shown", ["nothing", "another token", "another page"])
def test_nobody_runs_a_job_without_the_token(path: str, shown: str, cluster: Ray, lab: Lab) -> None:
    """What CVE-2023-48022 and its followers did, at every socket that speaks HTTP."""
    ran = lab.folder / "ran"
    headers = {
        "nothing": {},
        "another token": {"Authorization": "Bearer " + cluster.token[::-1]},
        "another page": {"Origin": f"http://{EVIL}", "Host": EVIL, "User_Agent": "Mozilla/5.0"},
    }[shown]
    speakers = [
        each for each in cluster.tried if ask_http(each.reached_at, path)[0] and cluster.tried[each] != "metrics"
    ]
    assert {listener.name for listener in speakers} == {
        "Ray's dashboard",
        "Ray's node agent",
        "Ray's runtime environment agent",
    }
    body = {"entrypoint": f"touch {ran}"}
    for listener in speakers:
        assert request(f"http://{listener.reached_at}{path}", "POST", body, **headers) in (401, 403, 405), listener
    assert not ran.exists()


def test_a_page_from_elsewhere_runs_no_job_even_with_the_token(cluster: Ray, lab: Lab) -> None:
    headers = {"Authorization": f"Bearer {cluster.token}", "Origin": f"http://{EVIL}", "User_Agent": "Mozilla/5.0"}
    ran = lab.folder / "ran"
    status = request(f"{lab.jobs}/api/jobs/", "POST", {"entrypoint": f"touch {ran}"}, **headers)
    assert status in (401, 403, 405)
    assert not ran.exists()


@contextlib.contextmanager
def served(folder: Path, command: str) -> Iterator[str]:
    """``python -m sweeps COMMAND`` over the results in ``folder``, until Ctrl-C; its address."""
    (port,) = free_ports(1)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    settings = kept | {RESULTS_VARIABLE: str(folder), "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "sweeps", command, "--port", str(port)]
    null = subprocess.DEVNULL
    with subprocess.Popen(arguments, env=settings, stdout=null, stderr=null, start_new_session=True) as process:
        try:
            wait_until(lambda: ask_http(f"127.0.0.1:{port}", "/")[0] == 200, lambda: f"{command} does not answer")
            assert [each.host for each in listening(family(process.pid)) if each.port == port] == ["127.0.0.1"]
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 0


def test_mlflows_pages_are_for_this_machine_and_no_page_from_elsewhere(tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_experiment("a-study")
    with served(tmp_path, "ui") as address:
        read, write = (
            f"{address}/api/2.0/mlflow/experiments/get?experiment_id=1",
            f"{address}/api/2.0/mlflow/experiments/",
        )
        assert request(read) == 200
        assert request(read, Host=EVIL) == 403
        assert request(f"{write}create", "POST", {"name": "by a page from elsewhere"}, Origin=f"http://{EVIL}") == 403
        assert request(f"{write}delete", "POST", {"experiment_id": "1"}, Origin="null") == 403
        assert request(f"{write}create", "POST", {"name": "by a client"}) == 200
    assert {each.name for each in client.search_experiments()} == {"Default", "a-study", "by a client"}


def test_optunas_pages_are_for_this_machine_and_no_page_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="make dashboard installs it")
    import optuna

    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    optuna.create_study(storage=storage, study_name="a search")
    with served(tmp_path, "dashboard") as address:
        assert request(f"{address}/api/studies") == 200
        assert request(f"{address}/api/studies", Host=EVIL) == 403
        assert request(f"{address}/api/studies/1", "DELETE", {}, Host=EVIL) == 403
        assert request(f"{address}/api/studies/1", "DELETE", {}, Origin=f"http://{EVIL}") == 403
        assert request(f"{address}/api/studies/1") == 200


def test_the_doctor_finds_nothing_open(cluster: Ray) -> None:
    findings = list(of_listeners(cluster.tried))
    assert [finding.verdict for finding in findings] == ["ok", "warning"]
    assert "metrics" in findings[1].said

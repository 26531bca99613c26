"""A lab on one machine: what the images run, as processes that can be killed and started again at their addresses."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import URL

from sweeps.cluster.ray_token import MODE_VARIABLE, PATH_VARIABLE, TOKEN_VARIABLE
from sweeps.sweep import ADDRESS_VARIABLE
from tests.docker.parts import DOCKER, ROOT
from tests.docker.servers import Service, free_ports, libpq, service, status
from tests.faults.harness import Workplace
from trainer.machine import LEDGER_VARIABLE, RESULTS_VARIABLE, TRACKING_VARIABLE

HEAD, MLFLOW = "head", "mlflow"


def image_settings(dockerfile: str) -> dict[str, str]:
    """What the image's second ENV instruction sets: MLflow's, in docker/mlflow.Dockerfile."""
    text = (DOCKER / dockerfile).read_text(encoding="utf-8")
    block = text[text.index("ENV HOME") : text.index("WORKDIR")]
    return dict(word.split("=", 1) for word in block.replace("\\\n", " ").split()[1:])


def basic(user: str, password: str) -> str:
    """The header by which a client of MLflow shows them."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Lab:
    """Ray's head, workers and MLflow on a PostgreSQL; each runs where it was started and until it was killed or ended.

    folder: of logs, secrets and artifacts, with a short name, for Ray's sockets are in it. variables: what head and
    workers find in their environment besides.
    """

    folder: Path
    postgres: URL
    variables: dict[str, str] = field(default_factory=dict)
    _running: dict[str, tuple[contextlib.ExitStack, Service]] = field(default_factory=dict)
    _health: dict[str, str] = field(default_factory=dict)
    _starts: int = 0

    def __post_init__(self) -> None:
        self._gcs, self._jobs, self._client, self._agent, self._mlflow = free_ports(5)

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def secret(self, name: str) -> str:
        """What docker/secrets.sh has made."""
        return (self.secrets / name).read_text(encoding="utf-8")

    @property
    def jobs(self) -> str:
        """Where Ray takes jobs."""
        return f"http://127.0.0.1:{self._jobs}"

    @property
    def tracking_uri(self) -> str:
        return f"http://127.0.0.1:{self._mlflow}"

    def service(self, name: str) -> Service:
        """One that runs."""
        return self._running[name][1]

    def health(self, name: str) -> str:
        """What its container's health check asks."""
        return self._health[name]

    def client(self, results: Path) -> dict[str, str]:
        """The environment of somebody who sends jobs for this folder: Ray's token, no database and no password."""
        # A token in the environment would count before the file; importing what starts a Ray puts one there.
        dropped = (TRACKING_VARIABLE, LEDGER_VARIABLE, TOKEN_VARIABLE)
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        token = {MODE_VARIABLE: "token", PATH_VARIABLE: str(self.secrets / "ray_token")}
        return kept | token | {ADDRESS_VARIABLE: self.jobs, RESULTS_VARIABLE: str(results), "PYTHONPATH": str(ROOT)}

    def reader(self) -> dict[str, str]:
        """The environment of somebody who may read the ledger and MLflow."""
        url = self.postgres.set(username="ledger", password=self.secret("ledger_password"), database="ledger")
        tracking = {TRACKING_VARIABLE: self.tracking_uri, "MLFLOW_TRACKING_USERNAME": "admin"}
        password = {"MLFLOW_TRACKING_PASSWORD": self.secret("mlflow_admin_password")}
        return {LEDGER_VARIABLE: url.render_as_string(hide_password=False)} | tracking | password

    def start_mlflow(self) -> Service:
        """Returns once it answers; making its tables takes most of that."""
        settings = image_settings("mlflow.Dockerfile") | libpq(self.postgres)
        place = {"HOME": str(self.folder), "TMPDIR": str(self.folder), "SWEEPS_SECRETS": str(self.secrets)}
        artifacts = {"MLFLOW_ARTIFACTS_DESTINATION": (self.folder / "artifacts").as_uri()}
        listen = ["--host", "127.0.0.1", "--port", str(self._mlflow)]
        return self._start(MLFLOW, "mlflow.sh", listen, settings | artifacts | place, f"{self.tracking_uri}/health")

    def start_head(self) -> Service:
        """Returns once it takes jobs. It has no CPU for trials."""
        ports = [f"--port={self._gcs}", f"--dashboard-port={self._jobs}", f"--ray-client-server-port={self._client}"]
        place = ["--dashboard-host=127.0.0.1", f"--temp-dir={self.folder}/ray"]
        agent = [f"--dashboard-agent-listen-port={self._agent}"]
        tracking = {TRACKING_VARIABLE: self.tracking_uri, "MLFLOW_TRACKING_USERNAME": "admin"}
        settings = self._of_ray() | libpq(self.postgres) | tracking | {"RAY_HEAD_HOST": "localhost"}
        health = f"http://127.0.0.1:{self._agent}/api/healthz"
        head = self._start(HEAD, "head.sh", [*ports, *place, *agent], settings, health)
        head.wait_until(lambda: status(f"{self.jobs}/") == 200)
        return head

    def start_worker(self, name: str, cpus: int = 1) -> Service:
        """Returns once it is there."""
        (agent,) = free_ports(1)
        # A folder of its own, as on a machine of its own: Ray clears what the nodes of one machine would share.
        own = [f"--temp-dir={self.folder}/{name}", f"--dashboard-agent-listen-port={agent}"]
        arguments = [f"--num-cpus={cpus}", *own]
        settings = self._of_ray() | {"RAY_HEAD": f"127.0.0.1:{self._gcs}"}
        return self._start(name, "worker.sh", arguments, settings, f"http://127.0.0.1:{agent}/api/healthz")

    def _of_ray(self) -> dict[str, str]:
        return {"SWEEPS_SECRETS": str(self.secrets), "HOME": str(self.folder)} | self.variables

    def _start(self, name: str, script: str, arguments: list[str], settings: dict[str, str], health: str) -> Service:
        self._starts += 1
        self._health[name] = health
        stack = contextlib.ExitStack()
        log = self.folder / f"{name}-{self._starts}"
        started = stack.enter_context(service(script, *arguments, log=log, **settings))
        self._running[name] = stack, started
        started.wait_until(lambda: status(health) == 200, seconds=180)
        return started

    def kill(self, name: str) -> None:
        """As when its machine loses power: nothing of it lives on, not even to say so."""
        stack, started = self._running.pop(name)
        victims = started.processes()
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(process)
        stack.close()

    def end(self) -> None:
        """As containers end, workers first."""
        for name in sorted(self._running, key=lambda name: name in (HEAD, MLFLOW)):
            self._running.pop(name)[0].close()

    def end_ray(self) -> None:
        """All but MLflow."""
        for name in sorted(set(self._running) - {MLFLOW}, key=lambda name: name == HEAD):
            self._running.pop(name)[0].close()


@contextlib.contextmanager
def head_for(lab: Lab, place: Workplace, patch: pytest.MonkeyPatch, **variables: str) -> Iterator[Lab]:
    """The lab with a head; its databases are those that this process reads of ``place``.

    variables: what head and workers find in their environment.
    """
    for name, value in lab.reader().items():
        patch.setenv(name, value)
        place.variables[name] = value
    lab.variables = variables
    lab.start_head()
    yield lab
    lab.end_ray()


@dataclass
class Submitted:
    """A client that follows its job."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait(self, seconds: float = 120.0) -> int:
        """For its end; the exit code is returned."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.printed) from None

    def close_terminal(self) -> None:
        """What a shell does to its jobs when its terminal is closed."""
        os.killpg(self.process.pid, signal.SIGHUP)
        self.process.wait(timeout=20)


@contextlib.contextmanager
def submitted(folder: Path, client: Mapping[str, str], *arguments: str) -> Iterator[Submitted]:
    """``python -m sweeps submit ARGUMENTS``, called from ``folder``, in a process group of its own.

    client: its environment. It is killed in the end, should it still run.
    """
    log = folder / f"submit-{time.monotonic_ns()}"
    with log.open("wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeps", "submit", *arguments],
            cwd=folder,
            env=client,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Submitted(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


def wait_until(condition: Callable[[], bool], told: Callable[[], str], seconds: float = 90.0) -> None:
    """Return once ``condition`` holds; fail, with what ``told`` says, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s: {told()}"
        time.sleep(0.05)

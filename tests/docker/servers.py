"""Servers as the images would run them, without Docker: a PostgreSQL that is given, and entry scripts as processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sql
from sqlalchemy.engine import URL, make_url

from tests.docker.parts import COMMANDS, DOCKER, ROOT, needs, run
from tests.sweeps.conftest import POSTGRES_VARIABLE

DATABASES = ("mlflow", "mlflow_auth", "optuna", "ledger")


@contextlib.contextmanager
def autocommit(url: URL) -> Iterator[sql.Connection]:
    """A connection to a database, each of whose statements is a transaction."""
    engine = sql.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sql.NullPool)
    with engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def empty_server() -> Iterator[URL]:
    """The PostgreSQL of the tests; what docker/postgres/init.sh makes there is removed in the end."""
    if POSTGRES_VARIABLE not in os.environ:
        pytest.skip(f"{POSTGRES_VARIABLE} names no server")
    needs("psql")
    url = make_url(os.environ[POSTGRES_VARIABLE])
    query = sql.text("SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles")
    with autocommit(url) as connection:
        there = set(connection.execute(query).scalars()) & set(DATABASES)
    assert not there, f"{POSTGRES_VARIABLE}: somebody has {there} there, which this test would remove"
    try:
        yield url
    finally:
        with autocommit(url) as connection:
            for name in DATABASES:
                connection.execute(sql.text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
                connection.execute(sql.text(f'DROP ROLE IF EXISTS "{name}"'))


def libpq(url: URL) -> dict[str, str]:
    """The settings by which libpq finds the server."""
    place = {"PGHOST": url.host or str(url.query["host"]), "PGPORT": str(url.port or ""), "PGPASSWORD": url.password}
    return {name: value for name, value in place.items() if value}


def initialise(url: URL, secrets: Path) -> None:
    """Run docker/postgres/init.sh there."""
    user = {"POSTGRES_USER": str(url.username)}
    done = run(DOCKER / "postgres/init.sh", SWEEPS_SECRETS=str(secrets), **user, **libpq(url))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now, different from one another."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def status(url: str, **headers: str) -> int:
    """The HTTP status of a page; 0 when nothing answers. Underscores in names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=named), timeout=10) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@dataclass(frozen=True)
class Service:
    """An entry script that runs. mark: a setting in the environment of all its processes, and of no others."""

    process: subprocess.Popen[bytes]
    log: Path
    mark: tuple[str, str]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 90.0) -> None:
        """Return once ``condition`` holds; fail, with what was printed, when it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"not so after {seconds} s: {self.log.read_text()}"
            time.sleep(0.2)

    def processes(self) -> list[psutil.Process]:
        """All that it has started and that live."""
        return [process for process in psutil.process_iter() if self._has_started(process)]

    def _has_started(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.environ().get(self.mark[0]) == self.mark[1]
        return False

    def arguments(self) -> str:
        """What a process list shows of it."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found += process.cmdline()
        return "\n".join(found)


@contextlib.contextmanager
def service(script: str, *arguments: str, log: Path, **environment: str) -> Iterator[Service]:
    """docker/entry/SCRIPT as a container would start it: these settings alone. It ends as a container does: SIGTERM."""
    mark = ("SWEEPS_TEST_SERVICE", str(log))
    settings = {"PATH": f"{COMMANDS}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), mark[0]: mark[1], **environment}
    command = [str(DOCKER / "entry" / script), *arguments]
    with log.open("wb") as printed:
        process = subprocess.Popen(
            command, cwd=log.parent, env=settings, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
        )
    started = Service(process, log, mark)
    try:
        yield started
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        deadline = time.monotonic() + 30
        while left := started.processes():
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.2)
    finally:
        for left_over in started.processes():  # of a test that failed
            with contextlib.suppress(psutil.Error):
                left_over.kill()
        process.wait(timeout=10)

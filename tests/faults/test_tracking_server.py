"""An MLflow server that stops, hangs or is gone for good: training goes on, and all of it is delivered afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.servers.ui import HOST, SETTINGS
from tests.faults.harness import PAUSE, Numbers, Workplace, assert_equals_undisturbed, driver_of
from trainer.machine import TRACKING_VARIABLE

OUTAGE_SECONDS = 20.0

pytestmark = pytest.mark.faults


class Server:
    """A real MLflow server over SQLite, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Returns once it answers."""
        self._folder.mkdir(exist_ok=True)
        stores = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        artifacts = ["--default-artifact-root", (self._folder / "artifacts").as_uri()]
        where = ["--host", HOST, "--port", str(self.port), "--workers", "1"]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *where, *stores, *artifacts],
                env=os.environ | SETTINGS,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # which URLError is
            return False

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """As a machine that goes down: nothing is finished first. Nothing to do for one that does not run."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(place: Workplace, tmp_path: Path) -> Iterator[Server]:
    """One that runs; the drivers of ``place`` deliver to it."""
    server = Server(tmp_path / "server")
    place.variables[TRACKING_VARIABLE] = server.uri
    server.start()
    yield server
    server.kill()


def finished_during_an_outage(place: Workplace) -> None:
    """Wait it out; the training must not wait with us."""
    before = place.states()["finished"]
    time.sleep(OUTAGE_SECONDS)
    assert place.states()["finished"] >= before + 3, place.printed


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_an_outage_holds_nothing_up_and_loses_nothing(
    place: Workplace, undisturbed: Numbers, server: Server, how: str
) -> None:
    process = place.run(**{PAUSE: "0.03"})
    place.wait_until_finished(2)
    server.kill() if how == "stopped" else server.signal(signal.SIGSTOP)
    finished_during_an_outage(place)
    assert process.poll() is None, "the study ended before the outage did"
    server.start() if how == "stopped" else server.signal(signal.SIGCONT)
    assert process.wait(timeout=180) == 0, place.printed
    assert "MLflow does not take a record" in place.printed
    assert_equals_undisturbed(place, undisturbed)


def test_a_driver_that_is_killed_during_an_outage(place: Workplace, undisturbed: Numbers, server: Server) -> None:
    """What it had not delivered was nowhere but in the checkpoints."""
    process = place.run(**{PAUSE: "0.02"})
    place.wait_until_finished(2)
    server.kill()
    before = place.states()["finished"]
    place.wait_until_finished(before + 4)
    driver_of(process).kill()
    process.wait(timeout=10)
    refused = place.start("run", str(place.file), "--yes")
    assert refused.wait(timeout=60) == 2
    assert f"error: {TRACKING_VARIABLE}: {server.uri} does not answer" in place.printed
    server.start()
    assert len(place.trial_runs()) < len(undisturbed)
    place.finish()
    assert_equals_undisturbed(place, undisturbed)


def test_a_server_that_is_gone_for_good(place: Workplace, undisturbed: Numbers, server: Server) -> None:
    """The study ends all the same and says what is due; a later process brings it to a server that is up again."""
    process = place.run(**{PAUSE: "0.005"})
    place.wait_until_finished(2)
    server.kill()
    assert process.wait(timeout=180) == 0, place.printed
    assert "trials are not in MLflow yet: the same command delivers them once it answers" in place.printed
    assert place.states() == {"finished": len(undisturbed)}
    server.start()
    assert place.start("deliver", str(place.file)).wait(timeout=120) == 0, place.printed
    assert_equals_undisturbed(place, undisturbed)
    assert place.start("deliver", str(place.file)).wait(timeout=120) == 0
    assert place.printed.endswith("all that was trained is in MLflow already\n")

"""``python -m sweeps ui``: MLflow's server as a process of its own, gone without a word on Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as page:
        return bool(page.status == 200)
    return False


def of_these_results(results: Path) -> list[str]:
    """Names of the processes that live with ``results`` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SWEEPS_RESULTS") == str(results):
                found.append(process.name())
    return found


@pytest.mark.slow
def test_ctrl_c_ends_the_server_without_a_traceback(tmp_path: Path) -> None:
    MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").create_experiment("a-study")
    others = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    port = free_port()
    with (tmp_path / "printed").open("w") as printed:
        driver = subprocess.Popen(
            [sys.executable, "-m", "sweeps", "ui", "--port", str(port)],
            env=others | {"SWEEPS_RESULTS": str(tmp_path)},
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/"):
            assert driver.poll() is None, (tmp_path / "printed").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(timeout=30) == 0
    assert "a-study" in (tmp_path / "printed").read_text()
    assert "Traceback" not in (tmp_path / "printed").read_text()
    deadline = time.monotonic() + 15
    while left := of_these_results(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)

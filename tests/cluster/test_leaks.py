"""Passwords in the environment of a run that trains are nowhere in what it leaves, prints and passes as arguments."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, RESULTS_VARIABLE, TRACKING_VARIABLE

pytestmark = pytest.mark.cluster

MARK = "hunter2-marks-the-spot"
STUDY = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Erm

STUDY = Study(
    name="leaks",
    question="?",
    trials=[replace(recipes.digits_mlp(method, 0), epochs=2, lr_milestones=()) for method in (Erm(), Amp(epsilon=0.5))],
)
"""


class Watch:
    """Looks, while a process runs, at the arguments of all that it starts and at the files of its Ray."""

    def __init__(self, pid: int) -> None:
        self.arguments: set[str] = set()
        self.files: set[Path] = set()
        self.leaks: set[str] = set()
        self._process, self._over = psutil.Process(pid), threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look_on)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(0.1):
            with contextlib.suppress(psutil.Error):
                for process in [self._process, *self._process.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        self.arguments.add(" ".join(process.cmdline()))
            for folder in Path("/tmp").glob(f"sweep-{self._process.pid}-*"):
                self._look_into(folder)

    def _look_into(self, folder: Path) -> None:
        with contextlib.suppress(OSError):
            for path in folder.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    self.files.add(path)
                    if MARK.encode() in path.read_bytes():
                        self.leaks.add(str(path))


def test_a_run_leaves_no_password_behind(tmp_path: Path) -> None:
    results, study = tmp_path / "results", tmp_path / "leaks.py"
    study.write_text(STUDY)
    settings = {
        RESULTS_VARIABLE: str(results),
        LEDGER_VARIABLE: f"sqlite:///{results}/ledger.db?password={MARK}",
        OPTUNA_VARIABLE: f"sqlite:///{results}/optuna.db?password={MARK}",
        TRACKING_VARIABLE: f"sqlite:///{results}/mlflow.db",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": MARK,
    }
    command = [sys.executable, "-W", "ignore", "-m", "sweeps", "run", str(study), "--yes", "--jobs", "1"]
    printed = tmp_path / "printed"
    with printed.open("wb") as file:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=file, stderr=subprocess.STDOUT)
        watch = Watch(process.pid)
        with watch.watching():
            assert process.wait(timeout=180) == 0, printed.read_text()
    assert any("raylet" in line for line in watch.arguments)
    assert any("raylet" in path.name for path in watch.files)
    assert (watch.leaks, [line for line in watch.arguments if MARK in line]) == (set(), [])
    left = [printed, *(path for path in results.rglob("*") if path.is_file())]
    assert {"ledger.db", "mlflow.db", "printed"} <= {path.name for path in left}
    assert [str(path) for path in left if MARK.encode() in path.read_bytes()] == []

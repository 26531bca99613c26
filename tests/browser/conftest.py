"""A headless Chromium, and MLflow's pages over a small study that was really trained, reported and published."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.faults.harness import Workplace, workplace_in

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = "CHROMIUM"
"""The environment's variable for the browser's file; by default one of NAMES is looked for."""
REQUIRED = "SWEEPS_REQUIRE_BROWSER"
"""Where this is set these tests fail, not skip, when there is no browser."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["background-networking", "component-update", "sync", "gpu", "quic"]
OPTIONS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
WIDE = {"width": 3200, "height": 1200}
"""Pixels: MLflow's table makes no columns that are out of sight."""

STUDY_FILE = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Erm

METHODS = Erm(), Amp(epsilon=0.1), Amp(epsilon=0.5)
TRIALS = [replace(recipes.digits_mlp(m, seed), epochs=4, lr_milestones=()) for seed in range(2) for m in METHODS]
DIVERGING = replace(recipes.digits_mlp(Erm(), seed=0), epochs=4, lr_milestones=(), lr=1e30)
STUDY = Study(name="browsed", question="Which radius is seen best in a browser?", trials=[*TRIALS, DIVERGING])
"""
FINISHED, CELLS = 6, 4


@dataclass(frozen=True, slots=True)
class Site:
    """MLflow's pages over the results of ``place``."""

    place: Workplace
    address: str
    experiment_id: str

    def runs(self) -> str:
        """The address of the experiment's runs, as ``python -m sweeps ui`` prints it but for the kind of work."""
        return f"{self.address}/#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"

    @property
    def report(self) -> Path:
        return self.place.results.report(self.place.study.name)


def _lacking(what: str) -> NoReturn:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what}, and {REQUIRED} is set")
    pytest.skip(what)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Skips, with the reason, where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _lacking("playwright is not installed: make test-browser")
    file = os.environ.get(CHROMIUM) or next(filter(None, map(shutil.which, NAMES)), None)
    if not file:
        _lacking(f"no Chromium is installed, nor does {CHROMIUM} name one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=file, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Of a reader who was never here before."""
    context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]  # a TypedDict that this is
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """After ``browser``, so that nothing is trained where nobody can look at it."""
    with workplace_in(tmp_path_factory.mktemp("site"), STUDY_FILE) as place:
        assert place.run().wait(timeout=180) == 1, place.printed  # one trial diverges
        for command in ("analysis", "report"), ("sweeps", "publish"):
            _do(place, *command)
        experiment = place.runs()[0].get_experiment_by_name(place.study.name)
        assert experiment is not None
        with _served(place) as address:
            yield Site(place, address, experiment.experiment_id)


def _do(place: Workplace, package: str, command: str) -> None:
    arguments = [sys.executable, "-m", package, command, str(place.file)]
    done = subprocess.run(arguments, env=place.environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def _served(place: Workplace) -> Iterator[str]:
    """The address of ``python -m sweeps ui``, which ends as on Ctrl-C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = place.start("ui", "--port", str(port))
    try:
        _wait_for(address, server, place)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen[bytes], place: Workplace) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return
        assert server.poll() is None, place.printed
        assert time.monotonic() < deadline, place.printed
        time.sleep(0.2)

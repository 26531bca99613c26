"""Whole sweeps with real processes: Ray, the ledger and MLflow, killed and gone on with."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from search_spaces.catalog import find
from search_spaces.study import Study
from sweeps.ledger import Ledger
from trainer.loop import train
from trainer.machine import Machine, Results

STUDY_FILE = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Erm

METHODS = (Erm(), Amp(epsilon=0.2, inner_lr=2.0, inner_steps=2))
STUDY = Study(
    name="killed",
    question="Does a killed sweep end with the table of an undisturbed one?",
    trials=[
        replace(recipes.digits_mlp(method, seed), epochs=60, lr_milestones=(40,))
        for seed in range(3)
        for method in METHODS
    ],
)
"""
TIMES = ("epoch_seconds",)

pytestmark = pytest.mark.slow


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with a user's study in it; results go to its ``results``."""
    (tmp_path / "killed.py").write_text(STUDY_FILE)
    return tmp_path


@pytest.fixture(autouse=True)
def no_process_left(workplace: Path) -> Iterator[None]:
    """Whatever a test starts must be gone soon after it, killed drivers' workers included.

    That takes a second or two; a machine that does much else may need more.
    """
    yield
    deadline = time.monotonic() + 30
    while left := [process.cmdline() for process in psutil.process_iter() if _results_of(process) == workplace]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.2)


def _results_of(process: psutil.Process) -> Path | None:
    """Ray's daemons and workers inherit the environment of the driver that started them."""
    try:
        results = process.environ().get("SWEEPS_RESULTS")
    except psutil.Error:
        return None
    return Path(results).parent if results else None


def environment(workplace: Path) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return others | {"SWEEPS_RESULTS": str(workplace / "results")}


def start(workplace: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sweeps", *arguments]
    with (workplace / "log").open("a") as log:
        # Through a shell, as make does it: the driver is then no session leader, but shares a process group with it.
        return subprocess.Popen(
            ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command],
            env=environment(workplace),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_to_end(workplace: Path) -> str:
    """Run the study and return what was printed; it must succeed."""
    (workplace / "log").unlink(missing_ok=True)
    process = start(workplace, "run", str(workplace / "killed.py"))
    code = process.wait(timeout=120)
    printed = (workplace / "log").read_text()
    assert code == 0, printed
    return printed


def groups_of_children(process: subprocess.Popen[bytes]) -> set[int]:
    """The process groups of all that the driver has started, workers and daemons of Ray alike."""
    [driver] = psutil.Process(process.pid).children()
    groups = set()
    for child in driver.children(recursive=True):
        with contextlib.suppress(ProcessLookupError):  # an agent may end just now
            groups.add(os.getpgid(child.pid))
    return groups


def wait_until_finished(workplace: Path, trials: int) -> None:
    results, deadline = Results(workplace / "results"), time.monotonic() + 60
    study = find(str(workplace / "killed.py"))
    while time.monotonic() < deadline:
        if (results.root / "ledger.db").exists() and states(results, study)["finished"] >= trials:
            return
        time.sleep(0.05)
    pytest.fail(f"no {trials} trials finished in time: {(workplace / 'log').read_text()}")


def states(results: Results, study: Study) -> Counter[str]:
    ledger = Ledger(results.ledger_url)
    try:
        return Counter(row.state for row in ledger.rows([trial.trial_id for trial in study.trials]).values())
    finally:
        ledger.close()


def trial_runs(workplace: Path) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{workplace / 'results' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("killed")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"))


def assert_equals_undisturbed(workplace: Path) -> None:
    """Every trial once, FINISHED, and every epoch of every metric once and bit for bit as without any sweep."""
    study, (client, runs) = find(str(workplace / "killed.py")), trial_runs(workplace)
    assert sorted(run.data.tags["trial_id"] for run in runs) == sorted(trial.trial_id for trial in study.trials)
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_id = {run.data.tags["trial_id"]: run for run in runs}
    for trial in study.trials[::3]:
        records = list(train(trial, Machine(data_dir=workplace / "undisturbed")))
        for name in set().union(*(record.metrics for record in records)) - set(TIMES):
            history = client.get_metric_history(by_id[trial.trial_id].info.run_id, name)
            expected = [(record.epoch, record.metrics[name]) for record in records if name in record.metrics]
            assert sorted((metric.step, metric.value) for metric in history) == expected, name


def test_killed_at_any_moment_it_goes_on_to_the_same_table(workplace: Path) -> None:
    process = start(workplace, "run", str(workplace / "killed.py"))
    wait_until_finished(workplace, 2)
    groups = groups_of_children(process)
    assert len(groups) == 1, "a worker in another group outlives its driver until it notices"
    assert not groups & {process.pid}, "Ctrl-C would reach it before the driver can tell it to save"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert states(Results(workplace / "results"), find(str(workplace / "killed.py")))["finished"] < 6
    run_to_end(workplace)
    assert_equals_undisturbed(workplace)
    printed = run_to_end(workplace)
    assert printed == "killed: 6 of 6 already finished\n"


def test_interrupted_it_says_how_to_go_on_and_leaves_no_run_running(workplace: Path) -> None:
    process = start(workplace, "run", str(workplace / "killed.py"))
    wait_until_finished(workplace, 1)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=30)
    printed = (workplace / "log").read_text()
    assert f"To go on: make sweep STUDY={workplace / 'killed.py'}" in printed
    assert "Traceback" not in printed
    assert "leased" not in states(Results(workplace / "results"), find(str(workplace / "killed.py")))
    assert {run.info.status for run in trial_runs(workplace)[1]} <= {"FINISHED", "KILLED"}
    run_to_end(workplace)
    assert_equals_undisturbed(workplace)


def test_a_lost_worker_costs_nothing_but_time(workplace: Path) -> None:
    process = start(workplace, "run", str(workplace / "killed.py"))
    wait_until_finished(workplace, 1)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "ray::" in " ".join(p.cmdline())]
    trainers = [worker for worker in workers if "ImplicitFunc" in " ".join(worker.cmdline())]
    assert trainers, [worker.cmdline() for worker in workers]
    trainers[0].kill()
    assert process.wait(timeout=120) == 0, (workplace / "log").read_text()
    assert_equals_undisturbed(workplace)


NETWORK_FILE = """
from torch import nn


def make(shape, classes, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], width), nn.ReLU(), nn.Linear(width, classes))
"""
OWN_NETWORK_STUDY = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Custom, Erm

NETWORK = Custom("my_network:make", arguments={"width": 8})
STUDY = Study(
    name="own-network",
    question="Is a network beside the study's file found by the workers?",
    trials=[replace(recipes.digits_mlp(Erm(), 0), model=NETWORK, epochs=2, lr_milestones=())],
)
"""


def test_workers_find_a_network_beside_the_studys_file(workplace: Path) -> None:
    (workplace / "my_network.py").write_text(NETWORK_FILE)
    (workplace / "own.py").write_text(OWN_NETWORK_STUDY)
    process = start(workplace, "run", str(workplace / "own.py"))
    assert process.wait(timeout=120) == 0, (workplace / "log").read_text()
    assert states(Results(workplace / "results"), find(str(workplace / "own.py"))) == {"finished": 1}

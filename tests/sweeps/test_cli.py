"""Bad input: one line that says what, where and what to do, exit code 2, no traceback; nothing is lost."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import sweeps.cli
import sweeps.run
from search_spaces.study import Study
from sweeps.cli import main
from sweeps.hardware import cores, torch_sees_gpu
from sweeps.ledger import Ledger
from sweeps.sweep import StudySweep
from tests.sweeps.conftest import make_trial
from trainer.declaration import ConfigError
from trainer.machine import Results

STUDY = """
from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Erm

STUDY = Study(name="mine", question="?", trials=[recipes.digits_mlp({method}, 0)])
"""


def run(tmp_path: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SWEEPS_RESULTS": str(tmp_path / "results")} | settings
    return subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize("command", [("sweeps", "run"), ("sweeps", "plan"), ("analysis", "report")])
def test_unknown_study_names_the_nearest(tmp_path: Path, command: tuple[str, str]) -> None:
    assert_one_line(run(tmp_path, *command, "fig8-mnist"), "fig8-mnist'", "fig8-mnist5k")


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("Amp(epsilon=-0.5)", ("mine.py:6", "Amp.epsilon = -0.5", "> 0")),
        ("Amp(epsilon=0.5, inner_steps=0)", ("Amp.inner_steps = 0", "Erm()")),
        ("Erm(epsilon=0.5)", ("mine.py:6", "epsilon")),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, method: str, parts: tuple[str, ...]) -> None:
    (tmp_path / "mine.py").write_text(STUDY.format(method=method))
    assert_one_line(run(tmp_path, "sweeps", "run", str(tmp_path / "mine.py")), *parts)


def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path, "sweeps", "run", "fig8-digits", SWEEPS_RESULTS=str(tmp_path / "file" / "results"))
    assert_one_line(done, "RESULTS", str(tmp_path / "file" / "results"))


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/nowhere/mlflow.db", "nonsense://x"])
def test_tracking_address_that_does_not_answer(tmp_path: Path, uri: str) -> None:
    done = run(tmp_path, "sweeps", "run", "fig8-digits", MLFLOW_TRACKING_URI=uri)
    assert_one_line(done, "MLFLOW_TRACKING_URI", uri)


def test_report_before_anything_is_trained(tmp_path: Path) -> None:
    assert_one_line(
        run(tmp_path, "analysis", "report", "fig8-digits"), "no trial is finished", "make sweep STUDY=fig8-digits"
    )


def test_ui_before_there_are_results(tmp_path: Path) -> None:
    assert_one_line(run(tmp_path, "sweeps", "ui"), "no results yet")


def test_names_of_studies_stand_in_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    found = {re.search(r"(?<=\d) (trials|searches)  ", line) for line in capsys.readouterr().out.splitlines()}
    assert len({match and match.start() for match in found}) == 1


@pytest.mark.parametrize("address", ["", "local"])
def test_without_a_gpu_cuda_is_refused_before_mlflow_knows_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(sweeps.cli, "torch_sees_gpu", lambda: False)
    (tmp_path / "mine.py").write_text(STUDY.format(method="Erm()"))
    assert main(["run", str(tmp_path / "mine.py"), "--device", "cuda", "--yes"]) == 2
    assert "--device cuda: torch sees no GPU on this machine" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(("address", "finished"), [("somewhere:1", False), ("", True)])
def test_gpus_of_another_ray_or_of_no_use_are_not_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, finished: bool
) -> None:
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(sweeps.cli, "torch_sees_gpu", lambda: pytest.fail("asked about"))
    monkeypatch.setattr(sweeps.run, "run", lambda *_: 0)
    trial = make_trial()
    monkeypatch.setattr(sweeps.cli, "find", lambda _: Study(name="mine", question="?", trials=[trial]))
    if finished:
        ledger = Ledger(Results(tmp_path).ledger_url)
        ledger.declare("mine", [trial])
        assert ledger.lease([trial.trial_id], "driver", "mine")
        assert ledger.settle(trial.trial_id, "driver", "finished")
        ledger.close()
    assert main(["run", "mine", "--device", "cuda", "--jobs", "1", "--yes"]) == 0


@pytest.mark.parametrize(
    ("address", "options", "finished", "jobs"),
    [
        ("somewhere:1", [], False, 40),
        ("somewhere:1", ["--jobs", "3"], False, 3),
        ("somewhere:1", [], True, cores()),
        ("", [], False, cores()),
        ("local", ["--address", "somewhere:1"], False, 40),
    ],
)
def test_by_default_a_ray_to_join_is_asked_for_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, options: list[str], finished: bool, jobs: int
) -> None:
    """Where there is something to train and the user has not said how many trials at a time."""
    ran: list[int] = []
    monkeypatch.setattr("sweeps.cluster.connection.room_of_theirs", lambda _device, _share: 40)

    def ran_with(sweep: StudySweep, *_: object) -> int:
        ran.append(sweep.jobs)
        return 0

    monkeypatch.setattr(sweeps.run, "run", ran_with)
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", address)
    trial = make_trial()
    monkeypatch.setattr(sweeps.cli, "find", lambda _: Study(name="mine", question="?", trials=[trial]))
    if finished:
        monkeypatch.setattr(sweeps.cli, "OVER", frozenset({"pending"}))
    assert main(["run", "mine", "--yes", *options]) == 0
    assert ran == [jobs]


def test_a_plan_beside_a_server_for_jobs_is_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweeps.cluster.connection.room_of_theirs", lambda *_: pytest.fail("asked"))
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert main(["plan", "fig8-digits"]) == 0
    assert f"{cores()} at a time" in capsys.readouterr().out or cores() == 1


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    assert torch_sees_gpu() == torch.cuda.is_available()


def test_status_counts(tmp_path: Path) -> None:
    done = run(tmp_path, "sweeps", "status", "fig8-digits")
    assert done.returncode == 0
    assert "8 cells, 40 trials: 0 finished, 0 diverged, 0 failed, 0 running, 40 pending" in done.stdout
    assert not (tmp_path / "results").exists()


def test_drivers_that_start_together_do_not_trip_over_each_other(tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    with ThreadPoolExecutor(8) as drivers:
        for started in [drivers.submit(sweeps.cli._require_writable, results) for _ in range(400)]:
            started.result()
    assert list(results.root.iterdir()) == []


def test_results_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=rf"^RESULTS \(SWEEPS_RESULTS\): cannot write to {tmp_path}/file: File exists$"
    ):
        sweeps.cli._require_writable(Results(tmp_path / "file"))


TUNING = """
from search_spaces import recipes
from search_spaces.search import Search, Tuning
from search_spaces.spaces import full_space
from trainer.config import Erm

BASE = recipes.digits_mlp(Erm(), 0)
STUDY = Tuning(name="mine", question="?", searches=[Search(name="erm", base=BASE, space=full_space(Erm()), settings=3)])
"""


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (("run", "mine.py"), ("mine.py: is a search, not a study: make search STUDY=mine.py",)),
        (("search", "fig8-digits"), ("is a study, not a search: make sweep STUDY=fig8-digits", "tune-table1-small")),
        (("freeze", "mine.py"), ("no ledger in",)),
        (("final", "mine.py"), ("nothing is frozen yet: make search, then make freeze",)),
        (("plan", "mine.py", "--seeds", "1"), ("--seeds 1: a search is tried whole",)),
        (("run", "tune-table1-small-final"), ("nothing is frozen yet",)),
        (("dashboard",), ("make ",)),
        (("publish", "mine.py"), ("no report in",)),
    ],
)
def test_what_is_said_about_searches(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    (tmp_path / "mine.py").write_text(TUNING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("search_spaces.choices.BUILT_IN", tmp_path / "frozen")
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in parts)


def test_a_search_is_planned_and_looked_at_without_leaving_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(TUNING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path / "results"))
    assert main(("plan", "mine.py")) == main(("status", "mine.py")) == main(("list",)) == 0
    printed = capsys.readouterr().out
    assert "1 search, 3 settings: 0 tried, 3 trials to train" in printed
    assert "mine: 1 search, nothing tried yet" in printed
    assert "tune-table1-small" in printed
    assert not (tmp_path / "results").exists()


def test_a_search_that_takes_long_asks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(TUNING.replace("settings=3", "settings=10**5"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(("search", "mine.py")) == 2
    assert re.search(
        r"mine: [\d.]+ core-hours, more than 1.*: to train it all the same, --yes", capsys.readouterr().err
    )
    assert main(("search", "mine.py", "--max-trials", "10")) == 2
    assert "--max-trials 10: mine has 100000 to train" in capsys.readouterr().err

"""What ``status`` tells of a study, above all of its failures, and what ``trial`` shows of one."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search_spaces.catalog import find
from sweeps.cli import main
from sweeps.ledger import Failure, Ledger, LedgerRow, State
from sweeps.status import CELLS_SHOWN, LOG_LINES, Group, groups, status_lines
from tests.sweeps.conftest import make_study, make_trial
from trainer.config import TrialConfig
from trainer.machine import RESULTS_VARIABLE, Results

STUDY = make_study(seeds=(0, 1, 2))  # seed after seed: ERM, then AMP
TRACEBACK = "\n".join([f"line {number}" for number in range(20)] + ["ValueError: no"])


def row(
    trial: TrialConfig, state: State = "pending", cause: str | None = None, failure: Failure | None = None
) -> LedgerRow:
    return LedgerRow(trial.trial_id, "", "toy", state, None, None, cause, failure)


def rows(**known: LedgerRow) -> dict[str, LedgerRow]:
    return {trial.trial_id: known.get(f"t{place}") or row(trial) for place, trial in enumerate(STUDY.trials)}


ERM_0, AMP_0, ERM_1, AMP_1, ERM_2, _ = STUDY.trials
MIXED = rows(
    t0=row(ERM_0, "failed", TRACEBACK, "bug"),
    t1=row(AMP_0, "diverged", "val/nll is nan in epoch 2"),
    t2=row(ERM_1, "failed", "another trace\nValueError: no", "bug"),
    t3=row(AMP_1, "failed", "ValueError: no", "bug"),
    t4=row(ERM_2, "failed", "ValueError: no", "lost_worker"),
)


def told(found: Group) -> tuple[str, str, list[tuple[str, int]]]:
    return found.failure, found.cause, [(label, trial.seed) for label, trial in found.members]


def test_one_class_and_one_last_line_make_one_group() -> None:
    assert [told(group) for group in groups(STUDY, MIXED)] == [
        ("bug", "ValueError: no", [("Erm", 0), ("Erm", 1), ("Amp", 1)]),
        ("lost_worker", "ValueError: no", [("Erm", 2)]),
        ("diverged", "val/nll is nan in epoch 2", [("Amp", 0)]),
    ]


def test_the_largest_group_of_a_class_comes_first() -> None:
    found = groups(
        STUDY,
        rows(
            t0=row(ERM_0, "failed", "one", "bug"),
            t2=row(ERM_1, "failed", "two", "bug"),
            t3=row(AMP_1, "failed", "two", "bug"),
        ),
    )
    assert [group.cause for group in found] == ["two", "one"]


def test_a_failure_from_before_classes_and_one_without_a_cause_are_shown() -> None:
    assert [told(group)[:2] for group in groups(STUDY, rows(t0=row(ERM_0, "failed")))] == [
        ("unknown", "no cause recorded")
    ]


def printed(shown: dict[str, LedgerRow], reference: str = "toy") -> list[str]:
    return status_lines(STUDY, shown, reference, Results(Path("results").resolve()))


def test_a_group_says_how_many_which_why_and_how_to_see_one() -> None:
    lines = printed(MIXED)
    assert lines[0] == "toy: 2 cells, 6 trials: 0 finished, 1 diverged, 4 failed, 0 running, 1 pending"
    assert lines[2:5] == [
        "bug or bad input (3 trials): ValueError: no",
        "  Erm: seed 0, 1",
        "  Amp: seed 1",
    ]
    assert lines[5 : 5 + LOG_LINES] == [f"    | {line}" for line in TRACEBACK.splitlines()[-LOG_LINES:]]
    assert lines[5 + LOG_LINES].endswith(f"python -m sweeps trial {ERM_0.trial_id}")
    assert "lost worker (1 trial): ValueError: no" in lines
    assert sum("    | " in line for line in lines) == LOG_LINES  # a cause of one line is not said twice


def test_the_second_pass_is_announced() -> None:
    waiting = rows(t0=row(ERM_0, "pending", "no memory", "out_of_memory"), t1=row(AMP_0, "pending"))
    assert "  1 of the pending ran out of memory" in printed(waiting)[1]
    assert len(printed(waiting)) == 2


def test_many_cells_are_counted() -> None:
    from search_spaces.study import Study

    study = Study(name="wide", question="?", trials=[make_trial(epsilon=0.1 * n) for n in range(1, CELLS_SHOWN + 4)])
    failed = {trial.trial_id: row(trial, "failed", "no", "bug") for trial in study.trials}
    lines = status_lines(study, failed, "wide", Results(Path("results").resolve()))
    assert "  and 3 cells more" in lines
    assert sum(": seed 0" in line for line in lines) == CELLS_SHOWN


NETWORK = """
from torch import nn


class Refuses(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.steps = nn.Linear(64, 10), 0

    def forward(self, x):
        self.steps += 1
        if {refuses}:
            raise ValueError("this network refuses")
        return self.layer(x.flatten(1))


def net(shape, classes):
    return Refuses()
"""
OWN = """
from dataclasses import replace
from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Custom, Erm

one = replace(recipes.digits_mlp(Erm(), 0), epochs=2, lr_milestones=(), lr={lr}, model=Custom("nets:net"))
STUDY = Study(name="mine", question="?", trials=[one])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "results"))
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("nets", None)


def declared(folder: Path, refuses: str = "False", lr: float = 0.05) -> TrialConfig:
    """One trial of a study of one's own, in a ledger that says it has failed."""
    (folder / "nets.py").write_text(NETWORK.format(refuses=refuses))
    (folder / "mine.py").write_text(OWN.format(lr=lr))
    [trial] = find(str(folder / "mine.py")).trials
    ledger = Ledger(Results.here().ledger_url)
    ledger.declare("mine", [trial])
    assert ledger.lease([trial.trial_id], "driver", "mine")
    assert ledger.settle(trial.trial_id, "driver", "failed", "ValueError: this network refuses", failure="bug")
    ledger.close()
    return trial


def left(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in (folder / "results").rglob("*") if file.is_file()}


def test_a_trial_is_shown_epoch_by_epoch_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = declared(folder)
    before = left(folder)
    assert main(["trial", trial.trial_id, "--study", "mine.py"]) == 0
    first, *epochs, last = capsys.readouterr().out.splitlines()
    assert trial.trial_id in first
    assert "ledger, checkpoint and MLflow stay as they are" in first
    assert [line[:11] for line in epochs] == ["epoch 1/2  ", "epoch 2/2  "]
    assert all(re.search(r"train/criterion [\d.]+  val/nll [\d.]+  val/error", line) for line in epochs)
    assert last == "finished"
    after = left(folder)
    assert {name: after[name] for name in before} == before
    assert not any(".pt" in name or "mlflow" in name for name in set(after) - set(before) if "/data/" not in name)


def test_a_divergence_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = declared(folder, lr=1e30)
    assert main(["trial", trial.trial_id, "--study", "mine.py"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("diverged: ")


def test_so_is_running_out_of_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = declared(folder, refuses="self.steps > 9 and bytearray(1 << 62)")
    assert main(["trial", trial.trial_id, "--study", "mine.py"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("failed: out of memory on cpu")


@pytest.mark.parametrize(("refuses", "code"), [("self.steps > 9", 1), ("self.training", 2)])
def test_what_status_prints_shows_the_whole_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], refuses: str, code: int
) -> None:
    """Of an error in the midst of the training, and of one that the trainer sees coming and tells in one line."""
    declared(folder, refuses)
    assert main(["status", "mine.py"]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("  To see one of them here: ")
    assert "-m sweeps trial" in command
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert 'raise ValueError("this network refuses")' in done.stderr
    assert done.stderr.endswith("ValueError: this network refuses\n")
    assert done.stderr.count("error: ") == (code == 2)


def test_the_command_names_results_that_lie_elsewhere() -> None:
    elsewhere = Results(Path("/some where"))
    [command] = [
        line for line in status_lines(STUDY, MIXED, "toy", elsewhere) if "lost" in line or ERM_2.trial_id in line
    ][1:]
    assert f"{RESULTS_VARIABLE}={shlex.quote('/some where')} " in command


@pytest.mark.parametrize("known", [True, False])
def test_unknown_trials_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], known: bool) -> None:
    nearest = declared(folder).trial_id if known else "no ledger in"
    assert main(["trial", nearest[:-1] + "-" if known else "0123"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert nearest in line


def test_a_gpu_that_is_not_there_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["trial", declared(folder).trial_id, "--device", "cuda"]) == 2
    assert "--device cuda: torch sees no GPU" in capsys.readouterr().err

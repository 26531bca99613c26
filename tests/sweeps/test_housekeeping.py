"""What ``gc`` may take and must leave, and what is left of a trial that was forgotten."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from search_spaces.study import Study
from sweeps import housekeeping
from sweeps.cli import main
from sweeps.housekeeping import LEFTOVER_SECONDS, collect_garbage, forget
from sweeps.ledger import Ledger, State
from sweeps.tracking.delivery import deliver_missing
from tests.sweeps.conftest import Desk, lapsing, make_records, make_study, make_trial
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.loop import Diverged, train
from trainer.machine import RESULTS_VARIABLE, Machine
from trainer.measurement import Measurement
from trainer.probe_config import Calibration, Probe
from trainer.trained import load_trained

STUDY = make_study()
FIRST, SECOND, THIRD, FOURTH = STUDY.trials
RECORDS = make_records()
PROBE = Calibration()
PROBED = replace(STUDY, probes=[PROBE])
HEAVY = 400_000
"""Bytes of a state."""


def store(desk: Desk, trial: TrialConfig, diverged: str | None = None) -> None:
    state = {"model": {"weight": torch.zeros(HEAVY // 4)}}
    Checkpoint(trial.trial_id, RECORDS, state, diverged).save(desk.results.checkpoint(trial.trial_id))


def trained(desk: Desk, *states: State, study: Study = STUDY) -> None:
    for trial, state in zip(study.trials, states, strict=False):
        desk.settle(study, trial, state)
        store(desk, trial, "nan" if state == "diverged" else None)


def heavy(desk: Desk, trials: Sequence[TrialConfig] = STUDY.trials) -> list[bool]:
    """Whether each trial's checkpoint has its state; its records it must have."""
    found = [load_checkpoint(desk.results.checkpoint(trial.trial_id), trial.trial_id) for trial in trials]
    assert all(stored is None or stored.records == RECORDS for stored in found)
    return [bool(stored and stored.state) for stored in found]


def collect(desk: Desk, *studies: Study, dry_run: bool = False) -> None:
    collect_garbage(studies or (STUDY,), desk.ledger, desk.results, dry_run)


def test_only_trials_that_are_over_lose_their_weights(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    trained(desk, "finished", "diverged", "failed", "pending")
    collect(desk)
    assert heavy(desk) == [False, False, True, True]
    assert capsys.readouterr().out == "toy: freed 0.8 MB of 2 trials\n"
    stored = load_checkpoint(desk.results.checkpoint(SECOND.trial_id), SECOND.trial_id)
    assert stored is not None
    assert stored.diverged == "nan"


@pytest.mark.parametrize("lapsed", [True, False])
def test_a_trial_that_is_leased_or_was_is_left_alone(desk: Desk, lapsed: bool) -> None:
    desk.ledger.declare("toy", STUDY.trials)
    store(desk, FIRST)
    if lapsed:
        with lapsing():
            assert desk.ledger.lease([FIRST.trial_id], "driver", "toy")
    else:
        assert desk.ledger.lease([FIRST.trial_id], "driver", "toy")
    before = desk.results.checkpoint(FIRST.trial_id).read_bytes()
    collect(desk)
    assert desk.results.checkpoint(FIRST.trial_id).read_bytes() == before


def test_a_dry_run_says_the_same_and_does_nothing(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    trained(desk, "finished", "finished", "diverged")
    before = {file: file.read_bytes() for file in desk.results.root.rglob("*.pt")}
    collect(desk, dry_run=True)
    assert {file: file.read_bytes() for file in desk.results.root.rglob("*.pt")} == before
    would = capsys.readouterr().out
    assert "would free 1.2 MB of 3 trials" in would
    collect(desk)
    assert capsys.readouterr().out == would.replace("would free", "freed")


def test_a_second_time_there_is_nothing_to_free(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    trained(desk, "finished", "finished")
    collect(desk)
    before = {file: file.stat().st_mtime_ns for file in desk.results.root.rglob("*.pt")}
    capsys.readouterr()
    collect(desk)
    assert capsys.readouterr().out == "toy: freed 0.0 MB of 0 trials\n"
    assert {file: file.stat().st_mtime_ns for file in desk.results.root.rglob("*.pt")} == before


def measure(desk: Desk, trial: TrialConfig, probe: Probe = PROBE) -> None:
    found = Measurement({"probe/calibration/test/ece": 0.1}, {"bins": np.zeros(3)})
    found.save(desk.results.measurement(trial.trial_id, probe.probe_id), probe)


def test_weights_stay_until_all_probes_are_measured(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    trained(desk, "finished", "finished", "diverged")
    measure(desk, FIRST)
    damaged = desk.results.measurement(SECOND.trial_id, PROBE.probe_id)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    collect(desk, PROBED)
    assert heavy(desk)[:3] == [False, True, False]
    assert "; 1 keep their weights for a study's probes that are not measured yet" in capsys.readouterr().out
    measure(desk, SECOND)
    collect(desk, PROBED)
    assert heavy(desk)[:3] == [False, False, False]


def test_the_strictest_study_wins(desk: Desk) -> None:
    trained(desk, "finished", "finished")
    other = Study(name="other", question="?", trials=[SECOND], probes=[PROBE])
    collect(desk, STUDY, other)
    assert heavy(desk)[:2] == [False, True]


def test_so_does_one_in_a_file_that_is_not_named(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """It may declare probes: of its own trials, and of those that it has as copies."""
    own = Study(name="own", question="?", trials=[make_trial(seed=9), FIRST])
    trained(desk, "finished", "finished")
    trained(desk, "finished", study=own)
    tracker = desk.tracker(STUDY)
    deliver_missing(STUDY, desk.ledger.rows([trial.trial_id for trial in STUDY.trials]), tracker, desk.results)
    deliver_missing(own, desk.ledger.rows([t.trial_id for t in own.trials]), desk.tracker(own), desk.results)
    collect(desk, STUDY)
    assert heavy(desk, [*own.trials, SECOND]) == [True, True, False]
    assert capsys.readouterr().out.count("1 keep their weights, for a file of yours") == 2
    collect(desk, STUDY, own)
    assert heavy(desk, [*own.trials, SECOND]) == [False, False, False]


def test_what_was_not_delivered_can_be_delivered_afterwards(desk: Desk) -> None:
    trained(desk, "finished", "diverged")
    collect(desk)
    rows = desk.ledger.rows([trial.trial_id for trial in STUDY.trials])
    made = deliver_missing(STUDY, rows, desk.tracker(STUDY), desk.results)
    assert (made.written, made.gone) == ([FIRST.trial_id, SECOND.trial_id], [])
    history = desk.history(desk.run("toy", FIRST.trial_id), "val/nll")
    assert history == [(record.epoch, record.timestamp, record.metrics["val/nll"]) for record in RECORDS]


def test_a_real_trial_is_still_finished_and_its_probes_say_why_not(desk: Desk) -> None:
    trial = replace(FIRST, epochs=1)
    machine, path = Machine(data_dir=desk.results.data), desk.results.checkpoint(trial.trial_id)
    records = list(train(trial, machine, path))
    desk.settle(replace(STUDY, trials=[trial]), trial, "finished")
    collect(desk)
    assert list(train(trial, machine, path)) == records
    with pytest.raises(ConfigError, match="gc has removed the weights") as error:
        load_trained(trial, machine, path)
    assert "\n" not in str(error.value)


def test_a_real_trial_that_diverged_still_has(desk: Desk) -> None:
    trial = replace(FIRST, lr=1e30)
    machine, path = Machine(data_dir=desk.results.data), desk.results.checkpoint(trial.trial_id)
    with pytest.raises(Diverged) as first:
        list(train(trial, machine, path))
    desk.settle(replace(STUDY, trials=[trial]), trial, "diverged")
    collect(desk)
    with pytest.raises(Diverged, match=str(first.value)):
        list(train(trial, machine, path))


def test_what_killed_processes_left_goes_once_it_is_old(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    folder = desk.results.checkpoint("any").parent
    names = [".a.pt.123.0123abcd", ".b.pt.123.0123abcd", ".hidden", "c.pt.123.0123abcd", ".a.pt.123.0123ABCD"]
    folder.mkdir(parents=True)
    old = time.time() - LEFTOVER_SECONDS - 60
    for name in names:
        (folder / name).write_bytes(b"x" * 100_000)
        if not name.startswith(".b"):
            os.utime(folder / name, (old, old))
    collect(desk, dry_run=True)
    assert sorted(file.name for file in folder.iterdir()) == sorted(names)
    collect(desk)
    assert sorted(file.name for file in folder.iterdir()) == sorted(names[1:])
    assert "temporary files of killed processes: freed 0.1 MB in 1 files" in capsys.readouterr().out


def test_the_command_names_files(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(desk.results.root))
    trained(desk, "finished")
    (tmp_path / "toy.py").write_text(
        "from tests.sweeps.conftest import make_study\nSTUDY = make_study()\n", encoding="utf-8"
    )
    assert main(["gc"]) == 0
    assert heavy(desk)[0]
    assert main(["gc", "--dry-run", str(tmp_path / "toy.py")]) == 0
    assert heavy(desk)[0]
    assert main(["gc", str(tmp_path / "toy.py")]) == 0
    assert not heavy(desk)[0]
    assert "toy: freed 0.4 MB of 1 trials" in capsys.readouterr().out


def forgotten(desk: Desk, trial: TrialConfig = FIRST) -> None:
    forget(desk.ledger.find(trial.trial_id), desk.ledger, desk.results)


def all_delivered(desk: Desk, study: Study = STUDY) -> None:
    rows = desk.ledger.rows([trial.trial_id for trial in study.trials])
    deliver_missing(study, rows, desk.tracker(study), desk.results)


def test_of_a_forgotten_trial_nothing_is_left(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    trained(desk, "finished", "finished")
    measure(desk, FIRST)
    measure(desk, SECOND)
    all_delivered(desk)
    run = desk.run("toy", FIRST.trial_id).info.run_id
    forgotten(desk)
    ids = [trial.trial_id for trial in STUDY.trials]
    assert set(desk.ledger.rows(ids)) == set(ids[1:])
    assert desk.ledger.runs_of(FIRST.trial_id) == []
    assert not desk.results.checkpoint(FIRST.trial_id).exists()
    assert [folder.name for folder in (desk.results.root / "probes").iterdir()] == [SECOND.trial_id]
    assert desk.results.checkpoint(SECOND.trial_id).exists()
    assert [deleted.info.run_id for deleted in desk.runs("toy", ViewType.DELETED_ONLY)] == [run]
    said = capsys.readouterr().out
    assert f"{FIRST.trial_id}, finished in toy, is forgotten: its MLflow run (" in said
    assert f"--run-id {run} brings it back), 1 measurements, its checkpoint\n" in said
    assert "next run" in said


def test_it_is_trained_and_delivered_anew(desk: Desk) -> None:
    trained(desk, "finished")
    all_delivered(desk)
    old = desk.run("toy", FIRST.trial_id).info.run_id
    forgotten(desk)
    desk.ledger.declare("toy", STUDY.trials)
    assert desk.ledger.rows([FIRST.trial_id])[FIRST.trial_id].state == "pending"
    trained(desk, "finished")
    all_delivered(desk)
    assert desk.run("toy", FIRST.trial_id).info.run_id != old


@pytest.mark.parametrize("state", ["pending", "failed", "diverged"])
def test_trials_of_every_state_can_be_forgotten(desk: Desk, state: State) -> None:
    trained(desk, state)
    forgotten(desk)
    assert desk.ledger.rows([FIRST.trial_id]) == {}


def test_the_copies_in_other_studies_are_deleted_as_well(desk: Desk) -> None:
    other = Study(name="other", question="?", trials=[FIRST, make_trial(seed=9)])
    trained(desk, "finished")
    all_delivered(desk)
    desk.ledger.declare("other", other.trials)
    all_delivered(desk, other)
    forgotten(desk)
    for study in ("toy", "other"):
        assert [run.data.tags["key"] for run in desk.runs(study, ViewType.DELETED_ONLY)] == [FIRST.trial_id]


def test_a_running_trial_is_refused_and_left_alone(desk: Desk) -> None:
    desk.ledger.declare("toy", STUDY.trials)
    store(desk, FIRST)
    row = desk.ledger.lease([FIRST.trial_id], "host:17", "toy")
    with pytest.raises(ConfigError, match=r"is running: .*host:17"):
        forgotten(desk)
    assert desk.ledger.rows([FIRST.trial_id])[FIRST.trial_id] == row
    assert heavy(desk)[0]


def test_a_lapsed_lease_is_no_hindrance(desk: Desk) -> None:
    desk.ledger.declare("toy", STUDY.trials)
    with lapsing():
        assert desk.ledger.lease([FIRST.trial_id], "killed", "toy")
    forgotten(desk)
    assert desk.ledger.rows([FIRST.trial_id]) == {}


def test_while_mlflow_does_not_answer_nothing_is_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(desk, "finished")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/nowhere/mlflow.db")
    with pytest.raises(ConfigError, match="does not answer"):
        forgotten(desk)
    assert desk.ledger.rows([FIRST.trial_id])[FIRST.trial_id].state == "finished"
    assert heavy(desk)[0]


def test_stopped_half_way_it_is_no_finished_trial_any_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(desk, "finished")
    all_delivered(desk)

    def fails(*_: object) -> None:
        raise MlflowException("503")

    with monkeypatch.context() as patch, lapsing():
        patch.setattr("mlflow.tracking.MlflowClient.delete_run", fails)
        with pytest.raises(ConfigError, match="forget it again: 503"):
            forgotten(desk)
    assert desk.ledger.rows([FIRST.trial_id])[FIRST.trial_id].state == "pending"
    forgotten(desk)
    assert desk.ledger.rows([FIRST.trial_id]) == {}
    assert len(desk.runs("toy", ViewType.DELETED_ONLY)) == 1


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


FORGET_STEPS = [
    (Ledger, "take"),
    (MlflowClient, "delete_run"),  # of the copy
    (MlflowClient, "delete_run"),
    (housekeeping, "_remove_measurements"),
    (housekeeping, "_remove_checkpoint"),
    (Ledger, "forget"),
]


def killed_before(step: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Have the step of this number not come to pass; those that did are in the list that is returned."""
    done: list[str] = []

    def until_killed(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def do(*arguments: object) -> object:
            if len(done) == step:
                raise Killed
            done.append(name)
            return original(*arguments)

        return do

    for where, name in dict.fromkeys(FORGET_STEPS):
        patch.setattr(where, name, until_killed(name, getattr(where, name)))
    return done


def active_runs(desk: Desk, study: str, trial: TrialConfig) -> list[str]:
    """The statuses of the trial's runs."""
    return [run.info.status for run in desk.runs(study) if run.data.tags["key"] == trial.trial_id]


@pytest.mark.parametrize("step", range(len(FORGET_STEPS)))
def test_killed_before_any_step_it_leaves_no_lie_and_the_next_one_completes_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    other = Study(name="other", question="?", trials=[FIRST])
    trained(desk, "finished", "finished")
    measure(desk, FIRST)
    all_delivered(desk)
    desk.ledger.declare("other", other.trials)
    all_delivered(desk, other)
    with monkeypatch.context() as patch, lapsing():
        done = killed_before(step, patch)
        with pytest.raises(Killed):
            forgotten(desk)
    assert done == [name for _, name in FORGET_STEPS[:step]]

    state, there = desk.ledger.find(FIRST.trial_id).state, desk.results.checkpoint(FIRST.trial_id).exists()
    assert state == ("pending" if step else "finished")
    assert there or not desk.results.measurement(FIRST.trial_id, PROBE.probe_id).exists()
    assert there or not active_runs(desk, "toy", FIRST)
    assert active_runs(desk, "toy", FIRST) or not active_runs(desk, "other", FIRST)
    all_delivered(desk)
    assert active_runs(desk, "toy", FIRST) == {0: ["FINISHED"], 1: ["KILLED"], 2: ["KILLED"]}.get(step, [])

    forgotten(desk)
    assert desk.ledger.rows([FIRST.trial_id]) == {}
    assert desk.ledger.runs_of(FIRST.trial_id) == []
    assert active_runs(desk, "toy", FIRST) == active_runs(desk, "other", FIRST) == []
    files = [path for path in desk.results.root.rglob("*") if FIRST.trial_id in str(path)]
    assert files == []
    assert heavy(desk)[1]


def test_right_after_a_kill_it_says_how_long_to_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(desk, "finished")
    with monkeypatch.context() as patch:
        killed_before(1, patch)
        with pytest.raises(Killed):
            forgotten(desk)
    with pytest.raises(ConfigError, match=r"is being forgotten .* again in 15 seconds"):
        forgotten(desk)


def test_a_run_that_people_deleted_or_that_lies_elsewhere_is_no_hindrance(desk: Desk) -> None:
    trained(desk, "finished", "finished")
    all_delivered(desk)
    desk.client.delete_run(desk.run("toy", FIRST.trial_id).info.run_id)
    forgotten(desk)
    desk.ledger.claim_run("another", SECOND.trial_id, "0" * 32)
    forgotten(desk, SECOND)
    assert desk.ledger.runs_of(SECOND.trial_id) == []


def test_unknown_trials_are_one_line(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(desk.results.root))
    trained(desk, "finished")
    assert main(["forget", FIRST.trial_id[:-1] + "-"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert FIRST.trial_id in line
    assert main(["forget", FIRST.trial_id]) == 0
    assert main(["forget", FIRST.trial_id]) == 2

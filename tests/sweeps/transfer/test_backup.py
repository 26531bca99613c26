"""A results folder saved while it is written to, and brought back: the ledger never knows more than the files."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.cli import main
from sweeps.deliver import deliver
from sweeps.ledger import Ledger
from sweeps.sweep import with_pending
from sweeps.transfer import backup
from sweeps.transfer.archive import Archive
from sweeps.transfer.backup import back_up, restore
from tests.sweeps.conftest import Desk, make_records, make_study, make_trial
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.declaration import ConfigError
from trainer.machine import LEDGER_VARIABLE, RESULTS_VARIABLE, Results

STUDY = make_study(seeds=range(20))
RECORDS = make_records()


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Of a few files of each kind."""
    results = Results(tmp_path / "results")
    for name, text in {
        "artifacts/toy/run/artifacts/a b.txt": "an artifact",
        "reports/toy/report.md": "a report",
        "server/admin-password": "only mine",
        "data/digits.npz": "brought again",
        "checkpoints/.one.pt.host.1.0123abcd": "of a killed process",
    }.items():
        (results.root / name).parent.mkdir(parents=True, exist_ok=True)
        (results.root / name).write_text(text)
    for name in backup.DATABASES:
        with contextlib.closing(sqlite3.connect(results.root / name)) as database, database:
            database.execute("CREATE TABLE it (name TEXT)")
            database.execute("INSERT INTO it VALUES (?)", [name])
    return results


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_all_but_the_data_comes_back(results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back_up(tmp_path / "saved.zip", results)
    copy = Results(tmp_path / "copy")
    restore(tmp_path / "saved.zip", copy)
    saved, brought = files(results.root), files(copy.root)
    assert set(brought) == {name for name in saved if not name.startswith(("data/", "checkpoints/."))}
    for name in backup.DATABASES:
        with contextlib.closing(sqlite3.connect(copy.root / name)) as database:
            assert database.execute("SELECT name FROM it").fetchall() == [(name,)]
    texts = set(brought) - set(backup.DATABASES)
    assert {name: brought[name] for name in texts} == {name: saved[name] for name in texts}
    printed = capsys.readouterr().out
    assert "another folder" in printed
    assert f"make report STUDY=... RESULTS={shlex.quote(str(copy.root))}" in printed


def test_what_is_secret_stays_so(results: Results, tmp_path: Path) -> None:
    back_up(tmp_path / "saved.zip", results)
    assert (tmp_path / "saved.zip").stat().st_mode & 0o777 == 0o600
    copy = Results(tmp_path / "copy")
    restore(tmp_path / "saved.zip", copy)
    assert (copy.root / "server").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (copy.root / "server").iterdir()} == {0o600}


def test_it_leaves_nothing_beside_and_overwrites_nothing(results: Results, tmp_path: Path) -> None:
    place = tmp_path / "safe"
    back_up(place / "saved.zip", results)
    assert [path.name for path in place.iterdir()] == ["saved.zip"]
    for path, message in ((place / "saved.zip", "is there already"), (results.root / "x.zip", "is to be saved")):
        with pytest.raises(ConfigError, match=message):
            back_up(path, results)
    with pytest.raises(ConfigError, match="is not empty"):
        restore(place / "saved.zip", results)
    with pytest.raises(ConfigError, match="no results yet"):
        back_up(place / "other.zip", Results(tmp_path / "none"))


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Results]:
    """A driver that finishes one trial after the other: checkpoint first, then the ledger."""
    results = Results(tmp_path / "busy")
    results.root.mkdir()
    over = threading.Event()

    def drive() -> None:
        ledger = Ledger(results.ledger_url)
        for seed in range(10_000):
            if over.is_set():
                break
            trial = make_trial(seed)
            ledger.declare("toy", [trial])
            assert ledger.lease([trial.trial_id], "driver", "toy")
            Checkpoint(trial.trial_id, RECORDS, {}).save(results.checkpoint(trial.trial_id))
            assert ledger.settle(trial.trial_id, "driver", "finished")
        ledger.close()

    thread = threading.Thread(target=drive)
    thread.start()
    yield results
    over.set()
    thread.join()


def test_while_a_sweep_runs_the_ledger_knows_no_more_than_the_files(busy: Results, tmp_path: Path) -> None:
    while not busy.has_ledger() or len(list(busy.root.glob("checkpoints/*.pt"))) < 3:
        pass
    for number in range(3):
        copy = Results(tmp_path / f"copy-{number}")
        back_up(tmp_path / f"{number}.zip", busy)
        restore(tmp_path / f"{number}.zip", copy)
        ledger = Ledger(copy.ledger_url)
        finished = [row for row in ledger.studies()["toy"] if row.state == "finished"]
        assert finished
        for row in finished:
            stored = load_checkpoint(copy.checkpoint(row.trial_id), row.trial_id)
            assert stored is not None
            assert stored.records == RECORDS
        ledger.close()


def test_what_ends_while_files_are_read_is_not_over_in_the_copy(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the last test, but whatever the machine's mood."""
    listed, trial, saved = backup._files, STUDY.trials[0], desk.results.root.parent / "saved.zip"
    desk.ledger.declare("toy", [trial])
    assert desk.ledger.lease([trial.trial_id], "driver", "toy")

    def end_after_that(root: Path) -> list[Path]:
        found = list(listed(root))
        desk.save(trial, RECORDS)
        assert desk.ledger.settle(trial.trial_id, "driver", "finished")
        return found

    monkeypatch.setattr(backup, "_files", end_after_that)
    back_up(saved, desk.results)
    copy = Results(saved.with_name("copy"))
    restore(saved, copy)
    ledger = Ledger(copy.ledger_url)
    assert ledger.find(trial.trial_id).state == "leased"
    ledger.close()


def test_a_restore_that_was_broken_off_knows_of_nothing(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(tmp_path / "saved.zip", results)
    put, copy = backup._put, Results(tmp_path / "copy")

    def put_until_a_database(archive: Archive, name: str, path: Path) -> None:
        if name in backup.DATABASES:
            raise KeyboardInterrupt
        put(archive, name, path)

    monkeypatch.setattr(backup, "_put", put_until_a_database)
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "saved.zip", copy)
    assert (copy.root / "reports").is_dir()
    assert not copy.has_ledger()


def test_what_was_restored_goes_on(desk: Desk, tmp_path: Path) -> None:
    study = make_study(seeds=[0])
    for trial in study.trials[:1]:
        desk.settle(study, trial, "finished")
        desk.save(trial, RECORDS)
    back_up(tmp_path / "saved.zip", desk.results)
    copy = Results(tmp_path / "copy")
    restore(tmp_path / "saved.zip", copy)
    ledger = Ledger(copy.ledger_url)
    ids = [trial.trial_id for trial in study.trials]
    assert deliver(study, with_pending(study, ledger.rows(ids)), ledger, copy) == 0
    assert desk.run("toy", ids[0]).info.status == "FINISHED"
    row = ledger.lease(ids, "driver", "toy")
    assert row is not None
    assert row.trial_id == ids[1]
    ledger.close()


def test_the_commands(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(results.root))
    monkeypatch.setenv(LEDGER_VARIABLE, "postgresql+psycopg://u:hunter2@db/ledger")
    assert main(["backup", str(tmp_path / "saved.zip")]) == 0
    said = capsys.readouterr().out
    assert "Not in it: postgresql+psycopg://u:***@db/ledger" in said
    monkeypatch.delenv(LEDGER_VARIABLE)
    (results.root / "ledger.db").unlink()
    assert main(["import", str(tmp_path / "saved.zip")]) == 2
    assert "a backup is for restore" in capsys.readouterr().err
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "copy"))
    assert main(["restore", str(tmp_path / "saved.zip")]) == 0
    assert (tmp_path / "copy" / "ledger.db").is_file()

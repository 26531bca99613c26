"""A study moved between ledgers: nothing lost, nothing double, nothing believed that is not whole."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces.search import Tuning
from search_spaces.study import Study
from sweeps.cli import main
from sweeps.deliver import deliver
from sweeps.ledger import Ledger, LedgerRow, Measured
from sweeps.sweep import with_pending
from sweeps.transfer import archive as archive_module
from sweeps.transfer import study as transfer
from sweeps.transfer.study import export_study, import_study
from tests.sweeps.conftest import Desk, lapsing, make_records, make_study, make_trial
from tests.sweeps.search.test_searching import begin, end, settings, sweep_of, train, tuning
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import LEDGER_VARIABLE, RESULTS_VARIABLE, Results
from trainer.measurement import Measurement, load_measurement
from trainer.probe_config import Calibration
from trainer.records import EpochRecord

ROOT = Path(__file__).parents[3]
STUDY = make_study()
FIRST, SECOND, THIRD, FOURTH = STUDY.trials
RECORDS = make_records()
MEASURED = Measured("kind", "cpu", 2.0, 0.5, 1234, 0.1, float(RECORDS[-1].metrics["val/nll"]))
PROBE = Calibration()


class Place:
    """A results folder with a ledger, SQLite's or the one of ``url``."""

    def __init__(self, root: Path, url: str | None = None) -> None:
        root.mkdir(exist_ok=True)
        self.results = Results(root)
        self.ledger = Ledger(url or self.results.ledger_url)

    def settle(self, trial: TrialConfig, state: Any, study: str = "toy", **more: Any) -> None:
        self.ledger.declare(study, [trial])
        assert self.ledger.lease([trial.trial_id], "driver", study)
        assert self.ledger.settle(trial.trial_id, "driver", state, **more)

    def save(self, trial: TrialConfig, records: tuple[EpochRecord, ...] = RECORDS, diverged: str | None = None) -> None:
        Checkpoint(trial.trial_id, records, {}, diverged).save(self.results.checkpoint(trial.trial_id))

    def finish(self, trial: TrialConfig, records: tuple[EpochRecord, ...] = RECORDS, study: str = "toy") -> None:
        self.save(trial, records)
        self.settle(trial, "finished", study, measured=MEASURED)

    def measure(self, trial: TrialConfig) -> None:
        measurement = Measurement({"probe/calibration/ece": 0.25}, {"counts": np.arange(3)})
        measurement.save(self.results.measurement(trial.trial_id, PROBE.probe_id), PROBE)

    def rows(self, study: Study = STUDY) -> dict[str, LedgerRow]:
        return self.ledger.rows([trial.trial_id for trial in study.trials])

    def records(self, trial: TrialConfig) -> tuple[EpochRecord, ...] | None:
        stored = load_checkpoint(self.results.checkpoint(trial.trial_id), trial.trial_id)
        return None if stored is None else stored.records

    def everything(self) -> object:
        """All that an import could change, files by content."""
        files = {path: path.read_bytes() for path in sorted(self.results.root.rglob("*.[pn][tp]*")) if path.is_file()}
        return self.rows(), self.ledger.measured([trial.trial_id for trial in STUDY.trials]), files


@pytest.fixture(autouse=True)
def known_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEDGER_VARIABLE, raising=False)
    monkeypatch.setattr(transfer, "find_any", lambda _: STUDY)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "laptop")
    yield place
    place.ledger.close()


@pytest.fixture
def there(tmp_path: Path, ledger_url: str) -> Iterator[Place]:
    """Of each kind of database."""
    place = Place(tmp_path / "lab", ledger_url)
    yield place
    place.ledger.close()


def fill(place: Place) -> None:
    """One of each: finished with a probe, diverged, failed, and begun by a driver that was killed."""
    place.finish(FIRST)
    place.measure(FIRST)
    place.save(SECOND, RECORDS[:1], "nan")
    place.settle(SECOND, "diverged", cause="nan")
    place.settle(THIRD, "failed", cause="boom", failure="bug")
    place.ledger.declare("toy", STUDY.trials)
    place.save(FOURTH, RECORDS[:2])


def exported(place: Place, file: Path) -> Path:
    export_study("toy", file, place.ledger, place.results)
    return file


def bring(place: Place, file: Path) -> int:
    return import_study(file, place.ledger, place.results)


def states(place: Place) -> list[str]:
    rows = place.rows()
    return [rows[trial.trial_id].state for trial in STUDY.trials]


def test_all_of_it_arrives(here: Place, there: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(here)
    assert bring(there, exported(here, tmp_path / "toy.zip")) == 0
    assert there.rows() == here.rows()
    ids = [trial.trial_id for trial in STUDY.trials]
    assert there.ledger.measured(ids) == {FIRST.trial_id: MEASURED}
    assert [there.records(trial) for trial in STUDY.trials] == [RECORDS, RECORDS[:1], None, RECORDS[:2]]
    stored = load_measurement(there.results.measurement(FIRST.trial_id, PROBE.probe_id))
    assert stored is not None
    assert stored.metrics == {"probe/calibration/ece": 0.25}
    printed = capsys.readouterr().out
    assert "toy: 4 trials in" in printed
    assert "1 pending, 1 finished, 1 diverged, 1 failed" in printed
    assert "toy: 4 trials: 4 taken over\n" in printed
    assert f"make deliver STUDY=toy RESULTS={shlex.quote(str(there.results.root))}" in printed


def test_again_it_changes_nothing(here: Place, there: Place, tmp_path: Path) -> None:
    fill(here)
    file = exported(here, tmp_path / "toy.zip")
    bring(there, file)
    before = there.everything()
    assert bring(there, file) == 0
    assert there.everything() == before


def test_what_is_finished_wins_wherever_it_was(here: Place, there: Place, tmp_path: Path) -> None:
    fill(here)
    there.finish(THIRD)
    there.settle(SECOND, "failed", failure="bug")
    there.finish(FIRST)
    there.save(FOURTH, RECORDS)  # further than the one that comes
    there.ledger.declare("toy", STUDY.trials)
    assert bring(there, exported(here, tmp_path / "toy.zip")) == 0
    assert states(there) == ["finished", "diverged", "finished", "pending"]
    assert there.records(FOURTH) == RECORDS
    assert there.rows()[SECOND.trial_id].failure is None


def test_what_was_taken_over_is_not_trained_again(here: Place, there: Place, tmp_path: Path) -> None:
    fill(here)
    bring(there, exported(here, tmp_path / "toy.zip"))
    ids = [trial.trial_id for trial in STUDY.trials]
    there.ledger.retry_failed(ids)
    leased = {row.trial_id for _ in ids if (row := there.ledger.lease(ids, "driver", "toy"))}
    assert leased == {THIRD.trial_id, FOURTH.trial_id}


def test_a_lease_is_left_alone(here: Place, there: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here.finish(FIRST)
    here.finish(SECOND)
    there.ledger.declare("toy", STUDY.trials)
    there.save(FIRST, RECORDS[:1])
    assert there.ledger.lease([FIRST.trial_id], "driver", "toy")
    with lapsing():
        assert there.ledger.lease([SECOND.trial_id], "killed", "toy")
    row = there.rows()[FIRST.trial_id]
    assert bring(there, exported(here, tmp_path / "toy.zip")) == 0
    assert there.rows()[FIRST.trial_id] == row
    assert there.records(FIRST) == RECORDS[:1]
    assert there.ledger.settle(FIRST.trial_id, "driver", "finished")
    assert states(there)[1] == "finished"
    assert "1 taken over, 1 running here" in capsys.readouterr().out


def test_a_lease_that_is_taken_meanwhile_is_left_alone_as_well(
    here: Place, there: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.finish(FIRST)
    there.ledger.declare("toy", STUDY.trials)
    admit = Ledger.admit

    def taken_first(ledger: Ledger, known: Any) -> set[str]:
        assert ledger.lease([FIRST.trial_id], "driver", "toy")
        return admit(ledger, known)

    monkeypatch.setattr(Ledger, "admit", taken_first)
    bring(there, exported(here, tmp_path / "toy.zip"))
    assert there.ledger.holds(FIRST.trial_id, "driver")


def other_numbers() -> tuple[EpochRecord, ...]:
    last = RECORDS[-1]
    return (*RECORDS[:-1], replace(last, metrics={**last.metrics, "val/nll": 3.0}))


def test_other_numbers_of_the_same_trial_are_refused(
    here: Place, there: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here.finish(FIRST, other_numbers())
    here.measure(FIRST)
    here.finish(SECOND)
    there.finish(FIRST)
    before = there.everything()
    assert bring(there, exported(here, tmp_path / "toy.zip")) == 1
    assert there.rows()[FIRST.trial_id] == before[0][FIRST.trial_id]  # type: ignore[index]
    assert there.records(FIRST) == RECORDS
    assert load_measurement(there.results.measurement(FIRST.trial_id, PROBE.probe_id)) is None
    assert states_of(there, SECOND) == "finished"
    assert f"trial {FIRST.trial_id} came to another outcome" in capsys.readouterr().out


def states_of(place: Place, trial: TrialConfig) -> str:
    return place.ledger.find(trial.trial_id).state


def test_times_are_no_numbers(here: Place, there: Place, tmp_path: Path) -> None:
    def timed(seconds: float, start: int) -> tuple[EpochRecord, ...]:
        return tuple(
            EpochRecord(one.epoch, one.timestamp + start, {**one.metrics, "epoch_seconds": seconds, "x": float("nan")})
            for one in RECORDS
        )

    here.finish(FIRST, timed(1.0, 0))
    there.finish(FIRST, timed(2.0, 77))
    assert bring(there, exported(here, tmp_path / "toy.zip")) == 0
    assert there.records(FIRST)[0].timestamp == RECORDS[0].timestamp + 77  # type: ignore[index]


def test_records_that_were_lost_come_back(here: Place, there: Place, tmp_path: Path) -> None:
    here.finish(FIRST)
    there.settle(FIRST, "finished")
    assert bring(there, exported(here, tmp_path / "toy.zip")) == 0
    assert there.records(FIRST) == RECORDS


def test_what_has_lost_its_records_stays_behind(
    here: Place, there: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here.finish(FIRST)
    here.settle(SECOND, "finished")
    bring(there, exported(here, tmp_path / "toy.zip"))
    assert set(there.rows()) == {FIRST.trial_id}
    assert f"trial {SECOND.trial_id} is left out" in capsys.readouterr().out


def test_what_another_study_trained_comes_along(here: Place, there: Place, tmp_path: Path) -> None:
    here.finish(FIRST, study="other")
    here.ledger.declare("toy", STUDY.trials)
    bring(there, exported(here, tmp_path / "toy.zip"))
    assert there.rows()[FIRST.trial_id].study == "other"
    assert states(there) == ["finished", "pending", "pending", "pending"]


def test_what_runs_here_is_pending_there(
    here: Place, there: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here.ledger.declare("toy", [FIRST])
    assert here.ledger.lease([FIRST.trial_id], "driver", "toy")
    bring(there, exported(here, tmp_path / "toy.zip"))
    assert states_of(there, FIRST) == "pending"
    assert "1 that are running here are pending there" in capsys.readouterr().out


def test_mlflow_shows_each_trial_once_however_often_it_was_imported(here: Place, desk: Desk, tmp_path: Path) -> None:
    fill(here)
    file = exported(here, tmp_path / "toy.zip")
    for _ in range(2):
        assert import_study(file, desk.ledger, desk.results) == 0
        rows = with_pending(STUDY, desk.ledger.rows([trial.trial_id for trial in STUDY.trials]))
        assert deliver(STUDY, rows, desk.ledger, desk.results) == 0
    shown = [run for run in desk.runs("toy") if run.data.tags["kind"] == "trial"]
    assert sorted(run.data.tags["outcome"] for run in shown) == ["diverged", "failed", "finished"]
    run = desk.run("toy", FIRST.trial_id)
    assert desk.history(run, "val/nll") == [(one.epoch, one.timestamp, one.metrics["val/nll"]) for one in RECORDS]


KILLED = """
import os, signal, sys
from pathlib import Path
from sweeps.transfer import study as transfer
from sweeps.ledger import Ledger
from trainer.machine import Results
where, url, file, point = sys.argv[1:]
left = int(point)
put = transfer._put
def put_or_die(content, path):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    put(content, path)
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
transfer._put = put_or_die
if left == 9:
    Ledger._keep = die  # in the midst of the ledger's transaction
transfer.import_study(Path(file), Ledger(url), Results(Path(where)))
"""


@pytest.mark.parametrize("point", [1, 9], ids=["between files", "in the ledger"])
def test_killed_in_the_middle_and_again_it_ends_the_same(
    here: Place, there: Place, tmp_path: Path, ledger_url: str, point: int
) -> None:
    fill(here)
    file = exported(here, tmp_path / "toy.zip")
    command = [sys.executable, "-c", KILLED, str(there.results.root), ledger_url, str(file), str(point)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert there.rows() == {}
    assert len(list((there.results.root / "checkpoints").glob("*.pt"))) == (1 if point == 1 else 3)
    assert bring(there, file) == 0
    assert there.rows() == here.rows()
    assert [there.records(trial) for trial in STUDY.trials] == [here.records(trial) for trial in STUDY.trials]


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], object], digests: bool = True) -> Path:
    """The archive with other members; with ``digests`` its manifest says so."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    manifest = json.loads(members.pop(archive_module.MANIFEST))

    def fill_again(writer: archive_module.Writer) -> None:
        for name, content in members.items():
            writer.add(name, content)
        if not digests:
            writer.digests.clear()
            writer.digests.update(manifest["members"])

    about = {name: value for name, value in manifest.items() if name != "members"}
    archive_module.write_archive(target, about.pop("kind"), about, fill_again)
    return target


def of_trials(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    """A change of the first trial's line."""

    def changed(members: dict[str, bytes]) -> None:
        first, *others = members[transfer.TRIALS].decode().splitlines()
        plain = json.loads(first)
        change(plain)
        members[transfer.TRIALS] = "\n".join([json.dumps(plain), *others]).encode()

    return changed


CHECKPOINT = f"checkpoints/{FIRST.trial_id}.pt"
ANOTHER_PARAMETER = of_trials(lambda plain: plain["params"].update(lr=9.0))
FORGED: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "out of the folder": (lambda members: members.update({"../evil.pt": b"x"}), "leads elsewhere"),
    "absolute": (lambda members: members.update({"/tmp/evil.pt": b"x"}), "leads elsewhere"),
    "of no place": (lambda members: members.update({"checkpoints/evil.sh": b"x"}), "has no place in a study"),
    "other parameters": (ANOTHER_PARAMETER, "is damaged"),
    "a state of none": (of_trials(lambda plain: plain.update(state="leased")), "is damaged"),
    "a study of none": (of_trials(lambda plain: plain.update(study="\x1b[2J")), "is damaged"),
    "another's checkpoint": (
        lambda members: members.update({CHECKPOINT: members[f"checkpoints/{SECOND.trial_id}.pt"]}),
        f"holds trial {SECOND.trial_id}",
    ),
    "a pickle": (lambda members: members.update({CHECKPOINT: b"cos\nsystem\n(S'touch evil'\ntR."}), "is damaged"),
    "no records": (lambda members: members.pop(CHECKPOINT), "is damaged"),
    "a newer version": (
        lambda members: members.update(
            {archive_module.MANIFEST: members[archive_module.MANIFEST].replace(b'"version": 1', b'"version": 2')}
        ),
        "is of version 2",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_we_would_not_write_is_refused_in_a_line(here: Place, tmp_path: Path, name: str) -> None:
    change, message = FORGED[name]
    fill(here)
    forged = rewritten(exported(here, tmp_path / "toy.zip"), tmp_path / "forged.zip", change)
    assert message in refused(forged, tmp_path)


def refused(file: Path, tmp_path: Path) -> str:
    there = Place(tmp_path / "empty")
    with pytest.raises(ConfigError) as error:
        bring(there, file)
    assert there.rows() == {}
    assert [path.name for path in there.results.root.rglob("*")] == ["ledger.db"]
    assert not (tmp_path / "evil.pt").exists()
    there.ledger.close()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_digest_that_is_wrong_is_refused(here: Place, tmp_path: Path) -> None:
    fill(here)

    def change(members: dict[str, bytes]) -> None:
        members[CHECKPOINT] = members[f"checkpoints/{FOURTH.trial_id}.pt"]

    file = rewritten(exported(here, tmp_path / "toy.zip"), tmp_path / "forged.zip", change, digests=False)
    assert f"{CHECKPOINT} is damaged" in refused(file, tmp_path)


def test_a_file_that_is_damaged_or_cut_off_is_refused(here: Place, tmp_path: Path) -> None:
    fill(here)
    file = exported(here, tmp_path / "toy.zip")
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x03\x04") + 200] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(file.read_bytes()[:-1000])
    assert "is damaged" in refused(tmp_path / "damaged.zip", tmp_path)
    (tmp_path / "letter.zip").write_text("Dear Sir")
    assert "it is cut off" in refused(tmp_path / "cut.zip", tmp_path)
    assert "cannot be read" in refused(tmp_path / "letter.zip", tmp_path)
    assert "No such file" in refused(tmp_path / "none.zip", tmp_path)


def test_members_that_unpack_to_more_are_refused(here: Place, tmp_path: Path) -> None:
    fill(here)
    with zipfile.ZipFile(exported(here, tmp_path / "toy.zip")) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in members.items():
            bomb.writestr(name, content)
    assert "is compressed" in refused(tmp_path / "bomb.zip", tmp_path)


def test_an_archive_is_not_overwritten_and_read_by_its_owner_alone(here: Place, tmp_path: Path) -> None:
    here.finish(FIRST)
    file = exported(here, tmp_path / "toy.zip")
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="is there already"):
        exported(here, file)


def test_nothing_is_nothing_to_export(here: Place, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no trial of it"):
        exported(here, tmp_path / "toy.zip")
    assert not (tmp_path / "toy.zip").exists()


OWN = """
from dataclasses import replace
from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Erm
STUDY = Study(name="own", question="?", trials=[replace(recipes.digits_mlp(Erm(), 0), epochs=3, lr_milestones=())])
"""


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.undo()
    own = tmp_path / "own.py"
    own.write_text(OWN)
    here = Place(tmp_path / "laptop")
    here.finish(make_trial(), study="own")
    here.ledger.close()
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "laptop"))
    assert main(["export", str(own), str(tmp_path / "own.zip")]) == 0
    assert "own file, and what it imports, are not in it" in capsys.readouterr().out
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "lab"))
    assert main(["import", str(tmp_path / "own.zip")]) == 0
    assert main(["status", str(own)]) == 0
    assert "1 taken over" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "nothing.zip")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def search_file(declared: Tuning, folder: Path, trials: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of a search that was gone on with, in this folder, for so many more trials."""
    monkeypatch.setattr(transfer, "find_any", lambda _: declared)
    monkeypatch.setattr(transfer, "frozen_of", lambda _: folder / "not-frozen.json")
    with sweep_of(declared, folder) as sweep:
        train(sweep, trials)
        for trial_id in sweep.trials:
            place = Place(folder)
            place.save(sweep.trials[trial_id])
            place.ledger.close()
        file = folder.with_suffix(f".{len(list(folder.parent.glob('*.zip')))}.zip")
        export_study("toy", file, sweep.ledger, sweep.results)
    return file


def known(declared: Tuning, folder: Path) -> list[Any]:
    with sweep_of(declared, folder) as sweep:
        return settings(sweep)


def brought(file: Path, folder: Path) -> int:
    place = Place(folder)
    with contextlib.closing(place.ledger):
        return bring(place, file)


def test_a_search_goes_on_elsewhere_as_if_nothing_had_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = tuning(settings=3)
    with sweep_of(declared, tmp_path / "whole") as sweep:
        train(sweep)
        whole = settings(sweep)
    first = search_file(declared, tmp_path / "here", 3, monkeypatch)
    for _ in range(2):
        assert brought(first, tmp_path / "there") == 0
        assert known(declared, tmp_path / "there") == known(declared, tmp_path / "here")
    second = search_file(declared, tmp_path / "here", 4, monkeypatch)
    assert brought(second, tmp_path / "there") == 0
    with sweep_of(declared, tmp_path / "there") as sweep:
        assert settings(sweep) == known(declared, tmp_path / "here")
        train(sweep)
        assert settings(sweep) == whole


def test_a_search_that_went_another_way_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = tuning(settings=3)
    with sweep_of(declared, tmp_path / "there") as sweep:
        trial = begin(sweep)
        assert trial is not None
        end(sweep, trial, value=77.0)
        train(sweep)
    before = known(declared, tmp_path / "there")
    file = search_file(declared, tmp_path / "here", 12, monkeypatch)
    assert brought(file, tmp_path / "there") == 1
    assert known(declared, tmp_path / "there") == before
    assert "has tried other settings here" in capsys.readouterr().out

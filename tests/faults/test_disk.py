"""A disk that is full while a checkpoint is written, and checkpoints that a power cut has left damaged."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.progress import SAME_CAUSE_TOLD
from sweeps.sweep import INTERRUPTED
from tests.faults.disk import Disk, may_mount, pretended_disk, small_disk
from tests.faults.harness import PAUSE, TRACE, Numbers, Workplace, assert_equals_undisturbed, forward_passes
from trainer.checkpoint import load_checkpoint

NO_ROOM = "No space left on device: make room"

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(place: Workplace, tmp_path: Path) -> Iterator[Disk]:
    """What the checkpoints lie on: a real one where one can be made."""
    folder = place.results.checkpoint("any").parent
    folder.mkdir(parents=True)
    with small_disk(folder, "2m") if may_mount() else pretended_disk(folder, tmp_path) as disk:
        place.variables.update(disk.variables)
        yield disk


def test_a_full_disk_fails_the_trials_in_a_line_and_costs_no_checkpoint(
    place: Workplace, undisturbed: Numbers, disk: Disk
) -> None:
    place.variables[TRACE] = str(place.folder / "trace")
    process = place.run(**{PAUSE: "0.02"})
    place.wait_until_finished(3)
    disk.fill()
    assert process.wait(timeout=120) == 1, place.printed
    rows = place.rows()
    failed = [row for row in rows.values() if row.state == "failed"]
    assert len(failed) > 10, "the study goes on with the others"
    assert {row.state for row in rows.values()} == {"finished", "failed"}
    assert {row.cause for row in failed} == {f"{disk.folder}: {NO_ROOM}; what was stored before is kept"}
    assert 0 < place.printed.count(NO_ROOM) <= SAME_CAUSE_TOLD
    assert "Traceback" not in place.printed
    disk.free()
    for file in disk.folder.glob("*.pt"):
        assert load_checkpoint(file, file.stem) is not None, "the old file is whole"
    assert all(file.suffix == ".pt" for file in disk.folder.iterdir()), "nothing half written stays"
    place.finish()
    assert_equals_undisturbed(place, undisturbed)
    goes_on = [trial for trial in place.study.trials if len(place.trace()[trial.trial_id]) - forward_passes(trial) > 0]
    assert all(len(place.trace()[trial.trial_id]) < 2 * forward_passes(trial) for trial in goes_on)


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def scramble(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def punch(file: Path) -> None:
    """Nothing but zeros where a block was lost, in the middle of the weights."""
    with file.open("r+b") as content:
        content.seek(file.stat().st_size // 2)
        content.write(bytes(512))


DAMAGES = halve, empty, scramble, punch


def test_a_damaged_checkpoint_is_told_and_trained_anew(place: Workplace, undisturbed: Numbers) -> None:
    """Of trials that were under way: one that is over is read no more. In MLflow their epochs stand once as well."""
    process = place.run("--jobs", str(len(DAMAGES)), **{PAUSE: "0.2"})
    place.wait_until(lambda: len(under_way(place)) == len(DAMAGES))
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == INTERRUPTED, place.printed
    stored = under_way(place)
    assert len(stored) == len(DAMAGES)
    for file, damage in zip(stored, DAMAGES, strict=True):
        damage(file)
    printed = place.finish().splitlines()
    told = [line.partition(" is damaged: ")[0] for line in printed if " is damaged: " in line]
    assert sorted(told) == sorted(map(str, stored))
    assert_equals_undisturbed(place, undisturbed)


def under_way(place: Workplace) -> list[Path]:
    """The checkpoints of trials that are not over."""
    files = [place.results.checkpoint(row.trial_id) for row in place.rows().values() if row.state != "finished"]
    return [file for file in files if file.exists()]

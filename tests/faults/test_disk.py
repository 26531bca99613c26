"""A disk that is full while a checkpoint is written, and checkpoints that a power cut has left damaged."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps.sweep import INTERRUPTED
from tests.faults.harness import PAUSE, TRACE, Numbers, Workplace, assert_equals_undisturbed, forward_passes
from trainer.checkpoint import load_checkpoint

DISK = "2m"
NO_ROOM = "No space left on device: make room"

pytestmark = pytest.mark.faults


@pytest.fixture
def small_disk(place: Workplace) -> Iterator[Path]:
    """The folder of the checkpoints, on a disk of its own that is soon full."""
    folder = place.results.checkpoint("any").parent
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left, with the file that is returned."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


def test_a_full_disk_fails_the_trials_in_a_line_and_costs_no_checkpoint(
    place: Workplace, undisturbed: Numbers, small_disk: Path
) -> None:
    place.variables[TRACE] = str(place.folder / "trace")
    process = place.run(**{PAUSE: "0.02"})
    place.wait_until_finished(3)
    ballast = fill(small_disk)
    assert process.wait(timeout=120) == 1, place.printed
    rows = place.rows()
    failed = [row for row in rows.values() if row.state == "failed"]
    assert len(failed) > 10, "the study goes on with the others"
    assert {row.state for row in rows.values()} == {"finished", "failed"}
    for row in failed:
        assert str(row.cause).startswith(f"{place.results.checkpoint(row.trial_id)}: {NO_ROOM}")
    assert NO_ROOM in place.printed
    assert "Traceback" not in place.printed
    for file in small_disk.glob("*.pt"):
        assert load_checkpoint(file, file.stem) is not None, "the old file is whole"
    assert all(file == ballast or file.suffix == ".pt" for file in small_disk.iterdir()), "nothing half written stays"
    ballast.unlink()
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


@pytest.mark.parametrize("damage", [halve, empty, scramble])
def test_a_damaged_checkpoint_is_trained_anew(
    place: Workplace, undisturbed: Numbers, damage: Callable[[Path], None]
) -> None:
    """Of trials that were under way: one that is over is read no more. In MLflow their epochs stand once as well."""
    process = place.run(**{PAUSE: "0.03"})
    place.wait_until_finished(3)
    place.wait_until(lambda: len(under_way(place)) == 2)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == INTERRUPTED, place.printed
    stored = under_way(place)
    for file in stored:
        damage(file)
    place.finish()
    assert_equals_undisturbed(place, undisturbed)


def under_way(place: Workplace) -> list[Path]:
    """The checkpoints of trials that are not over."""
    files = [place.results.checkpoint(row.trial_id) for row in place.rows().values() if row.state != "finished"]
    return [file for file in files if file.exists()]

"""A disk that is full for all of the results: ledger, MLflow's store and checkpoints at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disk import Disk, pretended_disk
from tests.faults.harness import PAUSE, TRACE, Numbers, Workplace, assert_equals_undisturbed, forward_passes

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(place: Workplace, tmp_path: Path) -> Iterator[Disk]:
    """What the results lie on."""
    root = place.results.root
    root.mkdir()
    with pretended_disk(root, tmp_path) as disk:
        place.variables.update(disk.variables)
        yield disk


def test_a_run_that_finds_no_room_for_anything_ends_in_a_line_and_loses_nothing(
    place: Workplace, undisturbed: Numbers, disk: Disk
) -> None:
    place.variables[TRACE] = str(place.folder / "trace")
    process = place.run(**{PAUSE: "0.02"})
    place.wait_until_finished(3)
    finished = place.states()["finished"]
    disk.fill()
    assert process.wait(timeout=90) == 2, place.printed
    line = f"error: ledger sqlite:///{place.results.root}/ledger.db: database or disk is full: once it works again"
    assert place.printed.splitlines()[-1].startswith(line)
    assert "Traceback" not in place.printed
    assert place.printed.count("database or disk is full") <= 2, "once more, of MLflow"
    disk.free()
    assert place.states()["finished"] >= finished
    place.finish()
    assert_equals_undisturbed(place, undisturbed)
    again = {trial: len(place.trace()[trial.trial_id]) - forward_passes(trial) for trial in place.study.trials}
    assert sum(passes > 0 for passes in again.values()) <= 3, "two were under way"
    assert all(passes < forward_passes(trial) for trial, passes in again.items()), "not from its checkpoint"

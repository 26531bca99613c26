"""A second worker node nearly doubles how many trials are trained in a time, where trials leave the cores idle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import Lab, head_for, submitted
from tests.faults.harness import NETWORK_FILE, PAUSE, Workplace, study_file, workplace_in
from trainer.checkpoint import load_checkpoint

pytestmark = pytest.mark.cluster

SEEDS, EPOCHS = 12, 5
LEAST_GAIN = 1.7


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """Twelve trials of 40 forward passes, ERM's, and others."""
    with workplace_in(tmp_path / "user", study_file(SEEDS, EPOCHS, name="scaling"), paced=NETWORK_FILE) as place:
        yield place


@pytest.fixture
def lab(servers: Lab, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """With a head and a worker of one CPU; a training step sleeps far longer than it computes."""
    with head_for(servers, place, monkeypatch, **{PAUSE: "0.1"}) as lab:
        lab.start_worker("first")
        yield lab


def trials_per_second(place: Workplace, lab: Lab, seeds: str) -> float:
    """Of the trials of these seeds, from the first one's first epoch until all are over."""
    known = {id_ for id_, row in place.rows().items() if row.state == "finished"}
    trials = str(place.file), "--only", "method=Erm", "--seeds", seeds
    with submitted(place.folder, lab.client(place.results.root), *trials) as job:
        assert job.wait(seconds=180) == 0, job.printed
    new = {id_ for id_, row in place.rows().items() if row.state == "finished"} - known
    stored = [load_checkpoint(place.results.checkpoint(trial_id), trial_id) for trial_id in new]
    times = [record.timestamp for checkpoint in stored if checkpoint for record in checkpoint.records]
    epoch = min(c.records[0].metrics["epoch_seconds"] for c in stored if c)
    return len(new) / (epoch + (max(times) - min(times)) / 1000)


def test_two_workers_train_nearly_twice_as_fast_as_one(place: Workplace, lab: Lab) -> None:
    one = trials_per_second(place, lab, "6")
    lab.start_worker("second")
    two = trials_per_second(place, lab, "12")
    print(f"one worker {one:.3f} trials/s, two {two:.3f}: {two / one:.2f} x")
    assert two / one >= LEAST_GAIN

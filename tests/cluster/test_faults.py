"""A study is submitted; a worker, MLflow and the head are lost under it. It is finished once, with the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import HEAD, MLFLOW, Lab, head_for, submitted, wait_until
from tests.faults.harness import (
    NETWORK_FILE,
    PAUSE,
    TRACE,
    Numbers,
    Workplace,
    assert_equals_undisturbed,
    forward_passes,
    study_file,
    undisturbed_numbers,
    workplace_in,
)
from trainer.config import TrialConfig

pytestmark = pytest.mark.cluster

SEEDS, EPOCHS = 7, 10


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """Fourteen trials of 80 forward passes (ERM) or 160 (AMP)."""
    with workplace_in(tmp_path / "user", study_file(SEEDS, EPOCHS, name="lost"), paced=NETWORK_FILE) as place:
        place.variables[TRACE] = str(place.folder / "trace")
        yield place


@pytest.fixture
def undisturbed(place: Workplace) -> Numbers:
    return undisturbed_numbers(place.study, place.folder)


@pytest.fixture
def lab(servers: Lab, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """With a head and two workers, on which the study's network takes its time; this process reads its databases."""
    with head_for(servers, place, monkeypatch, **{PAUSE: "0.05", TRACE: place.variables[TRACE]}) as lab:
        lab.start_worker("first")
        lab.start_worker("second")
        yield lab


def in_the_middle(place: Workplace, lab: Lab, worker: str) -> TrialConfig | None:
    """A trial that it has not yet brought to its end, but to a checkpoint, if there is one."""
    return place.in_the_middle({process.pid for process in lab.service(worker).processes()})


def lose_in_the_middle(place: Workplace, lab: Lab, worker: str) -> None:
    """Kill the worker while it trains a trial that can go on from a checkpoint."""
    place.wait_until(lambda: in_the_middle(place, lab, worker) is not None)
    lab.kill(worker)


def finished(place: Workplace) -> dict[str, int]:
    """The trials that are over, and how many forward passes each has taken."""
    trace = place.trace()
    return {id_: len(trace[id_]) for id_, row in place.rows().items() if row.state == "finished"}


def logs_with(lab: Lab, secret: str) -> list[str]:
    """Whatever was written by what ran in the lab, but for the secrets themselves."""
    files = [file for file in lab.folder.rglob("*") if file.is_file() and not file.is_relative_to(lab.secrets)]
    assert any(file.name == "dashboard.log" for file in files)
    return [file.name for file in files if secret.strip() in file.read_text(encoding="utf-8", errors="ignore")]


def test_a_worker_mlflow_and_the_head_are_lost(place: Workplace, undisturbed: Numbers, lab: Lab) -> None:
    study, client = str(place.file), lab.client(place.results.root)
    with submitted(place.folder, client, study) as first:
        wait_until(lambda: bool(place.states()) and any(place.trace().values()), lambda: first.printed, seconds=240)
        first.close_terminal()
    lose_in_the_middle(place, lab, "second")
    lab.kill(MLFLOW)
    place.wait_until_finished(len(finished(place)) + 2)
    lab.start_mlflow()
    lab.start_worker("second")
    with submitted(place.folder, client, study) as again:
        wait_until(lambda: "its log follows" in again.printed, lambda: again.printed)
        lose_in_the_middle(place, lab, "first")
        lab.kill(HEAD)
        lab.kill("second")
        before = finished(place)
        lab.start_head()  # while its client still asks for the log
        assert again.wait() not in (0, None), again.printed
        assert "Ray does not know job" in again.printed
    assert logs_with(lab, lab.secret("ray_token")) == []
    assert 2 <= len(before) < len(place.study.trials)
    lab.start_worker("first")
    lab.start_worker("second")
    with submitted(place.folder, client, study) as last:
        assert last.wait(seconds=180) == 0, last.printed
    assert_equals_undisturbed(place, undisturbed)
    after = finished(place)
    assert {id_: after[id_] for id_ in before} == before, "what was finished is not trained again"
    assert max(after[trial.trial_id] / forward_passes(trial) for trial in place.study.trials) < 2, "from its checkpoint"

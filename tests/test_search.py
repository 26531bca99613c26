"""A whole tuning with real processes: searched, frozen, judged. What breaks a search is in ``tests.faults``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainer.data.load
from search_spaces.catalog import find_final, find_tuning
from search_spaces.choices import read_frozen
from sweeps.search.suggest import Suggestions, close_storage, open_storage
from tests.faults.harness import Workplace, workplace_in
from trainer.loop import train
from trainer.machine import Machine

TUNING_FILE = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.search import Search, Tuning
from search_spaces.spaces import full_space
from trainer.config import Amp, Erm

BASES = [replace(recipes.digits_mlp(m, seed=0), epochs=2, lr_milestones=()) for m in (Erm(), Amp(epsilon=0.2))]
STUDY = Tuning(
    name="whole",
    question="Does AMP help once ERM is tuned as well?",
    searches=[
        Search(name=type(base.method).__name__.lower(), base=base, space=full_space(base.method), settings=3, seeds=2)
        for base in BASES
    ],
    final_seeds=range(3),
)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with workplace_in(tmp_path, TUNING_FILE) as place:
        yield place


def call(place: Workplace, module: str, *command: str, code: int = 0) -> str:
    """What ``python -m MODULE COMMAND`` prints; it must end with ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", module, *command],
        env=place.environment(),
        cwd=place.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_from_the_search_to_the_verdict(place: Workplace) -> None:
    """The test set is broken until all is frozen: a search that opened it would fail, as the final study does."""
    call(place, "sweeps", "fetch", "study.py")
    (images,) = (place.results.root / "data").glob("digits-test-*")
    kept = images.read_bytes()
    images.write_bytes(b"nobody may read this")
    assert "2 searches, 6 settings: 0 tried, 12 trials to train" in call(place, "sweeps", "plan", "study.py")
    assert "nothing is frozen yet" in call(place, "sweeps", "final", "study.py", code=2)
    printed = call(place, "sweeps", "search", "study.py", "--jobs", "2", "--yes")
    assert "whole: 6 of 6 settings tried, after " in printed
    assert "6 of 6 settings tried already" in call(place, "sweeps", "search", "study.py")
    assert "2 searches, 6 of 6 settings tried" in call(place, "sweeps", "status", "study.py")
    printed = call(place, "sweeps", "freeze", "study.py")
    assert " in frozen/whole.json: look at it and commit it. Then: make final STUDY=study.py" in printed
    assert printed == call(place, "sweeps", "freeze", "study.py")
    assert "why: make status STUDY=study.py" in call(place, "sweeps", "final", "study.py", code=1)
    printed = call(place, "sweeps", "status", "study.py")
    final = len(find_final(str(place.file)).trials)  # fewer than 12 where a first setting was chosen
    assert f" cells, {final} trials: 0 finished, 0 diverged, {final} failed" in printed
    assert f"bug or bad input ({final} trials)" in printed
    images.write_bytes(kept)
    call(place, "sweeps", "final", "study.py", "--jobs", "2")
    printed = call(place, "sweeps", "deliver", "study.py")
    assert "whole: all that was trained" in printed
    assert "whole-final: all that was trained" in printed
    _assert_recorded(place)


def _assert_recorded(place: Workplace) -> None:
    _, runs = place.runs_of("whole")
    kinds = [run.data.tags["kind"] for run in runs]
    assert [kinds.count(kind) for kind in ("summary", "search", "trial")] == [1, 2, 12]
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = {run.info.run_id: run.data.tags["search"] for run in runs if run.data.tags["kind"] == "search"}
    for run in (run for run in runs if run.data.tags["kind"] == "trial"):
        assert parents[run.data.tags["mlflow.parentRunId"]] == run.data.tags["search"]
        assert (run.data.tags["phase"], "final/val/nll" in run.data.metrics) == ("search", True)
        assert not [name for name in run.data.metrics if "test" in name]
    frozen = read_frozen(place.folder / "frozen" / "whole.json")
    assert frozen is not None
    _, finals = place.runs_of("whole-final")
    trials = [run for run in finals if run.data.tags["kind"] == "trial"]
    assert {run.data.tags["trial_id"] for run in trials} == {t.trial_id for t in find_final(str(place.file)).trials}
    assert all(run.data.tags["phase"] == "final" and "final/test/nll" in run.data.metrics for run in trials)


def test_a_search_never_opens_the_test_set(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial that a search can come to, with a loader that raises; those of the final study do raise."""
    load = trainer.data.load.load_part

    def raising(dataset: object, part: str, data_dir: Path) -> object:
        if part == "test":
            raise AssertionError("the test set")
        return load(dataset, part, data_dir)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.data.load, "load_part", raising)
    machine = Machine(data_dir=place.folder / "data")
    storage = open_storage(f"sqlite:///{place.folder / 'optuna.db'}")
    tuning = find_tuning(str(place.file))
    for search in tuning.searches:
        suggestions = Suggestions(search, storage)
        while asked := suggestions.ask():
            for trial in search.trials(asked.setting):
                assert [record.epoch for record in train(trial, machine)] == [1, 2]
            suggestions.tell(asked.number, [1.0], [], 0.0)
    close_storage(storage)
    for trial in tuning.final_study({search.name: search.first for search in tuning.searches}).trials:
        with pytest.raises(AssertionError, match="the test set"):
            list(train(trial, machine))

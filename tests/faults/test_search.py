"""A search whose driver is killed, doubled or out of hours: every setting once, and the very same ones."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from search_spaces.catalog import find_tuning
from search_spaces.search import Tuning
from sweeps.ledger import Ledger
from sweeps.search.suggest import Suggestion, Suggestions, close_storage, open_storage
from tests.faults.harness import NETWORK_FILE, PAUSE, Workplace, driver_of, workplace_in
from trainer.loop import train
from trainer.machine import Machine

pytestmark = pytest.mark.faults

SEED = "SWEEPS_TEST_SEED"
KILLED = 137  # the exit code of a shell whose command was killed
KILLS = 5
SETTINGS, FEW = 40, 12
TUNING_FILE = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.search import Search, Tuning
from search_spaces.spaces import full_space
from trainer.config import Amp, Custom

AMP = Amp(epsilon=0.2, inner_lr=2.0, inner_steps=1)
base = recipes.digits_mlp(AMP, seed=0)
base = replace(base, model=Custom("paced:make", arguments={"method": "Amp"}), epochs=3, lr_milestones=(2,))
STUDY = Tuning(
    name="search-faults",
    question="Does a search try the same settings, whatever happens to it?",
    searches=[Search(name="amp", base=base, space=full_space(AMP), settings=SETTINGS, hours=HOURS)],
    final_seeds=range(2),
)
"""


def tuning_file(settings: int = SETTINGS, hours: float | None = None) -> str:
    return TUNING_FILE.replace("SETTINGS", str(settings)).replace("HOURS", str(hours))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with workplace_in(tmp_path, tuning_file(), paced=NETWORK_FILE) as place:
        yield place


def tuning_of(place: Workplace) -> Tuning:
    return find_tuning(str(place.file))


def suggested(place: Workplace) -> list[Suggestion]:
    """The settings of its search as Optuna has them."""
    storage = open_storage(place.results.optuna_url)
    try:
        return Suggestions(tuning_of(place).searches[0], storage).all()
    finally:
        close_storage(storage)


def told(place: Workplace) -> int:
    """How many settings were told about. Asked often: opening Optuna's storage would take a core of the machine."""
    database = place.results.root / "optuna.db"
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    return 0


def search(place: Workplace, *, jobs: int = 1, **variables: str) -> subprocess.Popen[bytes]:
    return place.start("search", str(place.file), "--jobs", str(jobs), "--yes", **variables)


def known(found: list[Suggestion]) -> list[tuple[object, ...]]:
    """All but how long it took."""
    return [(one.number, one.outcome, one.value, tuple(one.setting.items())) for one in found]


def undisturbed(place: Workplace, folder: Path) -> list[tuple[object, ...]]:
    """What the search comes to in this process, without Ray, ledger, checkpoints or kills."""
    folder.mkdir()
    (declared,), machine = tuning_of(place).searches, Machine(data_dir=folder / "data", code_dir=place.folder)
    storage = open_storage(f"sqlite:///{folder / 'optuna.db'}")
    suggestions = Suggestions(declared, storage)
    while asked := suggestions.ask():
        values = [[*train(trial, machine)][-1].metrics["val/nll"] for trial in declared.trials(asked.setting)]
        suggestions.tell(asked.number, values, [], 0.0)
    try:
        return known(suggestions.all())
    finally:
        close_storage(storage)


def assert_each_trial_once(place: Workplace, trials: int) -> None:
    ledger = Ledger(place.results.ledger_url)
    rows = ledger.studies()["search-faults"]
    ledger.close()
    assert [row.state for row in rows] == ["finished"] * trials
    client, runs = place.runs_of("search-faults")
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_kind = [run.data.tags["kind"] for run in runs]
    assert (by_kind.count("summary"), by_kind.count("search"), by_kind.count("trial")) == (1, 1, trials)
    for run in runs:
        if run.data.tags["kind"] == "trial":
            assert run.data.tags["phase"] == "search"
            assert [point.step for point in client.get_metric_history(run.info.run_id, "val/nll")] == [1, 2, 3]
            assert not [name for name in run.data.metrics if name.startswith("test/")]


def test_killed_five_times_in_forty_settings(place: Workplace, tmp_path: Path) -> None:
    seed = int(os.environ.get(SEED) or secrets.randbelow(10**6))
    print(f"{SEED}={seed}")
    random, before = Random(seed), 0
    for _ in range(KILLS):
        process = search(place, jobs=1, **{PAUSE: "0.01"})
        target = before + random.randint(1, 5)
        place.wait_until(lambda target=target: told(place) >= target)  # type: ignore[misc]
        time.sleep(random.uniform(0.0, 1.0))
        driver_of(process).kill()
        assert process.wait(timeout=10) == KILLED, f"ended before it was killed: {place.printed}"
        before = told(place)
        print(f"killed with {before} told")
    assert before < SETTINGS
    assert search(place).wait(timeout=180) == 0, place.printed
    found = suggested(place)
    assert known(found) == undisturbed(place, tmp_path / "undisturbed")
    assert [one.outcome for one in found] == ["told"] * SETTINGS
    assert_each_trial_once(place, SETTINGS)


def test_two_drivers_share_a_search_and_one_is_killed(place: Workplace) -> None:
    place.file.write_text(tuning_file(FEW))
    one = search(place, jobs=2, **{PAUSE: "0.01"})
    place.wait_until(lambda: told(place) >= 1)
    other = search(place, jobs=1, **{PAUSE: "0.01"})
    place.wait_until(lambda: told(place) >= FEW // 2)
    driver_of(one).kill()
    assert one.wait(timeout=10) == KILLED
    assert other.wait(timeout=180) == 0, place.printed
    found = suggested(place)
    assert [one.outcome for one in found] == ["told"] * FEW
    assert len({tuple(one.setting.values()) for one in found}) == FEW
    assert_each_trial_once(place, FEW)


def test_hours_end_it_within_a_trial(tmp_path: Path) -> None:
    seconds = 20.0  # of which Ray and torch take half a dozen to start
    with workplace_in(tmp_path, tuning_file(1000, hours=seconds / 3600), paced=NETWORK_FILE) as place:
        process, began = search(place, jobs=1, **{PAUSE: "0.02"}), 0.0
        place.wait_until(lambda: "before; " in place.printed)
        began = time.monotonic()
        assert process.wait(timeout=120) == 0, place.printed
        took = time.monotonic() - began
        found = suggested(place)
        assert {one.outcome for one in found} == {"told"}
        longest = max(one.train_seconds for one in found)
        assert statistics.median(one.train_seconds for one in found) > 0.5
        assert took < seconds + longest + 10, "10 s are for Ray's end, and MLflow"
        assert took > seconds - 2
        assert "The hours of amp are spent" in place.printed
        assert search(place).wait(timeout=60) == 0
        assert len(suggested(place)) == len(found)


MEDIAN_FILE = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.search import OneOf, Search, Tuning
from trainer.config import Custom, Erm

base = recipes.digits_mlp(Erm(), seed=0)
base = replace(base, model=Custom("paced:make", arguments={"method": "Erm"}), epochs=20, lr_milestones=())
GOOD, BAD = (0.05, 0.04, 0.06, 0.03, 0.07), (1e-6, 2e-6)
STUDY = Tuning(
    name="search-median",
    question="Is a trial that is worse than the median stopped while it runs?",
    searches=[
        Search(
            name="erm",
            base=base,
            space={"lr": OneOf(values=(*GOOD, *BAD))},
            settings=7,
            sampler="grid",
            pruner="median",
        )
    ],
)
"""


def test_what_the_median_gives_up_is_stopped_while_it_runs(tmp_path: Path) -> None:
    with workplace_in(tmp_path, MEDIAN_FILE, paced=NETWORK_FILE) as place:
        assert search(place, jobs=1, **{PAUSE: "0.015"}).wait(timeout=180) == 0, place.printed
        found = suggested(place)
        assert [one.outcome for one in found] == ["told"] * 5 + ["pruned"] * 2
        client, runs = place.runs_of("search-median")
        of_setting = {run.data.tags["setting"]: run for run in runs if run.data.tags["kind"] == "trial"}
        assert [of_setting[str(number)].info.status for number in range(7)] == ["FINISHED"] * 5 + ["KILLED"] * 2
        for number in (5, 6):
            points = client.get_metric_history(of_setting[str(number)].info.run_id, "val/nll")
            assert 7 <= len(points) < 20, "the first epoch after a third of them, and those until the report came"
        assert {run.info.status for run in runs if run.data.tags["kind"] != "trial"} == {"FINISHED"}
        assert "7 of 7 settings tried (2 pruned)" in place.printed

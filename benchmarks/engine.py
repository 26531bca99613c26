"""What sweeping costs beside training, as ratios: ``make bench-engine`` prints them, writes ``benchmarks/engine.json``.

Each run is a process of its own in a results folder of its own. Where two sides are compared they take turns, so that
a machine whose speed drifts slows both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.ratios import Ratio, interleaved, printed, ratio, write
from benchmarks.tracking import tracking_ratios
from search_spaces.catalog import find
from sweeps.cost.estimate import kind, passes
from sweeps.hardware import hardware
from sweeps.ledger import Ledger
from trainer.config import TrialConfig
from trainer.machine import RESULTS_VARIABLE, Results

STUDY = "fig8-mnist5k"
ROUNDS = 3
TRIALS, PLAIN_TRIALS = 200, 8
FEW, MANY = 100, 1000
LEDGER_TRIALS = 10_000
SAMPLE_SECONDS = 0.3


def environment(root: Path) -> dict[str, str]:
    """The user's, without what is set for Ray, Tune or MLflow: neither side is to find settings of the other."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_", "MLFLOW_"))}
    return kept | {RESULTS_VARIABLE: str(root), "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def process(module: str, *arguments: str) -> Iterator[tuple[psutil.Popen, Path, Path]]:
    """``python -m MODULE ARGUMENTS FILE``, its results folder, and the file; what it prints is shown if it fails."""
    with tempfile.TemporaryDirectory(prefix="engine-") as scratch, tempfile.TemporaryFile() as printed:
        root, file = Path(scratch) / "results", Path(scratch) / "found.json"
        command = [sys.executable, "-m", module, *arguments, str(file)]
        child = psutil.Popen(command, env=environment(root), stdout=printed, stderr=subprocess.STDOUT)
        try:
            yield child, root, file
        except BaseException:
            child.terminate()
            raise
        if child.wait():
            printed.seek(0)
            raise SystemExit(f"{' '.join(command)}:\n{printed.read().decode(errors='replace')}")


def found(module: str, *arguments: str) -> dict[str, float]:
    """What the process measured."""
    measured: dict[str, float] = {}
    with process(module, *arguments) as (child, _, file):
        if not child.wait():
            measured.update(json.loads(file.read_text(encoding="utf-8")))
    return measured


def overhead_ratios() -> Iterator[Ratio]:
    """The wall time of trials of no work, Ray's start and end included, over that of Ray Tune with its defaults.

    Tune's is that of fewer trials, and for the others the time from trial to trial.
    """
    bare, tracked = [], []
    for _ in range(ROUNDS):
        ours = found("benchmarks.our_runs", "idle", str(TRIALS))["whole"]
        theirs = found("benchmarks.plain_tune", str(PLAIN_TRIALS))
        with_mlflow = found("benchmarks.our_runs", "tracked", str(TRIALS))["whole"]
        plain = theirs["first"] + (TRIALS - 1) * theirs["each"] + theirs["end"]
        bare.append((ours, plain))
        tracked.append((with_mlflow, plain))
    yield ratio(f"{TRIALS} trials of no work / plain Tune", bare, "<= 0.1")
    yield ratio(f"{TRIALS} trials of no work, with MLflow / plain Tune", tracked)


def linearity_ratios() -> Iterator[Ratio]:
    """The time from trial to trial in a large study over that in a small one."""
    pairs = []
    for _ in range(ROUNDS):
        few, many = (found("benchmarks.our_runs", "idle", str(count))["each"] for count in (FEW, MANY))
        pairs.append((many, few))
    yield ratio(f"time a trial, {MANY:,} trials / {FEW} trials", pairs, "<= 1.2")


class CpuTime:
    """CPU seconds of a process and all its descendants, those that have ended included, as far as they were sampled."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._seconds: dict[psutil.Process, float] = {}

    def sample(self) -> float:
        """The sum now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in (self._root, *self._root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = one.cpu_times()
                    self._seconds[one] = times.user + times.system
        return sum(self._seconds.values())


def share_ratios() -> Iterator[Ratio]:
    """The share of all CPU time, of driver, Ray and workers, from Ray's start on, that the default study trains in."""
    inside, before = 0.0, None
    with process("benchmarks.our_runs", "study", STUDY) as (child, root, file):
        total = CpuTime(child)
        while child.poll() is None:
            spent = total.sample()
            if before is None and leased(root):
                before = spent
            time.sleep(SAMPLE_SECONDS)
        if not child.wait():
            inside = json.loads(file.read_text(encoding="utf-8"))["inside"]
    assert before is not None, "no trial was seen running"
    share = inside / (spent - before)
    yield Ratio(f"CPU time of {STUDY} that is inside trials", share, share, share, 1, ">= 0.75")


def leased(root: Path) -> bool:
    """Whether a trial was handed out, which happens as soon as Ray is up."""
    results = Results(root)
    if not results.has_ledger():
        return False
    with contextlib.closing(sqlite3.connect(root / "ledger.db", timeout=30)) as ledger:
        tables = ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'trials'").fetchone()
        return bool(tables and ledger.execute("SELECT 1 FROM trials WHERE state <> 'pending'").fetchone())


def fill_ledger(results: Results, trials: Sequence[TrialConfig]) -> None:
    """Have all ``trials`` finished and measured; written past the ledger's leases, which would take minutes."""
    results.root.mkdir()
    ledger = Ledger(results.ledger_url)
    ledger.declare("other", trials)
    ledger.close()
    facts = [(one.trial_id, kind(one), hardware("cpu"), passes(one.method).total, 9.5, 9e7, 0.1, 0.5) for one in trials]
    with contextlib.closing(sqlite3.connect(results.root / "ledger.db")) as database, database:
        database.execute("UPDATE trials SET state = 'finished'")
        database.executemany("INSERT INTO measured VALUES (?, ?, ?, ?, ?, ?, ?, ?)", facts)


def plan_ratios() -> Iterator[Ratio]:
    """Seconds that the plans of the paper's tables take as commands, with trials like theirs in the ledger."""
    declared = [trial for name in ("table1", "table2") for trial in find(name).trials]
    like = [dataclasses.replace(trial, seed=trial.seed + 1000 * again) for again in range(1, 14) for trial in declared]
    with tempfile.TemporaryDirectory() as scratch:
        results = Results(Path(scratch) / "results")
        fill_ledger(results, like[:LEDGER_TRIALS])
        both = [functools.partial(plan, name, results) for name in ("table1", "table2")]
        times = [sum(each) for each in interleaved(both, ROUNDS)]
    what = f"{len(declared)} trials, {LEDGER_TRIALS:,} in the ledger"
    yield ratio(f"seconds of both plans: {what}", [(taken, 1.0) for taken in times], "<= 5")


def plan(study: str, results: Results) -> None:
    """``python -m sweeps plan STUDY``."""
    command = [sys.executable, "-m", "sweeps", "plan", study]
    subprocess.run(command, env=environment(results.root), stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Measure, print as it goes, write the file."""
    print(
        "Medians and [quartiles]. Trials of no work go through ledger, leases, Ray and the worker's own function, two"
    )
    print("at a time. Plain Ray Tune has its defaults and a function that imports torch; the time of")
    print(f"{TRIALS} trials follows from those of {PLAIN_TRIALS}.\n")
    sources: list[Callable[[], Iterator[Ratio]]] = [plan_ratios, tracking_ratios]
    sources += [overhead_ratios, linearity_ratios, share_ratios]
    write("engine", printed(sources), hardware=hardware("cpu"))


if __name__ == "__main__":
    main()

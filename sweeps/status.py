"""How far a study is and why trials failed: what ``python -m sweeps status`` prints."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search_spaces.study import Study
from sweeps.ledger import LedgerRow
from sweeps.tracking.outline import Outline
from trainer.config import TrialConfig
from trainer.machine import RESULTS_VARIABLE, Results

TITLES = {
    "bug": "bug or bad input",
    "lost_worker": "lost worker",
    "out_of_memory": "out of memory",
    "diverged": "diverged",
    "unknown": "failed, under an earlier version",
}
"""The classes of failures, in the order in which they are shown."""
LOG_LINES = 6
CELLS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Group:
    """Trials that ended for one cause. log: all that is known of how the first of them did, with the cause last.

    members: each with what its cell, or setting, is called.
    """

    failure: str
    cause: str
    log: Sequence[str]
    members: Sequence[tuple[str, TrialConfig]]


def status_lines(study: Study, rows: Mapping[str, LedgerRow], reference: str, results: Results) -> list[str]:
    """Counts, then each group of failures. reference: what the user called the study."""
    shown = [f"{study.name}: {counts(study, rows)}"]
    if again := sum(row.state == "pending" and row.failure == "out_of_memory" for row in rows.values()):
        shown.append(f"  {again} of the pending ran out of memory: once more, alone, when the others are over")
    return [*shown, *failure_lines(study, rows, reference, results)]


def failure_lines(
    shown: Study | Outline, rows: Mapping[str, LedgerRow], reference: str, results: Results
) -> Iterator[str]:
    """Each group of failures, after an empty line."""
    for group in groups(shown, rows):
        yield ""
        yield from _group_lines(group, reference, results)


def counts(study: Study, rows: Mapping[str, LedgerRow]) -> str:
    """Cells, trials, and how many of them are in each state."""
    count = Counter(row.state for row in rows.values())
    states = ", ".join(f"{count[state]} {state}" for state in ("finished", "diverged", "failed", "leased", "pending"))
    return f"{len(study.cells())} cells, {len(study.trials)} trials: {states.replace('leased', 'running')}"


def groups(shown: Study | Outline, rows: Mapping[str, LedgerRow]) -> list[Group]:
    """Failed and diverged trials by class and last line of their cause, the largest group of a class first."""
    members: dict[tuple[str, str], list[tuple[str, TrialConfig]]] = {}
    for label, trial in _labelled(shown):
        row = rows[trial.trial_id]
        if row.state in ("failed", "diverged"):
            failure = "diverged" if row.state == "diverged" else row.failure or "unknown"
            members.setdefault((failure, _log(row)[-1]), []).append((label, trial))
    found = [
        Group(failure, cause, _log(rows[first[0][1].trial_id]), first) for (failure, cause), first in members.items()
    ]
    return sorted(found, key=lambda group: (list(TITLES).index(group.failure), -len(group.members)))


def _labelled(shown: Study | Outline) -> Iterator[tuple[str, TrialConfig]]:
    if isinstance(shown, Study):
        yield from ((cell.label, trial) for cell in shown.cells() for trial in cell.trials)
    else:
        yield from ((f"{shown.group(trial.trial_id).name} {shown.label(trial)}", trial) for trial in shown.trials)


def _log(row: LedgerRow) -> list[str]:
    return (row.cause or "").strip().splitlines() or ["no cause recorded"]


def _group_lines(group: Group, reference: str, results: Results) -> list[str]:
    number, first = len(group.members), group.members[0][1].trial_id
    trials = f"{number} trial{'s' * (number > 1)}"
    cells: dict[str, list[int]] = {}
    for label, trial in group.members:
        cells.setdefault(label, []).append(trial.seed)
    shown = [f"  {label}: seed {', '.join(map(str, seeds))}" for label, seeds in cells.items()]
    if len(shown) > CELLS_SHOWN:
        shown[CELLS_SHOWN:] = [f"  and {len(shown) - CELLS_SHOWN} cells more"]
    log = [f"    | {line}" for line in group.log[-LOG_LINES:]] if len(group.log) > 1 else []
    rerun = f"  To see one of them here: {rerun_command(first, reference, results)}"
    return [f"{TITLES[group.failure]} ({trials}): {group.cause}", *shown, *log, rerun]


def rerun_command(trial_id: str, reference: str, results: Results) -> str:
    """What a shell in this folder is told to train the trial in the foreground."""
    here = Path.cwd()
    elsewhere = results.root != (here / "results").resolve()
    variable = f"{RESULTS_VARIABLE}={shlex.quote(str(results.root))} " if elsewhere else ""
    python = Path(sys.executable)
    python = python.relative_to(here) if python.is_relative_to(here) else python
    own = f" --study {shlex.quote(reference)}" if reference.endswith(".py") else ""
    return f"{variable}{shlex.quote(str(python))} -m sweeps trial {trial_id}{own}"

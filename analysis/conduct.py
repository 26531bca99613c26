"""How a study was carried out: what all its trials share, and what became of those that did not finish."""

from __future__ import annotations

import pandas as pd

from analysis.render import Rows
from analysis.tables import provenance_rows
from search_spaces.study import Study

FINISHED = "finished"


def details(study: Study, frame: pd.DataFrame) -> dict[str, Rows]:
    """Tables to look things up in, by their titles. frame: of ``runs.load``."""
    return {
        "Protocol: what all trials share": protocol_rows(study),
        "Provenance: from a cell to its runs, commits and data": provenance_rows(frame),
    }


def protocol_rows(study: Study) -> Rows:
    """Parameter and value of what all trials share, seeds aside; what differs stands in the tables."""
    cells = [cell.params for cell in study.cells()]
    shared = [name for name, value in cells[0].items() if all(params.get(name) == value for params in cells[1:])]
    return [["parameter", "value"], *([name, str(cells[0][name])] for name in shared)]


def failure_rows(frame: pd.DataFrame) -> Rows:
    """Cell, outcome, seeds and cause of the trials that are not finished, those of one cause together.

    frame: of ``runs.load``. Empty when all are finished.
    """
    failed = frame.loc[frame["outcome"] != FINISHED, ["cell", "outcome", "seed", "cause"]]
    if failed.empty:
        return []
    failed = failed.assign(cause=failed["cause"].map(_last_line))
    grouped = failed.groupby(["cell", "outcome", "cause"], sort=False)["seed"]
    named = [(*map(str, key), ", ".join(str(seed) for seed in sorted(seeds))) for key, seeds in grouped]
    return [["cell", "outcome", "seeds", "cause"], *([cell, out, seeds, why] for cell, out, why, seeds in named)]


def _last_line(cause: object) -> str:
    """Of a traceback that is the error itself; ``–`` where nothing is recorded."""
    lines = cause.strip().splitlines() if isinstance(cause, str) else []
    return lines[-1].strip() if lines else "–"

"""Putting a report into MLflow: files on the summary run, statistics over seeds on the runs of cells or searches."""

from __future__ import annotations

import csv
import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from search_spaces.study import Study
from sweeps.ledger import Ledger
from sweeps.outline import SEARCH, Outline
from sweeps.tracking import SUMMARY, UNREACHABLE, Tracker, connect, open_tracker, refusal
from trainer.declaration import ConfigError
from trainer.machine import Results

STATISTICS = ("n", "mean", "sd", "low", "high")
OF_SEARCHES = ("tried", "failed", "pruned", "train_seconds", "first/value", "best/value", "best/sd")
DIGEST_TAG = "report_digest"


def publish(shown: Study | Outline, results: Results, ledger: Ledger) -> bool:
    """Publish what ``python -m analysis report`` wrote; False when MLflow has just that already.

    Raises ConfigError when there is no report, or when MLflow does not take it.
    """
    folder = results.report(shown.name)
    if not (folder / "report.md").is_file():
        raise ConfigError(f"{shown.name}: no report in {folder}: python -m analysis report {shown.name}")
    tracker = open_tracker(shown, ledger, results)
    try:
        return _publish(connect(results), tracker, folder)
    except UNREACHABLE as error:
        raise refusal(results, "took no report", error) from error


def _publish(client: MlflowClient, tracker: Tracker, folder: Path) -> bool:
    summary, digest, now = tracker.run_id(SUMMARY), _digest(folder), time.time_ns() // 1_000_000
    run = client.get_run(summary)
    if run.data.tags.get(DIGEST_TAG) == digest:
        return False
    client.log_artifacts(summary, str(folder), artifact_path="report")
    client.set_tag(summary, "mlflow.note.content", (folder / "report.md").read_text(encoding="utf-8"))
    for key, step, found in [*_of_cells(folder), *_of_searches(folder)]:
        # MLflow shows the value of the highest step: that of the most seeds, or settings, and of these the newest.
        metrics = [Metric(name, value, now, step) for name, value in found.items()]
        client.log_batch(tracker.run_id(key), metrics)
    client.set_tag(summary, DIGEST_TAG, digest)
    return True


def _of_cells(folder: Path) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Key, seeds and statistics of each row of ``cells.csv``, which a study's report has."""
    for row in _rows(folder / "cells.csv"):
        yield row["cell_id"], int(row["n_finished"]), _statistics(row)


def _of_searches(folder: Path) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Key, settings and numbers of each row of ``searches.csv``, which a tuning's report has."""
    for row in _rows(folder / "searches.csv"):
        numbers = {f"search/{name}": float(row[name]) for name in OF_SEARCHES if row[name]}
        over = sum(int(row[outcome]) for outcome in ("tried", "failed", "pruned"))
        yield SEARCH + row["digest"], over, {name: value for name, value in numbers.items() if math.isfinite(value)}


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _statistics(row: dict[str, str]) -> dict[str, float]:
    """The numbers ``METRIC/STATISTIC`` of a row of ``cells.csv``; empty fields are not there."""
    found = {name: float(text) for name, text in row.items() if text and name.rpartition("/")[2] in STATISTICS}
    return {name: value for name, value in found.items() if "/" in name and math.isfinite(value)}


def _digest(folder: Path) -> str:
    content = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content.update(str(file.relative_to(folder)).encode())
        content.update(file.read_bytes())
    return content.hexdigest()[:16]

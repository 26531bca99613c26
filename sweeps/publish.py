"""Putting a study's report into MLflow: files on its summary run, statistics over seeds on its cells' runs."""

from __future__ import annotations

import csv
import hashlib
import math
import time
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from search_spaces.study import Study
from sweeps.ledger import Ledger
from sweeps.tracking import SUMMARY, UNREACHABLE, Tracker, connect, open_tracker, refusal
from trainer.declaration import ConfigError
from trainer.machine import Results

STATISTICS = ("n", "mean", "sd", "low", "high")
DIGEST_TAG = "report_digest"


def publish(study: Study, results: Results, ledger: Ledger) -> bool:
    """Publish what ``python -m analysis report`` wrote; False when MLflow has just that already.

    Raises ConfigError when there is no report, or when MLflow does not take it.
    """
    folder = results.report(study.name)
    if not (folder / "cells.csv").is_file():
        raise ConfigError(f"{study.name}: no report in {folder}: python -m analysis report {study.name}")
    tracker = open_tracker(study, ledger, results)
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
    with (folder / "cells.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            # MLflow shows the value of the highest step: that of the most seeds, and of these the newest.
            step = int(row["n_finished"])
            metrics = [Metric(name, value, now, step) for name, value in _statistics(row).items()]
            client.log_batch(tracker.run_id(row["cell_id"]), metrics)
    client.set_tag(summary, DIGEST_TAG, digest)
    return True


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

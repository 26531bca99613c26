"""Putting a report into MLflow: its files on the summary run, statistics over seeds on the runs of cells or searches.

With them go the experiment's description and saved views, and names, colours and data of runs that lack them.
"""

from __future__ import annotations

import csv
import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from search_spaces.study import Study
from sweeps.ledger import Ledger
from sweeps.tracking.notes import Links, Said, description, summary_note
from sweeps.tracking.outline import SEARCH, Outline
from sweeps.tracking.tracker import METRICS_A_CALL, NOTE, SUMMARY, UNREACHABLE, Tracker, connect, open_tracker, refusal
from sweeps.tracking.views import best_link, saved
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.passwords import hide_passwords

STATISTICS = ("n", "mean", "sd", "low", "high")
OF_SEARCHES = ("tried", "failed", "pruned", "train_seconds", "first/value", "best/value", "best/sd")
DIGEST_TAG = "report_digest"
Statistics = tuple[str, int, dict[str, float]]
"""Key of a run, over how many seeds or settings, and the numbers by their metrics' names."""


def shown_at(study: str, results: Results) -> str:
    """Where a browser shows the study's runs: on a server their page, which MLflow's own home leads past; else how."""
    uri = hide_passwords(results.tracking_uri).rstrip("/")
    if not uri.startswith("http"):
        return f"make ui ({uri})"
    experiment = connect(results).get_experiment_by_name(study)
    return uri if experiment is None else f"{uri}/{best_link(experiment.experiment_id, experiment.tags)}"


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
    tracker.mend()
    statistics = [*_of_cells(folder), *_of_searches(folder)]
    links, said = Links.into(tracker.experiment_id, tracker.run_id(SUMMARY), folder), Said.read(folder)
    metrics = {name for _, _, found in statistics for name in found}
    tags = _experiment_tags(client, tracker, metrics, said, links)
    note = summary_note(tracker.outline, said, links)
    digest = _digest(folder, {**tags, "summary": note})
    if client.get_run(links.summary_id).data.tags.get(DIGEST_TAG) == digest:
        return False
    client.log_artifacts(links.summary_id, str(folder), artifact_path="report")
    _log_statistics(client, tracker, statistics)
    for name, value in tags.items():
        client.set_experiment_tag(links.experiment_id, name, value)
    client.set_tag(links.summary_id, NOTE, note)
    client.set_tag(links.summary_id, DIGEST_TAG, digest)
    return True


def _experiment_tags(
    client: MlflowClient, tracker: Tracker, metrics: set[str], said: Said, links: Links
) -> dict[str, str]:
    """The description and the saved views."""
    views = tracker.outline.views(metrics)
    made = client.get_experiment(links.experiment_id).creation_time or 0
    return {**saved(views, made), NOTE: description(tracker.outline, views, said, links)}


def _log_statistics(client: MlflowClient, tracker: Tracker, statistics: list[Statistics]) -> None:
    now = time.time_ns() // 1_000_000
    for key, step, found in statistics:
        # MLflow shows the value of the highest step: that of the most seeds, or settings, and of these the newest.
        metrics = [Metric(name, value, now, step) for name, value in found.items()]
        for start in range(0, len(metrics), METRICS_A_CALL):
            client.log_batch(tracker.run_id(key), metrics[start : start + METRICS_A_CALL])


def _of_cells(folder: Path) -> Iterator[Statistics]:
    """Key, seeds and statistics of each row of ``cells.csv``, which a study's report has."""
    for row in _rows(folder / "cells.csv"):
        yield row["cell_id"], int(row["n_finished"]), _statistics(row)


def _of_searches(folder: Path) -> Iterator[Statistics]:
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


def _digest(folder: Path, texts: Mapping[str, str]) -> str:
    content = hashlib.sha256(repr(sorted(texts.items())).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content.update(str(file.relative_to(folder)).encode())
        content.update(file.read_bytes())
    return content.hexdigest()[:16]

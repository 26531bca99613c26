"""The page that leads to all reports of a results folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from analysis.document import FIGURES, SUMMARY_FILE
from analysis.page import Entry, index_page
from trainer.declaration import ConfigError
from trainer.machine import Results


def write_index(results: Results) -> Path:
    """``index.html`` beside the folders of the reports, those of users' own studies too; its path.

    Raises ConfigError when there is no report, or when it cannot be written.
    """
    entries = [_entry(path) for path in sorted(results.reports.glob(f"*/{SUMMARY_FILE}"))]
    if not entries:
        raise ConfigError(f"{results.reports}: no report yet: make sweep trains a study and makes one")
    index = results.reports / "index.html"
    try:
        index.write_text(index_page(entries), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"RESULTS: cannot write {index}: {error.strerror}") from error
    return index


def references(results: Results) -> list[str]:
    """What users called the studies that they have reported; an index of an earlier version knows none."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.reports.glob(f"*/{SUMMARY_FILE}"))]
    return [one["reference"] for one in found if one.get("reference")]


def _entry(summary: Path) -> Entry:
    found, folder = json.loads(summary.read_text(encoding="utf-8")), summary.parent
    return Entry(
        name=found["name"],
        question=found["question"],
        answer=found["answer"],
        warnings=found["warnings"],
        link=f"{folder.name}/report.html",
        picture=folder / FIGURES / found["figures"][0] if found["figures"] else None,
        made=datetime.fromtimestamp(summary.stat().st_mtime, UTC),
    )

"""Pages for a browser: one HTML file each, which asks for nothing else, online or offline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.figures.base import Picture

TEMPLATES = Path(__file__).parent / "templates"


def study_page(
    *,
    name: str,
    question: str,
    answer: Sequence[str],
    findings: Sequence[str],
    warnings: Sequence[str],
    tables: Mapping[str, str],
    notes: Sequence[str],
    sections: Sequence[tuple[str, str, Sequence[str]]],
    details: Mapping[str, str],
    reproduce: str,
    pictures: Sequence[Picture],
) -> str:
    """The page of a report. Tables are HTML, those of sections between title and notes; other texts are escaped."""
    shown = [(picture, data_uri(picture.png)) for picture in pictures]
    about = {"name": name, "question": question, "answer": answer, "findings": findings, "warnings": warnings}
    parts = {"tables": tables, "notes": notes, "sections": sections, "details": details, "shown": shown}
    return _page("report.html", **about, **parts, reproduce=reproduce)


class Entry(NamedTuple):
    """A report in the index. link: relative. made: when."""

    name: str
    question: str
    answer: str
    warnings: Sequence[str]
    link: str
    picture: Path | None
    made: datetime


def index_page(entries: Sequence[Entry]) -> str:
    """The page that leads to all reports."""
    shown = [(entry, data_uri(entry.picture) if entry.picture else None) for entry in entries]
    return _page("index.html", shown=shown)


def data_uri(png: Path) -> str:
    """The file itself, as an address."""
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()


def _page(template: str, **values: Any) -> str:
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)

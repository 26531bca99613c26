"""What stands above an experiment in MLflow: links to its views and its report, question, answer, how to read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.tracking.outline import Outline
from sweeps.tracking.views import View, run_link

RUN_LIMIT, EXPERIMENT_LIMIT = 8000, 20_000
"""Characters that MLflow takes of a tag of a run, and of an experiment."""
PAGES = ("report.html", "report.md")


@dataclass(frozen=True, slots=True)
class Said:
    """What a report says in a few sentences, as its ``report.json`` has it; nothing where there is none."""

    answer: str = ""
    findings: Sequence[str] = ()
    warnings: Sequence[str] = ()
    reproduce: str = ""

    @classmethod
    def read(cls, folder: Path) -> Said:
        """Of the report in ``folder``. What is no such file, or misses something, says less."""
        try:
            found: Any = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls()
        if not isinstance(found, Mapping):
            return cls()
        lists = {name: [str(line) for line in found.get(name) or ()] for name in ("findings", "warnings")}
        return cls(str(found.get("answer") or ""), reproduce=str(found.get("reproduce") or ""), **lists)


def description(outline: Outline, views: Sequence[View], said: Said, links: Links) -> str:
    """Of the experiment, in Markdown. Its first line is all that MLflow shows before it is unfolded: the links."""
    parts = [
        " · ".join(f"**[{title}]({link})**" for title, link in _first_line(views, links)),
        f"**Question.** {outline.question}",
        *_said(said),
        "**Views.**\n\n" + "\n".join(f"- [{view.title}]({links.view(view)}): {view.shows}." for view in views),
        "**How to read.**\n\n" + "\n".join(f"- {line}" for line in outline.guide),
    ]
    return _cut("\n\n".join([*parts, *_again(said)]), EXPERIMENT_LIMIT)


def summary_note(outline: Outline, said: Said, links: Links) -> str:
    """Of the summary run, in Markdown."""
    parts = [f"**[{title}]({link})**" for title, link in links.report()]
    parts += [f"**Question.** {outline.question}", *_said(said), *said.findings, *_again(said)]
    return _cut("\n\n".join(parts), RUN_LIMIT)


@dataclass(frozen=True, slots=True)
class Links:
    """Into one experiment. page: the report's file that is shown, where there is one."""

    experiment_id: str
    summary_id: str
    page: str

    @classmethod
    def into(cls, experiment_id: str, summary_id: str, folder: Path) -> Links:
        """With the best page of the report in ``folder``."""
        page = next((name for name in PAGES if (folder / name).is_file()), "")
        return cls(experiment_id, summary_id, page)

    def view(self, view: View) -> str:
        return view.link(self.experiment_id)

    def report(self) -> Iterator[tuple[str, str]]:
        """Title and link of the report."""
        if self.page:
            yield "Report", run_link(self.experiment_id, self.summary_id, f"report/{self.page}")


def _first_line(views: Sequence[View], links: Links) -> Iterator[tuple[str, str]]:
    yield from ((view.title, links.view(view)) for view in views)
    yield from links.report()


def _said(said: Said) -> Iterator[str]:
    if said.answer:
        yield "**Answer.** " + "\n\n".join(said.answer.splitlines())
    yield from (f"**WARNING: {line}**" for line in said.warnings)


def _again(said: Said) -> Iterator[str]:
    if said.reproduce:
        yield f"**To make all of it again:** `{said.reproduce}`"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"

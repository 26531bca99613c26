"""What a report says, and the forms that it takes: Markdown, a page, JSON for other programs, lines on a terminal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console, ConsoleRenderable

from analysis.figures.base import Drawn, Picture, save_figures
from analysis.page import study_page
from analysis.render import Rows, html_table, markdown_table, terminal_table
from trainer.declaration import ConfigError
from trainer.machine import Results

SUMMARY_FILE = "report.json"
FIGURES = "figures"
"""The folder of a report's pictures, beside its files."""


class Section(NamedTuple):
    """A table further down, with what a reader must know of it."""

    title: str
    rows: Rows
    notes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A report, but for its pictures.

    answer: a sentence, or several, a line each. reproduce: the command that makes it all again. reference: what the
    user calls the study; empty where it is of none. tables: by their
    titles, of which one may be empty. findings: what follows from them, a sentence each. warnings: what a reader must
    not miss. sections: further tables, which a terminal does not show. details: tables to look things up in, by their
    titles, which only a page shows, folded.
    """

    name: str
    question: str
    answer: str
    reproduce: str
    reference: str
    tables: Mapping[str, Rows]
    notes: Sequence[str]
    findings: Sequence[str] = ()
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    details: Mapping[str, Rows] = field(default_factory=dict)

    def write(self, folder: Path, pictures: Sequence[Picture]) -> list[Path]:
        """``report.html``, ``report.md`` and ``report.json`` in ``folder``; pictures: in its folder ``figures``."""
        summary = json.dumps(self.summary(pictures), ensure_ascii=False, indent=1) + "\n"
        texts = {"report.html": self.page(pictures), "report.md": self.markdown(pictures), SUMMARY_FILE: summary}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return [folder / name for name in texts]

    def page(self, pictures: Sequence[Picture]) -> str:
        """One HTML file that needs no other, with the PNGs of ``pictures`` in it."""
        return study_page(
            name=self.name,
            question=self.question,
            answer=self.answer.splitlines(),
            findings=self.findings,
            warnings=self.warnings,
            tables=_html(self.tables),
            notes=self.notes,
            sections=[(title, html_table(rows), notes) for title, rows, notes in self.sections],
            details=_html(self.details),
            reproduce=self.reproduce,
            pictures=pictures,
        )

    def markdown(self, pictures: Sequence[Picture]) -> str:
        """With the PNGs of ``pictures`` by their relative names."""
        parts = [f"# {self.name}", self.question, *(f"**WARNING: {line}**" for line in self.warnings)]
        parts += [*(f"**{line}**" for line in self.answer.splitlines()), *self.findings]
        for title, rows in self.tables.items():
            parts += [f"## {title}"] * bool(title) + [markdown_table(rows)]
        parts += [_list(self.notes)]
        for title, rows, notes in self.sections:
            parts += [f"## {title}", markdown_table(rows), _list(notes)]
        for picture in pictures:
            parts += [f"![{picture.png.stem}]({FIGURES}/{picture.png.name})", picture.caption]
        parts += [f"To make it again: `{self.reproduce}`"]
        return "\n\n".join(parts) + "\n"

    def summary(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """What an index, or a tracking server's description of the study, needs of it."""
        names = ("name", "question", "answer", "findings", "warnings", "reproduce", "reference")
        found = {name: getattr(self, name) for name in names}
        return found | {"figures": [picture.png.name for picture in pictures]}

    def show(self) -> None:
        """Print it."""
        console = Console(highlight=False, markup=False, emoji=False)
        console.print(f"\n{self.question}\n", style="bold", soft_wrap=True)
        for title, rows in self.tables.items():
            _print_whole(console, terminal_table(rows, title))
            console.print()
        console.print(self.answer, soft_wrap=True)
        for line in self.findings:
            console.print(line, soft_wrap=True)
        for line in self.warnings:
            console.print(f"WARNING: {line}", style="bold red", soft_wrap=True)
        for line in self.notes:
            console.print(line, style="dim", soft_wrap=True)
        console.print()


def write_report(
    document: Document,
    results: Results,
    frames: dict[str, pd.DataFrame],
    figures: Iterable[Drawn],
    texts: Mapping[str, str] | None = None,
    large: dict[str, pd.DataFrame] | None = None,
) -> list[Path]:
    """Write all files of a report into its folder, print it; the files are returned.

    frames: by name; each as CSV and as Parquet. large: as Parquet alone. texts: other files, by name. What an earlier
    report has drawn and this one has not goes. Raises ConfigError when the folder cannot be written.
    """
    with report_folder(results, document.name) as folder:
        pictures = save_figures(figures, folder / FIGURES)
        images = [file for picture in pictures for file in (picture.png, picture.svg)]
        for stale in {*folder.rglob("*.png"), *folder.rglob("*.svg")} - set(images):
            stale.unlink()
        files = [*document.write(folder, pictures), *images]
        for name, frame in frames.items():
            files.append(folder / f"{name}.csv")
            frame.to_csv(files[-1], index=False)
        for name, frame in (frames | (large or {})).items():
            files.append(folder / f"{name}.parquet")
            frame.to_parquet(files[-1], index=False)
        for name, text in (texts or {}).items():
            files.append(folder / name)
            files[-1].write_text(text, encoding="utf-8")
    document.show()
    print(f"{short_path(files[0])}\n{short_path(folder)}: its tables and frames, and {len(pictures)} figures")
    return files


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _html(tables: Mapping[str, Rows]) -> dict[str, str]:
    return {title: html_table(rows) for title, rows in tables.items()}


@contextlib.contextmanager
def report_folder(results: Results, name: str) -> Iterator[Path]:
    """The folder of the report, made. Raises ConfigError when it, or what is put into it, cannot be written."""
    folder = results.report(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise ConfigError(f"RESULTS: cannot write the report to {folder}: {error.strerror}") from error


def _print_whole(console: Console, shown: ConsoleRenderable) -> None:
    # A table wider than the terminal keeps its lines whole: wrapped by the terminal they are ugly, cut they are wrong.
    console.width = max(console.width, console.measure(shown, options=console.options.update(width=500)).maximum)
    console.print(shown)


def short_path(path: Path) -> str:
    """Relative to the working directory where it lies below it: what a reader can click or type."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

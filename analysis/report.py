"""A study's report: tables and figures under ``results/reports/STUDY``."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleRenderable

from analysis.figures.base import Material, Picture, save_figures
from analysis.figures.draw import draw_all
from analysis.runs import load
from analysis.tables import Rows, answer, cells_table, markdown_table, notes, terminal_table, text_rows
from search_spaces.study import Study
from trainer.declaration import ConfigError
from trainer.machine import Results


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a report says, beside its figures.

    tables: by their titles, of which one may be empty. findings: what follows from them, a sentence each. warnings:
    what a reader must not miss.
    """

    name: str
    question: str
    answer: str
    tables: Mapping[str, Rows]
    notes: Sequence[str]
    findings: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def markdown(self, pictures: Sequence[Picture]) -> str:
        """With the PNGs of ``pictures``, which lie in the folder ``figures`` beside it."""
        parts = [f"# {self.name}", self.question, *(f"**WARNING: {line}**" for line in self.warnings)]
        parts += [f"**{self.answer}**", *self.findings]
        for title, rows in self.tables.items():
            parts += [f"## {title}"] * bool(title) + [markdown_table(rows)]
        parts += ["\n".join(f"- {line}" for line in self.notes)]
        for picture in pictures:
            parts += [f"![{picture.caption}](figures/{picture.png.name})", picture.caption]
        return "\n\n".join(parts) + "\n"

    def show(self, files: Sequence[Path]) -> None:
        """Print it, with the names of its files."""
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
        for file in files:
            console.print(_short(file), soft_wrap=True)


def report(study: Study, results: Results, reference: str) -> list[Path]:
    """Write ``cells.csv``, ``trials.csv``, ``report.md`` and the figures, print the table; the files are returned.

    reference: what the user calls the study. Raises ConfigError when no trial of the study is finished, or when the
    folder cannot be written.
    """
    frame = load(study, results)
    if not (frame["outcome"] == "finished").any():
        again = f"make sweep STUDY={shlex.quote(reference)}"
        raise ConfigError(f"{study.name}: no trial is finished in {results.root}: {again}")
    table = cells_table(study, frame)
    document = Document(
        name=study.name,
        question=study.question,
        answer=answer(frame, table),
        tables={"": text_rows(study, frame, table)},
        notes=notes(frame, table),
    )
    with report_folder(results, study.name) as folder:
        files = [folder / "cells.csv", folder / "trials.csv", folder / "report.md"]
        table.to_csv(files[0], index=False)
        frame.to_csv(files[1], index=False)
        material = Material(study=study, frame=frame, table=table, results=results)
        pictures = save_figures(draw_all(material), folder / "figures")
        files[2].write_text(document.markdown(pictures), encoding="utf-8")
    files = [*image_files(pictures), *files]
    document.show(files)
    return files


def image_files(pictures: Sequence[Picture]) -> list[Path]:
    """PNG before SVG."""
    return [file for picture in pictures for file in (picture.png, picture.svg)]


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


def _short(path: Path) -> str:
    """Relative to the working directory where it lies below it: what a reader can click or type."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

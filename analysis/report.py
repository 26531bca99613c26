"""A study's report: tables and figures under ``results/reports/STUDY``."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis.figures import draw
from analysis.runs import load
from analysis.tables import answer, cells_table, markdown_table, notes, terminal_table, text_rows
from search_spaces.study import Study
from trainer.declaration import ConfigError
from trainer.machine import Results


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
    folder = results.report(study.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "cells.csv", folder / "trials.csv", folder / "report.md"]
        table.to_csv(files[0], index=False)
        frame.to_csv(files[1], index=False)
        figures = draw(study, frame, set(table.loc[table["chosen_on_validation"], "cell"]), folder)
        files[2].write_text(_markdown(study, frame, table, figures), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"RESULTS: cannot write the report to {folder}: {error.strerror}") from error
    _print(study, frame, table, [*figures, *files])
    return [*figures, *files]


def _print(study: Study, frame: pd.DataFrame, table: pd.DataFrame, files: list[Path]) -> None:
    shown = terminal_table(text_rows(study, frame, table))
    console = Console(highlight=False, markup=False, emoji=False)
    # A table wider than the terminal keeps its lines whole: wrapped by the terminal they are ugly, cut they are wrong.
    console.width = max(console.width, console.measure(shown, options=console.options.update(width=500)).maximum)
    console.print(f"\n{study.question}\n", style="bold", soft_wrap=True)
    console.print(shown)
    console.print(f"\n{answer(frame, table)}", soft_wrap=True)
    for line in notes(frame, table):
        console.print(line, style="dim", soft_wrap=True)
    console.print()
    for file in files:
        console.print(_short(file), soft_wrap=True)


def _markdown(study: Study, frame: pd.DataFrame, table: pd.DataFrame, figures: list[Path]) -> str:
    parts = [f"# {study.name}", study.question, f"**{answer(frame, table)}**"]
    parts += [markdown_table(text_rows(study, frame, table)), "\n".join(f"- {line}" for line in notes(frame, table))]
    parts += [f"![{figure.stem}]({figure.name})" for figure in figures if figure.suffix == ".png"]
    return "\n\n".join(parts) + "\n"


def _short(path: Path) -> str:
    """Relative to the working directory where it lies below it: what a reader can click or type."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

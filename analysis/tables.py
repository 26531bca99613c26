"""Tables: a row a cell, as numbers for files and as text for people."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pandas as pd
from rich.table import Table

from analysis.compare import BASELINE, best_on_validation, estimate, paired_differences
from search_spaces.study import Study, varying_params


@dataclass(frozen=True, slots=True)
class Column:
    """A metric as people read it: ``scale`` 100 turns a fraction into per cent."""

    metric: str
    title: str
    scale: float
    digits: int


COLUMNS = (
    Column("train/nll", "train NLL", 1, 4),
    Column("val/nll", "val NLL", 1, 4),
    Column("test/nll", "test NLL", 1, 4),
    Column("test/error", "test error %", 100, 2),
    Column("test/ece", "test ECE %", 100, 2),
)
VALIDATION = {column.metric: column for column in (COLUMNS[1], Column("val/error", "val error %", 100, 2))}
"""What searches minimise."""
Rows = list[list[str]]
"""A table as people read it, header first."""
WORDS = ("method", "setting", "tuned setting")
"""Columns that are aligned to the left."""


def present_columns(frame: pd.DataFrame) -> list[Column]:
    """The columns whose metric some trial has."""
    return [column for column in COLUMNS if column.metric in frame and frame[column.metric].notna().any()]


def headline(frame: pd.DataFrame) -> Column:
    """The metric that cells are compared by: the test NLL, or in a search, which has none, the validation NLL."""
    present = {column.metric: column for column in present_columns(frame)}
    return present.get("test/nll") or COLUMNS[1]


def varying(study: Study) -> list[str]:
    """The parameters that tell the study's cells apart."""
    return varying_params([cell.params for cell in study.cells()])


def param_names(study: Study) -> list[str]:
    """Every parameter that some trial of the study has: columns of its frame."""
    return list(dict.fromkeys(name for trial in study.trials for name in trial.params()))


def cells_table(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: its varying parameters, seeds declared and finished, and for each metric mean, sd and interval.

    ``difference/*`` is the paired difference to ERM in the headline metric, ``difference/lower`` in how many of its
    pairs the cell is below ERM. Fractions stay fractions here.
    """
    params, metric = param_names(study), headline(frame).metric
    differences = paired_differences(frame, params, metric) if metric in frame else None
    chosen = best_on_validation(frame, params)
    rows = []
    for cell in study.cells():
        own = frame[frame["cell"] == cell.label]
        row = {name: cell.params.get(name) for name in varying(study)} or {"method": cell.params["method"]}
        row |= {"cell": cell.label, "cell_id": cell.cell_id, "seeds": len(own)}
        row |= {f"n_{outcome}": int((own["outcome"] == outcome).sum()) for outcome in ("finished", "diverged")}
        row["chosen_on_validation"] = cell.label in chosen
        for column in present_columns(frame):
            row |= statistics(column.metric, own[column.metric])
        if differences is not None and cell.params["method"] != BASELINE:
            own_differences = differences[own.index]
            row |= statistics("difference", own_differences)
            row["difference/lower"] = int((own_differences < 0).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def statistics(name: str, values: pd.Series[float]) -> dict[str, float]:
    """The Estimate of ``values`` as columns ``NAME/n``, ``NAME/mean`` and so on."""
    found = estimate(values)
    return {f"{name}/{statistic}": value for statistic, value in dataclasses.asdict(found).items()}


def text_rows(study: Study, frame: pd.DataFrame, table: pd.DataFrame) -> Rows:
    """The table of ``cells_table`` as people read it, header first: means, and the paired difference to ERM."""
    names, main = varying(study) or ["method"], headline(frame)
    columns = [c for c in present_columns(frame) if c.metric != "val/nll" or c is main]
    rows = [[*names, *(column.title for column in columns), f"{main.title} - ERM's [95% CI]", "n"]]
    for _, row in table.iterrows():
        values = [_text(row[name]) for name in names]
        values[-1] += " *" if row["chosen_on_validation"] else ""
        means = [number_text(row[f"{column.metric}/mean"] * column.scale, column.digits) for column in columns]
        rows.append([*values, *means, difference_text(row, main), seeds_text(row)])
    return rows


def terminal_table(rows: Rows, title: str = "") -> Table:
    """``rows`` for a terminal."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    shown.title, shown.title_justify = title or None, "left"
    for name in rows[0]:
        shown.add_column(name, justify="left" if name in WORDS else "right")
    for row in rows[1:]:
        shown.add_row(*row)
    return shown


def markdown_table(rows: Rows) -> str:
    """``rows`` in Markdown."""
    rule = ["---" if name in WORDS else "---:" for name in rows[0]]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])


def _text(value: object) -> str:
    """Whole numbers without the .0 that a column with gaps gives them."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:g}"
    return "–" if value is None else str(value)


def number_text(value: float, digits: int) -> str:
    """``–`` for NaN: a number that is not there."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def difference_text(row: pd.Series[float], column: Column, name: str = "difference") -> str:
    """``-0.0123 [-0.0200, -0.0046]``: the mean and interval of the columns ``NAME/*``."""
    if f"{name}/mean" not in row or math.isnan(row[f"{name}/mean"]):
        return "–"
    low, mean, high = (row[f"{name}/{statistic}"] * column.scale for statistic in ("low", "mean", "high"))
    interval = "[n = 1]" if math.isnan(low) else f"[{low:+.{column.digits}f}, {high:+.{column.digits}f}]"
    return f"{mean:+.{column.digits}f} {interval}"


def seeds_text(row: pd.Series[float]) -> str:
    """``5``, or ``3/5`` when two seeds are missing, ``3/5, 2 diverged`` when they diverged."""
    finished, declared, diverged = int(row["n_finished"]), int(row["seeds"]), int(row["n_diverged"])
    text = str(finished) if finished == declared else f"{finished}/{declared}"
    return f"{text}, {diverged} diverged" if diverged else text


def notes(frame: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What a reader must know to read the table right, a line each."""
    lines = [
        "Means over seeds at the last epoch. Intervals are 95% Student-t over paired seeds; they cover the choice of"
        " the seed, not that of the test images.",
    ]
    if bool(table["chosen_on_validation"].any()):
        lines.append("* lowest mean validation NLL of the cells that are not ERM: chosen without the test set.")
    lines.append("Baselines are not tuned here: a difference says what the method adds to these settings, no more.")
    counts = frame["outcome"].value_counts()
    unfinished = {str(name): int(count) for name, count in counts.items() if name != "finished"}
    if unfinished:
        lines.append("Not finished: " + ", ".join(f"{count} {name}" for name, count in unfinished.items()) + ".")
    for tag in ("commit", "version.torch"):
        mixed = frame[tag].dropna().value_counts()
        if len(mixed) > 1:
            parts = ", ".join(f"{name} ({count} trials)" for name, count in mixed.items())
            lines.append(f"The table mixes trials of more than one {tag}: {parts}.")
    return lines


def answer(frame: pd.DataFrame, table: pd.DataFrame) -> str:
    """What was chosen on validation, against ERM in the headline metric, with its uncertainty: a sentence a block."""
    chosen = table[table["chosen_on_validation"]]
    if chosen.empty:
        return "Nothing is chosen: that takes two cells beside ERM that have a validation split and all their seeds."
    return "\n".join(_sentence(row, headline(frame)) for _, row in chosen.iterrows())


def _sentence(row: pd.Series[float], column: Column) -> str:
    mean = number_text(row[f"{column.metric}/mean"] * column.scale, column.digits)
    sentence = f"{row['cell']}, chosen on validation, has a {column.title} of {mean}"
    if "difference/n" not in row or not row["difference/n"] > 0:
        return f"{sentence}; no ERM trial to compare it with."
    lower = f"lower in {row['difference/lower']:.0f} of {row['difference/n']:.0f} seeds"
    return f"{sentence}; paired difference to ERM {difference_text(row, column)}, {lower}."

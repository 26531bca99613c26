"""Tables: a row a cell, as numbers for files and as text for people."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.compare import (
    BASELINE,
    Leaders,
    best_on_validation,
    block_numbers,
    block_params,
    estimate,
    holm_within,
    leaders,
    p_value,
    paired_differences,
    wilcoxon_p,
)
from analysis.render import Rows, Strong
from search_spaces.paper import augmentation
from search_spaces.study import Cell, Study, varying_params
from trainer.declaration import Scalar


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
NLL, ERROR = COLUMNS[2], COLUMNS[3]
VALIDATION = {column.metric: column for column in (COLUMNS[1], Column("val/error", "val error %", 100, 2))}
"""What searches minimise."""
MEASURED = (
    *("train/nll", "train/error", "val/nll", "val/error", "val/ece"),
    *("test/nll", "test/error", "test/ece", "test/criterion"),
)
"""What statistics are taken of, at the last epoch and, training aside, at each of ``SELECTED``."""
SELECTED = {
    "oracle": "epoch of lowest test error",
    "best_val": "epoch of lowest validation NLL",
}
"""Other epochs than the last one: their prefixes in the frame."""
LEAKS = ("test/error", "test/nll")
MOST_NAMED = 8
"""Cells in one sentence."""


def present_columns(frame: pd.DataFrame) -> list[Column]:
    """The columns whose metric some trial has."""
    return [column for column in COLUMNS if has_metric(frame, column.metric)]


def has_metric(frame: pd.DataFrame, metric: str) -> bool:
    """Whether some trial has it."""
    return metric in frame and bool(frame[metric].notna().any())


def headline(frame: pd.DataFrame) -> Column:
    """The metric that cells are compared by: the test NLL, or in a search, which has none, the validation NLL."""
    present = {column.metric: column for column in present_columns(frame)}
    return present.get(NLL.metric) or COLUMNS[1]


def varying(study: Study) -> list[str]:
    """The parameters that tell the study's cells apart."""
    return varying_params([cell.params for cell in study.cells()])


def param_names(study: Study) -> list[str]:
    """Every parameter that some trial of the study has: columns of its frame."""
    return list(dict.fromkeys(name for trial in study.trials for name in trial.params()))


@dataclass(frozen=True, slots=True)
class Block:
    """The cells of a study that can be compared, for they share all but the method.

    title: data set, and what else tells the block from others. names: what its cells are called within it, by label.
    """

    title: str
    names: Mapping[str, str]


def blocks_of(study: Study) -> list[Block]:
    """In order of appearance."""
    grouped: dict[str, list[Cell]] = {}
    for cell in study.cells():
        grouped.setdefault(repr(_block_values(cell)), []).append(cell)
    names = varying_params([_block_values(cells[0]) for cells in grouped.values()])
    shown = [name for name in names if name != "dataset"]
    titles = [_title(cells[0], shown, short=True) for cells in grouped.values()]
    if len(set(titles)) < len(titles):
        titles = [_title(cells[0], shown, short=False) for cells in grouped.values()]
    return [Block(title, _names(cells)) for title, cells in zip(titles, grouped.values(), strict=True)]


def _block_values(cell: Cell) -> dict[str, typing.Any]:
    return {name: cell.params[name] for name in block_params(list(cell.params))}


def _title(cell: Cell, names: Sequence[str], short: bool) -> str:
    """``Cifar10 WideResNet cutout``; a parameter's own name where ``short`` has no other word for it."""
    words = {"model": str(cell.params["model"])}
    if short:
        kind = augmentation(cell.trials[0].augment) or "no augmentation"
        words |= {name: kind for name in names if name.partition(".")[0] == "augment"}
    parts = [words.get(name, f"{name}={cell.params.get(name, '–')}") for name in names]
    return " ".join(dict.fromkeys([str(cell.params["dataset"]), *parts]))


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    """The method of each cell, with what tells it from others of the same method."""
    found = {}
    for cell in cells:
        method = cell.params["method"]
        own = varying_params([other.params for other in cells if other.params["method"] == method])
        settings = [f"{name.removeprefix('method.')}={cell.params[name]}" for name in own if name in cell.params]
        found[cell.label] = " ".join([str(method), *settings])
    return found


def cells_table(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: its varying parameters, seeds declared and finished, and the statistics of each metric over seeds.

    ``METRIC/*``: n, mean, sd, low, high, at the last epoch; ``oracle/METRIC/*`` and ``best_val/METRIC/*`` at the epoch
    of lowest test error and of lowest validation NLL; ``leak/METRIC/*``: oracle minus last. ``difference/*``: paired,
    to ERM in the headline metric; ``lower``: in how many pairs the cell is below ERM; ``p`` of the paired t-test,
    ``p_holm`` adjusted for the tests of the block, ``wilcoxon_p`` from ten pairs on. ``block``, and ``name`` in it;
    ``best``: of its block the lowest mean of the headline metric or not told apart from it; ``chosen_on_validation``.
    Fractions stay fractions here.
    """
    params, metric = param_names(study), headline(frame).metric
    chosen, names = best_on_validation(frame, params), varying(study)
    best = set(best_cells(study, frame, metric))
    compared = _differences(frame, params, metric)
    rows = []
    for cell in study.cells():
        own = frame[frame["cell"] == cell.label]
        row = {"method": cell.params["method"]} | {name: _plain(cell.params.get(name)) for name in names}
        row |= {"cell": cell.label, "cell_id": cell.cell_id, "seeds": len(own)}
        row |= {f"n_{outcome}": int((own["outcome"] == outcome).sum()) for outcome in ("finished", "diverged")}
        row |= {"chosen_on_validation": cell.label in chosen, "best": cell.label in best}
        row |= _measured(own)
        if compared is not None and cell.params["method"] != BASELINE:
            row |= _difference(compared[own.index])
        rows.append(row)
    return _with_holm(_with_blocks(study, pd.DataFrame(rows)))


def _plain(value: Scalar) -> Scalar:
    return str(value) if isinstance(value, list) else value  # as in the frame, and as Parquet takes it


def _differences(frame: pd.DataFrame, params: Sequence[str], metric: str) -> pd.Series[float] | None:
    return paired_differences(frame, params, metric) if metric in frame else None


def _difference(values: pd.Series[float]) -> dict[str, float]:
    found = statistics("difference", values) | {"difference/lower": int((values < 0).sum())}
    return found | {"difference/p": p_value(values), "difference/wilcoxon_p": wilcoxon_p(values)}


def _with_blocks(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    of_cell = {label: (block.title, name) for block in blocks_of(study) for label, name in block.names.items()}
    place = table.columns.get_loc("cell")
    assert isinstance(place, int)
    for offset, column in enumerate(("block", "name")):
        table.insert(place + offset, column, [of_cell[label][offset] for label in table["cell"]])
    return table


def _with_holm(table: pd.DataFrame) -> pd.DataFrame:
    if "difference/p" in table:
        place = table.columns.get_loc("difference/p")
        assert isinstance(place, int)
        table.insert(place + 1, "difference/p_holm", holm_within(table["difference/p"], table["block"]))
    return table


def _measured(own: pd.DataFrame) -> dict[str, float]:
    """The statistics of whatever was measured of a cell's trials, at each epoch that is looked at."""
    found: dict[str, float] = {}
    for metric in MEASURED:
        if has_metric(own, metric):
            found |= statistics(metric, own[metric])
    for selected in SELECTED:
        for metric in (*MEASURED, "epoch"):
            if has_metric(own, f"{selected}/{metric}"):
                found |= statistics(f"{selected}/{metric}", own[f"{selected}/{metric}"])
    for metric in LEAKS:
        if has_metric(own, f"oracle/{metric}"):
            found |= statistics(f"leak/{metric}", own[f"oracle/{metric}"] - own[metric])
    return found


def statistics(name: str, values: pd.Series[float]) -> dict[str, float]:
    """The Estimate of ``values`` as columns ``NAME/n``, ``NAME/mean`` and so on."""
    found = estimate(values)
    return {f"{name}/{statistic}": value for statistic, value in dataclasses.asdict(found).items()}


def leaders_of(study: Study, frame: pd.DataFrame, metric: str) -> list[Leaders]:
    """Of each block, in order of appearance, which cells lead in ``metric``."""
    if metric not in frame:
        return []
    blocks = block_numbers(frame, param_names(study))
    return [leaders(own, metric) for _, own in frame.groupby(blocks, sort=True)]


def best_cells(study: Study, frame: pd.DataFrame, metric: str) -> list[str]:
    """The labels of the cells that lead their block, or are not told apart from the one that does."""
    return [label for found in leaders_of(study, frame, metric) for label in found.labels]


def text_rows(study: Study, frame: pd.DataFrame, table: pd.DataFrame) -> Rows:
    """The table of ``cells_table`` as people read it, header first: means, and the paired difference to ERM.

    What leads in the headline metric is bold.
    """
    names, main = varying(study) or ["method"], headline(frame)
    columns = [c for c in present_columns(frame) if c.metric != "val/nll" or c is main]
    titles = [f"{c.title} [95% CI]" if c is main else c.title for c in columns]
    tests = _tests(table)
    rows = [[*names, *titles, f"{main.title} - ERM's [95% CI]", *tests, "n"]]
    for _, row in table.iterrows():
        values = [value_text(row[name]) for name in names]
        values[-1] += " *" if row["chosen_on_validation"] else ""
        means = [interval_text(row, c) if c is main else mean_text(row, c) for c in columns]
        if row["best"]:
            means = [Strong(text) if c is main else text for text, c in zip(means, columns, strict=True)]
        p_values = [p_text(row[name]) for name in tests.values()]
        rows.append([*values, *means, difference_text(row, main), *p_values, seeds_text(row)])
    return rows


def _tests(table: pd.DataFrame) -> dict[str, str]:
    """Titles of the p-values that are there, and their columns."""
    candidates = {"p (Holm)": "difference/p_holm", "p (Wilcoxon)": "difference/wilcoxon_p"}
    return {title: name for title, name in candidates.items() if has_metric(table, name)}


def value_text(value: object) -> str:
    """Whole numbers without the .0 that a column with gaps gives them."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:g}"
    return "–" if value is None else str(value)


def number_text(value: float, digits: int) -> str:
    """``–`` for NaN: a number that is not there."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def p_text(p: float) -> str:
    """Two digits, ``–`` for a test that is not there."""
    return "–" if math.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def equation_text(p: float) -> str:
    """``p = 0.012`` or ``p < 0.0001``."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def mean_text(row: pd.Series[typing.Any], column: Column, prefix: str = "") -> str:
    """``0.1234``, the mean of the columns ``PREFIX METRIC/*``; ``–`` where there is none."""
    mean = row.get(f"{prefix}{column.metric}/mean", math.nan)
    return number_text(mean * column.scale, column.digits)


def interval_text(row: pd.Series[typing.Any], column: Column, prefix: str = "") -> str:
    """``0.1234 [0.1200, 0.1268]``, or the mean alone where it has no interval."""
    names = (f"{prefix}{column.metric}/{statistic}" for statistic in ("low", "high"))
    low, high = (number_text(row.get(name, math.nan) * column.scale, column.digits) for name in names)
    mean = mean_text(row, column, prefix)
    return mean if low == "–" else f"{mean} [{low}, {high}]"


def difference_text(row: pd.Series[typing.Any], column: Column, name: str = "difference") -> str:
    """``-0.0123 [-0.0200, -0.0046]``: the mean and interval of the columns ``NAME/*``, or why there is no interval."""
    if f"{name}/mean" not in row or math.isnan(row[f"{name}/mean"]):
        return "–"
    low, mean, high = (row[f"{name}/{statistic}"] * column.scale for statistic in ("low", "mean", "high"))
    without = "[n = 1]" if row[f"{name}/n"] == 1 else "[equal]"
    interval = without if math.isnan(low) else f"[{low:+.{column.digits}f}, {high:+.{column.digits}f}]"
    return f"{mean:+.{column.digits}f} {interval}"


def seeds_text(row: pd.Series[typing.Any]) -> str:
    """``5``, or ``3/5`` when two seeds are missing, ``3/5, 2 diverged`` when they diverged."""
    finished, declared, diverged = int(row["n_finished"]), int(row["seeds"]), int(row["n_diverged"])
    text = str(finished) if finished == declared else f"{finished}/{declared}"
    return f"{text}, {diverged} diverged" if diverged else text


def selection_rows(table: pd.DataFrame) -> Rows:
    """Test error and NLL at the last epoch, at the oracle's, the leak between them, and at the one best on validation.

    Empty where nothing but the last epoch is known.
    """
    if not has_metric(table, "leak/test/error/mean"):
        return []
    has_validation = has_metric(table, "best_val/test/nll/mean")
    rows = [["cell"]]
    for column in (ERROR, NLL):
        rows[0] += [column.title, "oracle", "leak [95% CI]", *(["best on val"] if has_validation else [])]
    rows[0] += ["n"]
    for _, row in table.iterrows():
        texts = [row["cell"]]
        for column in (ERROR, NLL):
            texts += [mean_text(row, column), mean_text(row, column, "oracle/")]
            texts += [difference_text(row, column, f"leak/{column.metric}")]
            texts += [mean_text(row, column, "best_val/")] if has_validation else []
        rows.append([*texts, seeds_text(row)])
    return rows


def provenance_rows(frame: pd.DataFrame) -> Rows:
    """The way down from a number: of each trial its run in MLflow, the commit and versions, and its data's digest."""
    header = ["cell", "seed", "outcome", "trial", "run", "commit", "torch", "data digest"]
    digests = frame["dataset.digest"] if "dataset.digest" in frame else pd.Series(None, index=frame.index, dtype=object)
    rows = [header]
    for (_, row), digest in zip(frame.iterrows(), digests, strict=True):
        known = digest if isinstance(digest, str) else "made from its parameters"
        found = [row[name] if isinstance(row[name], str) else "–" for name in ("run_id", "commit", "version.torch")]
        rows.append([row["cell"], str(row["seed"]), row["outcome"], row["trial_id"], *found, known])
    return rows

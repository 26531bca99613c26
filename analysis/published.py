"""Ours against the paper's: each cell that repeats one of Tables 1 and 2 beside its published mean, with a verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from analysis.compare import SIGNIFICANCE, Estimate, Interval, estimate, welch
from analysis.render import Rows
from analysis.tables import ERROR, NLL, Column, blocks_of
from search_spaces.paper import Repetition, Spread, repetition
from search_spaces.recipes import PAPER_SEEDS, Protocol
from search_spaces.study import Cell, Study
from trainer.config import Cifar10, Cifar100, Dataset, Flooding, LabelSmoothing, Svhn

Verdict = Literal["agrees", "differs", "differs, but by less than the margin", "undecided", "not the same quantity"]
VERDICTS: Mapping[Verdict, str] = {
    "agrees": "agree",
    "differs": "differ",
    "differs, but by less than the margin": "differ, but by less than the margin",
    "undecided": "are undecided",
    "not the same quantity": "are not the same quantity",
}
"""Each with what is said of several."""
OTHER_CRITERION = (LabelSmoothing, Flooding)
"""Methods whose training criterion, which the paper prints, is not the NLL."""
NO_INTERVAL = Interval(math.nan, math.nan, math.nan)


class Margin(NamedTuple):
    """Differences that do not matter. error: a fraction. nll: nats."""

    error: float
    nll: float


# About twice the median deviation between seeds that Table 1 prints for the data set: 0.06, 0.14 and 0.26 points of
# error, 0.004, 0.006 and 0.015 nats. The interval of a difference between two means of ten such seeds reaches about
# 0.94 deviations to each side, so that agreement can be shown with ten; most gaps to AMP in the table are wider.
MARGINS: Mapping[type[Dataset], Margin] = {
    Svhn: Margin(0.0015, 0.01),
    Cifar10: Margin(0.003, 0.01),
    Cifar100: Margin(0.005, 0.03),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
    """What the paper prints twice of a cell. released: our metric of the same thing; written: that of the protocol."""

    name: str
    column: Column
    released: str
    written: str


ERRORS = Quantity("test error", dataclasses.replace(ERROR, title="test error %"), "oracle/test/error", "test/error")
NLLS = Quantity("test NLL", dataclasses.replace(NLL, digits=3), "oracle/test/criterion", "test/nll")
QUANTITIES = (ERRORS, NLLS)


def published_table(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """A row a printed number that the study repeats; empty where it repeats none. Fractions and nats.

    Columns: ``cell``, ``cell_id``, ``block`` and ``name`` in it; ``protocol``; ``source``, the paper's table;
    ``quantity``; ``metric``, ours that is held against it: of the released protocol at the oracle's epoch, the
    method's criterion, as the authors' code reports; of the protocol as written at the last epoch, the true NLL.
    ``ours/*``: n, mean, sd, low, high; ``published/mean`` and ``/sd``, over ten seeds; ``difference/*``: ours minus
    published with Welch's interval; ``margin``; ``verdict``; ``last/*``: the last epoch's error or true NLL.
    """
    places = {label: (block.title, name) for block in blocks_of(study) for label, name in block.names.items()}
    rows = []
    for cell in study.cells():
        repeated = repetition(cell.trials[0])
        if repeated is not None:
            own = frame[frame["cell"] == cell.label]
            title, name = places[cell.label]
            about = {"cell": cell.label, "cell_id": cell.cell_id, "block": title, "name": name}
            rows += [about | row for row in _rows(cell, repeated, own)]
    return pd.DataFrame(rows)


def _rows(cell: Cell, repeated: Repetition, own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    published, margins = repeated.published, MARGINS[type(cell.trials[0].dataset)]
    if published.criterion is not None:
        yield _row(cell, repeated, own, NLLS, published.criterion, margins.nll)
    error = Spread(published.error.mean / 100, published.error.deviation / 100)
    yield _row(cell, repeated, own, ERRORS, error, margins.error)


def _row(
    cell: Cell, repeated: Repetition, own: pd.DataFrame, quantity: Quantity, printed: Spread, margin: float
) -> dict[str, Any]:
    metric = quantity.released if repeated.protocol == "as_released" else quantity.written
    ours = _estimate(own, metric)
    theirs = Estimate(len(PAPER_SEEDS), printed.mean, printed.deviation, math.nan, math.nan)
    other = metric == NLLS.written and isinstance(cell.trials[0].method, OTHER_CRITERION)
    difference = NO_INTERVAL if other else welch(ours, theirs)
    return {
        "protocol": repeated.protocol,
        "source": repeated.published.source,
        "quantity": quantity.name,
        "metric": metric,
        **{f"ours/{name}": value for name, value in dataclasses.asdict(ours).items()},
        "published/mean": printed.mean,
        "published/sd": printed.deviation,
        **{f"difference/{name}": value for name, value in difference._asdict().items()},
        "margin": margin,
        "verdict": "not the same quantity" if other else verdict_on(difference, margin),
        **{f"last/{name}": value for name, value in dataclasses.asdict(_estimate(own, quantity.written)).items()},
    }


def _estimate(own: pd.DataFrame, metric: str) -> Estimate:
    return estimate(own[metric] if metric in own else pd.Series(dtype=float))


def verdict_on(difference: Interval, margin: float) -> Verdict:
    """From the 95% interval of ours minus published: whether it excludes 0, and whether it lies within the margin."""
    if math.isnan(difference.low):
        return "undecided"
    differs = difference.low > 0 or difference.high < 0
    within = -margin <= difference.low and difference.high <= margin
    if within:
        return "differs, but by less than the margin" if differs else "agrees"
    return "differs" if differs else "undecided"


def published_rows(table: pd.DataFrame) -> Rows:
    """``published_table`` as people read it; no rows at all where it is empty."""
    if table.empty:
        return []
    released = bool((table["protocol"] == "as_released").any())
    header = ["source", "block", "method", "quantity", "ours ± sd", "n", "published ± sd", "ours - published [95% CI]"]
    rows = [[*header, "margin", "verdict", *(["at last epoch"] if released else [])]]
    for _, row in table.iterrows():
        column = next(quantity.column for quantity in QUANTITIES if quantity.name == row["quantity"])
        about = [row["source"], row["block"], row["name"], column.title]
        ours, published = spread_text(row, column, "ours"), spread_text(row, column, "published")
        numbers = [ours, str(int(row["ours/n"])), published, _difference_text(row, column)]
        margin = f"{row['margin'] * column.scale:g}"
        last = [spread_text(row, column, "last")] if released else []
        rows.append([*about, *numbers, margin, row["verdict"], *last])
    return rows


def spread_text(row: pd.Series[Any], column: Column, name: str) -> str:
    """``2.95 ± 0.063``: mean and deviation of the columns ``NAME/*``, with the digits that the paper prints."""
    mean, sd = (row[f"{name}/{statistic}"] * column.scale for statistic in ("mean", "sd"))
    if math.isnan(mean):
        return "–"
    return f"{mean:.{column.digits}f}" + ("" if math.isnan(sd) else f" ± {sd:.3f}")


def _difference_text(row: pd.Series[Any], column: Column) -> str:
    mean, low, high = (row[f"difference/{name}"] * column.scale for name in Interval._fields)
    if math.isnan(mean):
        return "–"
    # A digit more than the paper prints of the mean, or an interval's end could look like 0 and not be it.
    digits = 3
    interval = "" if math.isnan(low) else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{mean:+.{digits}f}{interval}"


def published_finding(table: pd.DataFrame) -> str:
    """How many of the published numbers agree, in a sentence; empty where there is none."""
    if table.empty:
        return ""
    counts = table["verdict"].value_counts()
    parts = [f"{counts[name]} {several}" for name, several in VERDICTS.items() if name in counts]
    sources = ", ".join(dict.fromkeys(table["source"]))
    return f"Of {len(table)} numbers printed in {sources}: {'; '.join(parts)}."


def published_notes(table: pd.DataFrame) -> list[str]:
    """How to read ``published_rows``, and what is compared with what."""
    if table.empty:
        return ["No cell repeats one of the paper's tables: data, network or settings differ, so no verdict is due."]
    tested = int(table["difference/low"].notna().sum())
    lines = [
        "Verdicts, from Welch's 95% interval of ours minus the published mean (its deviation and ten seeds): differs"
        " where it excludes 0, agrees where it lies within the margin, else undecided."
        f" Of {tested} intervals about {SIGNIFICANCE * tested:.1f} would exclude 0 by chance if nothing differed.",
        f"Margins, about twice the deviation between seeds that the paper prints: {_margins()}.",
        "The paper does not say whether its deviations divide by 9 or by 10; here they count as by 9.",
    ]
    protocols: set[Protocol] = set(table["protocol"])
    if "as_released" in protocols:
        lines.append(
            "Released protocol, like with like: our error and the method's own training criterion at each seed's epoch"
            " of lowest test error, which is what the authors' released code reports as error and NLL. For label"
            " smoothing and flooding that is no NLL. The last column has the last epoch's error and true NLL."
        )
    if "as_written" in protocols:
        lines.append(
            "Protocol as written, not like with like: ours are the last epoch's error and true NLL, the published ones"
            " by the authors' code of the epoch of lowest test error and the method's criterion. For label smoothing"
            " and flooding the latter is not the same quantity as the NLL, and no verdict is given."
        )
    return lines


def _margins() -> str:
    parts = [
        f"{dataset.__name__} {100 * margin.error:g} points of error, {margin.nll:g} nats"
        for dataset, margin in MARGINS.items()
    ]
    return "; ".join(parts)


def protocol_of(study: Study) -> Protocol | None:
    """The one after which all of the study's cells repeat the paper's; None where some repeat nothing."""
    found = [repetition(cell.trials[0]) for cell in study.cells()]
    protocols = {repeated.protocol if repeated else None for repeated in found}
    return protocols.pop() if len(protocols) == 1 else None

"""Learning curves: training criterion, NLL and error after every epoch, mean over seeds with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from analysis.compare import BASELINE, CONFIDENCE
from analysis.figures.base import (
    FULL_WIDTH,
    LOOKS,
    MOST_NAMED,
    Drawn,
    Material,
    fit_y,
    gaps,
    legend_below,
    seed_counts,
    short_name,
)
from analysis.tables import Block, blocks_of, headline

MOST_LINES = 8
"""In a panel. Of a block with more cells, those at the ends are drawn."""
PANELS = (("criterion", "training criterion", 1.0), ("nll", "NLL", 1.0), ("error", "error (%)", 100.0))
MARKERS = ("o", "^", "v", "D", "<", ">", "P", "X")
"""Of the cells of one method, where it has several."""
PALEST = 0.6
"""Of them too: the share of white in the last one's colour."""
MARKS = 6
"""On a line."""
FIRST = 0.2
"""Of the epochs, whose values are not to set the limits: they fall so far that what follows would look the same."""


class Line(NamedTuple):
    """A cell's mean over seeds at every epoch, its interval, and the number of seeds that it is of."""

    mean: pd.Series[float]
    low: pd.Series[float]
    high: pd.Series[float]
    seeds: pd.Series[int]


class Style(NamedTuple):
    """How a cell is drawn. Dashes are no part of it: they say that seeds are missing."""

    name: str
    colour: str | tuple[float, float, float]
    marker: str


def draw(material: Material) -> Iterator[Drawn]:
    """A figure a block that has two epochs or more."""
    blocks, history = blocks_of(material.study), material.history
    for block in blocks:
        own = history[history["cell"].isin(block.names) & np.isfinite(history["value"])]
        if own["epoch"].nunique() < 2:
            continue
        shown = shown_cells(material, block, [str(cell) for cell in own["cell"].unique()])
        title = block.title if len(blocks) > 1 else ""
        figure = _figure(material, block, own, _styles(material, block, shown))
        yield Drawn(f"learning curves {title}".strip(), _caption(material, block, own, shown), figure)


def shown_cells(material: Material, block: Block, having: Sequence[str]) -> list[str]:
    """At most eight of the cells that have epochs, in declared order.

    Of more: ERM, those chosen on validation, the first and last of each method, the lowest and highest mean.
    """
    table = material.table[material.table["cell"].isin(block.names) & material.table["cell"].isin(having)]
    if len(table) <= MOST_LINES:
        return table["cell"].tolist()
    means = table.set_index("cell")[f"{headline(material.frame).metric}/mean"]
    by_method = table[table["method"] != BASELINE].groupby("method", sort=False)["cell"]
    ordered = [
        *table.loc[table["method"] == BASELINE, "cell"],
        *table.loc[table["chosen_on_validation"], "cell"],
        *([means.idxmin(), means.idxmax()] if means.notna().any() else []),
        *by_method.first(),
        *by_method.last(),
    ]
    kept = list(dict.fromkeys(ordered))[:MOST_LINES]
    return [cell for cell in table["cell"] if cell in kept]


def _styles(material: Material, block: Block, shown: Sequence[str]) -> dict[str, Style]:
    """By method, as everywhere; several cells of one method have markers of their own and are paler one by one."""
    method = material.table.set_index("cell")["method"]
    found = {}
    for place, cell in enumerate(shown):
        name, look = short_name(block.names[cell]), LOOKS[method[cell]]
        twins = [other for other in shown if method[other] == method[cell]]
        if len(twins) == 1:
            found[cell] = Style(name, look.colour, look.marker)
        else:
            white = PALEST * twins.index(cell) / (len(twins) - 1)
            red, green, blue = ((1 - white) * part + white for part in to_rgb(look.colour))
            found[cell] = Style(name, (red, green, blue), MARKERS[place])
    return found


def by_epoch(wide: pd.DataFrame) -> Line:
    """The Line of a metric. wide: a row an epoch, a column a seed; NaN where a seed has none, or none any more."""
    seeds, mean = wide.count(axis=1), wide.mean(axis=1)
    several = (seeds > 1) & (wide.max(axis=1) > wide.min(axis=1))
    error = wide.sem(axis=1).where(several)
    low, high = stats.t.interval(CONFIDENCE, seeds.clip(lower=2) - 1, loc=mean, scale=error)
    return Line(mean, pd.Series(low, index=wide.index), pd.Series(high, index=wide.index), seeds)


def _figure(material: Material, block: Block, own: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    figure = Figure(figsize=(FULL_WIDTH, 2.5 + 0.15 * ((len(styles) + 4) // 4)))
    part = material.part
    for axes, (metric, title, scale) in zip(figure.subplots(1, 3), PANELS, strict=True):
        name = "train/criterion" if metric == "criterion" else f"{part}/{metric}"
        rows = own[(own["metric"] == name) & own["cell"].isin(styles)]
        _panel(axes, rows, styles, scale, int(own["epoch"].max()))
        axes.set_title(title if metric == "criterion" else f"{part} {title}")
        axes.set_xlabel("epoch")
    figure.suptitle(block.title, fontsize=8, fontweight="bold")
    legend_below(figure)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, styles: Mapping[str, Style], scale: float, epochs: int) -> None:
    if rows.empty:
        axes.text(0.5, 0.5, "no trial has it", ha="center", va="center", transform=axes.transAxes)
        return
    drawn = []
    for place, (cell, style) in enumerate(styles.items()):
        wide = rows[rows["cell"] == cell].pivot(index="epoch", columns="seed", values="value") * scale
        if len(wide):
            _line(axes, by_epoch(wide), style, place)
            drawn.append((wide, style))
    later = rows[rows["epoch"] > FIRST * epochs]
    fit_y(axes, (later if len(later) else rows)["value"] * scale)
    for wide, style in drawn:
        _ended(axes, wide, style, epochs)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _line(axes: Axes, line: Line, style: Style, place: int) -> None:
    """Solid where it is of all seeds that the cell began with, dashed from where one is missing."""
    axes.fill_between(line.mean.index, line.low, line.high, color=style.colour, alpha=0.15, linewidth=0)
    whole = line.seeds == line.seeds.max()
    step = max(1, len(line.mean) // MARKS)
    marks = (place * step // len(MARKERS), step)
    axes.plot(line.mean.where(whole), color=style.colour, linewidth=1.0, marker=style.marker, markersize=3.5,
              markevery=marks, label=style.name)  # fmt: skip
    if not whole.all():
        joined = ~whole | ~whole.shift(-1, fill_value=True)  # from the last whole epoch on, so that there is no gap
        axes.plot(line.mean.where(joined), color=style.colour, linewidth=1.0, linestyle=(0, (3, 2)))


def _ended(axes: Axes, wide: pd.DataFrame, style: Style, epochs: int) -> None:
    """Each seed that ends before the last epoch, as a thin line of its own with a cross at its end."""
    for seed in wide:
        own = wide[seed].dropna()
        if len(own) and own.index[-1] < epochs:
            axes.plot(own, color=style.colour, linewidth=0.6, linestyle=":")
            end = np.clip(own.iloc[-1], *axes.get_ylim())
            axes.plot(own.index[-1], end, "x", color="black", markersize=5, clip_on=False, label="a seed's last epoch")


def _caption(material: Material, block: Block, own: pd.DataFrame, shown: Sequence[str]) -> str:
    part = "test" if material.part == "test" else "validation"
    trials = material.frame[material.frame["cell"].isin(shown)]
    text = (
        f"{block.title}: the training criterion, a running mean over the epoch's batches, and NLL and error on the"
        f" {part} set after every epoch. Lines are means over {seed_counts(trials)} seeds, bands are 95% Student-t"
        " intervals at each epoch by itself. The training criterion is each method's own and does not compare between"
        " methods. Values of the first fifth of the epochs may lie outside of the axes."
    )
    if _some_end(own[own["cell"].isin(shown)]):
        text += (
            " A line is dashed from the epoch on from which a seed is missing, for it diverged or is not there yet;"
            " such a seed is a dotted line that ends in a cross, and a dashed mean is of the seeds that are left."
        )
    return text + _left_out(material, block, own, shown) + gaps(trials)


def _some_end(rows: pd.DataFrame) -> bool:
    last = rows.groupby("trial_id", observed=True)["epoch"].max()
    return bool((last < rows["epoch"].max()).any())


def _left_out(material: Material, block: Block, own: pd.DataFrame, shown: Sequence[str]) -> str:
    """Which cells are not drawn, and why."""
    having = set(own["cell"].unique())
    without = [short_name(name) for cell, name in block.names.items() if cell not in having]
    others = [short_name(name) for cell, name in block.names.items() if cell in having and cell not in shown]
    text = f" No epoch is known of {_named(without)}." if without else ""
    if others:
        text += (
            f" So that lines are told apart, of {len(block.names)} cells these are drawn: ERM, the choice on"
            f" validation, the lowest and the highest {headline(material.frame).title}, the first and the last setting"
            f" of each method, {MOST_LINES} at most. Left out: {_named(others)}."
        )
    return text


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more

"""Every cell in a row of its own: all seeds, the mean and its interval, for risk, error and ECE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.compare import BASELINE, estimate
from analysis.figures import heat_map, sensitivity
from analysis.figures.base import (
    CELL_PANELS,
    ERM_COLOUR,
    FULL_WIDTH,
    LOOKS,
    Drawn,
    Material,
    fit_x,
    gaps,
    seed_counts,
    short_name,
)
from analysis.tables import Block, blocks_of

MOST_BLOCKS = 4
"""In one figure; of a study with more every data set has its own."""
ROW, AROUND = 0.21, 0.62
"""Inches: a row, and the title and axis of its block."""
SEED_BELOW = 0.27
"""Of a row: seeds lie below the mean, where its marker hides none."""


def draw(material: Material) -> Iterator[Drawn]:
    """For a study that has no curve over a parameter of AMP and no map of two."""
    if any(True for _ in sensitivity.curves(material)) or any(True for _ in heat_map.maps(material)):
        return
    frame = material.frame
    values = pd.DataFrame({name: frame[f"{material.part}/{name}"] * scale for name, _, scale in CELL_PANELS})
    for page, blocks in pages(material):
        own = frame[frame["cell"].isin([label for block in blocks for label in block.names])]
        yield Drawn(f"cells {page}".strip(), _caption(material, own), rows_figure(material, blocks, values, ""))


def _caption(material: Material, own: pd.DataFrame) -> str:
    part = "test" if material.part == "test" else "validation"
    return (
        f"Every cell: risk (NLL), error and ECE on the {part} set at the last epoch. The large marker, one a method, is"
        f" the mean over {seed_counts(own)} seeds with its 95% Student-t interval, the dots below it are the seeds, the"
        " dashed line is ERM's mean in the block. Whether two methods differ is said by their paired differences, not"
        f" by whether these intervals overlap.{_chosen(material, own)}{gaps(own)}"
    )


def _chosen(material: Material, own: pd.DataFrame) -> str:
    starred = own["cell"].isin(material.chosen).any()
    return " * lowest mean validation NLL among the settings of its method." if starred else ""


def pages(material: Material) -> Iterator[tuple[str, list[Block]]]:
    """The blocks of each figure, with what tells it from others: the data set, where a study has more than four."""
    blocks = blocks_of(material.study)
    if len(blocks) <= MOST_BLOCKS:
        yield "", blocks
        return
    dataset = material.frame.drop_duplicates("cell").set_index("cell")["dataset"]
    of_block = [str(dataset[next(iter(block.names))]) for block in blocks]
    for name in dict.fromkeys(of_block):
        yield name, [block for block, own in zip(blocks, of_block, strict=True) if own == name]


def rows_figure(
    material: Material, blocks: Sequence[Block], values: pd.DataFrame, suffix: str, baseline: bool = True
) -> Figure:
    """Blocks under one another, in each a row a cell and a panel a metric.

    values: of every trial, a column a metric, scaled. suffix: of the metrics' titles. baseline: whether ERM has a row.
    The dashed line is at ERM's mean in any case.
    """
    frame, erms = material.frame, set(material.frame.loc[material.frame["method"] == BASELINE, "cell"])
    shown = [[label for label in block.names if baseline or label not in erms] for block in blocks]
    heights = [AROUND + ROW * len(labels) for labels in shown]
    figure = Figure(figsize=(FULL_WIDTH, sum(heights) + 0.3))
    grid = figure.subplots(len(blocks), len(CELL_PANELS), squeeze=False, sharey="row", height_ratios=heights)
    for panels, block, labels in zip(grid, blocks, shown, strict=True):
        own = frame["cell"].isin(block.names)
        for axes, (metric, title, _) in zip(panels, CELL_PANELS, strict=True):
            _panel(axes, frame[own], values.loc[own, metric], labels)
            axes.set_xlabel(f"{material.part} {title}{suffix}")
        panels[0].set_title(block.title, loc="left", fontweight="bold")
        panels[0].set_yticks(range(len(labels)), [_label(material, block.names[label], label) for label in labels])
        panels[0].set_ylim(len(labels) - 0.4, -0.6)
    _legend(figure, "0: no difference to ERM" if suffix else "ERM, mean over seeds")
    return figure


def _label(material: Material, name: str, label: str) -> str:
    """``Amp ε=0.5 * (3/5)``: starred where it was chosen, with the number of its seeds where some are missing."""
    row = material.table.loc[material.table["cell"] == label].iloc[0]
    star = " *" if row["chosen_on_validation"] else ""
    missing = f" ({row['n_finished']}/{row['seeds']})" if row["n_finished"] < row["seeds"] else ""
    return f"{short_name(name)}{star}{missing}"


def _panel(axes: Axes, own: pd.DataFrame, values: pd.Series[float], labels: Sequence[str]) -> None:
    erm = estimate(values[own["method"] == BASELINE])
    if erm.n:
        axes.axvline(erm.mean, color=ERM_COLOUR, linestyle="--", linewidth=1)
    for place, label in enumerate(labels):
        trials = own["cell"] == label
        _row(axes, place, str(own.loc[trials, "method"].iloc[0]), values[trials].dropna())
    present = values[own["cell"].isin(labels)].dropna()
    if len(present):
        fit_x(axes, present)
    if axes.get_xscale() == "linear":
        _show_intervals(axes, present, own.loc[present.index, "cell"])
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)


def _show_intervals(axes: Axes, values: pd.Series[float], cells: pd.Series[str]) -> None:
    """Limits for the cells' intervals too, but at most twice as wide: those of two seeds would hide the rest."""
    found = [estimate(own) for _, own in values.groupby(cells, observed=True)]
    low, high = axes.get_xlim()
    reach = (high - low) / 2
    lowest = np.nanmin([low, *(one.low - 0.05 * reach for one in found)])
    highest = np.nanmax([high, *(one.high + 0.05 * reach for one in found)])
    axes.set_xlim(max(lowest, low - reach), min(highest, high + reach))


def _row(axes: Axes, place: int, method: str, values: pd.Series[float]) -> None:
    if values.empty:
        return
    look, found = LOOKS[method], estimate(values)
    axes.plot(values, [place + SEED_BELOW] * len(values), ".", color=look.colour, markersize=3.5, gid="seeds")
    if found.n > 1:
        axes.errorbar(
            found.mean, place - 0.08, xerr=found.high - found.mean, color=look.colour, capsize=2.5, elinewidth=1.1
        )
    mean = axes.plot(found.mean, place - 0.08, look.marker, color=look.colour, markersize=5, gid="mean")
    mean[0].set(markeredgecolor="black", markeredgewidth=0.5)


def _legend(figure: Figure, line: str) -> None:
    handles = [
        Line2D([], [], marker="|", markersize=9, color=ERM_COLOUR, label="mean over seeds (marker) and 95% interval"),
        Line2D([], [], marker=".", markersize=4, label="a seed", color=ERM_COLOUR, linestyle="none"),
        Line2D([], [], color=ERM_COLOUR, linestyle="--", linewidth=1, label=line),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)

"""Reliability diagrams: accuracy against confidence, a panel a cell, with the share of predictions in each bin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.compare import estimate
from analysis.figures.base import FULL_WIDTH, Drawn, Material, legend_below
from analysis.figures.probed import Arrays, Measured, Probed, in_pages, mean_text, probed
from trainer.probe_config import Calibration

MOST_PANELS, COLUMNS = 8, 4
"""Cells in a figure, and beside one another."""


def draw(material: Material) -> Iterator[Drawn]:
    """A figure a block, or several of a block with more than eight cells."""
    for block in probed(material, Calibration):
        for page, cells in in_pages(block.cells, MOST_PANELS):
            yield Drawn(block.stem("reliability", page), _caption(block, cells), _figure(cells))


def part_of(cell: Measured) -> str:
    """``test``, or ``val`` of a search's trials."""
    return "test" if "test/count" in next(iter(cell.arrays.values())) else "val"


def bins_of(cell: Measured) -> pd.DataFrame:
    """A row a seed and bin that is not empty: ``seed``, ``bin``, ``count``, ``share``, ``confidence``, ``accuracy``."""
    frames = [_bins(arrays, part_of(cell)).assign(seed=seed) for seed, arrays in cell.arrays.items()]
    return pd.concat(frames, ignore_index=True)


def _bins(arrays: Arrays, part: str) -> pd.DataFrame:
    frame = pd.DataFrame({name: arrays[f"{part}/{name}"] for name in ("count", "confidence", "accuracy")})
    frame = frame.assign(share=frame["count"] / frame["count"].sum()).rename_axis("bin").reset_index()
    return frame[frame["count"] > 0]


def ece(arrays: Arrays, part: str) -> float:
    """Σ share · |accuracy - confidence|."""
    bins = _bins(arrays, part)
    return float((bins["share"] * (bins["accuracy"] - bins["confidence"]).abs()).sum())


def _figure(cells: Sequence[Measured]) -> Figure:
    """Under each panel a narrow one with the shares, on one logarithmic scale for all."""
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    figure = Figure(figsize=(FULL_WIDTH * columns / COLUMNS, 2.55 * rows + 0.3 + 0.6 / columns))
    grid = figure.subplots(2 * rows, columns, squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1] * rows)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
        if place < len(cells):
            bins = bins_of(cells[place])
            _panel(upper, cells[place], bins)
            _shares(lower, cells[place], bins)
        else:
            upper.set_axis_off()
            lower.set_axis_off()
    for axes, label in zip(grid[:, 0], ["accuracy", "share (%)"] * rows, strict=True):
        axes.set_ylabel(label)
        axes.yaxis.set_label_coords(-0.24, 0.5)  # one below the other: Figure.align_ylabels takes a third of all time
    legend_below(figure, columns)
    return figure


def _panel(axes: Axes, cell: Measured, bins: pd.DataFrame) -> None:
    """Every seed's bins as dots, their means with intervals: hollow where not all seeds have a prediction in a bin."""
    look = cell.look
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":", label="accuracy = confidence")
    axes.plot(bins["confidence"], bins["accuracy"], ".", color=look.colour, alpha=0.45, markersize=2.5, label="a seed")
    found = {place: estimate(own["accuracy"]) for place, own in bins.groupby("bin")}
    x = bins.groupby("bin")["confidence"].mean()
    whole = [place for place in x.index if found[place].n == len(cell.arrays)]
    axes.plot(x, [found[place].mean for place in x.index], color=look.colour, linewidth=0.8)
    for places, fill, label in (
        (whole, look.colour, "mean over all seeds"),
        ([place for place in x.index if place not in whole], "white", "mean over some seeds"),
    ):
        if places:
            axes.errorbar(
                x[places], [found[place].mean for place in places], color=look.colour, fmt="o", markersize=3.2,
                markerfacecolor=fill, markeredgewidth=0.7, elinewidth=0.8, capsize=1.5, label=label,
                yerr=np.array([found[place].high - found[place].mean for place in places]),
            )  # fmt: skip
    errors = estimate(pd.Series([100 * ece(arrays, part_of(cell)) for arrays in cell.arrays.values()]))
    axes.set(xlim=(0, 1.03), ylim=(-0.03, 1.03), title=f"{cell.name}\nECE {mean_text(errors)} %")


def _shares(axes: Axes, cell: Measured, bins: pd.DataFrame) -> None:
    """The mean share of predictions in each bin, log, for most are in the last one."""
    edges = next(iter(cell.arrays.values()))["edges"]
    shares = bins.groupby("bin")["share"].sum() / len(cell.arrays)
    low, width = edges[shares.index], np.diff(edges)[shares.index]
    axes.bar(low, 100 * shares, width, align="edge", color=cell.look.colour, edgecolor="white", linewidth=0.3)
    axes.set(yscale="log", ylim=(0.01, 100.0), xlabel="confidence", yticks=[0.1, 10], yticklabels=["0.1", "10"])
    axes.minorticks_off()


def _caption(block: Probed[Calibration], cells: Sequence[Measured]) -> str:
    part = "test" if part_of(cells[0]) == "test" else "validation"
    counts = " or ".join(str(n) for n in sorted({len(cell.arrays) for cell in cells}))
    return (
        f"{block.title}: accuracy on the {part} set of the predictions in each of {block.probe.bins} bins of equal"
        " width of the confidence, against their mean confidence; below the diagonal a model is overconfident. Large"
        f" markers are means over {counts} seeds, of which each counts the same, with 95% Student-t intervals, cut at"
        " the panel's edge; dots are seeds. Empty bins are left out; hollow markers are means over the seeds that have"
        " the bin, where that is not all. The panels underneath show the share of all predictions in each bin, on a"
        f" logarithmic scale: bins with few say little.{block.gaps()} ECE is the mean gap, weighted by these shares;"
        " Figure 7 of the paper shows it alone."
    )

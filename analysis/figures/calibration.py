"""Figure 7: the expected calibration error of several methods, a bar a method, every seed as a point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.compare import Estimate, estimate
from analysis.figures.base import COLUMN_WIDTH, FULL_WIDTH, LOOKS, Drawn, Material, gaps, seed_counts
from analysis.tables import Block, blocks_of, has_metric

COLUMNS = 3
"""Blocks beside one another."""
BAR = 0.78
"""Width, where methods are 1 apart."""


def draw(material: Material) -> Iterator[Drawn]:
    """For a study whose blocks hold two methods or more and one cell of each."""
    metric = f"{material.part}/ece"
    if not has_metric(material.frame, metric):
        return
    blocks = [block for block in blocks_of(material.study) if _is_of_methods(material, block)]
    if blocks:
        yield Drawn("calibration", _caption(material, blocks), _figure(material, blocks))


def _is_of_methods(material: Material, block: Block) -> bool:
    """Cells differ in the method alone, for several of one had the same colour; and some trial has a value."""
    cells = material.table[material.table["cell"].isin(block.names)]
    several = len(cells) > 1 and cells["method"].is_unique
    return several and bool(cells[f"{material.part}/ece/mean"].notna().any())


def _figure(material: Material, blocks: Sequence[Block]) -> Figure:
    rows = math.ceil(len(blocks) / COLUMNS)
    columns = math.ceil(len(blocks) / rows)
    figure = Figure(figsize=(FULL_WIDTH if columns > 1 else COLUMN_WIDTH, 1.9 * rows + 0.8))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, block in zip(panels, blocks, strict=False):
        _panel(axes, material, block)
    for axes in panels[len(blocks) :]:
        axes.set_axis_off()
    for axes in panels[: len(blocks) : columns]:
        axes.set_ylabel(f"{material.part} ECE (%)")
    _legend(figure, columns=5 if columns > 1 else 2)
    return figure


def _legend(figure: Figure, columns: int) -> None:
    """Methods first, in the order of the bars."""
    entries = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(entries, key=lambda label: label not in LOOKS)  # sorted leaves equals in their order
    figure.legend([entries[label] for label in labels], labels, loc="outside lower center", ncols=columns)


def _panel(axes: Axes, material: Material, block: Block) -> None:
    frame = material.frame[material.frame["cell"].isin(block.names)]
    percent = 100 * frame[f"{material.part}/ece"]
    found = {}
    for place, label in enumerate(block.names):
        own = frame["cell"] == label
        method = str(frame.loc[own, "method"].iloc[0])
        found[label] = estimate(percent[own])
        _bar(axes, place, method, found[label], percent[own].dropna())
    axes.set(title=block.title, xlim=(-0.6, len(found) - 0.4), ylim=(0.0, _top(percent, list(found.values()))))
    axes.set_xticks([])
    axes.grid(visible=False, axis="x")


def _bar(axes: Axes, place: int, method: str, found: Estimate, values: pd.Series[float]) -> None:
    look = LOOKS[method]
    if not found.n:
        axes.annotate("none", (place, 0), ha="center", va="bottom", fontsize=6.5, rotation=90)
        return
    axes.bar(
        place, found.mean, BAR, color=look.colour, hatch=look.hatch, edgecolor="black", linewidth=0.5, alpha=0.75,
        label=method,
    )  # fmt: skip
    beside = place + BAR * np.linspace(0.0, 0.4, len(values) + 1)[1:]  # right of the interval, which hides none
    axes.plot(
        beside, values, "o", color="white", markeredgecolor="black", markeredgewidth=0.5, markersize=2.6, label="a seed"
    )
    if not math.isnan(found.low):
        axes.errorbar(
            place - 0.2 * BAR, found.mean, yerr=found.high - found.mean, color="black", capsize=2.5,
            elinewidth=1.1, capthick=1.1, label="95% interval",
        )  # fmt: skip


def _top(values: pd.Series[float], found: Sequence[Estimate]) -> float:
    """Above all seeds and intervals, but at most twice as high as the seeds: intervals of two would hide the rest."""
    highest = float(values.max())
    return 1.06 * min(2 * highest, float(np.nanmax([highest, *(one.high for one in found)]))) or 1.0


def _caption(material: Material, blocks: Sequence[Block]) -> str:
    trials = material.frame[material.frame["cell"].isin([label for block in blocks for label in block.names])]
    part = "test" if material.part == "test" else "validation"
    several = " Each panel has a scale of its own." if len(blocks) > 1 else ""
    return (
        f"Expected calibration error (ECE, 15 bins of equal width) on the {part} set at the last epoch: bars are means"
        f" over {seed_counts(trials)} seeds, error bars their 95% Student-t intervals, cut at twice the highest seed of"
        f" a panel, every point is a seed.{several} Whether two methods differ is said by their paired differences, not"
        f" by whether these intervals overlap; ECE says nothing of the error.{gaps(trials)} Figure 7 of the paper,"
        " there with PreActResNet18 and the mean over 10 trials."
    )

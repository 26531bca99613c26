"""Two parameters of AMP at a time: how far each combination lies below or above ERM, paired by seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.base import FULL_WIDTH, PARAMETERS, Drawn, Material, Parameter, gaps, seed_counts, text_of
from analysis.tables import Column, blocks_of, headline, varying

COLUMNS = 2
"""Panels side by side."""
COLOURS = LinearSegmentedColormap.from_list("below-above", ["#0b3a75", "#5f88b8", "#c3c9cf", "#f0d9a8", "#fff6dd"])
"""Below 0 dark blue, 0 grey, above light yellow: lightness rises all the way, so that the sign survives in grey."""
DARK_BELOW = 0.2
"""Of the colours' range: text on it is white."""


@dataclass(frozen=True, slots=True)
class Map:
    """The AMP cells of a block over two parameters. cells: rows of the study's table, one for each combination."""

    x: Parameter
    y: Parameter
    title: str
    cells: pd.DataFrame


def draw(material: Material) -> Iterator[Drawn]:
    """A figure a pair of parameters, in it a panel for each block, and for each value of the third."""
    found = list(maps(material))
    for x, y in dict.fromkeys((one.x, one.y) for one in found):
        own = [one for one in found if (one.x, one.y) == (x, y)]
        stem = f"{x.name.removeprefix('method.')} by {y.name.removeprefix('method.')}"
        yield Drawn(stem, _caption(material, own), _figure(material, own))


def maps(material: Material) -> Iterator[Map]:
    """Where two parameters vary with several values each, and the table knows differences to ERM."""
    if "difference/mean" not in material.table:
        return
    names = varying(material.study)
    for block in blocks_of(material.study):
        own = material.table[material.table["cell"].isin(block.names) & (material.table["method"] == "Amp")]
        several = [name for name in names if name.startswith("method.") and own[name].nunique() > 1]
        for x, y in itertools.combinations([p for p in PARAMETERS if p.name in several], 2):
            others = [name for name in several if name not in (x.name, y.name)]
            for values, cells in own.groupby(others, sort=False, dropna=False) if others else [((), own)]:
                if cells[x.name].nunique() > 1 and cells[y.name].nunique() > 1:
                    settings = [f"{name}={text_of(value)}" for name, value in zip(others, values, strict=True)]
                    yield Map(x, y, " ".join([block.title, *settings]), cells)


def _figure(material: Material, own: list[Map]) -> Figure:
    """All panels on one scale of colours, so that they compare."""
    column = headline(material.frame)
    columns = min(COLUMNS, len(own))
    rows = math.ceil(len(own) / columns)
    tallest = max(one.cells[one.y.name].nunique() for one in own)
    figure = Figure(
        figsize=(FULL_WIDTH / COLUMNS * columns + 0.4 * (columns == 1), rows * max(1.8, 0.75 + 0.42 * tallest))
    )
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    means = pd.concat([one.cells["difference/mean"] for one in own]) * column.scale
    norm = CenteredNorm(0.0, float(means.abs().max()) or 1.0) if means.notna().any() else CenteredNorm(0.0, 1.0)
    for place, (axes, one) in enumerate(zip(panels, own, strict=False)):
        _panel(axes, one, column, norm)
        if place % columns == 0:
            axes.set_ylabel(f"{one.y.name} ({one.y.symbol})")
    for axes in panels[len(own) :]:
        axes.set_axis_off()
    image = panels[0].collections[0]
    figure.colorbar(image, ax=panels, label=f"{column.title} - ERM's", shrink=0.8, aspect=30)
    return figure


def _panel(axes: Axes, one: Map, column: Column, norm: CenteredNorm) -> None:
    x, y = (np.sort(one.cells[parameter.name].unique()) for parameter in (one.x, one.y))
    means = one.cells.pivot(index=one.y.name, columns=one.x.name, values="difference/mean").loc[y, x] * column.scale
    axes.pcolormesh(means.to_numpy(dtype=float), cmap=COLOURS, norm=norm, edgecolors="white", linewidth=1)
    known = one.cells.set_index([one.y.name, one.x.name])
    for (row, y_value), (place, x_value) in itertools.product(enumerate(y), enumerate(x)):
        cell = known.loc[(y_value, x_value)] if (y_value, x_value) in known.index else None
        _write(axes, place, row, cell, column, norm)
    axes.set_xticks(np.arange(len(x)) + 0.5, [f"{value:g}" for value in x])
    axes.set_yticks(np.arange(len(y)) + 0.5, [f"{value:g}" for value in y])
    axes.set_xlabel(f"{one.x.name} ({one.x.symbol})")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_title(one.title)


def _write(axes: Axes, x: int, y: int, cell: pd.Series | None, column: Column, norm: CenteredNorm) -> None:
    """The difference, and ``n.s.`` where its interval holds 0; what is not there, or has no pair, is hatched."""
    if cell is None or math.isnan(cell["difference/mean"]):
        axes.add_patch(Rectangle((x, y), 1, 1, hatch="////", facecolor="none", edgecolor="#808080", linewidth=0))
        return
    low, mean, high = (cell[f"difference/{name}"] * column.scale for name in ("low", "mean", "high"))
    text = f"{mean:+.{column.digits - 1}f}"
    text += f"\nn = {cell['difference/n']:g}" if math.isnan(low) else "\nn.s." if low <= 0 <= high else ""
    colour = "white" if norm(mean) < DARK_BELOW else "black"
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=colour, fontsize=7)


def _caption(material: Material, own: list[Map]) -> str:
    column, x, y = headline(material.frame), own[0].x, own[0].y
    trials = material.frame[material.frame["cell"].isin(pd.concat([one.cells["cell"] for one in own]))]
    hatched = " Hatched: not declared, or no seed has a pair." if any(map(_has_gaps, own)) else ""
    return (
        f"{column.title} of AMP minus ERM's at the last epoch over AMP's {x.values} ({x.symbol}) and {y.values}"
        f" ({y.symbol}): mean over {seed_counts(trials)} seeds of the difference paired by seed; negative, and darker,"
        " is better than ERM. n.s.: its 95% Student-t interval, not corrected for the number of cells, includes 0. The"
        f" scale of colours is centred at 0 and the same in all panels.{hatched}{gaps(trials)} The paper's text has no"
        " such figure."
    )


def _has_gaps(one: Map) -> bool:
    full = one.cells[one.x.name].nunique() * one.cells[one.y.name].nunique()
    return bool(one.cells["difference/mean"].notna().sum() < full)

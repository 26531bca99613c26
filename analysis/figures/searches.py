"""Figures of searches, each as PNG and SVG: every setting that was tried is in them, those that went wrong too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation

from analysis.figures.base import (
    AMP_COLOUR,
    CHOSEN_COLOUR,
    ERM_COLOUR,
    FULL_WIDTH,
    LOG_FROM_RATIO,
    Drawn,
    legend_below,
    plain_log_ticks,
)
from analysis.searches import Searched, importance
from analysis.tables import VALIDATION, Column
from search_spaces.search import Distribution, LogUniform, OneOf

CLIP_FROM_RATIO = 5.0  # of a setting's value to the best one of its data set: drawn at the border
FEWEST_FOR_CONTOUR = 10
EPSILON, ZETA = "method.epsilon", "method.inner_lr"
Blocks = Mapping[str, Sequence[Searched]]
CAPTIONS = {
    "history": "every setting in the order in which it was tried, and the lowest value so far.",
    "parallel": "a line a setting through its parameters to its value.",
    "importance": "the share of the variance of the settings' ranks that each parameter explains by itself (fANOVA).",
}
CONTOUR_CAPTION = "The value over ε and ζ, between the settings that were tried."


def draw_searches(found: Blocks, names: Mapping[str, str]) -> Iterator[Drawn]:
    """What is known of the searches.

    found: the searches of each data set, by its title. names: what each search is called in its panel's title. A data
    set of which no setting has a value yet gets no figures.
    """
    for title, block in found.items():
        begun = any(len(one.told) for one in block)
        for name, figure in _of_block(block, names).items() if begun else ():
            yield Drawn(f"{name} {title}", f"{title}: {CAPTIONS[name]}", figure)
    both = [(f"{title}, {names[one.search.name]}", one) for title, block in found.items() for one in block]
    mapped = [(title, one) for title, one in both if {EPSILON, ZETA} <= one.search.space.keys() and len(one.told)]
    if mapped:
        yield Drawn("epsilon-zeta", CONTOUR_CAPTION, _contours(mapped))


def _of_block(block: Sequence[Searched], names: Mapping[str, str]) -> dict[str, Figure]:
    figures = {"history": _history(block, names), "parallel": _parallel(block, names)}
    shares = {one.search.name: share for one in block if (share := importance(one)) is not None}
    return figures | ({"importance": _importance(shares, names)} if shares else {})


def _panels(count: int, columns: int, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """``count`` panels in rows of ``columns``; height: inches a row. What is left of the last row stays empty."""
    width, columns = FULL_WIDTH / columns, min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(FULL_WIDTH / 2, width * columns), height * rows + 0.4))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=share).flat)
    for spare in panels[count:]:
        spare.set_axis_off()
    return figure, panels[:count]


def _history(block: Sequence[Searched], names: Mapping[str, str]) -> Figure:
    """A panel a search: the value of every setting over its number, and the lowest so far."""
    figure, panels = _panels(len(block), 4, 1.6, share=True)
    column = VALIDATION[block[0].search.metric]
    low, high, scale = _limits(block, column)
    for axes, one in zip(panels, block, strict=True):
        axes.set_yscale(scale)
        if scale == "log":
            plain_log_ticks(axes.yaxis)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlim(-0.03 * one.search.budget - 1, 1.03 * one.search.budget)
        _history_panel(axes, one, column, high)
        axes.set_title(names[one.search.name])
    for axes in panels[-4:]:
        axes.set_xlabel("number of the setting")
    figure.supylabel(column.title, fontsize=8)
    legend_below(figure)
    return figure


def _limits(block: Sequence[Searched], column: Column) -> tuple[float, float, str]:
    """From below the best value of all to above the worst, or to where what matters is still told apart; the scale."""
    values = pd.concat([one.told["value"] for one in block]) * column.scale
    firsts = [one.first_value * column.scale for one in block if not math.isnan(one.first_value)]
    low, worst = float(values.min()), float(values.max())
    high = min(worst, max([CLIP_FROM_RATIO * low, 1.2 * max(firsts, default=low), 1.5 * float(values.median())]))
    if low > 0 and high / low > LOG_FROM_RATIO:
        return low / 1.15, high * 1.25, "log"
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + 2 * room, "linear"


def _history_panel(axes: Axes, one: Searched, column: Column, high: float) -> None:
    told = one.told.sort_values("number")
    values = told["value"] * column.scale
    inside = values < high
    axes.plot(told["number"][inside], values[inside], ".", color=ERM_COLOUR, alpha=0.6, label="a setting")
    axes.step(told["number"], values.cummin(), where="post", color=AMP_COLOUR, label="lowest so far")
    _at_border(axes, told["number"][~inside], "^", "above the axis")
    _at_border(axes, one.settings.loc[one.settings["state"] == "failed", "number"], "x", "failed: no value")
    _at_border(axes, one.settings.loc[one.settings["state"] == "pruned", "number"], "|", "pruned: given up")
    _mark(axes, one, told["number"], values.clip(upper=high))
    if told.empty:
        axes.text(0.5, 0.5, "no setting has a value", ha="center", va="center", transform=axes.transAxes)


def _at_border(axes: Axes, numbers: pd.Series[int], marker: str, label: str) -> None:
    if len(numbers):
        heights = [0.96] * len(numbers)
        across = axes.get_xaxis_transform()
        axes.plot(numbers, heights, marker, color=ERM_COLOUR, markersize=4, label=label, transform=across)


def _mark(axes: Axes, one: Searched, x: pd.Series[float], y: pd.Series[float]) -> None:
    """The base's own setting and the chosen one, of the settings told in ``x`` and ``y``."""
    numbers = one.told.loc[x.index, "number"]
    first, chosen = numbers == 0, numbers == one.chosen
    hollow: dict[str, Any] = {
        "markerfacecolor": "none",
        "markeredgecolor": "black",
        "markersize": 6,
        "linestyle": "none",
    }
    if first.any():
        axes.plot(x[first], y[first], marker="s", label="first: the base's own", clip_on=False, **hollow)
    if chosen.any():
        star: dict[str, Any] = {
            "color": CHOSEN_COLOUR,
            "markeredgecolor": "black",
            "markeredgewidth": 0.5,
            "markersize": 8,
        }
        axes.plot(x[chosen], y[chosen], marker="*", linestyle="none", label="chosen", zorder=5, **star)


def _importance(shares: Mapping[str, pd.Series[float]], names: Mapping[str, str]) -> Figure:
    """A panel a search: the share of each parameter as a bar."""
    figure, panels = _panels(len(shares), 4, 0.5 + 0.16 * max(len(share) for share in shares.values()))
    for axes, (name, share) in zip(panels, shares.items(), strict=True):
        rising = share.sort_values()
        axes.barh([_short(parameter) for parameter in rising.index], rising, color=AMP_COLOUR, height=0.6)
        axes.set_xlim(0, 1)
        axes.set_title(names[name])
        axes.grid(visible=False, axis="y")
    figure.supxlabel("share of the variance of the rank", fontsize=8)
    return figure


def _short(parameter: str) -> str:
    return parameter.removeprefix("method.")


def _parallel(block: Sequence[Searched], names: Mapping[str, str]) -> Figure:
    """A panel a search: a line a setting through its parameters to its rank, darker the lower its value."""
    figure, panels = _panels(len(block), 2, 1.75)
    for axes, one in zip(panels, block, strict=True):
        _parallel_panel(axes, one)
        axes.set_title(names[one.search.name], pad=14)
    legend_below(figure)
    return figure


def _parallel_panel(axes: Axes, one: Searched) -> None:
    told, space = one.told.sort_values("value", ascending=False), one.search.space
    column = VALIDATION[one.search.metric]
    ranks = told["value"].rank(method="first")
    heights = pd.DataFrame({name: _heights(distribution, told[name]) for name, distribution in space.items()})
    heights["rank"] = (ranks - 1) / max(len(told) - 1, 1)
    places = range(heights.shape[1])
    greys = colormaps["Greys"](np.linspace(0.2, 0.75, max(len(told), 1)))
    for (_, line), grey in zip(heights.iterrows(), greys, strict=False):
        axes.plot(places, line, color=grey, linewidth=0.8)
    for number, style in ((0, {"color": "black", "linestyle": "--", "label": "first: the base's own"}),
                          (one.chosen, {"color": CHOSEN_COLOUR, "linewidth": 2.2, "label": "chosen"})):  # fmt: skip
        for _, line in heights[told["number"] == number].iterrows():
            axes.plot(places, line, **style)
    ends = [_ends(distribution) for distribution in space.values()]
    ends.append((told["value"].min() * column.scale, told["value"].max() * column.scale))
    labels = [*map(_short, space), f"{column.title}\nby rank"]
    axes.set_xticks(places, [f"{low:.3g}\n{_broken(name)}" for (low, _), name in zip(ends, labels, strict=True)])
    for place, (_, high) in zip(places, ends, strict=True):
        axes.text(place, 1.04, f"{high:.3g}", ha="center", va="bottom", fontsize=7)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _broken(name: str) -> str:
    return name.replace("_", "_\n", 1)


def _ends(distribution: Distribution) -> tuple[float, float]:
    return min(distribution.ends), max(distribution.ends)


def _heights(distribution: Distribution, values: pd.Series[float]) -> pd.Series[float]:
    """From 0 to 1 on the scale that the values are drawn on; those of a list at equal distances."""
    if isinstance(distribution, OneOf):
        ordered = sorted(distribution.values)
        return values.map(ordered.index) / max(len(ordered) - 1, 1)
    low, high = _ends(distribution)
    if isinstance(distribution, LogUniform):
        return (values / low).map(math.log) / math.log(high / low)
    return (values - low) / (high - low)


def _contours(mapped: Sequence[tuple[str, Searched]]) -> Figure:
    """A panel a search: its value over ε and ζ, every setting as a point."""
    figure, panels = _panels(len(mapped), 2, 2.7)
    for axes, (title, one) in zip(panels, mapped, strict=True):
        _contour_panel(figure, axes, one)
        axes.set_title(title)
        axes.set_xlabel(f"{EPSILON} (ε)")
        axes.set_ylabel(f"{ZETA} (ζ)")
    legend_below(figure)
    return figure


def _contour_panel(figure: Figure, axes: Axes, one: Searched) -> None:
    told, column = one.told, VALIDATION[one.search.metric]
    x, y, values = told[EPSILON], told[ZETA], told["value"] * column.scale
    ranks = values.rank()  # of values themselves a few that went wrong would fill their surroundings
    levels = np.unique(np.quantile(ranks, np.linspace(0, 1, 8)))
    plane = np.column_stack([np.log(x), np.log(y)])
    if len(told) >= FEWEST_FOR_CONTOUR and len(levels) > 2 and np.linalg.matrix_rank(plane - plane.mean(axis=0)) == 2:
        mesh = Triangulation(x, y, Triangulation(*plane.T).triangles)  # triangles of what is seen: of the logarithms
        filled = axes.tricontourf(mesh, ranks, levels=levels, cmap="Blues", alpha=0.8)
        bar = figure.colorbar(filled, ax=axes, label=f"{column.title} (darker is worse)")
        bar.set_ticks(
            list(levels), labels=[f"{value:.3g}" for value in np.interp(levels, sorted(ranks), sorted(values))]
        )
    axes.plot(x, y, "o", color=ERM_COLOUR, markerfacecolor="white", markersize=3, label="a setting")
    failed = one.settings[one.settings["state"] == "failed"]
    if len(failed):
        axes.plot(failed[EPSILON], failed[ZETA], "x", color="black", markersize=5, label="failed: no value")
    _mark(axes, one, x, y)
    axes.set(xscale="log", xlim=_ends(one.search.space[EPSILON]), yscale="log", ylim=_ends(one.search.space[ZETA]))
    plain_log_ticks(axes.xaxis)
    plain_log_ticks(axes.yaxis)

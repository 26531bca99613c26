"""§5.5: the time of an epoch in units of ERM's, paired by seed, beside N + 1 and the paper's 1.8."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.compare import BASELINE, block_params, ratio_interval
from analysis.conduct import FINISHED
from analysis.figures.base import (
    CHOSEN_COLOUR,
    COLUMN_WIDTH,
    ERM_COLOUR,
    LOOKS,
    STEPS,
    Drawn,
    Material,
    gaps,
    legend_below,
    short_name,
)
from analysis.tables import blocks_of, param_names
from search_spaces.paper import COST_RATIO

SECONDS = "seconds of an epoch"


class Ratio(NamedTuple):
    """A cell's time in units of ERM's. seeds: of every pair. mean: of the means over pairs. steps: AMP's N, or NaN."""

    name: str
    method: str
    steps: float
    seeds: pd.Series[float]
    mean: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """``Mnist5k Amp: 1.92 [1.88, 1.97] times, n = 5``."""
        interval = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.name}: {self.mean:.2f}{interval} times, n = {len(self.seeds)}"


def draw(material: Material) -> Iterator[Drawn]:
    """For a study whose trials ran one at a time: other times are of trials that shared a machine."""
    found = ratios(material) if material.study.at_once == 1 else []
    if found:
        yield Drawn("cost", _caption(material, found), _figure(found))


def ratios(material: Material) -> list[Ratio]:
    """Of every cell that has pairs with ERM, in declared order."""
    frame = material.frame[material.frame["outcome"] == FINISHED]
    frame = frame.merge(_seconds(material.history), left_on="trial_id", right_index=True)
    keys = [*block_params(param_names(material.study)), "seed"]
    erm = frame.loc[frame["method"] == BASELINE, [*keys, SECONDS]].rename(columns={SECONDS: "below"})
    paired = frame[frame["method"] != BASELINE].merge(erm, on=keys, validate="many_to_one")
    cells = [(cell, f"{block.title} {short_name(name)}") for block in blocks_of(material.study)
             for cell, name in block.names.items()]  # fmt: skip
    return [_ratio(name, own) for cell, name in cells if len(own := paired[paired["cell"] == cell])]


def _seconds(history: pd.DataFrame) -> pd.Series[float]:
    """Mean seconds of an epoch of every trial that has three or more, without the first and the last."""
    rows = history[history["metric"] == "epoch_seconds"]
    last = rows.groupby("trial_id", observed=True)["epoch"].transform("max")
    inner = rows[(rows["epoch"] > 1) & (rows["epoch"] < last)]
    return inner.groupby("trial_id", observed=True)["value"].mean().rename(SECONDS)


def _ratio(name: str, own: pd.DataFrame) -> Ratio:
    low, high = ratio_interval(own[SECONDS], own["below"])
    mean = float(own[SECONDS].mean() / own["below"].mean())
    steps = float(own[STEPS.name].iloc[0]) if STEPS.name in own else math.nan
    return Ratio(name, str(own["method"].iloc[0]), steps, own[SECONDS] / own["below"], mean, low, high)


def _figure(found: Sequence[Ratio]) -> Figure:
    figure = Figure(figsize=(COLUMN_WIDTH, 1.25 + 0.3 * len(found)))
    axes = figure.subplots()
    axes.axvline(1.0, color=ERM_COLOUR, linestyle="--", linewidth=1, label="ERM")
    value, source = COST_RATIO
    axes.axvline(
        value, color=CHOSEN_COLOUR, linestyle=":", linewidth=1.3, label=f"{value:g}: the paper, {source}, N = 1"
    )
    for place, one in enumerate(found):
        _row(axes, place, one)
    axes.set_yticks(range(len(found)), [one.name for one in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    ends = [1.0, value, *(end for one in found for end in (*one.seeds, one.steps + 1))]
    axes.set_xlim(0.9, 0.1 + max(end for end in ends if not math.isnan(end)))
    axes.set_xlabel("time of an epoch in units of ERM's")
    axes.tick_params(axis="y", length=0)
    legend_below(figure, columns=2)
    return figure


def _row(axes: Axes, place: int, one: Ratio) -> None:
    """The mean above the pairs, and where N + 1 gradients in place of one would put it."""
    look = LOOKS[one.method]
    axes.plot(
        one.seeds, [place + 0.25] * len(one.seeds), ".", color=look.colour, markersize=3.5, label="a pair of one seed"
    )
    if not math.isnan(one.low):
        ends = [[one.mean - one.low], [one.high - one.mean]]
        axes.errorbar(one.mean, place - 0.08, xerr=ends, color=look.colour, capsize=2.5, elinewidth=1.1)
    label = "mean, 95% interval"
    axes.plot(
        one.mean,
        place - 0.08,
        look.marker,
        color=look.colour,
        markeredgecolor="black",
        markeredgewidth=0.5,
        markersize=5,
        label=label,
    )
    if not math.isnan(one.steps):
        axes.vlines(
            one.steps + 1,
            place - 0.45,
            place + 0.45,
            color="black",
            linewidth=2,
            zorder=1.9,  # above the grid, below the points
            label="N + 1: the number of gradients",
        )


def _caption(material: Material, found: Sequence[Ratio]) -> str:
    value, source = COST_RATIO
    return (
        "The time of an epoch in units of ERM's, trials one at a time on one machine: the mean of all epochs but the"
        " first, which warms up, and the last, which measures the training set too, divided by that of ERM's trial of"
        " the same seed. Large markers are the ratio of the means over seeds with its 95% interval (Fieller's), dots"
        f" are the pairs. {'; '.join(one.text for one in found)}. The black bar is N + 1, the number of gradients of a"
        f" mini-batch; the dotted line is the {value:g} that the paper states for N = 1 on its own machine ({source})."
        f" Seconds of other machines and networks have other ratios.{gaps(material.frame)}"
    )

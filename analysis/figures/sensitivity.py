"""Figure 8: risk, error and ECE against AMP's radius ε, with every seed, ERM as the level line."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.compare import BASELINE, estimate
from analysis.figures.base import (
    AMP_COLOUR,
    CHOSEN_COLOUR,
    ERM_COLOUR,
    FULL_WIDTH,
    Drawn,
    Material,
    fit_y,
    plain_log_ticks,
    seeds,
    text_of,
)
from analysis.tables import varying
from search_spaces.study import Study

PANELS = (
    ("train", "nll", "risk (NLL)", 1.0),
    ("train", "error", "error (%)", 100.0),
    ("test", "nll", "risk (NLL)", 1.0),
    ("test", "error", "error (%)", 100.0),
    ("test", "ece", "ECE (%)", 100.0),
)
CHOSEN = "chosen on validation"


def draw(material: Material) -> Iterator[Drawn]:
    """Curves over ``method.epsilon``, a figure for each combination of the other parameters that has several ε."""
    for name, part in sensitivity_groups(material.study, material.frame):
        figure = _sensitivity(material.study, part, material.chosen, name)
        yield Drawn(f"epsilon {name}", "Risk, error and ECE against ε (paper, Figure 8).", figure)


def sensitivity_groups(study: Study, frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The AMP trials of each combination of the other varying parameters that has several ε, with ERM's beside them."""
    if "method.epsilon" not in frame:
        return
    others = [name for name in varying(study) if name not in ("method", "method.epsilon")]
    amp = frame[frame["method"] == "Amp"]
    shared = [name for name in others if not name.startswith("method.")]
    for values, part in amp.groupby(others, dropna=False, sort=False) if others else [((), amp)]:
        erm = frame[frame["method"] == BASELINE]
        for name in shared:
            erm = erm[erm[name] == part[name].iloc[0]]
        if part["method.epsilon"].nunique() > 1:
            named = zip(others, values, strict=True)
            yield " ".join(f"{name}={text_of(value)}" for name, value in named), pd.concat([part, erm])


def _sensitivity(study: Study, frame: pd.DataFrame, chosen: set[str], name: str) -> Figure:
    """Five panels over ε: risk and error in training above risk, error and ECE on the test set; the legend between.

    A search, which does not read the test set, shows the validation set in its place.
    """
    figure = Figure(figsize=(FULL_WIDTH, 4.2))
    grid = figure.subplots(2, 3)
    amp, erm = frame[frame["method"] == "Amp"], frame[frame["method"] == BASELINE]
    marked = amp.loc[amp["cell"].isin(chosen), "method.epsilon"].unique()
    part, title = ("test", "test") if "test/nll" in frame else ("val", "validation")
    places = (grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1], grid[1, 2])
    for axes, (of, metric, text, scale) in zip(places, PANELS, strict=True):
        where, what = ("train", "training") if of == "train" else (part, title)
        _sensitivity_panel(axes, amp, erm, f"{where}/{metric}", scale)
        for epsilon in marked:
            axes.axvline(epsilon, color=CHOSEN_COLOUR, linestyle=":", linewidth=1, label=f"ε = {epsilon:g}, {CHOSEN}")
        axes.set_title(f"{what} {text}")
        axes.set_xlabel(f"method.epsilon (ε, {_ball(amp)})")
    _legend(grid[0, 2], places[2], f"{study.name}\n{name}".strip(), amp)
    return figure


def _ball(amp: pd.DataFrame) -> str:
    return " and ".join(f"{ball} L2 ball" for ball in sorted(amp["method.ball"].dropna().unique()))


def _sensitivity_panel(axes: Axes, amp: pd.DataFrame, erm: pd.DataFrame, metric: str, scale: float) -> None:
    if metric not in amp or amp[metric].isna().all():
        axes.text(0.5, 0.5, "no trial has it", ha="center", va="center", transform=axes.transAxes)
        return
    epsilons = np.sort(amp["method.epsilon"].unique())
    curve = [estimate(amp.loc[amp["method.epsilon"] == epsilon, metric] * scale) for epsilon in epsilons]
    if any(point.n > 1 for point in curve):
        low, high = [point.low for point in curve], [point.high for point in curve]
        axes.fill_between(epsilons, low, high, color=AMP_COLOUR, alpha=0.2, linewidth=0, label="AMP, 95% interval")
    means = [point.mean for point in curve]
    axes.plot(epsilons, means, color=AMP_COLOUR, marker="o", label="AMP, mean over seeds")
    seeds(axes, amp["method.epsilon"], amp[metric] * scale, AMP_COLOUR, "AMP, a seed")
    level = estimate(erm[metric] * scale)
    if level.n > 1:
        axes.axhspan(level.low, level.high, color=ERM_COLOUR, alpha=0.15, linewidth=0, label="ERM, 95% interval")
    if level.n:
        axes.axhline(level.mean, color=ERM_COLOUR, linestyle="--", label="ERM, mean over seeds")
        left_of_all = pd.Series(epsilons[0] / 1.35, index=erm.index)
        seeds(axes, left_of_all, erm[metric] * scale, ERM_COLOUR, "ERM, a seed (at the left)")
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)
    fit_y(axes, pd.concat([amp[metric], erm[metric]]).dropna() * scale)


def _legend(axes: Axes, source: Axes, title: str, amp: pd.DataFrame) -> None:
    axes.axis("off")
    handles, labels = source.get_legend_handles_labels()
    settings = "\n".join(
        f"{symbol} (method.{name}) = {', '.join(f'{value:g}' for value in amp[f'method.{name}'].unique())}"
        for symbol, name in (("ζ", "inner_lr"), ("N", "inner_steps"))
    )
    axes.legend(handles, labels, loc="center", title=f"{title}\n{settings}\nseeds = {amp['seed'].nunique()}")

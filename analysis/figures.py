"""Figures, each as PNG and SVG: means with interval bands, and every seed as a point, so that none is averaged away."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.compare import BASELINE, estimate
from analysis.tables import varying
from search_spaces.study import Study

STYLE = Path(__file__).parent / "paper.mplstyle"
AMP_COLOUR, ERM_COLOUR, CHOSEN_COLOUR = "#1f5fa8", "#404040", "#b5402a"
PANELS = (
    ("train", "nll", "risk (NLL)", 1.0),
    ("train", "error", "error (%)", 100.0),
    ("test", "nll", "risk (NLL)", 1.0),
    ("test", "error", "error (%)", 100.0),
    ("test", "ece", "ECE (%)", 100.0),
)
CHOSEN = "chosen on validation"
CELL_PANELS = (("nll", "NLL", 1.0), ("error", "error (%)", 100.0), ("ece", "ECE (%)", 100.0))
LOG_FROM_RATIO = 4.0  # panels whose seeds span more than this factor are drawn on a log axis


def draw(study: Study, frame: pd.DataFrame, chosen: set[str], folder: Path) -> list[Path]:
    """Draw what the study's cells call for into ``folder``; the files are returned, PNG before SVG.

    Curves over ``method.epsilon`` (paper, Figure 8), a figure for each combination of the other parameters for which
    there are several ε; a row a cell where there is no such combination. chosen: labels of the cells chosen on
    validation, which are marked.
    """
    files: list[Path] = []
    curves = [(name, part) for name, part in _groups(study, frame) if part["method.epsilon"].nunique() > 1]
    with mpl.rc_context(fname=STYLE):
        for name, part in curves:
            files += save(_sensitivity(study, part, chosen, name), folder / slug(f"epsilon {name}"))
        if not curves:
            files += save(_cells(study, frame), folder / "cells")
    return files


def _groups(study: Study, frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The AMP trials of each combination of the other varying parameters, with the ERM trials they compare to."""
    if "method.epsilon" not in frame:
        return
    others = [name for name in varying(study) if name not in ("method", "method.epsilon")]
    amp = frame[frame["method"] == "Amp"]
    shared = [name for name in others if not name.startswith("method.")]
    for values, part in amp.groupby(others, dropna=False, sort=False) if others else [((), amp)]:
        erm = frame[frame["method"] == BASELINE]
        for name in shared:
            erm = erm[erm[name] == part[name].iloc[0]]
        yield " ".join(map(_assignment, others, values)), pd.concat([part, erm])


def _assignment(name: str, value: object) -> str:
    """Without the .0 that a column with gaps gives its whole numbers."""
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


def slug(name: str) -> str:
    """``name`` as the name of a file."""
    return "".join(letter if letter.isalnum() or letter in "=._" else "-" for letter in name.strip())


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem`` with the endings png and svg; the files are returned in this order."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # long labels: drawn all the same
        figure.savefig(files[0])
        figure.savefig(files[1], metadata={"Date": None})
    return files


def _sensitivity(study: Study, frame: pd.DataFrame, chosen: set[str], name: str) -> Figure:
    """Five panels over ε: risk and error in training above risk, error and ECE on the test set; the legend between.

    A search, which does not read the test set, shows the validation set in its place.
    """
    figure = Figure(figsize=(7.2, 4.2))
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
    _seeds(axes, amp["method.epsilon"], amp[metric] * scale, AMP_COLOUR, "AMP, a seed")
    level = estimate(erm[metric] * scale)
    if level.n > 1:
        axes.axhspan(level.low, level.high, color=ERM_COLOUR, alpha=0.15, linewidth=0, label="ERM, 95% interval")
    if level.n:
        axes.axhline(level.mean, color=ERM_COLOUR, linestyle="--", label="ERM, mean over seeds")
        left_of_all = pd.Series(epsilons[0] / 1.35, index=erm.index)
        _seeds(axes, left_of_all, erm[metric] * scale, ERM_COLOUR, "ERM, a seed (at the left)")
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)
    _fit_y(axes, pd.concat([amp[metric], erm[metric]]).dropna() * scale)


def _seeds(axes: Axes, x: pd.Series[float], y: pd.Series[float], colour: str, label: str) -> None:
    axes.plot(x, y, ".", color=colour, alpha=0.55, markersize=3, label=label)


def _fit_y(axes: Axes, seeds: pd.Series[float]) -> None:
    """Limits from the seeds themselves, so that a wide band hides none; log where they span much."""
    low, high = float(seeds.min()), float(seeds.max())
    if low > 0 and high / low > LOG_FROM_RATIO:
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_ylim(low / 1.25, high * 1.25)
    else:
        room = 0.08 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)


def plain_log_ticks(axis: Axis) -> None:
    """0.02, 0.05, 0.1: readable without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes, source: Axes, title: str, amp: pd.DataFrame) -> None:
    axes.axis("off")
    handles, labels = source.get_legend_handles_labels()
    settings = "\n".join(
        f"{symbol} (method.{name}) = {', '.join(f'{value:g}' for value in amp[f'method.{name}'].unique())}"
        for symbol, name in (("ζ", "inner_lr"), ("N", "inner_steps"))
    )
    axes.legend(handles, labels, loc="center", title=f"{title}\n{settings}\nseeds = {amp['seed'].nunique()}")


def _cells(study: Study, frame: pd.DataFrame) -> Figure:
    """A row a cell: every seed, the mean and its interval, for risk, error and ECE."""
    cells = [cell.label for cell in study.cells()]
    part = "test" if "test/nll" in frame else "val"
    figure = Figure(figsize=(7.2, 1.0 + 0.3 * len(cells)))
    for axes, (metric, title, scale) in zip(figure.subplots(1, 3, sharey=True), CELL_PANELS, strict=True):
        for place, cell in enumerate(cells):
            values = frame.loc[frame["cell"] == cell, f"{part}/{metric}"].dropna() * scale
            if values.empty:
                continue
            found = estimate(values)
            axes.plot(values, [place] * len(values), ".", color=AMP_COLOUR, alpha=0.55, markersize=4)
            half = 0.0 if np.isnan(found.low) else found.high - found.mean
            axes.errorbar(found.mean, place, xerr=half, color=ERM_COLOUR, marker="|", markersize=10, capsize=3)
        axes.set_title(f"{part} {title}")
    first = figure.axes[0]
    first.set_yticks(range(len(cells)), cells)
    first.invert_yaxis()
    return figure

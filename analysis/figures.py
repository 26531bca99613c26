"""Figures, each as PNG and SVG: means with interval bands, and every seed as a point, so that none is averaged away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.compare import BASELINE, best_on_validation, estimate
from analysis.tables import param_names, varying
from search_spaces.study import Study

STYLE = Path(__file__).parent / "paper.mplstyle"
AMP_COLOUR, ERM_COLOUR, CHOSEN_COLOUR = "#1f5fa8", "#404040", "#b5402a"
PANELS = (
    ("train/nll", "training risk (NLL)", 1.0),
    ("train/error", "training error (%)", 100.0),
    ("test/nll", "test risk (NLL)", 1.0),
    ("test/error", "test error (%)", 100.0),
    ("test/ece", "test ECE (%)", 100.0),
)
CELL_PANELS = (("nll", "NLL", 1.0), ("error", "error (%)", 100.0), ("ece", "ECE (%)", 100.0))
LOG_FROM_RATIO = 4.0  # panels whose seeds span more than this factor are drawn on a log axis


def draw(study: Study, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw what the study's cells call for into ``folder``; the files are returned, PNG before SVG.

    Curves over ``method.epsilon`` (paper, Figure 8) where it varies, a figure for each combination of whatever else
    varies; a row a cell otherwise.
    """
    files: list[Path] = []
    with mpl.rc_context(fname=STYLE):
        if "method.epsilon" in varying(study):
            for name, part in _groups(study, frame):
                files += _save(_sensitivity(study, part, name), folder / _slug(f"epsilon {name}"))
        else:
            files += _save(_cells(study, frame), folder / "cells")
    return files


def _groups(study: Study, frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The AMP trials of each combination of the other varying parameters, with the ERM trials they compare to."""
    others = [name for name in varying(study) if name not in ("method", "method.epsilon")]
    amp = frame[frame["method"] == "Amp"]
    shared = [name for name in others if not name.startswith("method.")]
    for values, part in amp.groupby(others, dropna=False, sort=False) if others else [((), amp)]:
        erm = frame[frame["method"] == BASELINE]
        for name in shared:
            erm = erm[erm[name] == part[name].iloc[0]]
        yield " ".join(f"{name}={value}" for name, value in zip(others, values, strict=True)), pd.concat([part, erm])


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "=._" else "-" for letter in name.strip())


def _save(figure: Figure, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    figure.savefig(files[0])
    figure.savefig(files[1], metadata={"Date": None})
    return files


def _sensitivity(study: Study, frame: pd.DataFrame, name: str) -> Figure:
    """Five panels over ε: risk and error in training above risk, error and ECE on the test set; the legend between."""
    figure = Figure(figsize=(7.2, 4.2))
    grid = figure.subplots(2, 3)
    amp, erm = frame[frame["method"] == "Amp"], frame[frame["method"] == BASELINE]
    chosen = best_on_validation(amp, param_names(study))
    epsilon = float(amp.loc[amp["cell"] == chosen[0], "method.epsilon"].iloc[0]) if chosen else None
    places = (grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1], grid[1, 2])
    for axes, (metric, title, scale) in zip(places, PANELS, strict=True):
        _sensitivity_panel(axes, amp, erm, metric, scale)
        if epsilon is not None:
            axes.axvline(epsilon, color=CHOSEN_COLOUR, linestyle=":", linewidth=1, label=f"ε = {epsilon:g}, {CHOSEN}")
        axes.set_title(title)
        axes.set_xlabel(f"ε (method.epsilon), {_ball(amp)}")
    _legend(grid[0, 2], places[2], f"{study.name}\n{name}".strip(), amp)
    return figure


CHOSEN = "chosen on validation"


def _ball(amp: pd.DataFrame) -> str:
    balls = sorted(amp["method.ball"].dropna().unique())
    return " and ".join(f"{ball} L2 ball" for ball in balls)


def _sensitivity_panel(axes: Axes, amp: pd.DataFrame, erm: pd.DataFrame, metric: str, scale: float) -> None:
    if metric not in amp or amp[metric].isna().all():
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    epsilons = np.sort(amp["method.epsilon"].unique())
    curve = [estimate(amp.loc[amp["method.epsilon"] == epsilon, metric] * scale) for epsilon in epsilons]
    axes.fill_between(
        epsilons,
        [point.low for point in curve],
        [point.high for point in curve],
        color=AMP_COLOUR,
        alpha=0.2,
        linewidth=0,
        label="AMP, 95% interval of the mean",
    )
    axes.plot(epsilons, [point.mean for point in curve], color=AMP_COLOUR, marker="o", label="AMP, mean over seeds")
    axes.plot(
        amp["method.epsilon"], amp[metric] * scale, ".", color=AMP_COLOUR, alpha=0.55, markersize=3, label="AMP, a seed"
    )
    level = estimate(erm[metric] * scale)
    axes.axhspan(level.low, level.high, color=ERM_COLOUR, alpha=0.15, linewidth=0, label="ERM, 95% interval")
    axes.axhline(level.mean, color=ERM_COLOUR, linestyle="--", label="ERM, mean over seeds")
    axes.set_xscale("log")
    _plain_log_ticks(axes.xaxis)
    _fit_y(axes, pd.concat([amp[metric], erm[metric]]).dropna() * scale)


def _fit_y(axes: Axes, seeds: pd.Series[float]) -> None:
    """Limits from the seeds themselves, so that a wide band hides none; log where they span much."""
    low, high = float(seeds.min()), float(seeds.max())
    if low > 0 and high / low > LOG_FROM_RATIO:
        axes.set_yscale("log")
        _plain_log_ticks(axes.yaxis)
        axes.set_ylim(low / 1.25, high * 1.25)
    else:
        room = 0.08 * (high - low) or 0.1
        axes.set_ylim(low - room, high + room)


def _plain_log_ticks(axis: Axis) -> None:
    """0.02, 0.05, 0.1: readable without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes, source: Axes, title: str, amp: pd.DataFrame) -> None:
    axes.axis("off")
    handles, labels = source.get_legend_handles_labels()
    inner_lr, inner_steps = amp["method.inner_lr"].iloc[0], amp["method.inner_steps"].iloc[0]
    settings = f"AMP with ζ = {inner_lr:g}, N = {inner_steps:g}; {amp['seed'].nunique()} seeds"
    axes.legend(handles, labels, loc="center", title=f"{title}\n{settings}")


def _cells(study: Study, frame: pd.DataFrame) -> Figure:
    """A row a cell: every seed, the mean and its interval, for risk, error and ECE."""
    cells = [cell.label for cell in study.cells()]
    part = "test" if "test/nll" in frame else "val"
    figure = Figure(figsize=(7.2, 1.0 + 0.3 * len(cells)))
    for axes, (metric, title, scale) in zip(figure.subplots(1, 3, sharey=True), CELL_PANELS, strict=True):
        for place, cell in enumerate(cells):
            values = (
                frame.loc[frame["cell"] == cell, f"{part}/{metric}"] * scale if f"{part}/{metric}" in frame else None
            )
            if values is None or values.isna().all():
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

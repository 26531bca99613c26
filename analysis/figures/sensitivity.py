"""Figure 8, and the like over ζ and N: risk, error and ECE against one parameter of AMP, ERM as the level line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.compare import BASELINE, Estimate, Values, estimate
from analysis.figures.base import (
    AMP_COLOUR,
    CHOSEN_COLOUR,
    EPSILON,
    ERM_COLOUR,
    FULL_WIDTH,
    ON_DATA,
    PARAMETERS,
    Drawn,
    Material,
    Parameter,
    few_digits,
    fit_y,
    gaps,
    one_of,
    plain_log_ticks,
    seed_counts,
    seeds,
    text_of,
)
from analysis.tables import blocks_of, has_metric, varying

PANELS = (
    ("train", "nll", "risk (NLL)", 1.0),
    ("train", "error", "error (%)", 100.0),
    ("test", "nll", "risk (NLL)", 1.0),
    ("test", "error", "error (%)", 100.0),
    ("test", "ece", "ECE (%)", 100.0),
)
PLACES = ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
CHOSEN = "chosen on validation"
FEWEST_BESIDE_MAP = 4
"""Values of a parameter that make a curve where another one varies too."""
SHARPNESS = "probe/sharpness/"
CLIPPED, LENGTH = "amp/clip_fraction", "amp/delta_norm / method.epsilon"
MARKERS, LINES = ("o", "^", "v", "D"), ("-", "-.", ":", "--")
"""Of the radii at which sharpness was measured, rising."""
OF_AMP = {"share of clips that shorten Δ": CLIPPED, "norm of Δ in units of ε": LENGTH}
OF_PAPER = (
    " The paper's Figure 8 shows training and test risk against ε on CIFAR-10, with ζ = 2 and N = 2; values compare"
    " with it only where data, network and settings are the same."
)


@dataclass(frozen=True, slots=True)
class Curve:
    """The AMP trials over one parameter in which nothing else but the seed varies, and ERM's of the same block.

    title: of the block. settings: what tells the curve from others of the block. alone: whether the study has but one
    block.
    """

    parameter: Parameter
    title: str
    settings: str
    alone: bool
    amp: pd.DataFrame
    erm: pd.DataFrame

    @property
    def stem(self) -> str:
        """Of the figure's files."""
        title = "" if self.alone else self.title
        return " ".join(filter(None, (self.parameter.name.removeprefix("method."), title, self.settings)))

    @property
    def trials(self) -> pd.DataFrame:
        return pd.concat([self.amp, self.erm])

    @property
    def fixed(self) -> str:
        """The other parameters: ``ζ = 1, N = 1``."""
        others = [other for other in PARAMETERS if other is not self.parameter]
        return ", ".join(one_of(self.amp[other.name], other.symbol).replace("=", " = ") for other in others)

    @property
    def underneath(self) -> dict[str, list[str]]:
        """What is known of AMP's doing: titles of panels, and the metrics in each."""
        sharpness = [name for name in _radii(self.amp) if has_metric(self.amp, name)]
        panels = {"sharpness on training images": sharpness}
        panels |= {title: [name] for title, name in OF_AMP.items() if has_metric(self.amp, name)}
        return {title: metrics for title, metrics in panels.items() if metrics}


def draw(material: Material) -> Iterator[Drawn]:
    """A figure a curve."""
    for curve in curves(material):
        yield Drawn(curve.stem, _caption(material, curve), _figure(material, curve))


def curves(material: Material) -> Iterator[Curve]:
    """Of each block, over each parameter that has several values while the others stay.

    Where two parameters vary there is a map of them (``heat_map``): curves of three points or fewer would say less, and
    be many.
    """
    blocks, names = blocks_of(material.study), varying(material.study)
    frame = _with_measured(material)
    for block in blocks:
        own = frame[frame["cell"].isin(block.names)]
        amp, erm = own[own["method"] == "Amp"], own[own["method"] == BASELINE]
        several = [name for name in names if name.startswith("method.") and amp[name].nunique() > 1]
        axes = [parameter for parameter in PARAMETERS if parameter.name in several]
        for parameter in axes:
            others = [name for name in several if name != parameter.name]
            for settings, part in _parts(amp, others):
                if part[parameter.name].nunique() >= (2 if len(axes) == 1 else FEWEST_BESIDE_MAP):
                    yield Curve(parameter, block.title, settings, len(blocks) == 1, part, erm)


def _with_measured(material: Material) -> pd.DataFrame:
    """The frame with the measured sharpness of each trial, and the length of Δ, beside it."""
    frame, probes = material.frame, material.probes
    sharpness = probes[probes["metric"].str.startswith(SHARPNESS)]
    wide = sharpness.pivot(index="trial_id", columns="metric", values="value")
    if has_metric(frame, "amp/delta_norm"):
        frame = frame.assign(**{LENGTH: frame["amp/delta_norm"] / frame["method.epsilon"]})
    return frame.merge(wide, how="left", left_on="trial_id", right_index=True)


def _radii(frame: pd.DataFrame) -> list[str]:
    """The columns of measured sharpness, radii rising."""
    return sorted((name for name in map(str, frame) if name.startswith(SHARPNESS)), key=_radius)


def _radius(metric: str) -> float:
    return float(metric.removeprefix(SHARPNESS))


def _parts(amp: pd.DataFrame, others: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    for values, part in amp.groupby(list(others), dropna=False, sort=False) if others else [((), amp)]:
        yield " ".join(f"{name}={text_of(value)}" for name, value in zip(others, values, strict=True)), part


def _figure(material: Material, curve: Curve) -> Figure:
    """Risk and error in training above risk, error and ECE on the test set; the legend between.

    Underneath is what AMP did, where it is known. A search, which does not read the test set, shows the validation set
    in its place.
    """
    below = curve.underneath
    figure = Figure(figsize=(FULL_WIDTH, 5.9 if below else 4.2))
    grid = figure.subplots(3 if below else 2, 3)
    for place, (of, metric, text, scale) in zip(PLACES, PANELS, strict=True):
        where, what = ("train", "training") if of == "train" else (material.part, _part_title(material))
        _panel(grid[place], curve, [f"{where}/{metric}"], scale)
        grid[place].set_title(f"{what} {text}")
    for axes, (title, metrics) in zip(grid[2] if below else (), below.items(), strict=False):
        _panel(axes, curve, metrics, 1.0)
        if title in OF_AMP and axes.get_yscale() == "linear":  # shares: what is nearly 1 must look so
            axes.set_ylim(-0.05, 1.05 * max(1.0, float(curve.amp[OF_AMP[title]].max())))
        axes.set_title(title)
    for axes in figure.axes:
        if axes.get_title():
            _finish(axes, curve, _chosen(material, curve))
        else:
            axes.axis("off")
    _legend(grid[0, 2], grid[1, 0], material, curve)
    return figure


def _part_title(material: Material) -> str:
    return "test" if material.part == "test" else "validation"


def _chosen(material: Material, curve: Curve) -> list[float]:
    """The values of the parameter in the cells that were chosen on validation."""
    chosen = curve.amp.loc[curve.amp["cell"].isin(material.chosen), curve.parameter.name]
    return sorted(set(chosen.astype(float)))


def _panel(axes: Axes, curve: Curve, metrics: Sequence[str], scale: float) -> None:
    """Of one metric, or of one at several radii: told apart by marker and line, named in the panel."""
    values = curve.trials.reindex(columns=list(metrics)) * scale
    if values.isna().all(axis=None):
        axes.text(0.5, 0.5, "no trial has it", ha="center", va="center", transform=axes.transAxes)
        return
    looks = zip(itertools.cycle(MARKERS), itertools.cycle(LINES), strict=False)
    for metric, (marker, line) in zip(metrics, looks, strict=False):
        _level(axes, curve, metric, scale, marker if len(metrics) > 1 else "")
        _curve(axes, curve, metric, scale, marker, line)
    fit_y(axes, pd.concat([values[metric] for metric in metrics]).dropna())
    if len(metrics) > 1:
        _name_radii(axes, metrics)


def _curve(axes: Axes, curve: Curve, metric: str, scale: float, marker: str, line: str) -> None:
    """AMP's means over the parameter with their intervals, and every seed."""
    name = curve.parameter.name
    x = np.sort(curve.amp[name].unique())
    found = [estimate(curve.amp.loc[curve.amp[name] == value, metric] * scale) for value in x]
    if any(point.n > 1 for point in found):
        low, high = [point.low for point in found], [point.high for point in found]
        axes.fill_between(x, low, high, color=AMP_COLOUR, alpha=0.2, linewidth=0, label="AMP, 95% interval")
        _bars(axes, x, found)
    means = [point.mean for point in found]
    axes.plot(x, means, color=AMP_COLOUR, marker=marker, linestyle=line, label="AMP, mean over seeds")
    seeds(axes, curve.amp[name], curve.amp[metric] * scale, AMP_COLOUR, "AMP, a seed")


def _bars(axes: Axes, x: Values, found: Sequence[Estimate]) -> None:
    """Intervals that no band shows, for it needs two beside each other: equal seeds, or one, have none."""
    known = [math.isfinite(point.low) for point in found]
    beside = zip([False, *known], [*known[1:], False], strict=False)
    lone = [i for i, (is_known, near) in enumerate(zip(known, beside, strict=True)) if is_known and not any(near)]
    if lone:
        means, low = (np.array([getattr(found[i], name) for i in lone]) for name in ("mean", "low"))
        axes.errorbar(x[lone], means, yerr=means - low, fmt="none", ecolor=AMP_COLOUR, capsize=2)


def _level(axes: Axes, curve: Curve, metric: str, scale: float, marker: str) -> None:
    """ERM's mean as a line across, and its seeds at the left; a marker there tells it from others in the panel."""
    if metric not in curve.erm:
        return
    level = estimate(curve.erm[metric] * scale)
    if level.n > 1:
        axes.axhspan(level.low, level.high, color=ERM_COLOUR, alpha=0.15, linewidth=0, label="ERM, 95% interval")
    if level.n:
        axes.axhline(level.mean, color=ERM_COLOUR, linestyle="--", label="ERM, mean over seeds")
        left, _ = _beside(curve)
        axes.plot([left], [level.mean], color=ERM_COLOUR, marker=marker, linestyle="")
        left_of_all = pd.Series(left, index=curve.erm.index)
        seeds(axes, left_of_all, curve.erm[metric] * scale, ERM_COLOUR, "ERM, a seed (at the left)")


def _beside(curve: Curve) -> tuple[float, float]:
    """To the left of all values on the axis, and to the right."""
    values = curve.amp[curve.parameter.name]
    low, high = float(values.min()), float(values.max())
    if curve.parameter.log:
        return low / 1.35, high * 1.35
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _name_radii(axes: Axes, metrics: Sequence[str]) -> None:
    """Lines of one metric stand in one panel: which is which, in room made for it above them, two a row."""
    lines = [line for line in axes.lines if line.get_label() == "AMP, mean over seeds"]
    names = [f"ρ = {_radius(metric):g}" for metric in metrics]
    axes.legend(lines, names, loc="upper center", ncols=2, handlelength=2.5, columnspacing=1.0, **ON_DATA)
    to_axis = axes.yaxis.get_transform()
    low, high = to_axis.transform(axes.get_ylim())
    top = high + 0.16 * math.ceil(len(names) / 2) * (high - low)
    axes.set_ylim(top=float(to_axis.inverted().transform([top])[0]))


def _finish(axes: Axes, curve: Curve, chosen: Sequence[float]) -> None:
    """The axis of the parameter, the same in all panels, and where the chosen cells are on it."""
    for value in chosen:
        label = f"{curve.parameter.symbol} = {value:g}, {CHOSEN}"
        axes.axvline(value, color=CHOSEN_COLOUR, linestyle=":", linewidth=1, label=label)
    axes.set_xlabel(curve.parameter.label(curve.amp))
    low, high = _beside(curve)
    if curve.parameter.log:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, few_digits(low, high))
        axes.set_xlim(low / 1.15, high)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlim(low - 0.04 * (high - low), high)


def _legend(axes: Axes, source: Axes, material: Material, curve: Curve) -> None:
    axes.axis("off")
    handles, labels = source.get_legend_handles_labels()
    titles = [material.study.name, curve.title, curve.settings, curve.fixed, f"seeds = {seed_counts(curve.trials)}"]
    axes.legend(handles, labels, loc="center", title="\n".join(filter(None, titles)))


def _caption(material: Material, curve: Curve) -> str:
    parameter, part = curve.parameter, _part_title(material)
    text = (
        f"{curve.title}: training and {part} risk, error and ECE at the last epoch against AMP's {parameter.values}"
        f" {parameter.label(curve.amp).partition(' ')[2]}, with {curve.fixed}. Circles are means over"
        f" {seed_counts(curve.amp)} seeds, their band is the 95% Student-t interval, the dashed line and its band are"
        " ERM's; every dot is a seed. Equal seeds have no interval; a bar is one that no band joins to a neighbour's."
        " Axes are made for the seeds: a wider band leaves them, and is whole in the tables. Bands cover the choice of"
        " the seed, not that of the images."
    )
    if _chosen(material, curve):
        text += " The dotted line is the setting with the lowest mean validation NLL, chosen without the test set."
    text += "".join(_of_underneath(curve)) + gaps(curve.trials)
    return text + (OF_PAPER if parameter is EPSILON else " The paper's text has no such figure.")


def _of_underneath(curve: Curve) -> Iterator[str]:
    measured = {metric for metrics in curve.underneath.values() for metric in metrics}
    if any(metric.startswith(SHARPNESS) for metric in measured):
        yield (
            " Underneath, the trained models' sharpness L(θ + ρ·g/‖g‖) - L(θ) on training images, at the same radii ρ"
            " for all; g is the gradient of L. Dashed lines are ERM's; a marker at their left tells the radius."
        )
    if measured & set(OF_AMP.values()):
        yield (
            " How often a clip to the ball shortened Δ, and the norm of Δ in units of ε, are means over the"
            " mini-batches of the last epoch."
        )

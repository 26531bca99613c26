"""Figures 1, 3 and 4: what the AMP loss makes of sharp and flat minima, computed from the paper's formulas."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from analysis.figures.base import AMP_COLOUR, COLUMN_WIDTH, ERM_COLOUR, FULL_WIDTH, Drawn, legend_below

Values = NDArray[np.float64]
Point = tuple[float, float]

RADIUS = 0.3
"""ε in Figure 1."""
SHARP, FLAT = (-1.2, 0.15, 1.0), (1.0, 0.7, 0.85)
"""Place, width σ and depth A of the two minima of Figure 1."""
DEPTH, LEVEL, NARROW, WIDE, BALL = 0.8, 1.0, 0.5, 1.1, 0.45
"""A, C, the two widths σ and the radius ε of the minimum in Figure 3."""
SHOWN_RATIO, RATIOS = 1.0, (0.25, 0.5, 1.0, 2.0, 4.0)
"""Values of ε²/2σ₁² in the left and in the right panel of Figure 4."""
UNDERFIT = (0.3, 1.8)
"""(β, r) of the cross in the right panel of Figure 4: hardly flatter than the other minimum, and much higher."""
HIGHEST_R = 6.0
LINES = ((0, (1, 1)), (0, (4, 1, 1, 1)), "-", (0, (5, 2)), (0, (2, 1)))
"""Of the ratios, so that curves differ in more than shade."""
WHITE = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
"""Behind words that lie on lines."""


def draw_theory() -> Iterator[Drawn]:
    """They need no study."""
    yield Drawn("figure 1 amp loss", _CAPTION_1, _figure_1())
    yield Drawn("figure 3 locally Gaussian minimum", _CAPTION_3, _figure_3())
    yield Drawn("figure 4 operational region", _CAPTION_4, _figure_4())


def risk(theta: Values) -> Values:
    """The empirical risk of Figure 1: two inverted Gaussians (equation 7) in one dimension, with C = 1."""
    found = np.ones_like(theta)
    for place, width, depth in (SHARP, FLAT):
        found -= depth * np.exp(-((theta - place) ** 2) / (2 * width**2))
    return found


def sliding_maximum(values: Values, step: float, radius: float) -> Values:
    """The AMP loss (equation 4) of a curve in one dimension: its maximum in a window of ``radius`` to either side.

    values: at places ``step`` apart. At the ends, where the window reaches beyond them, of what is there.
    """
    found: Values = maximum_filter1d(values, 2 * round(radius / step) + 1, mode="nearest")
    return found


def gaussian_amp_loss(theta: Values, radius: float) -> Values:
    """The AMP loss (equation 10) of Figure 3's minimum at ``theta`` on its narrowest axis; at 0 it is equation (11).

    The farthest point of the ball lies on that axis too, for nowhere else does the loss rise as fast.
    """
    found: Values = LEVEL - DEPTH * np.exp(-((np.abs(theta) + radius) ** 2) / (2 * NARROW**2))
    return found


def least_flatness(beta: Values, ratio: float) -> Values:
    """The r above which the AMP loss prefers the flatter minimum (equation 15); NaN where no r is enough.

    beta: depth of the flatter minimum over that of the lower one. ratio: ε²/2σ₁².
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Values = np.where(beta > np.exp(-ratio), 1 / (1 + np.log(beta) / ratio), np.nan)
    return found


def _figure_1() -> Figure:
    figure = Figure(figsize=(COLUMN_WIDTH, 2.7))
    axes = figure.subplots()
    step = 0.001
    theta = np.arange(-2.6, 3.2, step)
    _with_minimum(axes, theta, risk(theta), ERM_COLOUR, "--", "s", "empirical risk")
    _with_minimum(axes, theta, sliding_maximum(risk(theta), step, RADIUS), AMP_COLOUR, "-", "o", "AMP loss")
    for place, width, depth in (SHARP, FLAT):
        name = "sharp" if width == SHARP[1] else "flat"
        axes.annotate(f"{name} minimum", (place, 1 - depth - 0.09), ha="center", va="top", fontsize=7)
    _double_arrow(axes, (FLAT[0] - RADIUS, 1.08), (FLAT[0] + RADIUS, 1.08), "window: 2ε")
    axes.set(xlabel="parameter θ", ylabel="loss", xlim=(-2.3, 2.9), ylim=(-0.25, 1.25), yticks=[0, 0.5, 1])
    legend_below(figure, columns=2)
    return figure


def _with_minimum(axes: Axes, theta: Values, values: Values, colour: str, line: str, marker: str, name: str) -> None:
    """A curve, and the lowest point of all on it."""
    axes.plot(theta, values, color=colour, linestyle=line, label=name)
    lowest = int(values.argmin())
    axes.plot(
        theta[lowest], values[lowest], marker, color=colour, markeredgecolor="black", markersize=5.5,
        label=f"its global minimum, {values[lowest]:.2f}",
    )  # fmt: skip


def _double_arrow(axes: Axes, start: Point, end: Point, text: str) -> None:
    """``text`` above its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "<->", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0})
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    axes.annotate(text, middle, (0, 3), textcoords="offset points", fontsize=7, ha="center", va="bottom")


def _figure_3() -> Figure:
    figure = Figure(figsize=(FULL_WIDTH, 2.6))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    _surface(left)
    _slice(right)
    return figure


def _surface(axes: Axes) -> None:
    """Level lines of the minimum from above, with the ball around it and the point in it where the loss is highest."""
    x, y = np.linspace(-1.3, 1.3, 131), np.linspace(-1.3, 1.3, 131)
    values = LEVEL - DEPTH * np.exp(-(x[None] ** 2 / NARROW**2 + y[:, None] ** 2 / WIDE**2) / 2)
    axes.contour(x, y, values, levels=8, colors="#808080", linewidths=0.6)
    axes.add_patch(Circle((0, 0), BALL, fill=False, edgecolor=AMP_COLOUR, linewidth=1.3))
    axes.annotate("", (BALL, 0), (0, 0), arrowprops={"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0})
    axes.plot(0, 0, "s", color=ERM_COLOUR)
    axes.plot([-BALL, BALL], [0, 0], "o", color=AMP_COLOUR, markeredgecolor="black", linestyle="none")
    for text, where in (("μ", (-0.03, -0.17)), ("ε", (BALL / 2, 0.1)), ("ball", (0.0, BALL + 0.13))):
        axes.annotate(text, where, ha="center", va="center", fontsize=7, bbox=WHITE)
    axes.set(title="level lines of γ, its ball", xlabel="narrowest axis (variance σ²)", ylabel="another axis")
    axes.set_aspect("equal")
    axes.grid(visible=False)


def _slice(axes: Axes) -> None:
    """γ and its AMP loss on the narrowest axis, with the two minimum values."""
    theta = np.linspace(-1.6, 1.6, 641)
    for radius, colour, line, marker, name in (
        (0.0, ERM_COLOUR, "--", "s", r"$\gamma$"),
        (BALL, AMP_COLOUR, "-", "o", r"$\gamma_{\mathrm{AMP}}$"),
    ):
        values = gaussian_amp_loss(theta, radius)
        axes.plot(theta, values, color=colour, linestyle=line, label=name)
        axes.plot(0, values.min(), marker, color=colour, markeredgecolor="black", markersize=5)
    lowest, raised = LEVEL - DEPTH, float(gaussian_amp_loss(np.zeros(1), BALL)[0])
    for height, text in (
        (lowest, r"$\gamma^* = C - A$"),
        (raised, r"$\gamma^*_{\mathrm{AMP}} = C - A\,\exp(-\epsilon^2/2\sigma^2)$"),
        (LEVEL, "$C$"),
    ):
        axes.axhline(height, color="black", linewidth=0.5, linestyle=":")
        axes.annotate(text, (1.75, height), ha="left", va="center", fontsize=7, annotation_clip=False)
    _double_arrow(axes, (0, raised), (BALL, raised), "ε")
    axes.set(title="on the narrowest axis", xlabel="θ - μ", ylabel="loss", xlim=(-1.6, 1.7), ylim=(0, 1.1))
    axes.legend(loc="lower left")
    axes.grid(visible=False)


def _figure_4() -> Figure:
    figure = Figure(figsize=(FULL_WIDTH, 2.8))
    left, right = figure.subplots(1, 2, sharey=True)
    _region(left)
    _regions(right)
    for axes in (left, right):
        axes.set(xlabel="β = A₂/A₁ (depths)", xlim=(0, 1), ylim=(0, HIGHEST_R))
    left.set_ylabel("r = σ₂²/σ₁² (widths)")
    return figure


def _betas(ratio: float) -> Values:
    """From where the region begins, a little right of its asymptote, to 1."""
    start = float(np.exp(-ratio))
    return start + (1 - start) * np.linspace(1e-4, 1, 800)


def _region(axes: Axes) -> None:
    """The region of one ratio, with the asymptote of its edge."""
    beta, start = _betas(SHOWN_RATIO), float(np.exp(-SHOWN_RATIO))
    edge = least_flatness(beta, SHOWN_RATIO)
    axes.fill_between(beta, edge, 1e6, color=AMP_COLOUR, alpha=0.25, linewidth=0)
    axes.plot(beta, edge, color=AMP_COLOUR)
    axes.axvline(start, color="black", linewidth=0.6, linestyle=":")
    axes.annotate("β = exp(-ε²/2σ₁²)", (start - 0.02, HIGHEST_R / 2), rotation=90, ha="right", va="center", fontsize=7)
    axes.annotate("operational region:\nAMP prefers the second", (0.72, 4.6), ha="center", va="center", fontsize=7)
    axes.annotate("edge:\nr = 1 / (1 + (2σ₁²/ε²) log β)", (0.98, 0.5), ha="right", va="center", fontsize=7)
    axes.set_title(f"ε²/2σ₁² = {SHOWN_RATIO:g}")
    axes.grid(visible=False)


def _regions(axes: Axes) -> None:
    """The edges of several: the larger ε, the more is above."""
    for ratio, line in zip(RATIOS, LINES, strict=True):
        beta = _betas(ratio)
        axes.plot(beta, least_flatness(beta, ratio), color=AMP_COLOUR, linestyle=line, label=f"ε²/2σ₁² = {ratio:g}")
    axes.plot(*UNDERFIT, "x", color="black", markersize=6, label="little flatter, much higher")
    axes.set_title("edges for several radii")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3)
    axes.grid(visible=False)


_CAPTION_1 = (
    f"An empirical risk in one dimension and its AMP loss, the maximum of the risk in a window of width 2ε around θ"
    f" (ε = {RADIUS:g}), computed from equation (4). The risk has a sharp and deeper minimum (σ = {SHARP[1]:g}, depth"
    f" {SHARP[2]:g}) and a flat one (σ = {FLAT[1]:g}, depth {FLAT[2]:g}); its global minimum is the sharp one, that of"
    " the AMP loss is the flat one. Curves are chosen to show it and are of no trained model. Figure 1 of the paper."
)
_CAPTION_3 = (
    f"A locally Gaussian minimum γ with C = {LEVEL:g}, A = {DEPTH:g} (equation 7) and its AMP loss with ε = {BALL:g}."
    f" Left: level lines of γ, the ball of radius ε around the minimum μ, and the points in it where γ is highest: they"
    f" lie on the narrowest axis, of variance σ² = {NARROW**2:g}, the smallest eigenvalue of κ. Right: both losses on"
    " that axis, with their minimum values (equations 9 and 11). Computed from the formulas; whether a network's minima"
    " are like that is not said. Figure 3 of the paper."
)
_CAPTION_4 = (
    "The operational region of AMP (equation 15): of two minima, the second has β < 1 times the depth of the first and"
    " r times its smallest variance, and the AMP loss prefers the second where (β, r) lies above the edge. Left: the"
    f" region for ε²/2σ₁² = {SHOWN_RATIO:g}. Right: its edge for several; the region grows with ε, and at"
    f" {RATIOS[-1]:g} it holds the cross, a minimum that is little flatter and much higher, so that AMP would underfit."
    " Computed from the formula, for minima that are inverted Gaussians with C₁ = C₂. Figure 4 of the paper."
)

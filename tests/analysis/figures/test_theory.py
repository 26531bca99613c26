"""The paper's formulas against brute force, and what Figures 1, 3 and 4 show of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from analysis.figures import theory
from analysis.figures.base import Drawn, save_figures
from tests.analysis.figures.materials import points


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    return list(theory.draw_theory())


def test_there_are_figures_1_3_and_4(drawn: list[Drawn]) -> None:
    assert [one.stem[:8] for one in drawn] == ["figure 1", "figure 3", "figure 4"]
    assert [one.caption[-23:] for one in drawn] == [f" Figure {n} of the paper." for n in (1, 3, 4)]


@pytest.mark.parametrize("radius", [0.1, 0.3])
def test_the_sliding_maximum_is_the_largest_value_within_the_radius(radius: float) -> None:
    step = 0.05
    values = np.random.RandomState(0).normal(size=60)
    places = step * np.arange(60)
    slow = [values[np.abs(places - place) < radius + step / 2].max() for place in places]
    assert theory.sliding_maximum(values, step, radius).tolist() == slow


@pytest.mark.parametrize("theta", [0.0, 0.2, -0.7])
def test_the_amp_loss_of_a_gaussian_minimum_is_its_maximum_over_the_ball(theta: float) -> None:
    angle, length = np.meshgrid(np.linspace(0, 2 * math.pi, 721), np.linspace(0, 0.45, 46))
    x, y = theta + length * np.cos(angle), length * np.sin(angle)
    loss = theory.LEVEL - theory.DEPTH * np.exp(-(x**2 / theory.NARROW**2 + y**2 / theory.WIDE**2) / 2)
    assert theory.gaussian_amp_loss(np.array([theta]), 0.45)[0] == pytest.approx(loss.max(), abs=1e-12)


def test_it_is_lowest_at_the_minimum_where_it_is_equation_11() -> None:
    theta = np.linspace(-1, 1, 201)
    values = theory.gaussian_amp_loss(theta, 0.45)
    assert theta[values.argmin()] == pytest.approx(0.0, abs=1e-12)
    assert values.min() == pytest.approx(1.0 - 0.8 * math.exp(-(0.45**2) / (2 * 0.5**2)))


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_above_the_edge_and_nowhere_else_the_amp_loss_prefers_the_second_minimum(ratio: float) -> None:
    beta, r = np.meshgrid(np.linspace(0.01, 0.99, 99), np.linspace(0.05, 30, 600))
    first, second = 1 - np.exp(-ratio), 1 - beta * np.exp(-ratio / r)  # equation (11) with C = 1, A₁ = 1, σ₁² = 1
    with np.errstate(invalid="ignore"):
        above = r > theory.least_flatness(beta, ratio)
    assert np.array_equal(above, second < first)
    assert above.any()
    assert not above.all()


def the_axes(drawn: Drawn) -> Axes:
    (axes,) = drawn.figure.axes
    return axes


def test_figure_1_has_its_global_minima_at_different_places(drawn: list[Drawn]) -> None:
    axes = the_axes(drawn[0])
    curves = {
        str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.lines if line.get_linestyle() != "None"
    }
    risk, amp = curves["empirical risk"], curves["AMP loss"]
    assert (amp[:, 1] >= risk[:, 1]).all()
    marked = {
        str(line.get_label()): np.asarray(line.get_xydata())[0] for line in axes.lines if str(line.get_marker()) in "so"
    }
    (sharp, lowest), (flat, raised) = marked["its global minimum, -0.01"], marked["its global minimum, 0.22"]
    assert (sharp, flat) == pytest.approx((theory.SHARP[0], theory.FLAT[0]), abs=0.02)
    assert (lowest, raised) == pytest.approx((risk[:, 1].min(), amp[:, 1].min()))
    assert {text.get_text() for text in axes.texts} >= {"sharp minimum", "flat minimum", "window: 2ε"}


def test_figure_3_has_the_minimum_values_of_equations_9_and_11(drawn: list[Drawn]) -> None:
    right = drawn[1].figure.axes[1]
    levels = [float(np.asarray(line.get_ydata())[0]) for line in right.lines if line.get_linestyle() == ":"]
    assert levels == pytest.approx([0.2, 1.0 - 0.8 * math.exp(-(0.45**2) / (2 * 0.5**2)), 1.0])
    heights = [text.xy[1] for text in right.texts if text.get_text().startswith("$")]  # type: ignore[attr-defined]
    assert heights == pytest.approx(levels)
    legend = right.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [r"$\gamma$", r"$\gamma_{\mathrm{AMP}}$"]


def test_figure_4_has_the_edges_and_the_cross_in_the_largest_region_alone(drawn: list[Drawn]) -> None:
    left, right = drawn[2].figure.axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("β = A₂/A₁ (depths)", "r = σ₂²/σ₁² (widths)")
    beta, r = zip(*points(right, "ε²/2σ₁² = 1"), strict=True)
    assert r == pytest.approx(1 / (1 + np.log(beta)), rel=0.02)
    assert min(beta) == pytest.approx(math.exp(-1), abs=1e-3)
    assert (beta[-1], r[-1]) == (1.0, 1.0)
    ((shallow, narrow),) = points(right, "little flatter, much higher")
    inside = [ratio for ratio in theory.RATIOS if narrow > theory.least_flatness(np.array([shallow]), ratio)[0]]
    assert inside == [4.0]
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in right.lines[:5]}) == 5  # type: ignore[attr-defined]


def test_saved_files_are_the_same_again(tmp_path: Path) -> None:
    first, second = (save_figures(theory.draw_theory(), tmp_path / name) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        assert one.png.read_bytes() == other.png.read_bytes()
        assert one.svg.read_bytes() == other.svg.read_bytes()

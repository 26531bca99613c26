"""Maps over two of AMP's parameters: the numbers in them, what is not significant, not there, or not a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import CenteredNorm, rgb_to_hsv
from matplotlib.patches import Rectangle

from analysis.figures import heat_map
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.figures.materials import made_material, panel
from trainer.config import Amp, Erm, SmallCnn, TrialConfig

ZETAS, STEPS = (0.2, 5.0), (1, 2, 3)
GRID = [Amp(epsilon=0.2, inner_lr=zeta, inner_steps=steps) for zeta in ZETAS for steps in STEPS]


def study_of(grid: Sequence[Amp], trial: Any = recipes.digits_mlp) -> Study:
    trials = [trial(method, seed) for seed in range(3) for method in (Erm(), *grid)]
    return Study(name="made-up", question="?", trials=trials)


def numbers(trial: TrialConfig) -> Mapping[str, float] | str:
    """ζ = 0.2, N = 1 is as often below ERM as above; the others lie below by 0.01 · ζ · N, ε = 0.4 as far above."""
    nll, method = 0.5 + 0.1 * trial.seed, trial.method
    if isinstance(method, Amp):
        sign = -1 if method.epsilon == 0.2 else 1
        nll += sign * 0.01 * method.inner_lr * method.inner_steps + 0.0001 * trial.seed
        if (method.inner_lr, method.inner_steps) == (0.2, 1):
            nll += 0.02 * (trial.seed - 1)
    return {f"test/{name}": nll / by for name, by in (("nll", 1), ("error", 10), ("ece", 20))}


def texts(axes: Axes) -> dict[tuple[float, float], str]:
    """By the place of the cell: column and row, from the lower left."""
    return {(x - 0.5, y - 0.5): text.get_text() for text in axes.texts for x, y in [text.get_position()]}


def test_every_combination_has_its_paired_difference() -> None:
    (drawn,) = heat_map.draw(made_material(study_of(GRID), numbers))
    axes = panel(drawn.figure, "Digits")
    assert drawn.stem == "inner_lr by inner_steps"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("method.inner_lr (ζ)", "method.inner_steps (N)")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.2", "5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "3"]
    found = texts(axes)
    assert found[0, 0] == "-0.002\nn.s."
    assert found[1, 0] == "-0.050"
    assert found[1, 2] == "-0.150"
    (mesh,) = (one for one in axes.collections if isinstance(one, QuadMesh))
    assert np.asarray(mesh.get_array())[:, 1].tolist() == pytest.approx([-0.0499, -0.0999, -0.1499])  # rows from below


def test_colours_are_centred_at_no_difference_and_lighter_all_the_way() -> None:
    (drawn,) = heat_map.draw(made_material(study_of(GRID), numbers))
    (mesh,) = (one for one in panel(drawn.figure, "Digits").collections if isinstance(one, QuadMesh))
    assert isinstance(mesh.norm, CenteredNorm)
    assert mesh.norm(0.0) == 0.5
    assert mesh.norm.vmax == pytest.approx(0.1499)
    weights = (0.299, 0.587, 0.114)
    grey = [sum(w * c for w, c in zip(weights, heat_map.COLOURS(i / 20)[:3], strict=True)) for i in range(21)]
    assert grey == sorted(grey)
    assert rgb_to_hsv(heat_map.COLOURS(0.0)[:3])[0] == pytest.approx(0.59, abs=0.03)  # blue


def test_what_was_not_declared_or_not_finished_is_hatched() -> None:
    def without_one(trial: TrialConfig) -> Mapping[str, float] | str:
        method = trial.method
        gone = isinstance(method, Amp) and (method.inner_lr, method.inner_steps) == (5.0, 2)
        return "missing" if gone else numbers(trial)

    (drawn,) = heat_map.draw(made_material(study_of(GRID[:-1]), without_one))
    axes = panel(drawn.figure, "Digits")
    hatched = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert sorted(hatched) == [(1, 1), (1, 2)]
    assert set(texts(axes)) == {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert "Hatched" in drawn.caption
    assert "3 missing of 3" in drawn.caption


def test_a_single_pair_says_so() -> None:
    def one_seed(trial: TrialConfig) -> Mapping[str, float] | str:
        return "failed" if isinstance(trial.method, Amp) and trial.seed else numbers(trial)

    (drawn,) = heat_map.draw(made_material(study_of(GRID), one_seed))
    assert texts(panel(drawn.figure, "Digits"))[1, 0] == "-0.050\nn = 1"


def test_every_block_and_value_of_the_third_has_a_panel_on_one_scale() -> None:
    grid = [*GRID, *(Amp(epsilon=0.4, inner_lr=one.inner_lr, inner_steps=one.inner_steps) for one in GRID)]
    trials = [*study_of(grid).trials, *study_of(grid, recipes.digits_cnn).trials]

    def by_network(trial: TrialConfig) -> Mapping[str, float] | str:
        found = numbers(trial)
        assert not isinstance(found, str)
        return {name: value * (2 if isinstance(trial.model, SmallCnn) else 1) for name, value in found.items()}

    found = list(heat_map.draw(made_material(Study(name="all", question="?", trials=trials), by_network)))
    assert [one.stem for one in found] == ["epsilon by inner_lr", "epsilon by inner_steps", "inner_lr by inner_steps"]
    titles = [axes.get_title() for axes in found[2].figure.axes if axes.get_title()]
    expected = [f"Digits {network} method.epsilon={e}" for network in ("Mlp", "SmallCnn") for e in ("0.2", "0.4")]
    assert titles == expected
    meshes = [panel(found[2].figure, title).collections[0] for title in titles]
    assert [mesh.norm.vmax for mesh in meshes] == pytest.approx([2 * 0.1501] * 4)
    assert texts(panel(found[2].figure, expected[1]))[1, 0] == "+0.050"


def test_one_parameter_is_no_map_nor_are_two_that_change_together() -> None:
    assert not list(heat_map.draw(made_material(study_of(GRID[:3]), numbers)))
    together = [Amp(epsilon=0.1, inner_lr=0.2), Amp(epsilon=0.2, inner_lr=1.0), Amp(epsilon=0.4, inner_lr=5.0)]
    assert not list(heat_map.draw(made_material(study_of(together), numbers)))

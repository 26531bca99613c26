"""Decision boundaries: lines and points where they belong, seeds in rows, distances to a boundary that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from numpy.typing import NDArray

from analysis.figures import boundaries
from analysis.figures.base import Drawn, save_figures
from tests.analysis.figures.materials import points
from tests.analysis.figures.measurements import METHODS, probed_material, study_of
from trainer.config import Amp, Erm, TrialConfig
from trainer.probe_config import DecisionBoundary

PROBE = DecisionBoundary(points=41)
ANCHORS = np.array([[-0.5, -0.4], [0.0, 0.0], [0.7, 0.2], [0.9, -0.9]])
LABELS = np.array([0, 0, 1, 1])
IMAGES = np.array([[4.5, 4.5], [15.0, 0.0], [30.0, 15.0]])
"""The first lies where the number of its class would stand without it."""

Grid = Mapping[str, NDArray[Any]]


def straight(place: float, turned: float = 0.0, points: int = 41) -> Grid:
    """Class 1 right of the line at ``place`` whose normal is turned by so many degrees from the u axis."""
    u = np.linspace(-1, 1, points)
    v = np.linspace(-1, 1.5, points)
    angle = math.radians(turned)
    beyond = math.cos(angle) * u[None, :] + math.sin(angle) * v[:, None] - place
    predicted, margin = (beyond > 0).astype(np.int64), 3 * np.abs(beyond).astype(np.float32)
    return {"u": u, "v": v, "class": predicted, "margin": margin, "anchors": ANCHORS, "anchor_labels": LABELS}


def of_trial(trial: TrialConfig) -> Grid:
    """ERM's at 0.31, 0.33, …; that of others at 0.41, 0.43, …: of the anchors all are on the right side."""
    return straight((0.31 if trial.method == Erm() else 0.41) + 0.02 * trial.seed)


def drawn_of(folder: Path, **changed: Any) -> list[Drawn]:
    return list(boundaries.draw(probed_material(study_of(PROBE, **changed), folder, of_trial)))


def three_images(_: TrialConfig) -> Grid:
    """Thirds of the plane, of the classes 3, 5 and 8, around three images."""
    u = v = np.linspace(0, 30, 41)
    predicted = np.select([u < 10, u < 20], [3, 5], 8)[None, :].repeat(41, axis=0)
    about = {"anchors": IMAGES, "anchor_labels": np.array([3, 5, 8])}
    return {"u": u, "v": v, "class": predicted, "margin": np.ones((41, 41)), **about}


def line(axes: Axes) -> NDArray[Any]:
    """The vertices of the drawn boundary."""
    paths = [path for one in axes.collections if not isinstance(one, QuadMesh) for path in one.get_paths()]
    return np.concatenate([np.asarray(path.vertices) for path in paths])


@pytest.mark.parametrize("turned", [0.0, 30.0, 90.0])
def test_crossings_lie_on_a_straight_boundary(turned: float) -> None:
    angle = math.radians(turned)
    found = boundaries.crossings(straight(0.31, turned))
    assert len(found) >= 41
    assert found @ [math.cos(angle), math.sin(angle)] == pytest.approx(np.full(len(found), 0.31), abs=1e-6)


@pytest.mark.parametrize("turned", [0.0, 30.0])
def test_the_distance_to_a_straight_boundary(turned: float) -> None:
    angle = math.radians(turned)
    signed = (ANCHORS @ [math.cos(angle), math.sin(angle)] - 0.31) * np.array([-1, -1, 1, 1])
    # Of the crossings, at most a grid step apart, one is within half a step of the foot of the perpendicular.
    assert boundaries.distance(straight(0.31, turned, points=401)) == pytest.approx(signed.mean(), abs=1e-4)


def test_points_on_the_wrong_side_count_negative() -> None:
    grid = dict(straight(0.31, points=401))
    right = boundaries.distance(grid)
    assert boundaries.distance(grid | {"anchor_labels": 1 - LABELS}) == pytest.approx(-right)
    one_wrong = boundaries.distance(grid | {"anchor_labels": np.array([1, 0, 1, 1])})
    assert right - one_wrong == pytest.approx(2 * 0.81 / 4, abs=1e-3)


def test_there_is_no_distance_to_a_boundary_that_is_not_there() -> None:
    assert math.isnan(boundaries.distance(straight(5.0)))


def test_changes_are_shares_of_neighbours() -> None:
    # One column of pairs of the 40 · 41 beside one another; none of the 41 · 40 above one another.
    assert boundaries.changes(straight(0.31)) == pytest.approx(41 / (2 * 40 * 41))


def test_a_row_a_seed_with_erm_beside_the_other(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path, seeds=2)
    assert drawn.stem == "boundaries"
    titles = [axes.get_title() for axes in drawn.figure.axes]
    assert titles == [f"{name}, seed {seed}\n1.25 % of neighbours differ" for seed in (0, 1) for name in ("Erm", "Amp")]
    assert [line(axes)[:, 0].mean().round(3) for axes in drawn.figure.axes] == [0.31, 0.41, 0.33, 0.43]
    assert {axes.get_aspect() for axes in drawn.figure.axes} == {1.0}


def test_points_are_drawn_by_class_over_two_shades(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path, seeds=1)
    axes = drawn.figure.axes[0]
    assert points(axes, "training point of class 0") == [(-0.5, -0.4), (0.0, 0.0)]
    assert points(axes, "training point of class 1") == [(0.7, 0.2), (0.9, -0.9)]
    marks = {str(one.get_marker()) for one in axes.lines}
    assert len(marks) == 2
    (mesh,) = (one for one in axes.collections if isinstance(one, QuadMesh))
    mesh.update_scalarmappable()
    shades = {tuple(shade) for shade in np.asarray(mesh.get_facecolor()).reshape(-1, 4)}
    lightness = sorted(0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue, _ in shades)
    assert len(lightness) == 2
    assert lightness[1] - lightness[0] > 0.2


def test_the_caption_compares_over_all_seeds(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path)
    # The first two anchors are 0.1 farther from Amp's line, the last two 0.1 nearer: in each seed the same.
    assert "Erm 1.25, Amp 1.25, difference to ERM +0.00, n = 3;" in drawn.caption
    erm = np.mean([[boundaries.distance(straight(0.31 + 0.02 * seed))] for seed in range(3)])
    assert f"negative on its wrong side: Erm {erm:#.3g} [" in drawn.caption
    assert drawn.caption.count("n = 3") == 2
    assert "Seeds: 0, 1, 2." in drawn.caption


def test_at_most_four_seeds_are_shown_and_which(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path, seeds=6)
    assert len(drawn.figure.axes) == 8
    assert "Shown: the first 4 of 6 seeds (0, 1, 2, 3)." in drawn.caption
    assert "n = 6" in drawn.caption


def test_seeds_that_both_have_come_first_and_gaps_are_said(tmp_path: Path) -> None:
    def some(trial: TrialConfig) -> Grid | None:
        return None if trial.method != Erm() and trial.seed == 0 else of_trial(trial)

    (drawn,) = boundaries.draw(probed_material(study_of(PROBE, seeds=5), tmp_path, some))
    assert [axes.get_title().partition("\n")[0] for axes in drawn.figure.axes[::2]] == [
        f"Erm, seed {seed}" for seed in (1, 2, 3, 4)
    ]
    assert "Not every seed is measured: Amp 4 of 5." in drawn.caption
    assert "n = 4" in drawn.caption


def test_a_panel_that_is_not_measured_says_so(tmp_path: Path) -> None:
    def some(trial: TrialConfig) -> Grid | None:
        return None if trial.method != Erm() and trial.seed == 0 else of_trial(trial)

    (drawn,) = boundaries.draw(probed_material(study_of(PROBE, seeds=2), tmp_path, some))
    bare = [axes for axes in drawn.figure.axes if [text.get_text() for text in axes.texts] == ["not measured"]]
    assert [axes.get_title() for axes in bare] == ["Amp, seed 0"]


def test_regions_of_more_than_two_classes_have_their_numbers(tmp_path: Path) -> None:
    (drawn,) = boundaries.draw(probed_material(study_of(PROBE, seeds=1), tmp_path, three_images))
    axes = drawn.figure.axes[0]
    named = {text.get_text(): text.xy[0] for text in axes.texts}  # type: ignore[attr-defined]
    assert sorted(named) == ["3", "5", "8"]
    assert named["3"] < 10 < named["5"] < 20 < named["8"]
    places = np.array([text.xy for text in axes.texts])  # type: ignore[attr-defined]
    assert np.linalg.norm(places[:, None] - IMAGES, axis=-1).min() > 4
    assert np.unique(line(axes)[:, 0].round(3)).tolist() == [10.125, 19.875]
    assert points(axes, "training image of class 8") == [(30.0, 15.0)]
    assert "plane through three training images" in drawn.caption
    assert "One plane says nothing of others." in drawn.caption


def test_a_fourth_cell_beside_erm_is_on_another_page(tmp_path: Path) -> None:
    amps = tuple(Amp(epsilon=epsilon) for epsilon in (0.1, 0.2, 0.3, 0.4))
    first, second = drawn_of(tmp_path, methods=(Erm(), *amps), seeds=1)
    assert [len(first.figure.axes), len(second.figure.axes)] == [4, 2]
    assert [axes.get_title().partition(",")[0] for axes in second.figure.axes] == ["Erm", "Amp ε=0.4"]


def test_one_class_everywhere_is_drawn_without_a_line(tmp_path: Path) -> None:
    (drawn,) = boundaries.draw(probed_material(study_of(PROBE, seeds=1), tmp_path, lambda _: straight(5.0)))
    assert all(isinstance(one, QuadMesh) for one in drawn.figure.axes[0].collections)
    assert "Erm none, Amp none, difference to ERM no pair" in drawn.caption


def test_without_the_probe_or_its_measurements_nothing_is_drawn(tmp_path: Path) -> None:
    assert not list(boundaries.draw(probed_material(study_of(None), tmp_path, lambda _: None)))
    assert not list(boundaries.draw(probed_material(study_of(PROBE, methods=METHODS), tmp_path, lambda _: None)))


def test_saved_files_are_the_same_again(tmp_path: Path) -> None:
    first, second = (save_figures(drawn_of(tmp_path, seeds=1), tmp_path / name)[0] for name in ("first", "second"))
    assert first.png.read_bytes() == second.png.read_bytes()
    assert first.svg.read_bytes() == second.svg.read_bytes()

"""Curves over AMP's parameters: every seed, the means, what is marked, what stands underneath, what is said."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle

from analysis.figures import sensitivity
from analysis.figures.base import STYLE, save_figures
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.figures.materials import made_material, panel, points
from trainer.config import Amp, Erm, Method, TrialConfig

NLL = {0.1: 0.25, 0.2: 0.20, 0.4: 0.24}
"""Of the test set, over ε, at seed 0; every further seed adds 0.01."""


def study_of(methods: Sequence[Method], trial: Any = recipes.digits_mlp) -> Study:
    return Study(name="made-up", question="?", trials=[trial(method, seed) for seed in range(3) for method in methods])


def numbers(trial: TrialConfig) -> Mapping[str, float] | str:
    nll = 0.30 + 0.01 * trial.seed
    found = {"amp/delta_norm": 0.05, "amp/clip_fraction": 0.5} if isinstance(trial.method, Amp) else {}
    if isinstance(trial.method, Amp):
        nll = NLL.get(trial.method.epsilon, 0.22) + 0.01 * trial.seed
    parts = {f"{part}/{name}": nll / by for part in ("val", "test") for name, by in (("nll", 1), ("error", 10))}
    return parts | found | {"test/ece": nll / 20, "train/nll": nll / 100, "train/error": 0.0}


def sharpness(trial: TrialConfig) -> Mapping[str, float]:
    base = trial.method.epsilon if isinstance(trial.method, Amp) else 1.0
    return {"probe/sharpness/0.5": 10 * base, "probe/sharpness/0.05": base}


RADII: tuple[Method, ...] = (Erm(), *(Amp(epsilon=epsilon, inner_lr=2.0) for epsilon in NLL))


def test_every_seed_and_the_mean_over_them_is_drawn() -> None:
    (drawn,) = sensitivity.draw(made_material(study_of(RADII), numbers))
    axes = panel(drawn.figure, "test risk (NLL)")
    assert drawn.stem == "epsilon"
    seeds = [(epsilon, round(nll + 0.01 * seed, 6)) for epsilon, nll in NLL.items() for seed in range(3)]
    assert points(axes, "AMP, a seed") == seeds
    assert points(axes, "AMP, mean over seeds") == [(0.1, 0.26), (0.2, 0.21), (0.4, 0.25)]
    assert [y for _, y in points(axes, "ERM, a seed (at the left)")] == pytest.approx([0.30, 0.31, 0.32])
    (level,) = {y for _, y in points(axes, "ERM, mean over seeds")}
    assert level == pytest.approx(0.31)
    # 0.31 ± t(0.975, 2) · 0.01 / sqrt(3)
    band = next(p for p in axes.patches if isinstance(p, Rectangle) and p.get_label() == "ERM, 95% interval")
    assert band.get_height() == pytest.approx(2 * 4.302653 * 0.01 / 3**0.5, rel=1e-5)


def test_axes_name_the_parameter_and_the_ball_and_hold_all_seeds() -> None:
    balls = [replace(method, ball="per_tensor") if isinstance(method, Amp) else method for method in RADII]
    (drawn,) = sensitivity.draw(made_material(study_of(balls), numbers))
    shown = [axes for axes in drawn.figure.axes if axes.get_title()]
    assert {axes.get_xlabel() for axes in shown} == {"method.epsilon (ε, per_tensor L2 ball)"}
    assert {axes.get_xscale() for axes in shown} == {"log"}
    assert len({axes.get_xlim() for axes in shown}) == 1
    low, high = panel(drawn.figure, "test error (%)").get_ylim()
    assert low < 2.0 < 3.2 < high


def test_labels_of_a_wide_axis_do_not_touch() -> None:
    wide: tuple[Method, ...] = (Erm(), *(Amp(epsilon=epsilon) for epsilon in (0.01, 0.1, 0.3, 1.0, 3.0)))
    with mpl.rc_context(fname=STYLE):
        (drawn,) = sensitivity.draw(made_material(study_of(wide), numbers))
        drawn.figure.draw_without_rendering()
    for axes in (axes for axes in drawn.figure.axes if axes.get_title()):
        low, high = axes.get_xlim()
        labels = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
        assert [label.get_text() for label in labels] == ["0.01", "0.03", "0.1", "0.3", "1", "3"]
        ends = [label.get_window_extent() for label in labels]
        assert all(one.x1 < next_.x0 for one, next_ in itertools.pairwise(ends))


def test_the_choice_on_validation_is_marked_in_every_panel() -> None:
    (drawn,) = sensitivity.draw(made_material(study_of(RADII), numbers))
    for axes in drawn.figure.axes:
        marks = [line.get_label() for line in axes.lines if "chosen" in str(line.get_label())]
        assert marks == ["ε = 0.2, chosen on validation"] * bool(axes.get_title())
        assert {x for x, _ in points(axes, "ε = 0.2, chosen on validation")} == ({0.2} if marks else set())
    assert "lowest mean validation NLL" in drawn.caption


def test_underneath_is_what_amp_did() -> None:
    (drawn,) = sensitivity.draw(made_material(study_of(RADII), numbers, probes=sharpness))
    flat = panel(drawn.figure, "sharpness on training images")
    assert points(flat, "AMP, mean over seeds") == [
        *((0.1, 0.1), (0.1, 1.0)),
        *((0.2, 0.2), (0.2, 2.0)),
        *((0.4, 0.4), (0.4, 4.0)),
    ]
    assert {y for _, y in points(flat, "ERM, mean over seeds")} == {1.0, 10.0}
    low, high = flat.get_ylim()
    assert flat.get_yscale() == "log"
    assert low < 0.1 < 10 < high
    legend = flat.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["ρ = 0.05", "ρ = 0.5"]
    curves = [line for line in flat.lines if line.get_label() == "AMP, mean over seeds"]
    assert len({line.get_marker() for line in curves}) == 2
    single = [line for line in flat.lines if np.size(line.get_xdata()) == 1]
    levels = {float(np.ravel(line.get_ydata())[0]): line.get_marker() for line in single}
    assert levels == {1.0: curves[0].get_marker(), 10.0: curves[1].get_marker()}, "which level is of which radius"
    norm = panel(drawn.figure, "norm of Δ in units of ε")
    assert points(norm, "AMP, mean over seeds") == [(0.1, 0.5), (0.2, 0.25), (0.4, 0.125)]
    assert "sharpness" in drawn.caption


def test_without_probes_only_what_training_recorded_is_underneath() -> None:
    (drawn,) = sensitivity.draw(made_material(study_of(RADII), numbers))
    titles = [axes.get_title() for axes in drawn.figure.axes if axes.get_title()]
    assert titles[5:] == ["share of clips that shorten Δ", "norm of Δ in units of ε"]
    assert "sharpness" not in drawn.caption


@pytest.mark.parametrize(
    ("methods", "stem", "label", "scale"),
    [
        ([Amp(epsilon=0.5, inner_lr=zeta) for zeta in (0.1, 1.0, 10.0)], "inner_lr", "method.inner_lr (ζ)", "log"),
        (
            [Amp(epsilon=0.5, inner_steps=steps) for steps in (1, 2, 5)],
            "inner_steps",
            "method.inner_steps (N)",
            "linear",
        ),
    ],
)
def test_other_parameters_have_curves_too(methods: list[Method], stem: str, label: str, scale: str) -> None:
    (drawn,) = sensitivity.draw(made_material(study_of([Erm(), *methods]), numbers))
    axes = panel(drawn.figure, "test risk (NLL)")
    assert (drawn.stem, axes.get_xlabel(), axes.get_xscale()) == (stem, label, scale)
    assert "The paper's text has no such figure." in drawn.caption
    assert "ε = 0.5" in drawn.caption


def test_every_block_has_a_figure_with_its_own_erm() -> None:
    trials = [*study_of(RADII).trials, *study_of(RADII, recipes.digits_cnn).trials]
    study = Study(name="two", question="?", trials=trials)

    def by_network(trial: TrialConfig) -> Mapping[str, float] | str:
        found = numbers(trial)
        assert not isinstance(found, str)
        factor = 2.0 if type(trial.model).__name__ == "SmallCnn" else 1.0
        return {name: factor * value for name, value in found.items()}

    drawn = list(sensitivity.draw(made_material(study, by_network)))
    assert [one.stem for one in drawn] == ["epsilon Digits Mlp", "epsilon Digits SmallCnn"]
    levels = [points(panel(one.figure, "test risk (NLL)"), "ERM, mean over seeds")[0][1] for one in drawn]
    assert levels == pytest.approx([0.31, 0.62])
    assert [len(points(panel(one.figure, "test risk (NLL)"), "AMP, a seed")) for one in drawn] == [9, 9]


def test_beside_a_map_there_are_only_curves_of_four_values_or_more() -> None:
    grid = [Amp(epsilon=epsilon, inner_lr=zeta) for epsilon in (*NLL, 0.8) for zeta in (1.0, 2.0)]
    drawn = list(sensitivity.draw(made_material(study_of([Erm(), *grid]), numbers)))
    assert [one.stem for one in drawn] == ["epsilon method.inner_lr=1", "epsilon method.inner_lr=2"]


def test_seeds_that_are_missing_are_no_points_and_are_said() -> None:
    def with_gaps(trial: TrialConfig) -> Mapping[str, float] | str:
        if isinstance(trial.method, Amp) and trial.method.epsilon == 0.4 and trial.seed:
            return "diverged" if trial.seed == 1 else "missing"
        return numbers(trial)

    (drawn,) = sensitivity.draw(made_material(study_of(RADII), with_gaps))
    axes = panel(drawn.figure, "test risk (NLL)")
    assert len(points(axes, "AMP, a seed")) == 7
    assert points(axes, "AMP, mean over seeds")[-1] == (0.4, 0.24)
    assert "Not every seed has a number: Amp epsilon=0.4 1 diverged, 1 missing of 3." in drawn.caption


def test_an_interval_between_points_that_have_none_is_a_bar() -> None:
    """A band between 0.1 and 0.2 needs both; all seeds of 0.2 agree."""

    def equal(trial: TrialConfig) -> Mapping[str, float] | str:
        found = numbers(trial)
        if isinstance(found, str) or not isinstance(trial.method, Amp) or trial.method.epsilon != 0.2:
            return found
        return {**found, "test/nll": 0.2}

    (drawn,) = sensitivity.draw(made_material(study_of(RADII), equal))
    (bars,) = panel(drawn.figure, "test risk (NLL)").containers
    assert isinstance(bars, ErrorbarContainer)
    heights = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
    half = 4.302653 * 0.01 / 3**0.5  # t(0.975, 2) · sd / sqrt(n)
    assert [list(ends) for ends in heights] == [
        pytest.approx([mean - half, mean + half], rel=1e-5) for mean in (0.26, 0.25)
    ]
    assert not panel(drawn.figure, "test error (%)").containers, "there the band is whole"


def test_no_amp_or_one_setting_is_no_curve() -> None:
    assert not list(sensitivity.draw(made_material(study_of([Erm(), Amp(epsilon=0.2)]), numbers)))
    assert not list(sensitivity.draw(made_material(study_of([Erm()]), numbers)))


def test_saved_files_are_the_same_again(tmp_path: Path) -> None:
    first, second = (
        save_figures(sensitivity.draw(made_material(study_of(RADII), numbers, probes=sharpness)), tmp_path / name)
        for name in ("first", "second")
    )
    assert first[0].png.read_bytes() == second[0].png.read_bytes()
    assert first[0].svg.read_bytes() == second[0].svg.read_bytes()
    assert "method.epsilon (ε, global L2 ball)" in first[0].svg.read_text()

"""ECE bars: heights, intervals and seeds in per cent, told apart without colour; where they are not drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.patches import Rectangle

from analysis.figures import calibration
from analysis.figures.base import LOOKS, save_figures
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.figures.materials import made_material, panel
from trainer.config import Amp, Dropout, Erm, LabelSmoothing, Method, TrialConfig

METHODS: tuple[Method, ...] = (Erm(), Dropout(rate=0.1), Amp(epsilon=0.5))
ECE = {"Erm": 0.04, "Dropout": 0.05, "Amp": 0.02}
"""At seed 0; every further seed adds 0.01."""


def study_of(methods: tuple[Method, ...] = METHODS, networks: int = 1, seeds: int = 3) -> Study:
    recipe = (recipes.digits_mlp, recipes.digits_cnn, recipes.mnist5k_mlp, recipes.mnist5k_cnn)[:networks]
    trials = [trial(method, seed) for trial in recipe for seed in range(seeds) for method in methods]
    return Study(name="made-up", question="?", trials=trials)


def numbers(trial: TrialConfig) -> Mapping[str, float] | str:
    return {"test/nll": 0.5, "test/ece": ECE[type(trial.method).__name__] + 0.01 * trial.seed}


def bars(axes: Axes) -> dict[str, Rectangle]:
    found = [one for one in axes.containers if isinstance(one, BarContainer)]
    return {str(one.get_label()): one.patches[0] for one in found}


def seeds(axes: Axes) -> list[list[float]]:
    return [np.asarray(line.get_ydata()).round(6).tolist() for line in axes.lines if line.get_label() == "a seed"]


def intervals(axes: Axes) -> list[list[float]]:
    """Lower and upper end of each."""
    found = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    return [sorted(np.asarray(one.lines[2][0].get_segments()[0])[:, 1].tolist()) for one in found]


def test_bars_are_means_in_per_cent_with_every_seed_and_the_interval() -> None:
    (drawn,) = calibration.draw(made_material(study_of(), numbers))
    axes = panel(drawn.figure, "Digits")
    assert drawn.stem == "calibration"
    assert {name: bar.get_height() for name, bar in bars(axes).items()} == pytest.approx(
        {"Erm": 5.0, "Dropout": 6.0, "Amp": 3.0}
    )
    assert seeds(axes) == [[4.0, 5.0, 6.0], [5.0, 6.0, 7.0], [2.0, 3.0, 4.0]]
    half = 4.302653 / math.sqrt(3)  # t(0.975, 2) · 1 / sqrt(3)
    assert np.array(intervals(axes)) == pytest.approx(np.array([[m - half, m + half] for m in (5.0, 6.0, 3.0)]))
    assert axes.get_ylabel() == "test ECE (%)"
    assert axes.get_ylim()[0] == 0.0
    assert axes.get_ylim()[1] > 6 + half
    assert "3 seeds" in drawn.caption


def test_methods_are_told_apart_without_colour_and_named_in_the_order_of_the_bars() -> None:
    assert len({look.hatch for look in LOOKS.values()}) == len(LOOKS)
    (drawn,) = calibration.draw(made_material(study_of(), numbers))
    axes = panel(drawn.figure, "Digits")
    assert [bar.get_hatch() or "" for bar in bars(axes).values()] == [LOOKS[name].hatch for name in ECE]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars(axes).values()] == pytest.approx([0, 1, 2])
    texts = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert texts == ["Erm", "Dropout", "Amp", "a seed", "95% interval"]


def test_every_block_has_a_panel() -> None:
    def by_network(trial: TrialConfig) -> Mapping[str, float] | str:
        ece = 0.1 if type(trial.model).__name__ == "SmallCnn" else 0.2
        return {"test/nll": 0.5, "test/ece": ece}

    (drawn,) = calibration.draw(made_material(study_of(networks=4), by_network))
    titles = ["Digits Mlp", "Digits SmallCnn", "Mnist5k Mlp", "Mnist5k SmallCnn"]
    assert [axes.get_title() for axes in drawn.figure.axes] == titles
    assert [bars(axes)["Amp"].get_height() for axes in drawn.figure.axes] == pytest.approx([20, 10, 20, 10])
    assert [axes.get_ylabel() for axes in drawn.figure.axes] == ["test ECE (%)", "", "test ECE (%)", ""]
    assert "Each panel has a scale of its own." in drawn.caption


def test_one_seed_or_equal_ones_have_no_interval() -> None:
    (drawn,) = calibration.draw(made_material(study_of(seeds=1), numbers))
    assert intervals(drawn.figure.axes[0]) == []
    assert seeds(drawn.figure.axes[0]) == [[4.0], [5.0], [2.0]]


def test_wide_intervals_do_not_hide_the_rest() -> None:
    apart = made_material(study_of(seeds=2), lambda trial: {"test/nll": 0.5, "test/ece": 0.05 + 0.03 * trial.seed})
    (drawn,) = calibration.draw(apart)
    assert max(intervals(drawn.figure.axes[0])[0]) > 20  # of 5 and 8: 6.5 + t(0.975, 1) · 1.5
    assert drawn.figure.axes[0].get_ylim() == pytest.approx((0.0, 1.06 * 2 * 8.0))
    assert "cut at twice the highest seed" in drawn.caption


def test_what_is_missing_is_no_bar_and_is_said() -> None:
    def with_gaps(trial: TrialConfig) -> Mapping[str, float] | str:
        if trial.method == Dropout(rate=0.1) or (isinstance(trial.method, Amp) and trial.seed == 2):
            return "diverged"
        return numbers(trial)

    (drawn,) = calibration.draw(made_material(study_of(), with_gaps))
    axes = drawn.figure.axes[0]
    assert {name: bar.get_height() for name, bar in bars(axes).items()} == pytest.approx({"Erm": 5.0, "Amp": 2.5})
    assert [(text.get_text(), text.get_position()[0]) for text in axes.texts] == [("none", 1)]
    assert "Not every seed has a number: Dropout 3 diverged of 3; Amp 1 diverged of 3." in drawn.caption


def test_a_search_shows_the_validation_set() -> None:
    (drawn,) = calibration.draw(made_material(study_of(), lambda _: {"val/nll": 0.5, "val/ece": 0.1}))
    assert drawn.figure.axes[0].get_ylabel() == "val ECE (%)"
    assert "on the validation set" in drawn.caption


@pytest.mark.parametrize(
    "methods", [(Erm(),), (Erm(), Amp(epsilon=0.1), Amp(epsilon=0.2)), (LabelSmoothing(smoothing=0.2),)]
)
def test_cells_that_do_not_differ_in_the_method_alone_are_not_drawn(methods: tuple[Method, ...]) -> None:
    assert not list(calibration.draw(made_material(study_of(methods), lambda _: {"test/nll": 0.5, "test/ece": 0.1})))


def test_without_ece_nothing_is_drawn() -> None:
    assert not list(calibration.draw(made_material(study_of(), lambda _: {"test/nll": 0.5})))
    assert not list(calibration.draw(made_material(study_of(), lambda _: {"test/nll": 0.5, "test/ece": math.nan})))


def test_a_block_without_ece_is_left_out() -> None:
    def first_alone(trial: TrialConfig) -> Mapping[str, float] | str:
        return numbers(trial) if type(trial.model).__name__ == "Mlp" else "missing"

    (drawn,) = calibration.draw(made_material(study_of(networks=2), first_alone))
    assert [axes.get_title() for axes in drawn.figure.axes] == ["Digits Mlp"]


def test_saved_files_are_the_same_again(tmp_path: Path) -> None:
    first, second = (
        save_figures(calibration.draw(made_material(study_of(), numbers)), tmp_path / name)[0]
        for name in ("first", "second")
    )
    assert first.png.read_bytes() == second.png.read_bytes()
    assert first.svg.read_bytes() == second.svg.read_bytes()
    assert "test ECE (%)" in first.svg.read_text()

"""Reliability diagrams: points in their bins, seeds that have them, shares, ECE; where they are not drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from numpy.typing import NDArray

from analysis.figures import reliability
from analysis.figures.base import save_figures
from tests.analysis.figures.materials import points
from tests.analysis.figures.measurements import probed_material, study_of
from trainer.config import Amp, Erm, Method, SmallCnn, TrialConfig
from trainer.probe_config import Calibration

PROBE = Calibration(bins=4)


def bins(trial: TrialConfig, part: str = "test") -> Mapping[str, NDArray[Any]]:
    """Accuracy of the last bin 0.9, 0.88, 0.86 at confidence 0.95; of the third only seed 0 has a prediction."""
    nan = math.nan
    third = 1 if trial.seed == 0 else 0
    return {
        "edges": np.arange(5) / 4,
        f"{part}/count": np.array([0, 20, third, 80 - third]),
        f"{part}/confidence": np.array([nan, 0.4, 0.6 if third else nan, 0.95]),
        f"{part}/accuracy": np.array([nan, 0.3, 1.0 if third else nan, 0.9 - 0.02 * trial.seed]),
    }


def means(axes: Axes, label: str) -> list[tuple[float, float]]:
    found = [one.lines[0] for one in axes.containers if isinstance(one, ErrorbarContainer) and one.get_label() == label]
    return [(round(float(x), 6), round(float(y), 6)) for line in found for x, y in np.asarray(line.get_xydata())]


def intervals(axes: Axes) -> NDArray[Any]:
    """Lower and upper end of each, of bins rising; NaN where there is none."""
    found = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    segments = [np.asarray(segment) for one in found for segment in one.lines[2][0].get_segments()]
    drawn = [segment for segment in segments if len(segment) and not np.isnan(segment).any()]
    return np.array([sorted(segment[:, 1]) for segment in sorted(drawn, key=lambda segment: segment[0, 0])])


def test_points_are_mean_accuracies_at_mean_confidences(tmp_path: Path) -> None:
    (drawn,) = reliability.draw(probed_material(study_of(PROBE), tmp_path, bins))
    assert drawn.stem == "reliability"
    axes = drawn.figure.axes[0]
    assert means(axes, "mean over all seeds") == [(0.4, 0.3), (0.95, 0.88)]
    assert points(axes, "a seed") == sorted([(0.4, 0.3)] * 3 + [(0.6, 1.0), (0.95, 0.9), (0.95, 0.88), (0.95, 0.86)])
    half = 4.302653 * 0.02 / math.sqrt(3)  # of 0.9, 0.88, 0.86; the other bins' seeds are equal or one
    assert intervals(axes) == pytest.approx(np.array([[0.88 - half, 0.88 + half]]))
    assert points(axes, "accuracy = confidence") == [(0.0, 0.0), (1.0, 1.0)]
    assert "3 seeds" in drawn.caption
    assert "4 bins" in drawn.caption


def test_bins_that_not_all_seeds_have_are_hollow_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    (drawn,) = reliability.draw(probed_material(study_of(PROBE), tmp_path, bins))
    axes = drawn.figure.axes[0]
    assert means(axes, "mean over some seeds") == [(0.6, 1.0)]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [np.asarray(line.get_xydata()).round(6).tolist() for line in hollow] == [[[0.6, 1.0]]]
    assert min(x for x, _ in points(axes, "a seed")) == 0.4


def test_shares_are_means_over_all_seeds(tmp_path: Path) -> None:
    (drawn,) = reliability.draw(probed_material(study_of(PROBE), tmp_path, bins))
    below = drawn.figure.axes[2]
    (found,) = (one for one in below.containers if isinstance(one, BarContainer))
    shares = {round(bar.get_x(), 6): bar.get_height() for bar in found.patches}
    assert shares == pytest.approx({0.25: 20.0, 0.5: 1 / 3, 0.75: 79 + 2 / 3})
    assert {bar.get_width() for bar in found.patches} == {0.25}
    assert below.get_yscale() == "log"


def test_titles_have_the_ece_with_its_interval(tmp_path: Path) -> None:
    (drawn,) = reliability.draw(probed_material(study_of(PROBE), tmp_path, bins))
    eces = [100 * (0.2 * 0.1 + 0.01 * 0.4 + 0.79 * 0.05), 100 * (0.02 + 0.8 * 0.07), 100 * (0.02 + 0.8 * 0.09)]
    mean, half = np.mean(eces), 4.302653 * np.std(eces, ddof=1) / math.sqrt(3)
    title = drawn.figure.axes[0].get_title()
    assert title == f"Erm\nECE {mean:.2f} [{mean - half:.2f}, {mean + half:.1f}] %"


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    (drawn,) = reliability.draw(probed_material(study_of(PROBE, seeds=1), tmp_path, bins))
    axes = drawn.figure.axes[0]
    assert intervals(axes).size == 0
    assert means(axes, "mean over all seeds") == [(0.4, 0.3), (0.6, 1.0), (0.95, 0.9)]
    assert axes.get_title() == "Erm\nECE 6.35 %"


def test_a_ninth_cell_is_on_another_page(tmp_path: Path) -> None:
    methods: tuple[Method, ...] = (Erm(), *(Amp(epsilon=epsilon / 10) for epsilon in range(1, 9)))
    first, second = reliability.draw(probed_material(study_of(PROBE, methods, seeds=1), tmp_path, bins))
    assert [first.stem, second.stem] == ["reliability 1", "reliability 2"]
    titles = [axes.get_title().partition("\n")[0] for axes in first.figure.axes if axes.get_title()]
    assert titles == ["Erm", *(f"Amp ε={epsilon / 10}" for epsilon in range(1, 8))]
    assert [axes.get_title().partition("\n")[0] for axes in second.figure.axes] == ["Amp ε=0.8", ""]


def test_every_block_has_a_figure(tmp_path: Path) -> None:
    trials = list(study_of(PROBE).trials)
    trials += [dataclasses.replace(trial, model=SmallCnn(width=16)) for trial in trials if trial.seed == 1]
    study = dataclasses.replace(study_of(PROBE), trials=trials)
    drawn = list(reliability.draw(probed_material(study, tmp_path, bins)))
    assert [one.stem for one in drawn] == ["reliability Digits Mlp", "reliability Digits SmallCnn"]
    assert drawn[1].caption.startswith("Digits SmallCnn: ")
    assert means(drawn[1].figure.axes[1], "mean over all seeds") == [(0.4, 0.3), (0.95, 0.88)]


def test_a_search_shows_the_validation_set(tmp_path: Path) -> None:
    (drawn,) = reliability.draw(probed_material(study_of(PROBE), tmp_path, lambda trial: bins(trial, "val")))
    assert means(drawn.figure.axes[0], "mean over all seeds") == [(0.4, 0.3), (0.95, 0.88)]
    assert "accuracy on the validation set" in drawn.caption


def test_what_is_not_measured_is_said(tmp_path: Path) -> None:
    def some(trial: TrialConfig) -> Mapping[str, NDArray[Any]] | None:
        return None if trial.method != Erm() or trial.seed == 2 else bins(trial)

    (drawn,) = reliability.draw(probed_material(study_of(PROBE), tmp_path, some))
    assert [axes.get_title().partition("\n")[0] for axes in drawn.figure.axes] == ["Erm", ""]
    assert means(drawn.figure.axes[0], "mean over all seeds") == [(0.4, 0.3), (0.95, 0.89)]
    assert "Not every seed is measured: Erm 2 of 3, Amp none." in drawn.caption


def test_without_the_probe_or_its_measurements_nothing_is_drawn(tmp_path: Path) -> None:
    assert not list(reliability.draw(probed_material(study_of(None), tmp_path, lambda _: None)))
    assert not list(reliability.draw(probed_material(study_of(PROBE), tmp_path, lambda _: None)))


def test_saved_files_are_the_same_again(tmp_path: Path) -> None:
    first, second = (
        save_figures(reliability.draw(probed_material(study_of(PROBE), tmp_path, bins)), tmp_path / name)[0]
        for name in ("first", "second")
    )
    assert first.png.read_bytes() == second.png.read_bytes()
    assert first.svg.read_bytes() == second.svg.read_bytes()
    assert "accuracy = confidence" in first.svg.read_text()

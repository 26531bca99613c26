"""Loss along directions: every curve, means over seeds of each seed's mean, what is compared, what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.figures import directions
from analysis.figures.base import Drawn, save_figures
from tests.analysis.figures.materials import panel, points
from tests.analysis.figures.measurements import METHODS, probed_material, study_of
from trainer.config import Amp, Dropout, Erm, TrialConfig
from trainer.probe_config import LossAlongDirections, Sharpness

PROBE = LossAlongDirections(directions=2, extent=1.0, points=5)
ALPHAS = np.linspace(-1, 1, 5)


def losses(trial: TrialConfig) -> Mapping[str, NDArray[Any]]:
    """Test loss 1 + 0.1·seed + rise·α²·(1 or 3), with the rise 1 for ERM and 0.25 for others; training a tenth."""
    rise = (1.0 if trial.method == Erm() else 0.25) * (1 + 0.1 * trial.seed)
    test = 1 + 0.1 * trial.seed + rise * np.array([[1.0], [3.0]]) * ALPHAS**2
    return {"alphas": ALPHAS, "train/loss": test / 10, "test/loss": test}


def drawn_of(folder: Path, **changed: Any) -> list[Drawn]:
    return list(directions.draw(probed_material(study_of(PROBE, **changed), folder, losses)))


def thin(axes: Axes) -> list[NDArray[Any]]:
    lines = [line for line in axes.lines if line.get_linewidth() == 0.4]
    return [np.asarray(line.get_ydata(), dtype=float) for line in lines if len(np.asarray(line.get_ydata()))]


def test_every_seed_and_direction_is_a_line_in_both_parts(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path)
    assert drawn.stem == "directions"
    curves = thin(panel(drawn.figure, "test loss: Erm and Amp"))
    assert len(curves) == 2 * 3 * 2  # cells, seeds, directions
    assert sorted(curve[0] for curve in curves)[-1] == pytest.approx(1.2 + 1.2 * 3)
    assert [curve[2] for curve in curves[:6]] == pytest.approx([1.0, 1.0, 1.1, 1.1, 1.2, 1.2])
    assert sorted(curve[0] for curve in thin(panel(drawn.figure, "training loss: Erm and Amp")))[-1] == pytest.approx(
        0.48
    )


def test_the_mean_and_its_interval_are_over_seeds_not_directions(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path)
    axes = panel(drawn.figure, "test loss: Erm and Amp")
    assert [y for _, y in points(axes, "Amp, mean over seeds")] == pytest.approx([1.65, 1.2375, 1.1, 1.2375, 1.65])
    assert [x for x, _ in points(axes, "Erm, mean over seeds")] == ALPHAS.tolist()
    (band,) = (one for one in axes.collections if one.get_label() == "Erm, 95% interval")
    corners = band.get_paths()[0].vertices
    at_end = np.asarray(corners)[np.asarray(corners)[:, 0] == -1][:, 1]
    # Seeds' means 3, 3.3, 3.6: 3.3 ± t(0.975, 2) · 0.3 / sqrt(3).
    assert (at_end.min(), at_end.max()) == pytest.approx((3.3 - 4.302653 * 0.3 / 3**0.5, 3.3 + 4.302653 * 0.3 / 3**0.5))


def test_the_rise_is_compared_to_erms_paired_by_seed(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path)
    # Rises 2, 2.2, 2.4 and a quarter: differences -1.5, -1.65, -1.8, mean ± t(0.975, 2) · 0.15 / sqrt(3).
    assert "test: Amp -1.65 [-2.02, -1.28], n = 3." in drawn.caption
    assert "training: Amp -0.165 [-0.202, -0.128], n = 3." in drawn.caption
    assert "Erm n = 3, Amp n = 3" in drawn.caption
    assert "along 2 random directions" in drawn.caption
    assert "overflowed" not in drawn.caption


def test_axes_begin_at_0_and_hold_all(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path)
    axes = panel(drawn.figure, "test loss: Erm and Amp")
    low, high = axes.get_ylim()
    assert low == 0.0
    assert high > 4.8
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step α along the direction", "loss L(θ + αd)")


def test_every_other_cell_has_a_row_with_erm_and_a_fifth_is_on_another_page(tmp_path: Path) -> None:
    amps = tuple(Amp(epsilon=epsilon) for epsilon in (0.1, 0.2, 0.3, 0.4))
    first, second = drawn_of(tmp_path, methods=(Erm(), *amps, Dropout(rate=0.1)))
    assert [first.stem, second.stem] == ["directions 1", "directions 2"]
    titles = [axes.get_title() for axes in first.figure.axes]
    assert titles[::2] == [f"training loss: Erm and Amp ε={epsilon}" for epsilon in (0.1, 0.2, 0.3, 0.4)]
    assert [axes.get_title() for axes in second.figure.axes] == [
        "training loss: Erm and Dropout",
        "test loss: Erm and Dropout",
    ]


def test_without_erm_a_cell_is_drawn_by_itself(tmp_path: Path) -> None:
    (drawn,) = drawn_of(tmp_path, methods=METHODS[1:])
    assert [axes.get_title() for axes in drawn.figure.axes] == ["training loss: Amp", "test loss: Amp"]
    assert "less that of ERM" not in drawn.caption


def test_what_is_not_measured_is_no_line_and_is_said(tmp_path: Path) -> None:
    def some(trial: TrialConfig) -> Mapping[str, NDArray[Any]] | None:
        return losses(trial) if trial.method == Erm() or trial.seed == 1 else None

    (drawn,) = directions.draw(probed_material(study_of(PROBE), tmp_path, some))
    axes = panel(drawn.figure, "test loss: Erm and Amp")
    assert len(thin(axes)) == 3 * 2 + 2
    assert not [one for one in axes.collections if one.get_label() == "Amp, 95% interval"]
    assert "Not every seed is measured: Amp 1 of 3." in drawn.caption
    assert "test: Amp -1.65, n = 1." in drawn.caption


def test_a_loss_that_overflowed_is_a_gap(tmp_path: Path) -> None:
    def overflowing(trial: TrialConfig) -> Mapping[str, NDArray[Any]]:
        found = {name: array.copy() for name, array in losses(trial).items()}
        if trial.seed == 0:
            found["test/loss"][0, -1] = math.inf
        return found

    (drawn,) = directions.draw(probed_material(study_of(PROBE), tmp_path, overflowing))
    means = points(panel(drawn.figure, "test loss: Erm and Amp"), "Erm, mean over seeds")
    assert means[-1] == pytest.approx((1.0, (3.3 + 3.6) / 2))
    assert "[-2.68, -0.772], n = 2." in drawn.caption  # -1.725 ± t(0.975, 1) · 0.106 / sqrt(2)
    assert "left out where a loss overflowed" in drawn.caption


def test_without_the_probe_or_its_measurements_nothing_is_drawn(tmp_path: Path) -> None:
    assert not list(directions.draw(probed_material(study_of(None), tmp_path, lambda _: None)))
    assert not list(directions.draw(probed_material(study_of(PROBE), tmp_path, lambda _: None)))
    other = study_of(Sharpness(radii=(0.1,)))
    assert not list(directions.draw(probed_material(other, tmp_path, lambda _: {"radii": np.array([0.1])})))


def test_saved_files_are_the_same_again(tmp_path: Path) -> None:
    first, second = (save_figures(drawn_of(tmp_path), tmp_path / name)[0] for name in ("first", "second"))
    assert first.png.read_bytes() == second.png.read_bytes()
    assert first.svg.read_bytes() == second.svg.read_bytes()
    assert "Amp, mean over seeds" in first.svg.read_text()

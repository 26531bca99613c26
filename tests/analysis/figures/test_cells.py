"""A row a cell, and a row a method's differences to ERM: which rows, at which values, beside which line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import cells, comparison
from analysis.figures.base import LOOKS, save_figures
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.figures.materials import made_material
from trainer.config import Amp, Dropout, Erm, Method, Mnist5k, Sam, TrialConfig

METHODS: tuple[Method, ...] = (Erm(), Dropout(rate=0.1), Amp(epsilon=0.2))
NLL = {"Erm": 0.30, "Dropout": 0.34, "Amp": 0.25, "Sam": 0.28}
SPREAD = {"Erm": 0.02, "Dropout": 0.02, "Amp": 0.01, "Sam": 0.01}
"""From one seed to the next."""


def numbers(trial: TrialConfig) -> Mapping[str, float] | str:
    method = type(trial.method).__name__
    nll = NLL[method] + SPREAD[method] * trial.seed + (0.5 if isinstance(trial.dataset, Mnist5k) else 0.0)
    parts = {f"{part}/{name}": nll / by for part in ("val", "test") for name, by in (("nll", 1), ("error", 10))}
    return parts | {"test/ece": nll / 20}


def trials(methods: tuple[Method, ...] = METHODS) -> Iterator[TrialConfig]:
    for seed in range(3):
        for trial in (recipes.digits_mlp, recipes.mnist5k_mlp):
            yield from (trial(method, seed) for method in methods)


STUDY = Study(name="made-up", question="?", trials=tuple(trials()))


def rows(axes: Axes, gid: str) -> list[tuple[str, list[float]]]:
    """Marker and values of every line that is marked so, from the first row to the last."""
    lines = [line for line in axes.lines if line.get_gid() == gid]
    return [(str(line.get_marker()), np.asarray(line.get_xdata(), dtype=float).round(6).tolist()) for line in lines]


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def level(axes: Axes) -> float:
    """Where the dashed line is."""
    return float(np.asarray(axes.lines[0].get_xdata(), dtype=float)[0])


def first_panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_xlabel().startswith("test NLL")]


def test_every_cell_has_a_row_in_its_block() -> None:
    (drawn,) = cells.draw(made_material(STUDY, numbers))
    assert drawn.stem == "cells"
    digits, mnist = first_panels(drawn.figure)
    assert [axes.get_title(loc="left") for axes in (digits, mnist)] == ["Digits", "Mnist5k"]
    assert labels(digits) == ["Erm", "Dropout", "Amp"]
    assert rows(digits, "mean") == [("s", [0.32]), ("v", [0.36]), ("o", [0.26])]
    assert rows(digits, "seeds") == [(".", [0.3, 0.32, 0.34]), (".", [0.34, 0.36, 0.38]), (".", [0.25, 0.26, 0.27])]
    assert [level(axes) for axes in (digits, mnist)] == pytest.approx([0.32, 0.82])
    assert digits.yaxis_inverted()  # the first row on top


def test_scales_and_titles_are_those_of_people() -> None:
    (drawn,) = cells.draw(made_material(STUDY, numbers))
    assert [axes.get_xlabel() for axes in drawn.figure.axes[:3]] == ["test NLL", "test error (%)", "test ECE (%)"]
    assert level(drawn.figure.axes[1]) == pytest.approx(3.2)
    low, high = drawn.figure.axes[1].get_xlim()
    assert low < 2.5 < 3.8 < high


def test_markers_tell_methods_apart_without_colour() -> None:
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)


def test_missing_seeds_stand_in_the_label_and_the_caption() -> None:
    def with_gaps(trial: TrialConfig) -> Mapping[str, float] | str:
        return "diverged" if isinstance(trial.method, Amp) and trial.seed else numbers(trial)

    (drawn,) = cells.draw(made_material(STUDY, with_gaps))
    axes = first_panels(drawn.figure)[0]
    assert labels(axes)[2] == "Amp (1/3)"
    assert rows(axes, "seeds")[2] == (".", [0.25])
    assert "2 diverged of 3" in drawn.caption


def test_wide_intervals_of_two_seeds_do_not_hide_the_rest() -> None:
    def two_seeds(trial: TrialConfig) -> Mapping[str, float] | str:
        return "missing" if trial.seed == 2 else numbers(trial)

    (drawn,) = cells.draw(made_material(STUDY, two_seeds))
    low, high = first_panels(drawn.figure)[0].get_xlim()
    assert low < 0.25 < 0.36 < high
    assert high - low < 0.26  # ERM's interval alone is 0.31 ± 0.127, that of Dropout 0.35 ± 0.127


def test_what_spans_much_has_a_log_axis() -> None:
    def far_off(trial: TrialConfig) -> Mapping[str, float] | str:
        found = numbers(trial)
        assert not isinstance(found, str)
        return {name: value * (9 if isinstance(trial.method, Dropout) else 1) for name, value in found.items()}

    (drawn,) = cells.draw(made_material(STUDY, far_off))
    axes = first_panels(drawn.figure)[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((0.25 / 1.25, 9 * 0.38 * 1.25))


def test_a_cell_without_numbers_keeps_its_row() -> None:
    def without_amp(trial: TrialConfig) -> Mapping[str, float] | str:
        return "failed" if isinstance(trial.method, Amp) else numbers(trial)

    (drawn,) = cells.draw(made_material(STUDY, without_amp))
    axes = first_panels(drawn.figure)[0]
    assert labels(axes)[2] == "Amp (0/3)"
    assert len(rows(axes, "mean")) == 2


def test_settings_are_short_and_the_chosen_one_is_starred() -> None:
    study = Study(name="rho", question="?", trials=tuple(trials((Erm(), Sam(rho=0.05), Sam(rho=0.5)))))

    def by_rho(trial: TrialConfig) -> Mapping[str, float] | str:
        found = numbers(trial)
        assert not isinstance(found, str)
        worse = 0.1 if isinstance(trial.method, Sam) and trial.method.rho == 0.5 else 0.0
        return {name: value + worse for name, value in found.items()}

    (drawn,) = cells.draw(made_material(study, by_rho))
    assert labels(first_panels(drawn.figure)[0]) == ["Erm", "Sam rho=0.05 *", "Sam rho=0.5"]
    assert "* lowest mean validation NLL" in drawn.caption


def test_a_study_with_a_curve_has_no_rows() -> None:
    study = Study(name="radii", question="?", trials=tuple(trials((Erm(), Amp(epsilon=0.1), Amp(epsilon=0.2)))))
    assert not list(cells.draw(made_material(study, numbers)))


def test_of_many_blocks_every_data_set_has_a_figure() -> None:
    widened = [replace(trial, batch_size=size) for trial in trials() for size in (10, 20, 50)]
    drawn = list(cells.draw(made_material(Study(name="six", question="?", trials=tuple(widened)), numbers)))
    assert [one.stem for one in drawn] == ["cells Digits", "cells Mnist5k"]
    assert [len(first_panels(one.figure)) for one in drawn] == [3, 3]


def test_a_search_is_drawn_on_validation() -> None:
    found = [replace(trial, evaluate="val") for trial in trials()]

    def on_validation(trial: TrialConfig) -> Mapping[str, float] | str:
        made = numbers(trial)
        assert not isinstance(made, str)
        return {"val/nll": made["val/nll"], "val/error": made["val/error"], "val/ece": 0.02}

    (drawn,) = cells.draw(made_material(Study(name="val", question="?", trials=tuple(found)), on_validation))
    assert [axes.get_xlabel() for axes in drawn.figure.axes[:3]] == ["val NLL", "val error (%)", "val ECE (%)"]


def test_differences_are_paired_by_seed() -> None:
    (drawn,) = comparison.draw(made_material(STUDY, numbers))
    assert drawn.stem == "comparison"
    axes = first_panels(drawn.figure)[0]
    assert axes.get_xlabel() == "test NLL - ERM's"
    assert labels(axes) == ["Dropout", "Amp"]
    assert rows(axes, "seeds") == [(".", [0.04, 0.04, 0.04]), (".", [-0.05, -0.06, -0.07])]
    assert rows(axes, "mean") == [("v", [0.04]), ("o", [-0.06])]
    assert level(axes) == 0.0
    low, high = axes.get_xlim()
    assert low < -0.07 < 0.04 < high
    assert rows(drawn.figure.axes[1], "mean") == [("v", [0.4]), ("o", [-0.6])]


def test_one_method_or_no_erm_is_no_comparison() -> None:
    for methods in ((Erm(), Amp(epsilon=0.2)), (Dropout(rate=0.1), Amp(epsilon=0.2))):
        study = Study(name="two", question="?", trials=tuple(trials(methods)))
        assert not list(comparison.draw(made_material(study, numbers)))


def test_files_are_written_and_no_figure_stays_open(tmp_path: Path) -> None:
    (picture,) = save_figures(cells.draw(made_material(STUDY, numbers)), tmp_path)
    assert [picture.png.name, picture.svg.name] == ["cells.png", "cells.svg"]
    assert "Dropout" in picture.svg.read_text()  # text stays text
    assert picture.png.stat().st_size > 5_000
    assert pyplot.get_fignums() == []

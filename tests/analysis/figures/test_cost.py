"""Times in units of ERM's: which epochs and trials count, the ratio and its interval, the lines beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from analysis.compare import ratio_interval
from analysis.figures import cost
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.figures.materials import made_material, points
from trainer.config import Amp, Erm, TrialConfig

import pandas as pd  # isort: skip

METHODS = (Erm(), Amp(epsilon=0.2), Amp(epsilon=0.2, inner_steps=2))
STUDY = Study(
    name="timed",
    question="?",
    trials=[recipes.digits_mlp(method, seed) for seed in range(3) for method in METHODS],
    at_once=1,
)
ERM = (2.0, 2.2, 2.1)
TIMES = {1: (3.6, 4.0, 3.9), 2: (6.0, 6.4, 6.5)}
"""Of an epoch, in seconds, by N and seed."""


def seconds(trial: TrialConfig) -> float:
    return TIMES[trial.method.inner_steps][trial.seed] if isinstance(trial.method, Amp) else ERM[trial.seed]


def epochs(trial: TrialConfig) -> Iterator[tuple[int, str, float]]:
    """Mean of the inner ones: what ``seconds`` says. The first and the last take far longer."""
    for epoch, factor in ((1, 5.0), (2, 0.9), (3, 1.1), (4, 1.0), (5, 9.0)):
        yield epoch, "epoch_seconds", factor * seconds(trial)


def finished(_: TrialConfig) -> Mapping[str, float] | str:
    return {"val/nll": 0.1, "val/error": 0.1, "val/ece": 0.1, "epoch_seconds": 99.0}


def test_the_ratio_is_of_inner_epochs_and_paired() -> None:
    one, two = cost.ratios(made_material(STUDY, finished, epochs))
    assert (one.name, one.steps, two.name, two.steps) == ("Digits Amp N=1", 1, "Digits Amp N=2", 2)
    assert one.mean == pytest.approx(sum(TIMES[1]) / sum(ERM))
    assert one.seeds.tolist() == pytest.approx([above / below for above, below in zip(TIMES[1], ERM, strict=True)])
    assert (one.low, one.high) == pytest.approx(ratio_interval(pd.Series(TIMES[1]), pd.Series(ERM)))


def test_the_ratio_stands_beside_its_lines() -> None:
    (drawn,) = cost.draw(made_material(STUDY, finished, epochs))
    (axes,) = drawn.figure.axes
    assert [x for x, _ in points(axes, "mean, 95% interval")] == pytest.approx([11.5 / 6.3, 18.9 / 6.3], abs=1e-6)
    assert len(points(axes, "a pair of one seed")) == 6
    assert {x for x, _ in points(axes, "1.8: the paper, §5.5, N = 1")} == {1.8}
    bars = [one for one in axes.collections if isinstance(one, LineCollection) and "N + 1" in str(one.get_label())]
    assert [np.asarray(bar.get_segments())[0, 0, 0] for bar in bars] == [2.0, 3.0]
    assert axes.get_xlim()[1] > 3.1  # the slowest pair is inside
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Digits Amp N=1", "Digits Amp N=2"]


def test_the_sentence_is_in_the_caption() -> None:
    (drawn,) = cost.draw(made_material(STUDY, finished, epochs))
    low, high = ratio_interval(pd.Series(TIMES[1]), pd.Series(ERM))
    assert f"Digits Amp N=1: 1.83 [{low:.2f}, {high:.2f}] times, n = 3" in drawn.caption


def test_trials_that_shared_a_machine_have_no_times() -> None:
    assert not list(cost.draw(made_material(replace(STUDY, at_once=None), finished, epochs)))
    assert not list(cost.draw(made_material(replace(STUDY, at_once=2), finished, epochs)))


def test_what_did_not_finish_has_no_pair() -> None:
    def without_one(trial: TrialConfig) -> Mapping[str, float] | str:
        return "interrupted" if trial == STUDY.trials[0] else finished(trial)

    one, _ = cost.ratios(made_material(STUDY, without_one, epochs))
    assert len(one.seeds) == 2
    assert one.mean == pytest.approx(sum(TIMES[1][1:]) / sum(ERM[1:]))


def test_two_epochs_are_too_few() -> None:
    def short(trial: TrialConfig) -> Iterator[tuple[int, str, float]]:
        yield from list(epochs(trial))[:2]

    assert not list(cost.draw(made_material(STUDY, finished, short)))

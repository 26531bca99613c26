"""Statistics over seeds against hand-worked numbers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.compare import best_on_validation, estimate, paired_differences

PARAMS = ["method", "method.epsilon", "dataset", "seed"]


def frame(rows: list[tuple[str, float | None, str, int, float, float]]) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["method", "method.epsilon", "dataset", "seed", "val/nll", "test/nll"])
    found["cell"] = found["method"] + " " + found["method.epsilon"].astype(str) + " " + found["dataset"]
    return found


def test_interval_of_five() -> None:
    found = estimate(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (found.n, found.mean) == (5, 3.0)
    assert found.sd == pytest.approx(math.sqrt(2.5))
    # t(0.975, 4 degrees of freedom) = 2.7764
    assert found.high - found.mean == pytest.approx(2.7764 * math.sqrt(2.5 / 5), rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_missing_values_count_for_nothing() -> None:
    assert estimate(pd.Series([1.0, np.nan, 3.0])).n == 2
    one, none = estimate(pd.Series([1.0])), estimate(pd.Series([np.nan, np.nan]))
    assert one.mean == 1.0
    assert math.isnan(one.low)
    assert none.n == 0
    assert math.isnan(none.mean)


def test_differences_are_between_trials_of_one_seed_and_block() -> None:
    trials = frame(
        [
            ("Amp", 0.1, "a", 1, 0, 1.5),
            ("Erm", None, "a", 1, 0, 1.0),
            ("Amp", 0.1, "a", 2, 0, 1.5),
            ("Erm", None, "a", 2, 0, 2.0),
            ("Amp", 0.1, "b", 1, 0, 9.0),
            ("Erm", None, "b", 1, 0, 10.0),
            ("Amp", 0.1, "b", 3, 0, 9.0),
        ]
    )
    differences = paired_differences(trials, PARAMS, "test/nll")
    assert differences[:6].tolist() == [0.5, 0.0, -0.5, 0.0, -1.0, 0.0]
    assert math.isnan(differences[6])


def test_choice_is_by_validation_in_each_block_and_needs_all_seeds() -> None:
    trials = frame(
        [
            ("Erm", None, "a", 1, 0.0, 0.0),
            ("Amp", 0.1, "a", 1, 3.0, 0.0),
            ("Amp", 0.2, "a", 1, 2.0, 9.0),
            ("Amp", 0.3, "a", 1, 1.0, 0.0),
            ("Amp", 0.3, "a", 2, np.nan, np.nan),
            ("Amp", 0.1, "b", 1, 5.0, 0.0),
            ("Amp", 0.2, "b", 1, 6.0, 0.0),
            ("Amp", 0.1, "one is no choice", 1, 5.0, 0.0),
        ]
    )
    assert sorted(best_on_validation(trials, PARAMS)) == ["Amp 0.1 b", "Amp 0.2 a"]
    assert best_on_validation(trials.drop(columns="val/nll"), PARAMS) == []

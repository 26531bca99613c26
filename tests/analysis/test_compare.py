"""Statistics over seeds against hand-worked numbers, worked examples of R's, and slow definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.compare import (
    best_on_validation,
    block_numbers,
    bootstrap,
    estimate,
    holm,
    holm_within,
    leaders,
    p_value,
    paired_differences,
    welch,
    welch_p,
    wilcoxon_p,
)

PARAMS = ["method", "method.epsilon", "dataset", "seed"]
# R's data set ``sleep`` (Student 1908): extra hours with two drugs in ten patients. R's t.test prints of them
# t = -4.0621, p = 0.002833, [-2.4598858, -0.7001142] paired, and p = 0.07939, [-3.3654832, 0.2054832] unpaired.
SLEEP_1 = pd.Series([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SLEEP_2 = pd.Series([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
numbers = st.integers(-1000, 1000).map(lambda value: value / 64)


def frame(rows: list[tuple[str, float | None, str, int, float, float]]) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["method", "method.epsilon", "dataset", "seed", "val/nll", "test/nll"])
    found["cell"] = found["method"] + " " + found["method.epsilon"].astype(str) + " " + found["dataset"]
    return found


def block(cells: dict[str, Sequence[float]]) -> pd.DataFrame:
    """Trials of one block, a cell's values by seed."""
    rows = [(cell, seed, value) for cell, values in cells.items() for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["cell", "seed", "test/nll"])


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


@pytest.mark.parametrize(
    "values", [[], [1.0], [np.nan], [0.0] * 12, [0.1 + 0.2, 0.3] * 6, [0.7, np.nan], [np.inf, 1.0, 2.0], [np.inf] * 2]
)
def test_of_too_few_or_equal_values_there_is_no_interval_and_no_test(values: list[float]) -> None:
    series = pd.Series(values, dtype=float)
    found, over = estimate(series), bootstrap(series)
    undefined = [found.low, found.high, p_value(series), wilcoxon_p(series), over.low, over.high]
    assert all(math.isnan(value) for value in undefined)
    assert math.isnan(welch(found, estimate(SLEEP_1)).low)
    assert math.isnan(welch_p(found, estimate(SLEEP_1)))
    assert found.sd == 0 if len(values) == 12 else math.isnan(found.sd)


def test_paired_test_and_interval_are_those_of_r() -> None:
    found = estimate(SLEEP_1 - SLEEP_2)
    assert p_value(SLEEP_1 - SLEEP_2) == pytest.approx(0.002833, abs=5e-7)
    assert (found.low, found.mean, found.high) == pytest.approx((-2.4598858, -1.58, -0.7001142), abs=1e-7)


def test_welch_is_that_of_r() -> None:
    ours, theirs = estimate(SLEEP_1), estimate(SLEEP_2)
    assert welch(ours, theirs) == pytest.approx((-1.58, -3.3654832, 0.2054832), abs=1e-7)
    assert welch_p(ours, theirs) == pytest.approx(0.07939, abs=5e-6)


@given(st.lists(numbers, min_size=2, max_size=8), st.lists(numbers, min_size=2, max_size=8))
def test_welch_from_summaries_is_that_from_values(first: list[float], second: list[float]) -> None:
    assume(np.ptp(first) > 0 and np.ptp(second) > 0)
    test = stats.ttest_ind(first, second, equal_var=False)
    low, high = test.confidence_interval(0.95)
    found = welch(estimate(pd.Series(first)), estimate(pd.Series(second)))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    assert welch_p(estimate(pd.Series(first)), estimate(pd.Series(second))) == pytest.approx(test.pvalue, abs=1e-12)


@given(st.lists(numbers, min_size=2, max_size=12))
def test_a_test_is_significant_just_where_the_interval_leaves_out_zero(values: list[float]) -> None:
    assume(np.ptp(values) > 0)
    differences = pd.Series(values)
    found, p = estimate(differences), p_value(differences)
    assume(abs(p - 0.05) > 1e-9)
    assert (p < 0.05) == (found.low > 0 or found.high < 0)
    assert p_value(-differences) == pytest.approx(p)


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=10, max_size=11, unique=True), st.integers(0, 2**11 - 1))
def test_wilcoxon_is_the_share_of_all_signs_that_are_as_extreme(sizes: list[int], signs: int) -> None:
    values = [size if signs >> place & 1 else -size for place, size in enumerate(sizes)]
    ranks = stats.rankdata(sizes)
    every = np.array(list(itertools.product([0, 1], repeat=len(sizes)))) @ ranks
    seen = float(sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0))
    expected = min(1.0, 2 * min((every <= seen).mean(), (every >= seen).mean()))
    assert wilcoxon_p(pd.Series(values, dtype=float)) == pytest.approx(expected, abs=1e-12)


def test_wilcoxon_starts_at_ten_pairs() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert math.isnan(wilcoxon_p(pd.Series([*values, np.nan])))
    assert wilcoxon_p(pd.Series([*values, 10.0])) == pytest.approx(2 / 2**10)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """A hypothesis is rejected where every intersection of it with others is (Marcus, Peritz and Gabriel 1976)."""
    every = range(len(p_values))
    subsets = [chosen for size in range(1, len(p_values) + 1) for chosen in itertools.combinations(every, size)]
    expected = [
        max(min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in subsets if place in chosen)
        for place in every
    ]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_leaves_out_what_is_no_test_and_other_blocks() -> None:
    assert holm([0.04, math.nan, 0.01]) == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)
    assert holm([]) == []
    found = holm_within(pd.Series([0.04, 0.03, 0.01, np.nan]), pd.Series([0, 1, 0, 1]))
    assert found.tolist() == pytest.approx([0.04, 0.03, 0.02, np.nan], nan_ok=True)


def test_bootstrap_over_blocks_is_near_the_one_of_all_resamples() -> None:
    values = np.array([-0.80, -0.30, -0.10, -0.13, -0.05, -0.02])  # skewed: percentiles would be -0.48 and -0.07
    every = np.sort(np.array(list(itertools.product(values, repeat=6))).mean(axis=1))
    bias = stats.norm.ppf(((every < values.mean()).mean() + (every <= values.mean()).mean()) / 2)
    left_out = np.array([np.delete(values, place).mean() for place in range(6)])
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(every, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    found = bootstrap(pd.Series(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(expected, abs=0.015)
    assert found == bootstrap(pd.Series(values))
    assert math.isnan(bootstrap(pd.Series(values[:4])).low)


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
    assert block_numbers(trials, PARAMS).tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_best_and_what_is_not_told_apart_from_it() -> None:
    best = [1.00, 1.10, 1.20, 1.30]
    found = leaders(
        block({"far": [9.0, 9.1, 9.2, 9.4], "best": best, "near": [1.3, 1.0, 1.5, 1.2], "same": best[:1] + best[1:]}),
        "test/nll",
    )
    assert found.best == "best"
    assert found.tied == ["near", "same"]
    assert found.labels == ["best", "near", "same"]


def test_ties_are_corrected_for_their_number() -> None:
    best, third = [0.0, 0.0, 0.0, 0.0, 0.0], [0.1, 0.3, 0.2, 0.5, 0.15]
    p = p_value(pd.Series(third))
    assert 0.05 / 3 < p < 0.05
    alone = leaders(block({"best": best, "third": third}), "test/nll")
    many = leaders(block({"best": best, **dict.fromkeys(("third", "fourth", "fifth"), third)}), "test/nll")
    assert alone.tied == []
    assert many.tied == ["third", "fourth", "fifth"]


def test_a_cell_with_a_seed_missing_neither_leads_nor_is_tied() -> None:
    whole = {"b": [2.0, 2.2, 2.5], "c": [2.1, 2.2, 2.3]}
    found = leaders(block({"low": [0.1, 0.1, np.nan], **whole}), "test/nll")
    assert (found.best, found.tied) == ("c", ["b"])
    assert leaders(block({"low": [0.1, 0.1, np.nan], "b": whole["b"]}), "test/nll").labels == []
    assert leaders(block({"one": [1.0], "seed": [2.0]}), "test/nll").labels == []


def test_choice_is_of_each_method_by_validation_in_each_block_and_needs_all_seeds() -> None:
    trials = frame(
        [
            ("Erm", None, "a", 1, 0.0, 0.0),
            ("Amp", 0.1, "a", 1, 3.0, 0.0),
            ("Amp", 0.2, "a", 1, 2.0, 9.0),
            ("Amp", 0.3, "a", 1, 1.0, 0.0),
            ("Amp", 0.3, "a", 2, np.nan, np.nan),
            ("Rmp", 0.5, "a", 1, 0.5, 0.0),
            ("Amp", 0.1, "b", 1, 5.0, 0.0),
            ("Amp", 0.2, "b", 1, 6.0, 0.0),
            ("Rmp", 0.1, "b", 1, 8.0, 0.0),
            ("Rmp", 0.2, "b", 1, 7.0, 0.0),
            ("Amp", 0.1, "one is no choice", 1, 5.0, 0.0),
        ]
    )
    assert sorted(best_on_validation(trials, PARAMS)) == ["Amp 0.1 b", "Amp 0.2 a", "Rmp 0.2 b"]
    assert best_on_validation(trials.drop(columns="val/nll"), PARAMS) == []

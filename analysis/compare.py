"""Statistics over seeds: means, Student-t intervals, paired differences. Intervals cover seeds, not the test sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
BASELINE = "Erm"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``n`` seeds with its standard deviation (n - 1) and 95% Student-t interval; NaN where undefined."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


def estimate(values: pd.Series[float]) -> Estimate:
    """The Estimate of the values that are there. One value has no interval, none has no mean."""
    present = values.dropna().to_numpy(dtype=float)
    n = len(present)
    mean = float(present.mean()) if n else np.nan
    sd = float(present.std(ddof=1)) if n > 1 else np.nan
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / np.sqrt(n) if n > 1 else np.nan
    return Estimate(n, mean, sd, mean - half, mean + half)


def p_value(differences: pd.Series[float]) -> float:
    """Of a two-sided paired t-test, on the differences that are there; NaN of fewer than two or of equal ones."""
    found = estimate(differences)
    if found.n < 2 or not found.sd > 0:
        return math.nan
    return float(2 * stats.t.sf(abs(found.mean) / (found.sd / math.sqrt(found.n)), found.n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm 1979), in the given order; NaN is no test and stays."""
    adjusted, highest = [math.nan] * len(p_values), 0.0
    tests = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, place) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - rank) * p))
        adjusted[place] = highest
    return adjusted


def ratio_interval(above: pd.Series[float], below: pd.Series[float]) -> tuple[float, float]:
    """95% interval of mean(above) / mean(below) over the pairs that are there, by Fieller's theorem (1954).

    NaN where it is not bounded: with fewer than two pairs, or where the interval of the mean of ``below`` holds 0.
    """
    pairs = pd.concat([above, below], axis=1).dropna().to_numpy(dtype=float)
    n = len(pairs)
    if n < 2:
        return math.nan, math.nan
    (a, b), covariance = pairs.mean(axis=0), np.cov(pairs.T) / n
    t2 = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) ** 2
    # r is in it where mean(above) - r mean(below) is within t of 0: where square r² - 2 half r + rest <= 0.
    square, half, rest = b * b - t2 * covariance[1, 1], a * b - t2 * covariance[0, 1], a * a - t2 * covariance[0, 0]
    if square <= 0:
        return math.nan, math.nan
    root = math.sqrt(max(half * half - square * rest, 0.0))
    return (half - root) / square, (half + root) / square


def block_params(params: Sequence[str]) -> list[str]:
    """The parameters that two cells must share to be compared: all but the seed and the method's own."""
    return [name for name in params if name != "seed" and name != "method" and not name.startswith("method.")]


def paired_differences(frame: pd.DataFrame, params: Sequence[str], metric: str) -> pd.Series[float]:
    """``metric`` of every trial minus that of the ERM trial of the same seed and block; NaN where there is none."""
    keys = [*block_params(params), "seed"]
    baseline = frame.loc[frame["method"] == BASELINE, [*keys, metric]].rename(columns={metric: "baseline"})
    if baseline.duplicated(keys).any():
        raise ValueError(f"two {BASELINE} trials of one seed in one block: the difference is not defined")
    paired = frame[[*keys, metric]].merge(baseline, how="left", on=keys, validate="many_to_one")
    return pd.Series((paired[metric] - paired["baseline"]).to_numpy(), index=frame.index)


def best_on_validation(frame: pd.DataFrame, params: Sequence[str], metric: str = "val/nll") -> list[str]:
    """In each block the cell with the lowest mean validation metric at the last epoch, ERM aside.

    Only cells of which every seed finished can be chosen; a block without a validation split has no choice, nor has one
    with a single cell beside ERM's.
    """
    methods = frame[frame["method"] != BASELINE]
    if metric not in frame or methods.empty:
        return []
    keys = block_params(params)
    means = methods.groupby([*keys, "cell"], dropna=False, sort=False)[metric].agg(lambda x: x.mean(skipna=False))
    several = means[means.groupby(keys, dropna=False).transform("size") > 1]
    rising = several.dropna().reset_index().sort_values(metric, kind="stable")
    return [str(cell) for cell in rising.drop_duplicates(keys)["cell"]]

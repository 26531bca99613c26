"""Statistics over seeds: means, Student-t intervals, paired tests. Intervals cover seeds, not the test sample."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 1 - CONFIDENCE
BASELINE = "Erm"
FEWEST_FOR_WILCOXON = 10
"""Pairs: of fewer than six no such test can be significant at all, and of few it is coarse."""
FEWEST_FOR_BOOTSTRAP = 5
"""Blocks: of fewer there are next to no different resamples."""
RESAMPLES = 9999
ROUNDING = 1e-12
"""Relative: numbers that differ by no more are one number, written in binary."""
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``n`` seeds with its standard deviation (n - 1) and 95% Student-t interval; NaN where undefined."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


class Interval(NamedTuple):
    """A difference and its 95% interval; NaN where undefined."""

    mean: float
    low: float
    high: float


def estimate(values: pd.Series[float]) -> Estimate:
    """The Estimate of the values that are there. One value has no interval, none has no mean.

    Equal values have the deviation 0 and no interval: that seeds happen to agree is no certainty.
    """
    present = _present(values)
    n = len(present)
    mean = float(present.mean()) if n else math.nan
    if not _varies(present):
        return Estimate(n, mean, 0.0 if n > 1 and math.isfinite(mean) else math.nan, math.nan, math.nan)
    low, high = stats.t.interval(CONFIDENCE, n - 1, loc=mean, scale=stats.sem(present))
    return Estimate(n, mean, float(present.std(ddof=1)), float(low), float(high))


def _present(values: pd.Series[float]) -> Values:
    return np.asarray(values.dropna(), dtype=np.float64)


def _varies(values: Values) -> bool:
    """Whether there are two values or more, all finite, that are not the same but for rounding."""
    if len(values) < 2 or not np.isfinite(values).all():
        return False
    return float(np.ptp(values)) > ROUNDING * float(np.abs(values).max())


def p_value(differences: pd.Series[float]) -> float:
    """Of a two-sided paired t-test, on the differences that are there; NaN of fewer than two or of equal ones."""
    present = _present(differences)
    return float(stats.ttest_1samp(present, 0.0).pvalue) if _varies(present) else math.nan


def wilcoxon_p(differences: pd.Series[float]) -> float:
    """Of a two-sided Wilcoxon signed-rank test, on the differences that are there; NaN of fewer than ten or equal ones.

    Exact where no two are of one size and none is 0.
    """
    present = _present(differences)
    if len(present) < FEWEST_FOR_WILCOXON or not _varies(present):
        return math.nan
    return float(stats.wilcoxon(present).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm 1979), in the given order; NaN is no test and stays."""
    from statsmodels.stats.multitest import multipletests  # half a second that only a comparison need cost

    adjusted = np.asarray(p_values, dtype=float)
    tests = ~np.isnan(adjusted)
    if tests.any():
        gc.freeze()  # multipletests collects garbage each time: a tenth of a second in a process that has drawn figures
        try:
            adjusted[tests] = multipletests(adjusted[tests], method="holm")[1]
        finally:
            gc.unfreeze()
    return [float(p) for p in adjusted]


def welch(ours: Estimate, theirs: Estimate) -> Interval:
    """``ours`` minus ``theirs``, whose seeds are no pairs, with Welch's 95% interval (1947); of their summaries alone.

    NaN where one of the two has no deviation, for it is of a single seed, or of equal ones.
    """
    difference = ours.mean - theirs.mean
    if not (ours.sd > 0 and theirs.sd > 0):
        return Interval(difference, math.nan, math.nan)
    # Neither scipy nor statsmodels has this interval from summaries: Satterthwaite's degrees of freedom.
    a, b = ours.sd**2 / ours.n, theirs.sd**2 / theirs.n
    freedom = (a + b) ** 2 / (a**2 / (ours.n - 1) + b**2 / (theirs.n - 1))
    low, high = stats.t.interval(CONFIDENCE, freedom, loc=difference, scale=math.sqrt(a + b))
    return Interval(difference, float(low), float(high))


def welch_p(ours: Estimate, theirs: Estimate) -> float:
    """Of Welch's two-sided test, from summaries; NaN as in ``welch``."""
    if not (ours.sd > 0 and theirs.sd > 0):
        return math.nan
    sides = (ours.mean, ours.sd, ours.n, theirs.mean, theirs.sd, theirs.n)
    return float(stats.ttest_ind_from_stats(*sides, equal_var=False).pvalue)


def bootstrap(values: pd.Series[float]) -> Interval:
    """The mean over blocks with its 95% bootstrap interval (BCa; Efron 1987), a value a block, resampled with seed 0.

    Never over seeds, of which there are too few. No interval of fewer than five blocks, or of equal values.
    """
    present = _present(values)
    mean = float(present.mean()) if len(present) else math.nan
    if len(present) < FEWEST_FOR_BOOTSTRAP or not _varies(present):
        return Interval(mean, math.nan, math.nan)
    found = stats.bootstrap(
        (present,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="BCa", rng=0
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


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


def block_numbers(frame: pd.DataFrame, params: Sequence[str]) -> pd.Series[int]:
    """The number of each trial's block, in order of appearance: trials of one block can be compared."""
    return frame.groupby(block_params(params), dropna=False, sort=False).ngroup()


def holm_within(p_values: pd.Series[float], blocks: pd.Series[int]) -> pd.Series[float]:
    """``p_values`` adjusted for the number of tests in their own block; NaN is no test."""
    return p_values.groupby(blocks, sort=False).transform(lambda own: pd.Series(holm(own.tolist()), index=own.index))


class Leaders(NamedTuple):
    """The cell with the lowest mean of a block, and those that cannot be told apart from it. None, where none leads."""

    best: str | None
    tied: list[str]

    @property
    def labels(self) -> list[str]:
        """All of them."""
        return [] if self.best is None else [self.best, *self.tied]


def leaders(block: pd.DataFrame, metric: str) -> Leaders:
    """Of the trials of one block. Tied: Holm-corrected paired t-tests against the best one do not tell them apart.

    Only cells of which every seed gave a number take part, and only where two or more of them have two seeds or more;
    cells that share fewer than two seeds with the best are never tied.
    """
    wide = block.pivot(index="seed", columns="cell", values=metric)
    whole = block[metric].notna().groupby(block["cell"], sort=False, observed=True).all()
    means = wide[[cell for cell, complete in whole.items() if complete]].mean()
    means = means[wide[means.index].count() > 1]
    if len(means) < 2:
        return Leaders(None, [])
    best = str(means.idxmin())
    differences = wide[means.index.drop(best)].sub(wide[best], axis=0)
    adjusted = holm([p_value(differences[cell]) for cell in differences])
    # Of equal differences there is no test; if all are 0 there is nothing to tell apart either.
    same = [differences[cell].count() > 1 and bool((differences[cell].dropna() == 0).all()) for cell in differences]
    named = zip(differences, adjusted, same, strict=True)
    return Leaders(best, [str(cell) for cell, p, equal in named if p >= SIGNIFICANCE or equal])


def best_on_validation(frame: pd.DataFrame, params: Sequence[str], metric: str = "val/nll") -> list[str]:
    """Of each method with several cells in a block the one with the lowest mean validation metric at the last epoch.

    ERM, which has one, is never chosen, nor is a method with a single setting: methods are not chosen but compared.
    Only cells of which every seed finished can be; where nothing was held out there is no choice.
    """
    methods = frame[frame["method"] != BASELINE]
    if metric not in frame or methods.empty:
        return []
    keys = [*block_params(params), "method"]
    means = methods.groupby([*keys, "cell"], dropna=False, sort=False)[metric].agg(lambda x: x.mean(skipna=False))
    several = means[means.groupby(keys, dropna=False).transform("size") > 1]
    rising = several.dropna().reset_index().sort_values(metric, kind="stable")
    return [str(cell) for cell in rising.drop_duplicates(keys)["cell"]]

"""Statistics over seeds: means, Student-t intervals, paired differences. Intervals cover seeds, not the test sample."""

from __future__ import annotations

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

"""Which epoch of a trial is reported, beside the last one.

The authors' released code reports the best test error over the epochs. That chooses on the test set: the more epochs
there are to choose from, the more of the test set's own noise is in the number, and none of it would be there on new
images. It is shown, as the oracle, for what is published was made so; nothing is concluded from it.
"""

from __future__ import annotations

import pandas as pd

RULES = {"oracle": "test/error", "best_val": "val/nll"}
"""Prefix of the columns, and the metric that is lowest in the epoch; of equally low ones the first."""


def selections(history: pd.DataFrame) -> pd.DataFrame:
    """The metrics of evaluation in the epochs that ``RULES`` choose, a row a trial that has such an epoch.

    history: ``trial_id``, ``metric``, ``epoch``, ``value``; one value a trial, metric and epoch. The index is the
    trial's id; columns are ``oracle/epoch``, ``oracle/test/nll`` and so on. NaN is never chosen.
    """
    evaluated = history[history["metric"].str.startswith(("test/", "val/"))]
    parts = [_selected(evaluated, prefix, rule) for prefix, rule in RULES.items()]
    return pd.concat(parts, axis=1)


def _selected(history: pd.DataFrame, prefix: str, rule: str) -> pd.DataFrame:
    candidates = history.loc[history["metric"] == rule, ["trial_id", "epoch", "value"]].dropna()
    chosen = candidates.sort_values(["value", "epoch"]).drop_duplicates("trial_id")[["trial_id", "epoch"]]
    there = history.merge(chosen, on=["trial_id", "epoch"])
    columns = there.pivot(index="trial_id", columns="metric", values="value")
    columns.insert(0, "epoch", chosen.set_index("trial_id")["epoch"].astype(float))
    return columns.add_prefix(f"{prefix}/").rename_axis(index="trial_id", columns=None)

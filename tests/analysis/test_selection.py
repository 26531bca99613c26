"""Which epoch of a trial is chosen, against a slow twin that looks at one epoch after the other."""

from __future__ import annotations

import math

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from analysis.selection import selections

METRICS = ("test/error", "test/nll", "val/nll", "lr")
Histories = dict[str, dict[str, dict[int, float]]]
"""Values by trial, metric and epoch."""

values = st.sampled_from([0.0, 0.25, 0.5, math.nan, math.inf])  # few, so that ties are many
histories = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.dictionaries(st.sampled_from(METRICS), st.dictionaries(st.integers(1, 5), values, min_size=1)),
)


def frame(found: Histories, order: int = 0) -> pd.DataFrame:
    """Texts are categories, of which some have no row, as where the frame is a part of a larger one."""
    rows = [
        (trial, metric, epoch, value)
        for trial, metrics in found.items()
        for metric, epochs in metrics.items()
        for epoch, value in epochs.items()
    ]
    made = pd.DataFrame(rows, columns=["trial_id", "metric", "epoch", "value"])
    made["trial_id"] = pd.Categorical(made["trial_id"], ["a", "b", "c"])
    made["metric"] = pd.Categorical(made["metric"], [*METRICS, "val/ece"])
    made = made.astype({"epoch": int, "value": float})
    return made.sample(frac=1, random_state=order, ignore_index=True)


def best_epoch(epochs: dict[int, float]) -> int | None:
    best: int | None = None
    for epoch in sorted(epochs):
        if not math.isnan(epochs[epoch]) and (best is None or epochs[epoch] < epochs[best]):
            best = epoch
    return best


def slowly(metrics: dict[str, dict[int, float]]) -> dict[str, float]:
    """What a trial's row must have, NaN left out."""
    found: dict[str, float] = {}
    for prefix, rule in (("oracle", "test/error"), ("best_val", "val/nll")):
        epoch = best_epoch(metrics.get(rule, {}))
        if epoch is None:
            continue
        found[f"{prefix}/epoch"] = epoch
        for name in ("test/error", "test/nll", "val/nll"):
            value = metrics.get(name, {}).get(epoch, math.nan)
            if not math.isnan(value):
                found[f"{prefix}/{name}"] = value
    return found


@given(histories, st.integers(0, 3))
def test_as_one_epoch_after_the_other(found: Histories, order: int) -> None:
    chosen = selections(frame(found, order))
    assert set(chosen.index) <= set(found)
    for trial, metrics in found.items():
        row = chosen.loc[trial].dropna().to_dict() if trial in chosen.index else {}
        assert row == slowly(metrics)


def test_of_equally_low_ones_the_first() -> None:
    found: Histories = {"a": {"test/error": {1: 0.5, 2: 0.25, 3: 0.25}, "test/nll": {1: 3.0, 2: 2.0, 3: 1.0}}}
    row = selections(frame(found)).loc["a"]
    assert (row["oracle/epoch"], row["oracle/test/error"], row["oracle/test/nll"]) == (2, 0.25, 2.0)


def test_without_a_validation_split_nothing_is_best_on_it() -> None:
    chosen = selections(frame({"a": {"test/error": {1: 0.5}}, "b": {"test/error": {1: 0.5}, "val/nll": {1: 1.0}}}))
    assert chosen["best_val/epoch"].isna().to_dict() == {"a": True, "b": False}
    assert chosen.loc["b", "best_val/test/error"] == 0.5


def test_what_is_no_evaluation_has_no_chosen_epoch() -> None:
    chosen = selections(frame({"a": {"test/error": {1: 0.5}, "lr": {1: 0.1}}}))
    assert list(chosen.columns) == ["oracle/epoch", "oracle/test/error", "best_val/epoch"]


def test_of_nothing_there_is_no_row() -> None:
    assert selections(frame({})).empty

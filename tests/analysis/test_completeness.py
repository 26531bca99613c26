"""Whatever a server leaves out of an answer is asked for: of any histories, and any limits of theirs and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric

from analysis import store
from analysis.store import Last, ServerStore, StoredRun

NAME = "test/nll"
Kept = Mapping[str, range]
"""The epochs of each run."""


def answering(kept: Kept, limit: int, most_runs: int) -> Any:
    """MLflow's bulk call: points in order of run and time, the first ``limit`` of them, and not a word of the rest."""

    def answer(_: object, endpoint: str, method: str, params: Sequence[tuple[str, str]]) -> Any:
        asked = [value for key, value in params if key == "run_id"]
        assert (endpoint, method, dict(params)["metric_key"]) == (store.BULK, "GET", NAME)
        assert len(asked) <= most_runs
        points = [
            {"run_id": run_id, "step": epoch, "timestamp": 1000 + epoch, "value": epoch / 8}
            for run_id in sorted(asked)
            for epoch in kept[run_id]
        ]
        return SimpleNamespace(json=lambda: {"metrics": points[: min(limit, int(dict(params)["max_results"]))]})

    return answer


def run_of(run_id: str, epochs: range) -> StoredRun:
    last = {NAME: Last(epochs[-1] / 8, epochs[-1], 1000 + epochs[-1])} if epochs else {}
    return StoredRun(run_id, "FINISHED", 1, 2, {}, last)


def read(kept: Kept, limit: int, ours: int, most_runs: int) -> pd.DataFrame:
    """limit, ours: points in an answer, as the server has it and as we think."""

    def history(run_id: str, _: str) -> list[Metric]:
        return [Metric(NAME, epoch / 8, 1000 + epoch, epoch) for epoch in kept[run_id]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "http_request_safe", answering(kept, limit, most_runs))
        patch.setattr(store, "BULK_POINTS", ours)
        patch.setattr(store, "BULK_RUNS", most_runs)
        server = ServerStore("http://nowhere")
        patch.setattr(server, "_client", SimpleNamespace(get_metric_history=history))
        return server.histories([run_of(run_id, epochs) for run_id, epochs in kept.items()])


starts_and_lengths = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=8)


@given(starts_and_lengths, st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_every_point_is_read_once(
    starts_and_lengths: list[tuple[int, int]], limit: int, ours: int, most_runs: int
) -> None:
    kept = {f"{place:02}": range(start, start + length) for place, (start, length) in enumerate(starts_and_lengths)}
    found = read(kept, limit, ours, most_runs)
    rows = sorted(found[["run_id", "epoch", "timestamp", "value"]].itertuples(index=False, name=None))
    assert rows == [(run_id, epoch, 1000 + epoch, epoch / 8) for run_id, epochs in kept.items() for epoch in epochs]
    assert set(found["metric"]) <= {NAME}

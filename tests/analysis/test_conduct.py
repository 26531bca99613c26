"""What is said of how a study went, on the golden runs' frame made by hand."""

from __future__ import annotations

import pandas as pd

from analysis.conduct import failure_rows, protocol_rows
from tests.golden_study import declared


def test_protocol_is_what_all_cells_share() -> None:
    rows = dict(protocol_rows(declared())[1:])
    assert rows["dataset"] == "Digits"
    assert rows["epochs"] == "6"
    assert "seed" not in rows
    assert not {"method", "model", "model.width", "method.epsilon"} & rows.keys()


def test_failures_of_one_cause_are_one_row() -> None:
    frame = pd.DataFrame(
        [
            ("a", "finished", 0, ""),
            ("a", "diverged", 2, "Traceback\n  x\nnan in epoch 3\n"),
            ("a", "diverged", 1, "nan in epoch 3"),
            ("a", "missing", 3, None),
            ("b", "failed", 0, "out of memory"),
        ],
        columns=["cell", "outcome", "seed", "cause"],
    )
    assert failure_rows(frame)[1:] == [
        ["a", "diverged", "1, 2", "nan in epoch 3"],
        ["a", "missing", "3", "–"],
        ["b", "failed", "0", "out of memory"],
    ]


def test_no_failures_are_no_table() -> None:
    assert failure_rows(pd.DataFrame({"cell": ["a"], "outcome": ["finished"], "seed": [0], "cause": [""]})) == []

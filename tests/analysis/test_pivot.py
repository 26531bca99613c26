"""Tables in the paper's layout, of its own studies and of small ones."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

import pandas as pd
import pytest

from analysis.pivot import Pivot, pivots
from analysis.render import Strong
from analysis.tables import cells_table
from search_spaces.catalog import built_in
from search_spaces.study import Study
from tests.analysis.frames import made_frame
from trainer.config import Amp, Dropout, TrialConfig

STEPS = (-1.0, 1.0, -0.5, 0.5, 0.0, 0.2, -0.2, 0.7, -0.7, 0.0)


def numbers(trial: TrialConfig) -> Mapping[str, float] | str:
    """AMP's error and criterion are the lowest everywhere, its NLL is not."""
    if isinstance(trial.method, Dropout) and trial.seed == 1:
        return "diverged"
    base = 0.02 if isinstance(trial.method, Amp) else 0.05 + len(type(trial.method).__name__) / 1000
    error = base + STEPS[trial.seed] / 10_000 + 1e-5 * len(type(trial.method).__name__) * STEPS[-trial.seed] ** 2
    last = {"test/error": error + 0.001, "test/nll": 1 - error, "test/criterion": error * 2}
    return last | {"oracle/test/error": error, "oracle/test/criterion": error * 3, "oracle/test/nll": error}


@functools.cache
def drawn(name: str) -> list[Pivot]:
    study = built_in()[name]
    frame = made_frame(study, numbers)
    return pivots(study, frame, cells_table(study, frame))


def test_table_1_has_a_part_a_data_set_and_two_columns_a_network() -> None:
    found = drawn("table1")
    assert [pivot.title for pivot in found] == ["Svhn", "Cifar10", "Cifar100"]
    assert found[0].groups == [("", 1), ("PreActResNet18", 2), ("Vgg16", 2)]
    assert found[0].rows[0] == ["method", "test error %", "test NLL", "test error %", "test NLL"]
    assert [row[0] for row in found[0].rows[1:]] == [
        *("Erm", "Dropout", "LabelSmoothing", "Flooding", "MixUp", "AdversarialTraining", "Rmp", "Amp"),
    ]
    assert found[0].flat[0][1] == "PreActResNet18 test error %"
    assert found[0].rows[2][1].endswith(" (9/10, 1 diverged)")


def test_bold_is_of_each_column_by_itself() -> None:
    rows = {row[0]: row for row in drawn("table1")[0].rows}
    assert [isinstance(text, Strong) for text in rows["Amp"]] == [False, True, False, True, False]
    assert [isinstance(text, Strong) for text in rows["AdversarialTraining"]] == [False, False, True, False, True]
    assert not any(isinstance(text, Strong) for text in rows["Dropout"])


def test_released_protocol_shows_what_the_released_code_reports() -> None:
    written, released = (drawn(name)[0] for name in ("table1", "table1-released"))
    assert written.rows[-1][1].startswith("2.1")
    assert released.rows[-1][1].startswith("2.0")
    assert released.rows[-1][2].startswith("0.06")
    assert "at the last epoch" in written.caption
    assert "protocol as written" in written.caption
    assert "own training criterion" in released.caption
    assert "over 10 seeds" in released.caption


def test_table_2_has_a_row_a_data_set_and_augmentation() -> None:
    error, nll = drawn("table2")
    assert (error.title, nll.title) == ("test error %", "test NLL")
    assert error.groups == [("", 2), ("WideResNet", 2), ("PyramidNet", 2)]
    assert error.rows[0] == ["data set", "augmentation", "Erm", "Amp", "Erm", "Amp"]
    assert [row[:2] for row in error.rows[1:4]] == [["Svhn", "vanilla"], ["Svhn", "cutout"], ["Svhn", "autoaugment"]]
    assert len(error.rows) == 10
    assert all(error.rows[place][3].startswith("2.1") for place in range(1, 10))


def test_small_studies_have_one_table_and_no_empty_cells() -> None:
    (small,) = drawn("table1-small")
    assert small.groups == [("", 1), ("Mnist5k", 2), ("Digits", 2)]
    assert "this study's, not the paper's" in small.caption
    error, _ = drawn("table2-small")
    assert error.rows[0] == ["data set", "augmentation", "Erm", "Amp"]
    assert len(error.rows) == 5
    for pivot in (small, error):
        assert all(text for row in pivot.rows for text in row)


@pytest.mark.parametrize("name", ["table1", "table2-released", "table1-small", "table2-small", "grid-small"])
def test_latex_is_as_wide_as_its_columns(name: str) -> None:
    for pivot in drawn(name):
        text = pivot.latex(name)
        (declared,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        for line in lines:
            spans = sum(int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == len(declared) == len(pivot.rows[0])
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        assert rf"\label{{tab:{name}-{pivot.stem}}}" in text
        assert "n - 1" in text


def test_one_method_or_no_test_set_has_none() -> None:
    fig8 = built_in()["fig8-mnist5k"]
    only = Study(name="amp", question="?", trials=[trial for trial in fig8.trials if isinstance(trial.method, Amp)])
    frame = made_frame(only, lambda trial: {"test/error": 0.1, "test/nll": 0.2})
    assert pivots(only, frame, cells_table(only, frame)) == []
    frame = made_frame(fig8, lambda trial: {"val/error": 0.1, "val/nll": 0.2})
    assert pivots(fig8, frame, cells_table(fig8, frame)) == []


def test_cells_are_as_in_the_frame() -> None:
    study = built_in()["table1-small"]
    frame = made_frame(study, numbers)
    (pivot,) = pivots(study, frame, cells_table(study, frame))
    own: pd.Series[float] = frame.loc[frame["cell"] == "MixUp dataset=Digits", "test/error"] * 100
    row = next(row for row in pivot.rows if row[0] == "MixUp")
    assert row[3] == f"{own.mean():.2f} ± {own.std():.3f}"

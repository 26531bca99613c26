"""The golden study's report, to the letter: what its table says of seeds that are missing, diverged or mixed."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pandas as pd
import pytest

from tests.golden_report import FOLDER, written
from trainer.machine import TRACKING_VARIABLE, Results


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(TRACKING_VARIABLE, raising=False)
        yield written(Results(tmp_path_factory.mktemp("golden")))


def golden(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_the_same_files_as_ever(texts: dict[str, str]) -> None:
    assert sorted(texts) == sorted(file.name for file in FOLDER.iterdir())


@pytest.mark.parametrize("name", sorted(file.name for file in FOLDER.iterdir() if file.name != "cells.csv"))
def test_tables_to_the_letter(texts: dict[str, str], name: str) -> None:
    assert texts[name] == golden(name), "make golden writes it anew: look at the diff"


def test_numbers(texts: dict[str, str]) -> None:
    """To ten digits: the last ones are another processor's affair."""
    here, ever = (pd.read_csv(io.StringIO(text)) for text in (texts["cells.csv"], golden("cells.csv")))
    pd.testing.assert_frame_equal(here, ever, rtol=1e-10, atol=1e-14)


def test_a_cell_that_diverged_has_no_mean(texts: dict[str, str]) -> None:
    cells = pd.read_csv(io.StringIO(texts["cells.csv"])).set_index("cell")
    gone = cells[cells["n_diverged"] == 4]
    assert len(gone) == 1
    assert gone.filter(regex="/mean$").isna().all(axis=None)
    assert not gone["best"].any()


def test_what_is_missing_or_mixed_is_said(texts: dict[str, str]) -> None:
    for shown in (texts["terminal.txt"], texts["report.md"]):
        assert "seed 3 missing" in shown
        assert "seeds 0, 1, 2, 3 diverged" in shown
        assert "more than one commit" in shown

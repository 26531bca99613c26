"""Made-up numbers of the paper's own settings, held against what it prints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import pytest
from scipy import stats

from analysis.compare import Interval
from analysis.published import (
    MARGINS,
    protocol_of,
    published_finding,
    published_notes,
    published_rows,
    published_table,
    verdict_on,
)
from search_spaces import recipes
from search_spaces.catalog import built_in
from search_spaces.paper import TABLE1, repetition
from search_spaces.recipes import Protocol
from search_spaces.study import Study
from tests.analysis.frames import made_frame
from trainer.config import Amp, Cifar10, Erm, Flooding, LabelSmoothing, Method, PreActResNet18, TrialConfig

STEPS = (-1.0, 1.0, -0.5, 0.5, 0.0)
"""Seeds' deviations from the mean, in units of what a test says."""
KINDS: tuple[type[Method], ...] = (Erm, LabelSmoothing, Flooding, Amp)


def study(protocol: Protocol) -> Study:
    """Four of Table 1's methods, with one network on CIFAR-10."""
    every = recipes.table1_trials(protocol, range(len(STEPS)))
    chosen = [
        trial
        for trial in every
        if isinstance(trial.dataset, Cifar10)
        and isinstance(trial.model, PreActResNet18)
        and isinstance(trial.method, KINDS)
    ]
    return Study(name="some", question="?", trials=chosen)


def numbers(trial: TrialConfig, error_off: float = 0.0, spread: float = 0.0004) -> Mapping[str, float]:
    """At the oracle's epoch the published numbers, error_off more error; another error and NLL at the last epoch."""
    repeated = repetition(trial)
    assert repeated is not None
    assert repeated.published.criterion is not None
    error = repeated.published.error.mean / 100 + error_off + spread * STEPS[trial.seed]
    criterion = repeated.published.criterion.mean + 0.001 * STEPS[trial.seed]
    last = {"test/error": error + 0.01, "test/nll": 0.5 + 0.01 * STEPS[trial.seed], "test/criterion": criterion + 0.3}
    return last | {"oracle/test/error": error, "oracle/test/criterion": criterion, "oracle/test/nll": 0.4}


def released(error_off: float = 0.0, spread: float = 0.0004) -> pd.DataFrame:
    found = study("as_released")
    return published_table(found, made_frame(found, lambda trial: numbers(trial, error_off, spread)))


def verdicts(table: pd.DataFrame, quantity: str) -> set[str]:
    return set(table.loc[table["quantity"] == quantity, "verdict"])


def test_like_is_held_against_like() -> None:
    table = released()
    assert len(table) == 8
    row = table[(table["name"] == "Amp") & (table["quantity"] == "test error")].iloc[0]
    assert (row["metric"], row["source"], row["protocol"]) == ("oracle/test/error", "Table 1 (b)", "as_released")
    assert (row["published/mean"], row["published/sd"]) == pytest.approx((0.0397, 0.00091))
    assert (row["ours/n"], row["ours/mean"], row["last/mean"]) == pytest.approx((5, 0.0397, 0.0497))
    row = table[(table["name"] == "LabelSmoothing") & (table["quantity"] == "test NLL")].iloc[0]
    assert (row["metric"], row["verdict"]) == ("oracle/test/criterion", "agrees")
    assert (row["ours/mean"], row["last/mean"]) == pytest.approx((1.038, 0.5))


def test_interval_is_welch_s_of_five_seeds_and_ten() -> None:
    row = released(0.002)[lambda table: table["quantity"] == "test error"].iloc[0]
    ours = [0.0502 + 0.002 + 0.0004 * step for step in STEPS]
    # Ten values with the published mean and deviation, of which Welch's interval knows nothing else.
    theirs = stats.zscore([*range(10)], ddof=1) * 0.00212 + 0.0502
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (row["difference/low"], row["difference/high"]) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("error_off", "spread", "expected"),
    [
        (0.0, 0.0004, "agrees"),
        (0.01, 0.0004, "differs"),
        (-0.01, 0.0004, "differs"),
        (0.0, 0.02, "undecided"),
        (0.0003, 0.05, "undecided"),
    ],
)
def test_verdicts_of_tables(error_off: float, spread: float, expected: str) -> None:
    assert verdicts(released(error_off, spread), "test error") == {expected}
    assert verdicts(released(error_off, spread), "test NLL") == {"agrees"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.9, 0.9, "agrees"),
        (0.1, 0.9, "differs, but by less than the margin"),
        (-0.9, -0.1, "differs, but by less than the margin"),
        (0.1, 1.1, "differs"),
        (-3.0, -2.0, "differs"),
        (-0.9, 1.1, "undecided"),
        (-1.1, 0.9, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_verdict_of_an_interval(low: float, high: float, expected: str) -> None:
    assert verdict_on(Interval(0.0, low, high), 1.0) == expected


def test_one_seed_decides_nothing() -> None:
    found = study("as_released")
    one = Study(name="one", question="?", trials=[trial for trial in found.trials if trial.seed == 0])
    table = published_table(one, made_frame(one, numbers))
    assert set(table["verdict"]) == {"undecided"}
    none = published_table(one, made_frame(one, lambda trial: "missing"))
    assert set(none["verdict"]) == {"undecided"}
    assert none["ours/mean"].isna().all()
    assert published_rows(none)[1][4:6] == ["–", "0"]


def test_as_written_is_the_last_epoch_and_the_true_nll_and_no_verdict_where_that_is_another_quantity() -> None:
    found = study("as_written")
    table = published_table(found, made_frame(found, numbers))
    assert set(table["metric"]) == {"test/error", "test/nll"}
    assert verdicts(table, "test error") == {"differs"}
    nll = table[table["quantity"] == "test NLL"].set_index("name")
    assert nll["verdict"].to_dict() == {
        "Erm": "differs",
        "LabelSmoothing": "not the same quantity",
        "Flooding": "not the same quantity",
        "Amp": "differs",
    }
    assert nll["difference/mean"].isna().tolist() == [False, True, True, False]
    assert "not like with like" in " ".join(published_notes(table))


def test_table_for_people_says_the_margin_and_the_verdict() -> None:
    rows = published_rows(released(0.01))
    row = dict(zip(rows[0], rows[2], strict=True))
    assert row["method"] == "Erm"
    assert (row["ours ± sd"], row["published ± sd"]) == ("6.02 ± 0.032", "5.02 ± 0.212")
    assert row["ours - published [95% CI]"].startswith("+1.000 [+0.8")
    assert (row["margin"], row["verdict"], row["at last epoch"]) == ("0.3", "differs", "7.02 ± 0.032")
    assert published_finding(released(0.01)) == "Of 8 numbers printed in Table 1 (b): 4 agree; 4 differ."
    assert "Cifar10 0.3 points of error, 0.01 nats" in " ".join(published_notes(released()))


def test_what_repeats_nothing_gets_no_verdict() -> None:
    small = built_in()["table1-small"]
    table = published_table(small, made_frame(small, lambda trial: {"test/error": 0.1, "test/nll": 0.2}))
    assert table.empty
    assert published_rows(table) == []
    assert published_finding(table) == ""
    assert "no verdict is due" in published_notes(table)[0]
    assert protocol_of(small) is None


def test_protocol_is_that_of_all_cells() -> None:
    assert protocol_of(built_in()["table2"]) == "as_written"
    assert protocol_of(study("as_released")) == "as_released"
    both = [*study("as_released").trials, *study("as_written").trials]
    assert protocol_of(Study(name="x", question="?", trials=both)) is None
    other = [replace(trial, weight_decay=0.5) for trial in study("as_released").trials]
    assert protocol_of(Study(name="x", question="?", trials=[*study("as_released").trials, *other])) is None


def test_margins_are_about_twice_the_published_deviations() -> None:
    for dataset, margin in MARGINS.items():
        printed = [published for cell, published in TABLE1.items() if cell.dataset is dataset]
        errors = statistics.median(published.error.deviation / 100 for published in printed)
        nlls = statistics.median(published.criterion.deviation for published in printed if published.criterion)
        assert 1.8 <= margin.error / errors <= 2.6
        assert 1.8 <= margin.nll / nlls <= 2.6

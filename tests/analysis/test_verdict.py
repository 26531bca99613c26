"""The verdict on a tuning whose final trials' numbers are made up and so known."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.cli import main
from analysis.compare import estimate, holm, p_value, ratio_interval
from analysis.runs import load
from analysis.verdict import (
    Block,
    draw_verdict,
    gap_lines,
    has_verdict,
    judge,
    provenance,
    ranking,
    verdict,
    verdict_table,
)
from search_spaces.catalog import frozen_of
from search_spaces.choices import Frozen, final_study
from search_spaces.search import LogUniform, Search, Setting, Tuning
from sweeps.ledger import Ledger
from sweeps.tracking.tracker import Delivery, Tracker, connect
from tests.analysis.tunings import fill, frozen_with, write_tuning
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.records import EpochRecord

DATE = "2026-01-02T03:04:05+00:00"
CHOSEN: dict[str, tuple[int, float, Setting]] = {
    "digits-erm": (3, 0.26, {"lr": 0.3}),
    "digits-amp": (5, 0.21, {"lr": 0.2, "method.epsilon": 0.2, "method.inner_lr": 2.0}),
    "mnist5k-rmp": (0, 0.3, {"batch_size": 50}),
}
# Test NLL with seed 0, 1, 2. Untuned, AMP leads by 0.03, 0.04, 0.05; tuning ERM gains 0.02, 0.02, 0.02.
NLL = {
    ("Erm", "untuned"): (0.30, 0.31, 0.32),
    ("Erm", "tuned"): (0.28, 0.29, 0.30),
    ("Amp", "untuned"): (0.27, 0.27, 0.27),
    ("Amp", "tuned"): (0.25, 0.27, 0.26),
    ("Rmp", "untuned"): (0.50, 0.52, 0.54),
}


@dataclass(frozen=True)
class Given:
    tuning: Tuning
    reference: str
    frozen: Frozen
    results: Results
    frame: pd.DataFrame

    def blocks(self, frame: pd.DataFrame | None = None, tuning: Tuning | None = None) -> list[Block]:
        return judge(tuning or self.tuning, self.frozen, self.frame if frame is None else frame)

    def with_nll(self, method: str, arm: str, nll: tuple[float, ...]) -> pd.DataFrame:
        frame = self.frame.copy()
        mask = (frame["method"] == method) & (frame["trial_id"].map(self.arms()) == arm)
        frame.loc[mask, "test/nll"] = frame.loc[mask, "seed"].map(lambda seed: nll[seed])
        return frame

    def arms(self) -> dict[str, str]:
        return {
            trial.trial_id: arm
            for search in self.tuning.searches
            for arm, setting in (("tuned", CHOSEN[search.name][2]), ("untuned", search.first))
            for trial in search.final_trials(setting, self.tuning.final_seeds)
        }


def narrowed(search: Search, name: str) -> Search:
    """The same with less room for lr."""
    return replace(search, name=name, space={**search.space, "lr": LogUniform(low=0.01, high=0.4)})


def record(trial: TrialConfig, arm: str) -> EpochRecord:
    nll = NLL[type(trial.method).__name__, arm][trial.seed]
    return EpochRecord(trial.epochs, 1_000_000, {"test/nll": nll, "test/error": nll / 10, "test/ece": nll / 20})


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("own")
        for name in ("MLFLOW_TRACKING_URI", "SWEEPS_OPTUNA_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("SWEEPS_RESULTS", str(folder / "results"))
        results = Results.here()
        results.root.mkdir()
        tuning, reference = write_tuning(folder)
        frozen = frozen_with(tuning, CHOSEN, DATE)
        frozen.write(frozen_of(reference))
        study = final_study(tuning, frozen_of(reference))
        found = Given(tuning, reference, frozen, results, pd.DataFrame())
        ledger = Ledger(results.ledger_url)
        ledger.declare(study.name, study.trials)
        tracker = Tracker(connect(results), study, ledger, results)
        tracker.prepare()
        for trial in study.trials:
            tracker.write(Delivery(trial, "finished", [record(trial, found.arms()[trial.trial_id])]))
        ledger.close()
        yield replace(found, frame=load(study, results))


def test_table_is_what_the_numbers_say(given: Given) -> None:
    table = verdict_table(given.blocks()).set_index("search")
    erm, amp, rmp = (table.loc[name] for name in CHOSEN)
    assert [erm["untuned/test/nll/mean"], erm["tuned/test/nll/mean"]] == pytest.approx([0.31, 0.29])
    assert [erm["to_untuned/mean"], erm["to_untuned/lower"], erm["to_tuned_erm/n"]] == [pytest.approx(-0.02), 3, 0]
    assert amp["tuned/test/error/mean"] == pytest.approx(0.026)
    assert amp["untuned/test/ece/mean"] == pytest.approx(0.0135)
    assert [amp["to_untuned/mean"], amp["to_untuned/lower"]] == [pytest.approx(-0.01), 2]  # of one seed they are equal
    # t(0.975, 2) = 4.3027; the differences are -0.03, -0.02, -0.04
    assert amp["to_tuned_erm/low"] == pytest.approx(-0.03 - 4.3027 * 0.01 / 3**0.5, abs=1e-6)
    p = stats.ttest_rel(NLL["Amp", "tuned"], NLL["Erm", "tuned"]).pvalue
    assert [amp["to_tuned_erm/p"], amp["to_tuned_erm/p_holm"]] == pytest.approx([p, p])
    assert amp["method.epsilon"] == 0.2
    assert [bool(row["tuned_is_first"]) for row in (erm, amp, rmp)] == [False, False, True]
    assert [rmp["tuned/test/nll/mean"], rmp["untuned/test/nll/mean"]] == pytest.approx([0.52, 0.52])
    assert [rmp["to_untuned/n"], rmp["to_tuned_erm/n"]] == [0, 0]
    assert pd.isna(rmp["to_tuned_erm/p_holm"])


def test_gap_is_computed(given: Given) -> None:
    (line,) = gap_lines(given.blocks()[0])
    low, high = ratio_interval(pd.Series([0.02, 0.02, 0.02]), pd.Series([0.03, 0.04, 0.05]))
    assert line.startswith("Digits: untuned, Amp's test NLL is 0.0400 [+0.0152, +0.0648] below Erm's;")
    assert f"Erm with tuned lr closes 50% [{low:.0%}, {high:.0%}] of that gap" in line
    assert line.endswith("Both tuned, the paired difference Amp - Erm is -0.0300 [-0.0548, -0.0052].")
    assert gap_lines(given.blocks()[1]) == []


@pytest.mark.parametrize(
    ("nll", "said"),
    [
        ((0.31, 0.33, 0.35), "is not below Erm's but 0.0200 [-0.0048, +0.0448] above it: there is no gap"),
        ((0.20, 0.31, 0.32), "is 0.0333 below Erm's, but [-0.1101, +0.1768] includes 0: no share of that gap"),
        ((math.nan, math.nan, 0.2), "fewer than two seeds"),
    ],
)
def test_where_there_is_no_gap_none_is_closed(given: Given, nll: tuple[float, ...], said: str) -> None:
    (line,) = gap_lines(given.blocks(given.with_nll("Amp", "untuned", nll))[0])
    assert said in line
    assert "closes" not in line


def test_erm_that_keeps_its_first_setting_closes_nothing(given: Given) -> None:
    erm = replace(given.frozen.choices["digits-erm"], setting=given.tuning.searches[0].first)
    frozen = replace(given.frozen, choices={**given.frozen.choices, "digits-erm": erm})
    (line,) = gap_lines(judge(given.tuning, frozen, given.frame)[0])
    assert line.endswith("Erm's frozen setting is the untuned one, so that tuning it closes nothing of that gap.")


def test_ranking_says_what_is_not_told_apart(given: Given) -> None:
    digits, mnist = given.blocks()
    assert "of 2 tuned methods Amp has the lowest mean test NLL, 0.2600" in ranking(digits)
    assert "the next, Erm, -0.0300 [-0.0548, -0.0052]" in ranking(digits)
    assert ranking(digits).endswith("Against tuned Erm (paired t-tests, Holm-corrected for 1, at 0.05): lower: Amp.")
    assert ranking(mnist) == "Mnist5k: no ranking: that takes two methods with all their seeds."
    alike = given.with_nll("Amp", "tuned", (0.25, 0.32, 0.29))
    assert ranking(given.blocks(alike)[0]).endswith("not told apart: Amp.")
    worse = given.with_nll("Amp", "tuned", (0.38, 0.39, 0.41))
    assert "Erm has the lowest" in ranking(given.blocks(worse)[0])
    assert ranking(given.blocks(worse)[0]).endswith("higher: Amp.")


def test_a_missing_seed_stays_missing(given: Given) -> None:
    frame = given.with_nll("Amp", "tuned", (0.25, 0.27, math.nan))
    mask = (frame["method"] == "Amp") & frame["test/nll"].isna()
    frame.loc[mask, "outcome"] = "diverged"
    block = given.blocks(frame)[0]
    amp = verdict_table([block]).set_index("search").loc["digits-amp"]
    assert [amp[f"tuned/{name}"] for name in ("n_finished", "n_diverged", "seeds")] == [2, 1, 3]
    assert [amp["tuned/test/nll/n"], amp["to_tuned_erm/n"]] == [2, 2]
    assert amp["tuned/test/nll/mean"] == pytest.approx(0.26)
    assert "no ranking" in ranking(block)
    assert "seeds are missing or diverged: Amp." in ranking(block)


def test_without_erm_there_is_no_comparison_to_it(given: Given) -> None:
    tuning = replace(given.tuning, searches=given.tuning.searches[1:])
    digits = given.blocks(tuning=tuning)[0]
    assert digits.baseline is None
    assert gap_lines(digits) == []
    assert verdict_table([digits]).loc[0, "to_tuned_erm/n"] == 0
    two = replace(given.tuning, searches=(tuning.searches[0], narrowed(tuning.searches[0], "again")))
    frozen = replace(given.frozen, choices={**given.frozen.choices, "again": given.frozen.choices["digits-amp"]})
    (block,) = judge(two, frozen, given.frame)
    assert [one.name for one in block.judged] == ["digits-amp", "again"]
    assert "No tuned ERM with all its seeds to compare with." in ranking(block)


def test_of_two_erm_searches_validation_chooses_the_baseline(given: Given) -> None:
    erm = given.tuning.searches[0]
    tuning = replace(given.tuning, searches=(erm, narrowed(erm, "narrow")))
    for value, name in ((0.1, "narrow"), (0.9, "digits-erm")):
        narrow = replace(given.frozen.choices["digits-erm"], value=value)
        frozen = replace(given.frozen, choices={**given.frozen.choices, "narrow": narrow})
        (block,) = judge(tuning, frozen, given.frame)
        assert block.baseline is not None
        assert block.baseline.name == name


def test_who_read_the_test_set_and_when(given: Given) -> None:
    text, warnings = provenance(given.tuning, given.frozen, given.results)
    assert f"frozen on {DATE} by commit abc1234. It was read by the 15 trials of made-up-final, the first" in text
    today = time.strftime("%Y-%m-%d", time.gmtime())
    started = text.partition("started at ")[2][:10]
    assert started <= today
    assert started > DATE[:10]
    assert "MLflow has no trial of the search in made-up" in text
    assert warnings == []
    (warning,) = provenance(given.tuning, replace(given.frozen, date="2999-01-01T00:00:00"), given.results)[1]
    assert warning.startswith("15 trials that read the test set started before the freeze, the first at 20")
    final = replace(given.tuning, name="made-up-final")  # as if the final trials were the search's
    text, warnings = provenance(final, given.frozen, given.results)
    assert "Of the search's 15 trials in made-up-final 15 read it." in text
    assert warnings == ["15 of the search's 15 trials read the test set."]


def test_report_of_a_tuning_is_both(
    given: Given, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SWEEPS_RESULTS", str(given.results.root))
    fill(given.results, given.tuning.searches[0], [({"lr": 0.05}, [0.3, 0.3])])
    assert main(["report", given.reference]) == 0
    printed = capsys.readouterr().out
    folder = given.results.report("made-up-final")
    frames = {f"{name}.{ending}" for name in ("verdict", "cells", "trials") for ending in ("csv", "parquet")}
    texts = {"report.html", "report.md", "report.json"}
    assert {path.name for path in folder.iterdir()} == {*frames, *texts, "figures"}
    assert {path.name for path in (folder / "figures").iterdir()} == {"verdict.png", "verdict.svg"}
    text = (folder / "report.md").read_text()
    for shown in (printed, text):
        assert "closes 50%" in shown
        assert "It was read by the 15 trials" in shown
        assert "nor that a search with other validation splits" in shown
    assert "| Rmp | 0.5200 | 0.5200 [0.4703, 0.5697] | – | – | – | – | – | 5.20 [4.70, 5.70] |" in text
    assert "| 3 | the first one |" in text
    assert "| 0.2900 [0.2652, 0.3148] | -0.0200 [equal] | 3/3 | – |" in text
    cells = pd.read_csv(folder / "cells.csv")
    assert cells["n_finished"].tolist() == [3] * 5
    assert {"cell_id", "test/nll/mean"} <= set(cells)
    assert (given.results.report("made-up") / "report.md").is_file()


def test_a_search_changed_since_has_no_verdict(given: Given, tmp_path: Path) -> None:
    assert has_verdict(given.tuning, given.results, given.reference)
    assert not has_verdict(given.tuning, Results(tmp_path), given.reference)
    erm = replace(given.tuning.searches[0], sampler_seed=7)
    changed = replace(given.tuning, searches=(erm, *given.tuning.searches[1:]))
    assert not has_verdict(changed, given.results, given.reference)
    with pytest.raises(ConfigError, match=f"the search digits-erm has changed since {DATE[:10]}"):
        verdict(changed, given.results, given.reference)
    with pytest.raises(ConfigError, match=r"made-up-final: no trial is finished in .*: make final STUDY="):
        verdict(given.tuning, Results(tmp_path), given.reference)


def test_figure_shows_both_cells_and_every_seed(given: Given) -> None:
    (drawn,) = draw_verdict(given.blocks())
    axes = drawn.figure.axes[0]
    assert axes.get_title() == "Digits: test NLL"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Erm", "Amp"]
    seeds = {(str(line.get_label()), float(np.asarray(line.get_ydata())[0])): line for line in axes.lines[:-1]}
    for place, method in enumerate(("Erm", "Amp")):
        for offset, arm in ((-0.17, "untuned"), (0.17, "tuned")):
            line = seeds[f"{arm}, a seed", place + offset]
            assert np.asarray(line.get_xdata()).tolist() == pytest.approx(NLL[method, arm])
    level = next(line for line in axes.lines if line.get_label() == "tuned ERM's mean")
    assert np.asarray(level.get_xdata()).tolist() == pytest.approx([0.29, 0.29])
    error = drawn.figure.axes[1]
    assert error.get_title() == "Digits: test error (%)"
    assert np.asarray(error.lines[0].get_xdata()).tolist() == pytest.approx([3.0, 3.1, 3.2])
    rmp = {str(line.get_label()) for line in drawn.figure.axes[3].lines}
    assert "tuned, a seed" in rmp
    assert "untuned, a seed" not in rmp  # they are one cell


def test_holm_against_a_worked_example() -> None:
    # 4 · 0.005; 3 · 0.01; max(0.03, 2 · 0.03); max(0.06, 1 · 0.04)
    assert holm([0.01, 0.04, math.nan, 0.03, 0.005]) == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_is_that_of_a_paired_test() -> None:
    a, b = pd.Series([1.0, 2.0, 4.0, 3.0]), pd.Series([1.5, 2.1, 4.8, 3.1])
    assert p_value(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert math.isnan(p_value(pd.Series([1.0])))
    assert math.isnan(p_value(pd.Series([1.0, 1.0])))


def test_ends_of_a_ratio_are_where_the_test_just_fails() -> None:
    above, below = pd.Series([2.0, 2.5, 1.5, 2.2]), pd.Series([3.0, 4.0, 5.0, 4.1])
    low, high = ratio_interval(above, below)
    assert low < above.mean() / below.mean() < high
    for ratio, end in ((low, "low"), (high, "high")):
        assert getattr(estimate(above - ratio * below), end) == pytest.approx(0, abs=1e-9)
    assert all(map(math.isnan, ratio_interval(above, pd.Series([-1.0, 1.0, 2.0, -2.0]))))
    assert all(map(math.isnan, ratio_interval(above[:1], below[:1])))

"""The verdict on a tuning: every method with its frozen setting and with its first one, measured on the test set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.commands import make_again
from analysis.compare import BASELINE, estimate, holm, p_value, ratio_interval
from analysis.conduct import details
from analysis.document import Document, write_report
from analysis.figures.base import AMP_COLOUR, CELL_PANELS, ERM_COLOUR, FULL_WIDTH, Drawn
from analysis.render import Rows
from analysis.runs import load, load_records
from analysis.search_report import NOTHING_TO_SET, readers_of_test
from analysis.searches import blocks, row_names
from analysis.tables import (
    COLUMNS,
    Column,
    cells_table,
    difference_text,
    interval_text,
    number_text,
    p_text,
    seeds_text,
    statistics,
)
from search_spaces.catalog import frozen_of
from search_spaces.choices import Frozen, final_study, is_frozen, read_frozen
from search_spaces.search import Search, Setting, Tuning, setting_text
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results

NLL, ERROR, ECE = (column for column in COLUMNS if column.metric.startswith("test/"))
METRICS = (NLL, ERROR, ECE)
SEEDS = ["n_finished", "n_diverged", "seeds"]
SIGNIFICANCE = 0.05
CAPTION = "Tuned and untuned setting of every method on the test set: every seed, the mean and its 95% interval."
TO_ERM, TO_UNTUNED = "to_tuned_erm", "to_untuned"


@dataclass(frozen=True, slots=True)
class Judged:
    """A search's two cells in the final study. tuned, untuned: a row a seed, with the columns of ``runs.load``.

    Where the frozen setting is the base's own they are the same trials.
    """

    search: Search
    name: str
    setting: Setting
    tuned: pd.DataFrame
    untuned: pd.DataFrame

    @property
    def method(self) -> str:
        return type(self.search.base.method).__name__

    @property
    def is_first(self) -> bool:
        return self.tuned.index.equals(self.untuned.index) and bool(
            (self.tuned["trial_id"] == self.untuned["trial_id"]).all()
        )

    @property
    def is_whole(self) -> bool:
        """Whether every seed of the tuned setting gave a number."""
        return bool((self.tuned["outcome"] == "finished").all())


@dataclass(frozen=True, slots=True)
class Block:
    """The judged searches of one data set. baseline: ERM's, of several the one that validation prefers, or None."""

    title: str
    judged: Sequence[Judged]
    baseline: Judged | None

    def to_baseline(self, one: Judged, column: Column = NLL) -> pd.Series[float]:
        """``one``'s tuned values minus tuned ERM's, a seed each; NaN where a pair is not whole."""
        if self.baseline is None:
            return pd.Series(np.nan, index=one.tuned.index)
        return one.tuned[column.metric] - self.baseline.tuned[column.metric]

    def p_holm(self) -> dict[str, float]:
        """Of paired t-tests of each search's tuned NLL against tuned ERM's, adjusted for their number, by its name."""
        rivals = [one for one in self.judged if one is not self.baseline]
        adjusted = holm([p_value(self.to_baseline(one)) for one in rivals])
        return {one.search.name: p for one, p in zip(rivals, adjusted, strict=True)}


def has_verdict(tuning: Tuning, results: Results, reference: str) -> bool:
    """Whether a trial of the final study is finished, of the settings that are frozen for just these searches."""
    path = frozen_of(reference)
    if not is_frozen(tuning, path):
        return False
    return bool((load(final_study(tuning, path), results)["outcome"] == "finished").any())


def verdict(tuning: Tuning, results: Results, reference: str) -> list[Path]:
    """Write ``verdict.csv``, ``cells.csv``, ``trials.csv``, ``report.md`` and the figure, print; files are returned.

    reference: what the user calls the tuning. Raises ConfigError when nothing is frozen or finished, when MLflow does
    not answer, or when the folder cannot be written.
    """
    path = frozen_of(reference)
    study, frozen = final_study(tuning, path), read_frozen(path)
    assert frozen is not None  # or there were no such study
    frame = load(study, results)
    if not (frame["outcome"] == "finished").any():
        raise ConfigError(f"{study.name}: no trial is finished in {results.root}: {make_again('final', reference)}")
    judged = judge(tuning, frozen, frame)
    table = verdict_table(judged)
    read_by, warnings = provenance(tuning, frozen, results)
    document = Document(
        name=study.name,
        question=tuning.question,
        answer="\n".join(ranking(block) for block in judged),
        reproduce=make_again("final", reference),
        reference="",
        findings=[*(line for block in judged for line in gap_lines(block)), read_by],
        tables={block.title: _text_rows(block, table) for block in judged},
        notes=_notes(tuning, frame),
        warnings=warnings,
        details=details(study, frame),
    )
    frames = {"verdict": table, "cells": cells_table(study, frame), "trials": frame}
    return write_report(document, results, frames, draw_verdict(judged))


def judge(tuning: Tuning, frozen: Frozen, frame: pd.DataFrame) -> list[Block]:
    """The cells of ``frame``, which is of the final study, by data set and search."""
    by_trial = frame.set_index("trial_id", drop=False).reindex(columns=[*frame, *_missing(frame)])
    found = []
    for title, searches in blocks(tuning.searches).items():
        names = row_names(searches)
        judged = [
            Judged(
                search=search,
                name=names[search.name],
                setting=(setting := frozen.choices[search.name].setting),
                tuned=_cell(by_trial, search.final_trials(setting, tuning.final_seeds)),
                untuned=_cell(by_trial, search.final_trials(search.first, tuning.final_seeds)),
            )
            for search in searches
        ]
        baselines = [one for one in judged if one.method == BASELINE]
        best = min(baselines, key=lambda one: frozen.choices[one.search.name].value, default=None)
        found.append(Block(title, judged, best))
    return found


def _missing(frame: pd.DataFrame) -> list[str]:
    return [column.metric for column in METRICS if column.metric not in frame]


def _cell(by_trial: pd.DataFrame, trials: Sequence[TrialConfig]) -> pd.DataFrame:
    return by_trial.loc[[trial.trial_id for trial in trials]].set_index("seed", drop=False)


def verdict_table(judged: Sequence[Block]) -> pd.DataFrame:
    """A row a search: statistics of both its cells and of the paired differences in test NLL; fractions stay fractions.

    ``to_untuned/*``: tuned minus untuned; ``to_tuned_erm/*``: minus tuned ERM of the same data set, with ``p`` of the
    paired t-test and ``p_holm``, adjusted for the number of tests in the data set. ``*/lower``: of how many pairs.
    """
    rows = []
    for block in judged:
        adjusted = block.p_holm()
        for one in block.judged:
            rows.append(_row(block, one) | {f"{TO_ERM}/p_holm": adjusted.get(one.search.name, np.nan)})
    return pd.DataFrame(rows)


def _row(block: Block, one: Judged) -> dict[str, Any]:
    row: dict[str, Any] = {"block": block.title, "search": one.search.name, "method": one.method}
    row |= {"tuned_is_first": one.is_first, **one.setting}
    for arm, cell in (("tuned", one.tuned), ("untuned", one.untuned)):
        row |= {f"{arm}/seeds": len(cell)}
        row |= {f"{arm}/n_{outcome}": int((cell["outcome"] == outcome).sum()) for outcome in ("finished", "diverged")}
        for column in METRICS:
            row |= statistics(f"{arm}/{column.metric}", cell[column.metric])
    nothing = pd.Series(np.nan, index=one.tuned.index)
    gain = nothing if one.is_first else one.tuned[NLL.metric] - one.untuned[NLL.metric]
    to_erm = nothing if one is block.baseline else block.to_baseline(one)
    for name, differences in ((TO_UNTUNED, gain), (TO_ERM, to_erm)):
        row |= statistics(name, differences) | {f"{name}/lower": int((differences < 0).sum())}
    return row | {f"{TO_ERM}/p": p_value(to_erm)}


def _text_rows(block: Block, table: pd.DataFrame) -> Rows:
    nll = ["untuned NLL", "tuned NLL [95% CI]", "tuned - untuned", "lower", "tuned - tuned ERM", "lower", "p (Holm)"]
    rows = [["method", *nll, "error %", "ECE %", "n", "tuned setting"]]
    own = table[table["block"] == block.title]
    for one, (_, row) in zip(block.judged, own.iterrows(), strict=True):
        tuned = [interval_text(row, column, "tuned/") for column in METRICS]
        setting = "the first one" if one.is_first else setting_text(one.setting) or NOTHING_TO_SET
        pairs = [text for name in (TO_UNTUNED, TO_ERM) for text in (difference_text(row, NLL, name), _lower(row, name))]
        p = p_text(row[f"{TO_ERM}/p_holm"])
        rows.append([one.name, _untuned_text(row), tuned[0], *pairs, p, *tuned[1:], _seeds(row, "tuned"), setting])
    return rows


def _untuned_text(row: pd.Series[float]) -> str:
    """``0.1234``, or ``0.1234 (9/10)`` where seeds are missing."""
    mean = number_text(row[f"untuned/{NLL.metric}/mean"], NLL.digits)
    whole = row["untuned/n_finished"] == row["untuned/seeds"]
    return mean if whole else f"{mean} ({_seeds(row, 'untuned')})"


def _seeds(row: pd.Series[float], arm: str) -> str:
    return seeds_text(row[[f"{arm}/{name}" for name in SEEDS]].set_axis(SEEDS))


def _lower(row: pd.Series[float], name: str) -> str:
    n = int(row[f"{name}/n"])
    return f"{int(row[f'{name}/lower'])}/{n}" if n else "–"


def _difference(values: pd.Series[float]) -> str:
    return difference_text(pd.Series(statistics("difference", values)), NLL)


def ranking(block: Block) -> str:
    """Which tuned method has the lowest test NLL, and which of them are told from tuned ERM."""
    whole = sorted((one for one in block.judged if one.is_whole), key=lambda one: float(one.tuned[NLL.metric].mean()))
    left_out = [one.name for one in block.judged if not one.is_whole]
    missing = f" Not ranked, for seeds are missing or diverged: {', '.join(left_out)}." if left_out else ""
    if len(whole) < 2:
        return f"{block.title}: no ranking: that takes two methods with all their seeds.{missing}"
    best, second = whole[:2]
    mean = number_text(float(best.tuned[NLL.metric].mean()), NLL.digits)
    apart = _difference(best.tuned[NLL.metric] - second.tuned[NLL.metric])
    return (
        f"{block.title}: of {len(whole)} tuned methods {best.name} has the lowest mean test NLL, {mean}; paired"
        f" difference to the next, {second.name}, {apart}, both picked by these very means."
        f" {_against_baseline(block, whole)}{missing}"
    )


def _against_baseline(block: Block, whole: Sequence[Judged]) -> str:
    if block.baseline is None or not block.baseline.is_whole:
        return "No tuned ERM with all its seeds to compare with."
    adjusted = block.p_holm()
    rivals = [one for one in whole if one is not block.baseline]
    signs = {
        one.name: np.sign(block.to_baseline(one).mean()) if adjusted[one.search.name] < SIGNIFICANCE else 0
        for one in rivals
    }
    parts = []
    for sign, text in ((-1, "lower"), (1, "higher"), (0, "not told apart")):
        if named := [name for name, own in signs.items() if own == sign]:
            parts.append(f"{text}: {', '.join(named)}")
    n = sum(not math.isnan(p) for p in adjusted.values())
    tests = f"paired t-tests, Holm-corrected for {n}, at {SIGNIFICANCE:g}"
    return f"Against tuned {block.baseline.name} ({tests}): {'; '.join(parts)}."


def gap_lines(block: Block) -> list[str]:
    """How much of AMP's lead over ERM, both untuned, tuning ERM alone makes up for; a sentence an AMP search."""
    return [_gap(block, block.baseline, one) for one in block.judged if one.method == "Amp" and block.baseline]


def _gap(block: Block, erm: Judged, amp: Judged) -> str:
    """Over the seeds of which all three cells have a number."""
    cells = (erm.untuned, amp.untuned, erm.tuned)
    values = pd.concat([cell[NLL.metric] for cell in cells], axis=1, keys=["erm", "amp", "tuned"]).dropna()
    gap, gain = values["erm"] - values["amp"], values["erm"] - values["tuned"]
    found, who = estimate(gap), f"{block.title}: untuned, {amp.name}'s test NLL is"
    if found.n < 2:
        return f"{who} not compared with {erm.name}'s: fewer than two seeds have all cells."
    interval = f"[{found.low:+.4f}, {found.high:+.4f}]"
    if found.mean <= 0:
        above = f"{-found.mean:.4f} [{-found.high:+.4f}, {-found.low:+.4f}]"
        return f"{who} not below {erm.name}'s but {above} above it: there is no gap to close."
    if found.low <= 0:
        return (
            f"{who} {found.mean:.4f} below {erm.name}'s, but {interval} includes 0: no share of that gap can be told."
        )
    start = f"{who} {found.mean:.4f} {interval} below {erm.name}'s"
    if erm.is_first:
        return f"{start}; {erm.name}'s frozen setting is the untuned one, so that tuning it closes nothing of that gap."
    low, high = ratio_interval(gain, gap)
    share = f"{gain.mean() / found.mean:.0%} [{low:.0%}, {high:.0%}]"
    tuned = " and ".join(erm.search.space)
    both = _difference(block.to_baseline(amp))
    return (
        f"{start}; {erm.name} with tuned {tuned} closes {share} of that gap (Fieller's 95% interval, n = {found.n})."
        f" Both tuned, the paired difference {amp.name} - {erm.name} is {both}."
    )


def provenance(tuning: Tuning, frozen: Frozen, results: Results) -> tuple[str, list[str]]:
    """Which trials read the test set and when, as MLflow has it: a paragraph, and warnings where the order is wrong."""
    final, searched = load_records(tuning.final_name, results), load_records(tuning.name, results)
    early = final[final["started"] < _time(frozen.date)]
    readers = readers_of_test(searched)
    copies = int(final["copied"].sum())
    paragraph = (
        f"The test set: settings were frozen on {frozen.date} by commit {frozen.commit}. It was read by the"
        f" {len(final)} trials of {tuning.final_name}"
        + (f" ({copies} of them trained for another study)" if copies else "")
        + f", the first of which started at {_utc(final['started'].min())} and the last of which ended at"
        f" {_utc(final['ended'].max())}. {_of_search(tuning, len(searched), len(readers))}"
    )
    warnings = []
    if len(early):
        warnings.append(
            f"{len(early)} trials that read the test set started before the freeze, the first at"
            f" {_utc(early['started'].min())}; {int(early['copied'].sum())} of them were trained for another study."
        )
    if len(readers):
        warnings.append(f"{len(readers)} of the search's {len(searched)} trials read the test set.")
    return paragraph, warnings


def _of_search(tuning: Tuning, trials: int, readers: int) -> str:
    if trials == 0:
        return f"MLflow has no trial of the search in {tuning.name}: what it has read cannot be seen from it."
    if readers:
        return f"Of the search's {trials} trials in {tuning.name} {readers} read it."
    return f"Of the search's {trials} trials in {tuning.name} none did."


def _time(date: str) -> pd.Timestamp:
    found = pd.Timestamp(date)
    return found.tz_localize("UTC") if found.tzinfo is None else found


def _utc(time: Any) -> str:
    return "an unknown time" if pd.isna(time) else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _notes(tuning: Tuning, frame: pd.DataFrame) -> list[str]:
    lines = [
        f"Means over up to {len(tuning.final_seeds)} seeds at the last epoch, trained on all training images; intervals"
        " are 95% Student-t over seeds, differences are paired by seed. They cover the choice of the seed, not that of"
        " the test images, nor that a search with other validation splits could have chosen another setting.",
        "Untuned: the base's own setting, which each search tried first. Tuned: the frozen one.",
    ]
    counts = {str(name): int(count) for name, count in frame["outcome"].value_counts().items() if name != "finished"}
    if counts:
        lines.append("Not finished: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + ".")
    return lines


def draw_verdict(judged: Sequence[Block]) -> Iterator[Drawn]:
    """A row of panels a data set, for risk, error and ECE; in them a row a method."""
    heights = [len(block.judged) for block in judged]
    figure = Figure(figsize=(FULL_WIDTH, 0.8 + 0.6 * len(judged) + 0.3 * sum(heights)))
    grid = figure.subplots(len(judged), 3, squeeze=False, sharey="row", height_ratios=heights)
    for block, panels in zip(judged, grid, strict=True):
        for axes, (metric, title, scale) in zip(panels, CELL_PANELS, strict=True):
            _panel(axes, block, f"test/{metric}", scale)
            axes.set_title(f"{block.title}: test {title}")
        panels[0].set_yticks(range(len(block.judged)), [one.name for one in block.judged])
        panels[0].set_ylim(len(block.judged) - 0.5, -0.5)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    unique: Mapping[str, Any] = dict(zip(labels, handles, strict=True))
    figure.legend(list(unique.values()), list(unique), loc="outside lower center", ncols=5)
    yield Drawn("verdict", CAPTION, figure)


def _panel(axes: Axes, block: Block, metric: str, scale: float) -> None:
    for place, one in enumerate(block.judged):
        if not one.is_first:
            _arm(axes, one.untuned[metric] * scale, place - 0.17, ERM_COLOUR, "o", "untuned")
        _arm(axes, one.tuned[metric] * scale, place + 0.17, AMP_COLOUR, "D", "tuned")
    if block.baseline is not None and block.baseline.tuned[metric].notna().any():
        level = float(block.baseline.tuned[metric].mean()) * scale
        axes.axvline(level, color=AMP_COLOUR, linestyle="--", linewidth=0.8, label="tuned ERM's mean")


def _arm(axes: Axes, values: pd.Series[float], place: float, colour: str, marker: str, label: str) -> None:
    found = estimate(values)
    if not found.n:
        return
    axes.plot(values.dropna(), [place] * found.n, ".", color=colour, alpha=0.4, markersize=3, label=f"{label}, a seed")
    half = 0.0 if np.isnan(found.low) else found.high - found.mean
    filled = colour if label == "tuned" else "white"
    style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 3.5, "markerfacecolor": filled}
    axes.errorbar(found.mean, place, xerr=half, capsize=2, linewidth=1, label=f"{label}, mean [95% CI]", **style)

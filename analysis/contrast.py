"""Two studies side by side: which settings differ, which cells are the same, and what the others' numbers differ by."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, KeysView, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.compare import SIGNIFICANCE, estimate, holm, p_value, welch, welch_p
from analysis.document import Document, write_report
from analysis.render import Rows
from analysis.runs import load
from analysis.sentences import warnings
from analysis.tables import (
    COLUMNS,
    MOST_NAMED,
    VALIDATION,
    Column,
    difference_text,
    has_metric,
    interval_text,
    p_text,
    value_text,
)
from search_spaces.study import Cell, Study
from trainer.declaration import ConfigError, Scalar
from trainer.machine import Results

TEST = tuple(column for column in COLUMNS if column.metric.startswith("test/"))
FOLLOWS = "dataset.digest"
"""What differs whenever the data set does, and says no more."""
STREAMS = ("model", "dataset", "validation")
"""Kinds of parameters on which the initial weights or the batches of a seed depend."""
MOST_SHOWN = 2
"""Parameters that a row names with their values."""
SHOWN = ("mean", "low", "high")


@dataclass(frozen=True, slots=True)
class Pair:
    """Cells of two studies that correspond. differs: the parameters in which they do not agree."""

    first: Cell
    second: Cell
    differs: tuple[str, ...]

    @property
    def shares_streams(self) -> bool:
        """Whether trials of one seed share initial weights and data, so that seeds are pairs."""
        return not any(name.partition(".")[0] in STREAMS for name in self.differs)

    def settings(self, but: Collection[str] = ()) -> str:
        """``weight_decay 0.0001 | 0.001``, or the names alone of many; without those in ``but``."""
        names = [name for name in self.differs if name not in but]
        if len(names) > MOST_SHOWN:
            return ", ".join(names)
        return ", ".join(
            f"{name} {value_text(self.first.params.get(name))} | {value_text(self.second.params.get(name))}"
            for name in names
        )


@dataclass(frozen=True, slots=True)
class Contrast:
    """frame: a row a pair of cells and metric, see ``contrast_frame``. document: what is said of it."""

    frame: pd.DataFrame
    document: Document


def contrast_report(a: Study, b: Study, results: Results, references: tuple[str, str]) -> list[Path]:
    """Write and print the comparison of two studies under ``results/reports/A-and-B``; the files are returned.

    references: what the user calls them. Raises ConfigError as ``contrast``, or when the folder cannot be written.
    """
    found = contrast(a, b, results, references)
    return write_report(found.document, results, {"contrast": found.frame}, [])


def contrast(a: Study, b: Study, results: Results, references: tuple[str, str]) -> Contrast:
    """Compare two studies, which are two and of which each has finished trials in ``results``: else ConfigError."""
    if a.name == b.name:
        raise ConfigError(f"{a.name}: a study does not differ from itself: name another one as OTHER")
    called = [shlex.quote(reference) for reference in references]
    frames = [_loaded(study, results, reference) for study, reference in zip((a, b), called, strict=True)]
    pairs = pair_cells(a, b)
    frame = contrast_frame(pairs, *frames)
    same = _same_cells(a, b)
    document = Document(
        name=f"{a.name}-and-{b.name}",
        question=f"Which settings and which numbers of {a.name} (A) and {b.name} (B) differ?",
        answer=_answer(a, b, same, pairs, frame),
        reproduce="make compare STUDY={} OTHER={}".format(*called),
        reference="",
        tables={"Settings that differ": settings_rows(a, b)} | _number_tables(frame),
        notes=[*_notes(pairs, frame), *_left_out(a, b, pairs)],
        warnings=[f"{study.name}: {line}" for study, own in zip((a, b), frames, strict=True) for line in warnings(own)],
    )
    return Contrast(frame, document)


def _loaded(study: Study, results: Results, reference: str) -> pd.DataFrame:
    frame = load(study, results)
    if not (frame["outcome"] == "finished").any():
        raise ConfigError(f"{study.name}: no trial is finished in {results.root}: make sweep STUDY={reference}")
    return frame


def _same_cells(a: Study, b: Study) -> list[str]:
    """The labels that the first study has for cells which both declare."""
    known = {cell.cell_id for cell in b.cells()}
    return [cell.label for cell in a.cells() if cell.cell_id in known]


def pair_cells(a: Study, b: Study) -> list[Pair]:
    """The cells, but for those that both studies declare, that correspond: of one method, and each other's nearest.

    Nearest: that agrees in all but the fewest parameters. A cell with two nearest ones corresponds to none.
    """
    ids = {cell.cell_id for cell in a.cells()} & {cell.cell_id for cell in b.cells()}
    firsts, seconds = ([cell for cell in study.cells() if cell.cell_id not in ids] for study in (a, b))
    forth = {first.cell_id: _nearest(first, seconds) for first in firsts}
    back = {second.cell_id: _nearest(second, firsts) for second in seconds}
    return [
        Pair(first, second, _differing(first, second))
        for first in firsts
        if (second := forth[first.cell_id]) is not None and back[second.cell_id] is first
    ]


def _nearest(cell: Cell, others: Sequence[Cell]) -> Cell | None:
    candidates = [other for other in others if other.params["method"] == cell.params["method"]]
    counts = [len(_differing(cell, other)) for other in candidates]
    return candidates[counts.index(min(counts))] if counts and counts.count(min(counts)) == 1 else None


def _differing(first: Cell, second: Cell) -> tuple[str, ...]:
    names = dict.fromkeys([*first.params, *second.params])
    return tuple(name for name in names if name != FOLLOWS and not _agree(first.params, second.params, name))


def _agree(first: Mapping[str, Scalar], second: Mapping[str, Scalar], name: str) -> bool:
    return name in first and name in second and first[name] == second[name]


def settings_rows(a: Study, b: Study) -> Rows:
    """The parameters, seeds included, that do not have the same values in both studies, with their values in each.

    What follows from other methods or networks is left out: of those that both have their own parameters count alone.
    """
    names = dict.fromkeys(name for study in (a, b) for trial in study.trials for name in trial.params())
    rows = [["parameter", a.name, b.name]]
    for name in names:
        parent = name.rpartition(".")[0]
        common = _values(a, parent) & _values(b, parent) if parent else set()
        first, second = (list(_values(study, name, parent, common)) for study in (a, b))
        if set(first) != set(second) and name != FOLLOWS:
            rows.append([name, ", ".join(first) or "–", ", ".join(second) or "–"])
    return rows


def _values(study: Study, name: str, parent: str = "", of: Collection[str] = ()) -> KeysView[str]:
    """The texts of a parameter's values, as they appear, of trials whose ``parent`` is one of ``of``, if any is."""
    found = [trial.params() for trial in study.trials]
    own = [params for params in found if not of or str(params.get(parent)) in of]
    return dict.fromkeys(value_text(params.get(name)) for params in own if not parent or name in params).keys()


def contrast_frame(pairs: Sequence[Pair], first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """A row a pair of cells and metric. Fractions stay fractions. first, second: ``runs.load`` of the two studies.

    Columns: ``a/cell`` and ``a/cell_id``, ``b/cell`` and ``b/cell_id``; ``differs``: parameters; ``settings``: those
    that not all pairs differ in, with their values; ``metric``; ``a/METRIC/*`` and
    ``b/METRIC/*`` as ``a/*`` and ``b/*``: n, mean, sd, low, high; ``difference/*``: A minus B with its 95% interval,
    ``n`` the number of pairs, ``p`` and ``p_holm``, adjusted for the pairs of cells; ``test``: paired or Welch.
    """
    columns = [column for column in TEST if _both_have(column, first, second)]
    columns = columns or [column for column in VALIDATION.values() if _both_have(column, first, second)]
    shared = common_settings(pairs)
    rows = [
        {"settings": pair.settings(but=shared)} | _row(pair, column.metric, first, second)
        for pair in pairs
        for column in columns
    ]
    frame = pd.DataFrame(rows)
    if rows:
        by_metric = frame.groupby("metric", sort=False)["difference/p"]
        frame["difference/p_holm"] = by_metric.transform(lambda own: pd.Series(holm(own.tolist()), index=own.index))
    return frame


def common_settings(pairs: Sequence[Pair]) -> list[str]:
    """The parameters in which each of several pairs differs."""
    if len(pairs) < 2:
        return []
    return [name for name in pairs[0].differs if all(name in pair.differs for pair in pairs)]


def _both_have(column: Column, first: pd.DataFrame, second: pd.DataFrame) -> bool:
    return has_metric(first, column.metric) and has_metric(second, column.metric)


def _row(pair: Pair, metric: str, first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    ours, theirs = _by_seed(first, pair.first, metric), _by_seed(second, pair.second, metric)
    row: dict[str, Any] = {"a/cell": pair.first.label, "a/cell_id": pair.first.cell_id}
    row |= {"b/cell": pair.second.label, "b/cell_id": pair.second.cell_id}
    row |= {"differs": ", ".join(pair.differs), "metric": metric}
    for side, values in (("a", ours), ("b", theirs)):
        row |= {f"{side}/{name}": value for name, value in dataclasses.asdict(estimate(values)).items()}
    return row | _difference(pair, ours, theirs)


def _by_seed(frame: pd.DataFrame, cell: Cell, metric: str) -> pd.Series[float]:
    return frame[frame["cell"] == cell.label].set_index("seed")[metric].dropna()


def _difference(pair: Pair, ours: pd.Series[float], theirs: pd.Series[float]) -> dict[str, Any]:
    """Paired over the seeds that both have where seeds are pairs, else of two samples."""
    differences = (ours - theirs).dropna()
    if pair.shares_streams and len(differences) > 1:
        found = dataclasses.asdict(estimate(differences))
        test: dict[str, Any] = {"p": p_value(differences), "test": "paired"}
    else:
        sides = estimate(ours), estimate(theirs)
        found = {"n": min(side.n for side in sides), **welch(*sides)._asdict()}
        test = {"p": welch_p(*sides), "test": "Welch"}
    return {f"difference/{name}": value for name, value in (found | test).items()}


def _number_tables(frame: pd.DataFrame) -> dict[str, Rows]:
    if frame.empty:
        return {}
    known = {column.metric: column for column in (*TEST, *VALIDATION.values())}
    return {
        known[str(metric)].title: _rows(own, known[str(metric)]) for metric, own in frame.groupby("metric", sort=False)
    }


def _rows(own: pd.DataFrame, column: Column) -> Rows:
    rows = [["cell", "differs in", "A [95% CI]", "n", "B [95% CI]", "n", "A - B [95% CI]", "p (Holm)", "test"]]
    for _, row in own.iterrows():
        renamed = row.rename({f"{side}/{name}": f"{side}/{column.metric}/{name}" for side in "ab" for name in SHOWN})
        sides = [text for side in "ab" for text in (interval_text(renamed, column, f"{side}/"), f"{row[f'{side}/n']}")]
        difference = [difference_text(row, column), p_text(row["difference/p_holm"]), row["difference/test"]]
        rows.append([row["a/cell"], row["settings"] or "–", *sides, *difference])
    return rows


def _answer(a: Study, b: Study, same: Sequence[str], pairs: Sequence[Pair], frame: pd.DataFrame) -> str:
    counts = (
        f"{a.name} has {len(a.cells())} cells, {b.name} {len(b.cells())}: {len(same)} are in both, the same trials;"
        f" of the others {len(pairs)} correspond."
    )
    if frame.empty:
        return counts
    metric = frame["metric"].iloc[0]
    own = frame[frame["metric"] == metric]
    told = own["difference/p_holm"] < SIGNIFICANCE
    lower, higher = (list(own.loc[told & (own["difference/mean"] * sign > 0), "a/cell"]) for sign in (-1, 1))
    title = next(column.title for column in (*TEST, *VALIDATION.values()) if column.metric == metric)
    parts = [("lower in A", lower), ("higher in A", higher), ("not told apart", list(own.loc[~told, "a/cell"]))]
    said = "; ".join(f"{text}: {', '.join(cells)}" for text, cells in parts if cells)
    tasks = " (test images differ)" if _other_tasks(pairs) else ""
    corrected = f"at {SIGNIFICANCE:g} with Holm's correction for {own['difference/p'].count()}"
    return f"{counts}\n{title}{tasks}, {corrected}: {said}."


def _notes(pairs: Sequence[Pair], frame: pd.DataFrame) -> list[str]:
    lines = [
        "Cells correspond that are of one method and differ in the fewest parameters, by however much; where several"
        " differ in equally few none does. The label is A's. Means are over seeds at the last epoch; intervals"
        " cover the choice of the seed, not that of the test images."
    ]
    if shared := common_settings(pairs):
        lines.append(f"All pairs differ in: {', '.join(shared)}.")
    tests = set(frame["difference/test"]) if len(frame) else set()
    if "paired" in tests:
        lines.append(
            "paired: over the seeds that both have, which share initial weights and data, for network, data set and"
            " validation split are the same (paired t interval and test)."
        )
    if "Welch" in tests:
        lines.append(
            "Welch: network, data or split differ, or fewer than two seeds are shared, so that none are pairs."
        )
    if _other_tasks(pairs):
        lines.append("Where data sets differ, so do the test images: the difference is one between tasks.")
    return lines


def _other_tasks(pairs: Sequence[Pair]) -> bool:
    return any("dataset" in pair.differs for pair in pairs)


def _left_out(a: Study, b: Study, pairs: Sequence[Pair]) -> list[str]:
    """The cells of each study that have none to be compared with, by name."""
    both = {cell.cell_id for cell in a.cells()} & {cell.cell_id for cell in b.cells()}
    compared = both | {cell.cell_id for pair in pairs for cell in (pair.first, pair.second)}
    lines = []
    for study in (a, b):
        labels = [cell.label for cell in study.cells() if cell.cell_id not in compared]
        more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
        if labels:
            lines.append(f"Of {study.name} without a counterpart: {', '.join(labels[:MOST_NAMED])}{more}.")
    return lines

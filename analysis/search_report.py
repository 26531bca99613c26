"""A tuning's report: what every search has tried and found, and whether that is frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.commands import make_again, make_freeze
from analysis.document import Document, write_report
from analysis.figures.searches import EPSILON, FEWEST_FOR_CONTOUR, ZETA, draw_searches
from analysis.render import Rows
from analysis.runs import load_records
from analysis.searches import FEWEST_FOR_IMPORTANCE, Searched, blocks, has_importance, read_searches, row_names
from analysis.tables import VALIDATION, number_text
from search_spaces.catalog import frozen_of
from search_spaces.choices import Frozen, read_frozen
from search_spaces.search import LogUniform, Tuning, Uniform, setting_text
from trainer.config import Published
from trainer.declaration import ConfigError
from trainer.machine import Results

Blocks = dict[str, list[Searched]]
OPTIMISM = (
    "The best of many values on a validation split is optimistic: it was picked for being low, the more so where values"
    " scatter. No conclusion about methods is drawn from it; that is for the final study, on the test set."
)
NOTHING_TO_SET = "nothing to set"
EDGE = 0.05
"""Of a range, at each of its ends."""


def search_report(tuning: Tuning, results: Results, reference: str) -> list[Path]:
    """Write the report with ``searches.csv``, ``settings.csv`` and the figures, print it; the files are returned.

    An unfinished search is shown as far as it is. reference: what the user calls the tuning. Raises ConfigError when no
    setting is over, when Optuna's database or MLflow does not answer, or when the folder cannot be written.
    """
    frozen = read_frozen(frozen_of(reference))
    found = read_searches(tuning, results, frozen)
    if not any(one.done for one in found):
        raise ConfigError(f"{tuning.name}: no setting is tried in {results.root}: {make_again('search', reference)}")
    by_name = {one.search.name: one for one in found}
    declared = blocks(tuning.searches)
    grouped = {title: [by_name[search.name] for search in block] for title, block in declared.items()}
    names = {name: shown for block in declared.values() for name, shown in row_names(block).items()}
    document = _document(tuning, grouped, names, frozen, load_records(tuning.name, results), reference)
    frames = {"searches": searches_table(grouped), "settings": settings_table(found)}
    return write_report(document, results, frames, draw_searches(grouped, names))


def searches_table(grouped: Mapping[str, Sequence[Searched]]) -> pd.DataFrame:
    """A row a search: how much was tried, what it took, and the best setting with its value, beside the first one's.

    ``best/sd`` is over the seeds of the best setting. Fractions stay fractions.
    """
    return pd.DataFrame([_row(title, one) for title, block in grouped.items() for one in block])


def _row(title: str, one: Searched) -> dict[str, Any]:
    search = one.search
    row: dict[str, Any] = {"search": search.name, "method": one.method, "dataset": search.base.params()["dataset"]}
    row |= {"block": title, "digest": search.digest, "metric": search.metric, "budget": search.budget}
    row |= {"tried": one.count("told"), **{state: one.count(state) for state in ("failed", "pruned", "open")}}
    row |= {"seeds": search.seeds, "trials": int(one.settings["trial_ids"].map(len).sum())}
    row |= {"train_seconds": float(one.settings["train_seconds"].sum()), "first/value": one.first_value}
    best = _setting_row(one, one.best)
    row |= {"best/number": one.best, "frozen/number": one.frozen.number if one.frozen else None}
    row |= {"best/value": np.nan if best is None else best["value"], "best/sd": _sd(best)}
    return row | {name: None if best is None else best[name] for name in search.space}


def _setting_row(one: Searched, number: int | None) -> pd.Series[Any] | None:
    rows = one.settings[one.settings["number"] == number]
    return rows.iloc[0] if len(rows) else None


def _sd(row: pd.Series[Any] | None) -> float:
    return float(np.std(row["values"], ddof=1)) if row is not None and len(row["values"]) > 1 else np.nan


def settings_table(found: Sequence[Searched]) -> pd.DataFrame:
    """A row a setting of any search: its state, value, values by seed (``value/0`` and so on), cost and parameters."""
    frame = pd.concat([one.settings for one in found if len(one.settings)], ignore_index=True)
    seeds = range(max(one.search.seeds for one in found))
    by_seed = pd.DataFrame(
        [[*values, *[np.nan] * len(seeds)][: len(seeds)] for values in frame["values"]],
        columns=[f"value/{seed}" for seed in seeds],
    )
    frame["trial_ids"] = frame["trial_ids"].map(" ".join)
    place = frame.columns.get_loc("values")
    assert isinstance(place, int)
    return pd.concat([frame.iloc[:, :place], by_seed, frame.iloc[:, place + 1 :]], axis=1)


def _document(
    tuning: Tuning,
    grouped: Blocks,
    names: Mapping[str, str],
    frozen: Frozen | None,
    records: pd.DataFrame,
    reference: str,
) -> Document:
    found = [one for block in grouped.values() for one in block]
    lines, warnings = _test_set(tuning, records)
    return Document(
        name=tuning.name,
        question=tuning.question,
        answer=_progress(found),
        reproduce=make_again("search", reference),
        reference=reference,
        tables={title: _text_rows(block, names) for title, block in grouped.items()},
        notes=[
            *_budget(found),
            OPTIMISM,
            *_at_the_edge(found),
            *lines,
            *frozen_lines(found, frozen, reference),
            *_figures(found),
        ],
        warnings=warnings,
    )


def _progress(found: Sequence[Searched]) -> str:
    """Whether the searches have spent their budgets."""
    short = [one for one in found if one.done < one.search.budget]
    if not short:
        return f"Each of the {len(found)} searches has spent its budget."
    parts = ", ".join(f"{one.search.name} {one.done}/{one.search.budget}" for one in short)
    return f"Unfinished: {len(short)} of {len(found)} searches have settings left to try: {parts}."


def _text_rows(block: Sequence[Searched], names: Mapping[str, str]) -> Rows:
    column = VALIDATION[block[0].search.metric]
    header = ["method", "tried", "failed", "pruned", "open", "training", f"{column.title}: first", "best", "sd"]
    rows = [[*header, "number", "setting"]]
    for one in block:
        counts = [str(one.count(state)) for state in ("told", "failed", "pruned", "open")]
        best = _setting_row(one, one.best)
        values = (one.first_value, np.nan if best is None else best["value"], _sd(best))
        texts = [number_text(value * column.scale, column.digits) for value in values]
        chosen = ["–", "–"] if best is None else [str(one.best), _best_text(one, best)]
        seconds = float(one.settings["train_seconds"].sum())
        rows.append([names[one.search.name], *counts, duration_text(seconds), *texts, *chosen])
    return rows


def _best_text(one: Searched, best: pd.Series[Any]) -> str:
    return setting_text({name: best[name] for name in one.search.space}) or NOTHING_TO_SET


def duration_text(seconds: float) -> str:
    """``0.8 s``, ``45 s``, ``12.3 min`` or ``4.5 h``."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _budget(found: Sequence[Searched]) -> list[str]:
    search, budgets = found[0].search, {one.search.budget for one in found}
    size = f"{search.budget} settings" if len(budgets) == 1 else f"{search.settings} settings or all that a space has"
    seeds = f"{search.seeds} seeds, seed k on the k-th stratified split" if search.seeds > 1 else "one seed"
    return [
        f"The same budget for every method: {size}, each on {seeds}. The training that"
        " takes differs, and stands beside it.",
        f"Values: mean {search.metric} over the seeds at the last epoch, on {search.fraction:.0%} of the training"
        f" images, held out{_held_out(found)}; sd: over the seeds of the best setting. Number 0 is the base's own"
        " setting.",
    ]


def _held_out(found: Sequence[Searched]) -> str:
    """How many images a value is from, where that is known without them: of few it says little."""
    datasets = dict.fromkeys(one.search.base.dataset for one in found)
    sizes = {type(one).__name__: one.sizes[0] for one in datasets if isinstance(one, Published)}
    counts = [f"{name}: {size * found[0].search.fraction:.0f}" for name, size in sizes.items()]
    return f" ({', '.join(counts)} a split)" if counts else ""


def _at_the_edge(found: Sequence[Searched]) -> list[str]:
    """Where the best setting is next to an end of its range."""
    near = [
        f"{one.search.name} {name.removeprefix('method.')}={best[name]:.3g}"
        for one in found
        if (best := _setting_row(one, one.best)) is not None
        for name, distribution in one.search.space.items()
        if isinstance(distribution, Uniform) and not EDGE <= _place(distribution, float(best[name])) <= 1 - EDGE
    ]
    if not near:
        return []
    return [f"Next to an end of its range, which may be too narrow: {', '.join(near)}."]


def _place(distribution: Uniform, value: float) -> float:
    """Where in the range ``value`` is, 0 to 1, on the scale on which it is drawn."""
    low, high = distribution.low, distribution.high
    if isinstance(distribution, LogUniform):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _test_set(tuning: Tuning, records: pd.DataFrame) -> tuple[list[str], list[str]]:
    """What MLflow's record says of the test set, as notes and as warnings."""
    if records.empty:
        return [f"MLflow has no trial in {tuning.name}: what the search has read cannot be seen from it."], []
    reading = readers_of_test(records)
    if len(reading):
        ids = ", ".join(map(str, reading["trial_id"].head(3)))
        return [], [f"{len(reading)} of the search's {len(records)} trials read the test set: {ids}."]
    return [
        f"The search has not read the test set: of its {len(records)} trials in MLflow none has phase final or a metric"
        " of the test set."
    ], []


def readers_of_test(records: pd.DataFrame) -> pd.DataFrame:
    """Of ``load_records``' rows those of trials that are final ones or have read the test set."""
    return records[(records["phase"] == "final") | records["has_test"].astype(bool)]


def frozen_lines(found: Sequence[Searched], frozen: Frozen | None, reference: str) -> list[str]:
    """Whether the choices are frozen, and whether they are still those that the searches would make."""
    if frozen is None:
        return [f"Nothing is frozen yet: {make_freeze(reference)}"]
    lines = [f"Frozen on {frozen.date} by commit {frozen.commit}."]
    changed = [one.search.name for one in found if one.frozen is None]
    if changed:
        lines.append(f"No longer what was frozen, for the search is new or another since: {', '.join(changed)}.")
    kept = [one for one in found if one.frozen]
    moved = [
        f"{one.search.name} (frozen number {one.frozen.number}, now number {one.best})"
        for one in kept
        if one.frozen and one.best is not None and one.frozen.number != one.best
    ]
    if moved:
        lines.append(f"The frozen setting is not the best one any more: {', '.join(moved)}.")
    elif kept:
        lines.append(f"The frozen setting still is the best one in {len(kept)} of {len(found)} searches.")
    return lines


def _figures(found: Sequence[Searched]) -> list[str]:
    """How to read the figures, and what is not in them."""
    lines = ["Parallel coordinates: the darker a line, the lower its setting's value."]
    if any(map(has_importance, found)):
        lines.append(
            "Parameter importance: fANOVA (Optuna's, seed 0) of the rank of the value, parameters drawn on a log scale"
            " taken on it; the share that a parameter explains by itself. What is left is joint effects and noise."
        )
    left_out = [one.search.name for one in found if one.search.space and not has_importance(one)]
    if left_out:
        few = f"fewer than {FEWEST_FOR_IMPORTANCE} settings told, or all of one value"
        lines.append(f"No importance is given for {', '.join(left_out)}: {few}.")
    if any({EPSILON, ZETA} <= one.search.space.keys() for one in found):
        lines.append(
            f"Over ε and ζ the other parameters differ from point to point: the surface, drawn from"
            f" {FEWEST_FOR_CONTOUR} settings on, is interpolated between points and no section."
        )
    return lines

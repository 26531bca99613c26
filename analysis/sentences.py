"""What is said of tables: how they were compared, what is missing, which cell is best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.compare import (
    BASELINE,
    FEWEST_FOR_BOOTSTRAP,
    FEWEST_FOR_WILCOXON,
    SIGNIFICANCE,
    bootstrap,
)
from analysis.images import Images, images_line
from analysis.tables import (
    MOST_NAMED,
    Column,
    difference_text,
    equation_text,
    has_metric,
    headline,
    interval_text,
)


def selection_notes(table: pd.DataFrame) -> list[str]:
    """How to read ``selection_rows``."""
    if not has_metric(table, "leak/test/error/mean"):
        return []
    lines = [
        "oracle: each seed's epoch of lowest test error, the first of equally low ones, as the authors' released code"
        " reports. It is chosen on the test set, so its error is too good and nothing is concluded from it. leak:"
        " oracle minus last epoch.",
    ]
    if has_metric(table, "best_val/test/nll/mean"):
        lines.append(
            "best on val: each seed's epoch of lowest validation NLL, the first of equally low ones, which is chosen"
            " without the test set."
        )
    return lines


def notes(frame: pd.DataFrame, table: pd.DataFrame, images: Sequence[Images]) -> list[str]:
    """What a reader must know to read the table right, a line each."""
    return [
        f"Means over seeds at the last epoch. Intervals are 95% Student-t over seeds, of differences over paired seeds;"
        f" they cover the choice of the seed, not that of the images measured on{_of_images(frame, table, images)}.",
        *images_line(images),
        *_how_compared(frame, table),
        "Baselines are not tuned here: a difference says what the method adds to these settings, no more.",
    ]


def _of_images(frame: pd.DataFrame, table: pd.DataFrame, images: Sequence[Images]) -> str:
    """The binomial standard error of the error; its formula where there is no one number of test images."""
    parts, unknown = [], []
    for dataset, cells in frame.groupby("dataset", sort=False, observed=True):
        sizes = {one.test for one in images if one.dataset == dataset}
        errors = table.loc[table["cell"].isin(cells["cell"]), "test/error/mean"] if "test/error/mean" in table else None
        if errors is None or errors.isna().all():
            continue
        if len(sizes) != 1:
            unknown.append(str(dataset))
            continue
        (size,) = sizes
        lowest = float(errors.min())
        spread = 100 * math.sqrt(lowest * (1 - lowest) / size)
        parts.append(f"{100 * lowest:.2f} ± {spread:.2f} % ({dataset}, {size:,} images)")
    said = f", from which alone the lowest error has a standard error: {', '.join(parts)}" if parts else ""
    if unknown:
        said += (
            f"; an error e on n test images of {', '.join(unknown)} has from them a standard error of √(e(1 - e) / n)"
        )
    return said


def _how_compared(frame: pd.DataFrame, table: pd.DataFrame) -> Iterator[str]:
    title = headline(frame).title
    if bool(table["chosen_on_validation"].any()):
        yield "*: the lowest mean validation NLL among the settings of its method: chosen without the test set."
    tests = _number_of_tests(table)
    if tests:
        yield (
            f"p (Holm): two-sided paired t-tests against ERM in {title}, corrected for the number of them in a block of"
            f" cells that share all but the method: {' or '.join(map(str, tests))}. The intervals are not corrected."
        )
    if has_metric(table, "difference/wilcoxon_p"):
        yield f"p (Wilcoxon): signed-rank test of the same pairs, not adjusted; from {FEWEST_FOR_WILCOXON} pairs on."
    if bool(table["best"].any()):
        yield (
            f"Bold: the lowest mean {title} of a block, and what paired t-tests against it, Holm-corrected within the"
            f" block at {SIGNIFICANCE:g}, cannot tell apart. Few seeds tell little apart: that is no proof of equality."
        )


def _number_of_tests(table: pd.DataFrame) -> list[int]:
    if "difference/p" not in table:
        return []
    counts = table.groupby("block", sort=False)["difference/p"].count()
    return sorted({int(count) for count in counts if count})


def warnings(frame: pd.DataFrame) -> list[str]:
    """What is missing from the table, by name, and what is mixed in it."""
    return [*_unfinished(frame), *_mixed(frame)]


def _unfinished(frame: pd.DataFrame) -> Iterator[str]:
    left = frame[frame["outcome"] != "finished"]
    if left.empty:
        return
    counts = ", ".join(f"{count} {name}" for name, count in left["outcome"].value_counts().items())
    cells = list(left.groupby("cell", sort=False, observed=True))
    named = [f"{cell}: {_seeds_by_outcome(own)}" for cell, own in cells[:MOST_NAMED]]
    rest = [f"{len(cells) - MOST_NAMED} more cells: see trials.csv"] if len(cells) > MOST_NAMED else []
    yield (
        f"Not finished: {counts}. Means are over the seeds that are there; such a cell is neither chosen nor bold."
        f" {'; '.join([*named, *rest])}."
    )


def _seeds_by_outcome(own: pd.DataFrame) -> str:
    """``seeds 1, 2 missing, seed 3 diverged``."""
    parts = []
    for outcome, trials in own.groupby("outcome", sort=False, observed=True):
        seeds = ", ".join(str(seed) for seed in sorted(trials["seed"]))
        parts.append(f"seed{'s' if len(trials) > 1 else ''} {seeds} {outcome}")
    return ", ".join(parts)


def _mixed(frame: pd.DataFrame) -> Iterator[str]:
    for tag in ("commit", "version.torch"):
        mixed = frame[tag].dropna().value_counts()
        if len(mixed) > 1:
            parts = ", ".join(f"{name} ({count} trials)" for name, count in mixed.items())
            yield f"The table mixes trials of more than one {tag}: {parts}."


def answer(frame: pd.DataFrame, table: pd.DataFrame) -> str:
    """Of each block what was chosen on validation, against ERM, with its uncertainty; a line each.

    Where nothing is chosen, what has the lowest mean of the headline metric, which says that it is picked by it.
    """
    main, several = headline(frame), table["block"].nunique() > 1
    lines: list[str] = []
    for title, own in table.groupby("block", sort=False):
        start = f"{title}: " if several else ""
        chosen = own[own["chosen_on_validation"]]
        found = [_chosen(row, own, main) for _, row in chosen.iterrows()] or [_lowest(own, main)]
        lines += [start + line if start else line[0].upper() + line[1:] for line in found]
    return "\n".join(lines)


def _chosen(row: pd.Series[Any], block: pd.DataFrame, column: Column) -> str:
    mean, against = interval_text(row, column), _against_erm(row, block, column)
    said = f"{row['name']}, chosen on validation, has a {column.title} of {mean}; {against}."
    return said + "".join(_at_edge(row, block[block["method"] == row["method"]]))


def _at_edge(row: pd.Series[Any], tried: pd.DataFrame) -> Iterator[str]:
    """Of each number that the settings of the chosen one's method differ in, where it is the least or the greatest."""
    for name in (name for name in map(str, tried.columns) if name.startswith("method.")):
        values = pd.to_numeric(tried[name], errors="coerce").dropna()
        for word, edge in (("lowest", values.min()), ("highest", values.max())):
            if values.nunique() > 2 and row[name] == edge:
                parameter = name.removeprefix("method.")
                yield f" Its {parameter} is the {word} of {values.nunique()} tried; what lies beyond was not tried."


def _lowest(block: pd.DataFrame, column: Column) -> str:
    """Of whole cells the one with the lowest mean, which is one of those in bold."""
    mean = f"{column.metric}/mean"
    whole = block[block["n_finished"] == block["seeds"]].dropna(subset=[mean]) if mean in block else block.iloc[:0]
    if len(whole) < 2:
        return f"no ranking by {column.title}: that takes two cells with all their seeds."
    row = whole.iloc[int(whole[mean].argmin())]
    tied = [str(name) for name in block.loc[block["best"], "name"] if name != row["name"]]
    return (
        f"of {len(whole)} cells {row['name']} has the lowest mean {column.title}, {interval_text(row, column)}, picked"
        f" by this very mean; {_against_erm(row, block, column)}. {_not_told_apart(row, tied)}"
    )


def _not_told_apart(row: pd.Series[Any], tied: Sequence[str]) -> str:
    if row["seeds"] < 2:
        return "One seed: nothing can be told apart."
    rest = [f"{len(tied) - MOST_NAMED} more"] if len(tied) > MOST_NAMED else []
    return f"Not told apart from it: {', '.join([*tied[:MOST_NAMED], *rest]) or 'none'}."


def _against_erm(row: pd.Series[Any], block: pd.DataFrame, column: Column) -> str:
    if row["method"] == BASELINE:
        return "it is the baseline"
    if "difference/n" not in row or not row["difference/n"] > 0:
        return "no ERM trial to compare it with"
    n = int(block["difference/p"].count())
    lower = f"lower in {row['difference/lower']:.0f} of {row['difference/n']:.0f} seeds"
    p = row["difference/p_holm"]
    corrected = f", Holm-corrected for {n}" if n > 1 else ""
    test = "" if math.isnan(p) else f", {equation_text(p)} (paired t-test{corrected})"
    shown = ": no difference is shown" if p >= SIGNIFICANCE else ""
    return f"paired difference to ERM {difference_text(row, column)}, {lower}{test}{shown}"


def over_blocks(frame: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Of each method with one cell in every block its mean difference to ERM over blocks: a sentence, or none.

    Nothing for fewer than five blocks. The intervals are from a bootstrap of blocks, so that they cover their choice.
    """
    count = table["block"].nunique()
    if count < FEWEST_FOR_BOOTSTRAP or "difference/mean" not in table:
        return []
    parts = []
    for method, own in table[table["method"] != BASELINE].groupby("method", sort=False):
        if len(own) == own["block"].nunique() == count and own["difference/mean"].notna().all():
            found = bootstrap(own["difference/mean"])
            interval = "" if math.isnan(found.low) else f" [{found.low:+.4f}, {found.high:+.4f}]"
            parts.append(f"{method} {found.mean:+.4f}{interval}")
    if not parts:
        return []
    return [
        f"Mean difference to ERM in {headline(frame).title} over {count} blocks, with 95% BCa bootstrap intervals over"
        f" blocks, which are no random sample of data sets and networks: {'; '.join(parts)}."
    ]

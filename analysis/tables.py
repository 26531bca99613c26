"""Tables: a row a cell, as numbers for files and as text for people."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.compare import (
    BASELINE,
    FEWEST_FOR_BOOTSTRAP,
    FEWEST_FOR_WILCOXON,
    SIGNIFICANCE,
    Leaders,
    best_on_validation,
    block_numbers,
    block_params,
    bootstrap,
    estimate,
    holm_within,
    leaders,
    p_value,
    paired_differences,
    wilcoxon_p,
)
from analysis.render import Rows, Strong
from search_spaces.paper import augmentation
from search_spaces.study import Cell, Study, varying_params
from trainer.config import Published, TwoSpirals
from trainer.declaration import Scalar


@dataclass(frozen=True, slots=True)
class Column:
    """A metric as people read it: ``scale`` 100 turns a fraction into per cent."""

    metric: str
    title: str
    scale: float
    digits: int


COLUMNS = (
    Column("train/nll", "train NLL", 1, 4),
    Column("val/nll", "val NLL", 1, 4),
    Column("test/nll", "test NLL", 1, 4),
    Column("test/error", "test error %", 100, 2),
    Column("test/ece", "test ECE %", 100, 2),
)
NLL, ERROR = COLUMNS[2], COLUMNS[3]
VALIDATION = {column.metric: column for column in (COLUMNS[1], Column("val/error", "val error %", 100, 2))}
"""What searches minimise."""
MEASURED = (
    *("train/nll", "train/error", "val/nll", "val/error", "val/ece"),
    *("test/nll", "test/error", "test/ece", "test/criterion"),
)
"""What statistics are taken of, at the last epoch and, training aside, at each of ``SELECTED``."""
SELECTED = {
    "oracle": "epoch of lowest test error",
    "best_val": "epoch of lowest validation NLL",
}
"""Other epochs than the last one: their prefixes in the frame."""
LEAKS = ("test/error", "test/nll")
MOST_NAMED = 8
"""Cells in one sentence."""


def present_columns(frame: pd.DataFrame) -> list[Column]:
    """The columns whose metric some trial has."""
    return [column for column in COLUMNS if has_metric(frame, column.metric)]


def has_metric(frame: pd.DataFrame, metric: str) -> bool:
    """Whether some trial has it."""
    return metric in frame and bool(frame[metric].notna().any())


def headline(frame: pd.DataFrame) -> Column:
    """The metric that cells are compared by: the test NLL, or in a search, which has none, the validation NLL."""
    present = {column.metric: column for column in present_columns(frame)}
    return present.get(NLL.metric) or COLUMNS[1]


def varying(study: Study) -> list[str]:
    """The parameters that tell the study's cells apart."""
    return varying_params([cell.params for cell in study.cells()])


def param_names(study: Study) -> list[str]:
    """Every parameter that some trial of the study has: columns of its frame."""
    return list(dict.fromkeys(name for trial in study.trials for name in trial.params()))


@dataclass(frozen=True, slots=True)
class Block:
    """The cells of a study that can be compared, for they share all but the method.

    title: data set, and what else tells the block from others. names: what its cells are called within it, by label.
    """

    title: str
    names: Mapping[str, str]


def blocks_of(study: Study) -> list[Block]:
    """In order of appearance."""
    grouped: dict[str, list[Cell]] = {}
    for cell in study.cells():
        grouped.setdefault(repr(_block_values(cell)), []).append(cell)
    names = varying_params([_block_values(cells[0]) for cells in grouped.values()])
    shown = [name for name in names if name != "dataset"]
    titles = [_title(cells[0], shown, short=True) for cells in grouped.values()]
    if len(set(titles)) < len(titles):
        titles = [_title(cells[0], shown, short=False) for cells in grouped.values()]
    return [Block(title, _names(cells)) for title, cells in zip(titles, grouped.values(), strict=True)]


def _block_values(cell: Cell) -> dict[str, typing.Any]:
    return {name: cell.params[name] for name in block_params(list(cell.params))}


def _title(cell: Cell, names: Sequence[str], short: bool) -> str:
    """``Cifar10 WideResNet cutout``; a parameter's own name where ``short`` has no other word for it."""
    words = {"model": str(cell.params["model"])}
    if short:
        kind = augmentation(cell.trials[0].augment) or "no augmentation"
        words |= {name: kind for name in names if name.partition(".")[0] == "augment"}
    parts = [words.get(name, f"{name}={cell.params.get(name, '–')}") for name in names]
    return " ".join(dict.fromkeys([str(cell.params["dataset"]), *parts]))


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    """The method of each cell, with what tells it from others of the same method."""
    found = {}
    for cell in cells:
        method = cell.params["method"]
        own = varying_params([other.params for other in cells if other.params["method"] == method])
        settings = [f"{name.removeprefix('method.')}={cell.params[name]}" for name in own if name in cell.params]
        found[cell.label] = " ".join([str(method), *settings])
    return found


def cells_table(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: its varying parameters, seeds declared and finished, and the statistics of each metric over seeds.

    ``METRIC/*``: n, mean, sd, low, high, at the last epoch; ``oracle/METRIC/*`` and ``best_val/METRIC/*`` at the epoch
    of lowest test error and of lowest validation NLL; ``leak/METRIC/*``: oracle minus last. ``difference/*``: paired,
    to ERM in the headline metric; ``lower``: in how many pairs the cell is below ERM; ``p`` of the paired t-test,
    ``p_holm`` adjusted for the tests of the block, ``wilcoxon_p`` from ten pairs on. ``block``, and ``name`` in it;
    ``best``: of its block the lowest mean of the headline metric or not told apart from it; ``chosen_on_validation``.
    Fractions stay fractions here.
    """
    params, metric = param_names(study), headline(frame).metric
    chosen, names = best_on_validation(frame, params), varying(study)
    best = set(best_cells(study, frame, metric))
    compared = _differences(frame, params, metric)
    rows = []
    for cell in study.cells():
        own = frame[frame["cell"] == cell.label]
        row = {"method": cell.params["method"]} | {name: _plain(cell.params.get(name)) for name in names}
        row |= {"cell": cell.label, "cell_id": cell.cell_id, "seeds": len(own)}
        row |= {f"n_{outcome}": int((own["outcome"] == outcome).sum()) for outcome in ("finished", "diverged")}
        row |= {"chosen_on_validation": cell.label in chosen, "best": cell.label in best}
        row |= _measured(own)
        if compared is not None and cell.params["method"] != BASELINE:
            row |= _difference(compared[own.index])
        rows.append(row)
    return _with_holm(_with_blocks(study, pd.DataFrame(rows)))


def _plain(value: Scalar) -> Scalar:
    return str(value) if isinstance(value, list) else value  # as in the frame, and as Parquet takes it


def _differences(frame: pd.DataFrame, params: Sequence[str], metric: str) -> pd.Series[float] | None:
    return paired_differences(frame, params, metric) if metric in frame else None


def _difference(values: pd.Series[float]) -> dict[str, float]:
    found = statistics("difference", values) | {"difference/lower": int((values < 0).sum())}
    return found | {"difference/p": p_value(values), "difference/wilcoxon_p": wilcoxon_p(values)}


def _with_blocks(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    of_cell = {label: (block.title, name) for block in blocks_of(study) for label, name in block.names.items()}
    place = table.columns.get_loc("cell")
    assert isinstance(place, int)
    for offset, column in enumerate(("block", "name")):
        table.insert(place + offset, column, [of_cell[label][offset] for label in table["cell"]])
    return table


def _with_holm(table: pd.DataFrame) -> pd.DataFrame:
    if "difference/p" in table:
        place = table.columns.get_loc("difference/p")
        assert isinstance(place, int)
        table.insert(place + 1, "difference/p_holm", holm_within(table["difference/p"], table["block"]))
    return table


def _measured(own: pd.DataFrame) -> dict[str, float]:
    """The statistics of whatever was measured of a cell's trials, at each epoch that is looked at."""
    found: dict[str, float] = {}
    for metric in MEASURED:
        if has_metric(own, metric):
            found |= statistics(metric, own[metric])
    for selected in SELECTED:
        for metric in (*MEASURED, "epoch"):
            if has_metric(own, f"{selected}/{metric}"):
                found |= statistics(f"{selected}/{metric}", own[f"{selected}/{metric}"])
    for metric in LEAKS:
        if has_metric(own, f"oracle/{metric}"):
            found |= statistics(f"leak/{metric}", own[f"oracle/{metric}"] - own[metric])
    return found


def statistics(name: str, values: pd.Series[float]) -> dict[str, float]:
    """The Estimate of ``values`` as columns ``NAME/n``, ``NAME/mean`` and so on."""
    found = estimate(values)
    return {f"{name}/{statistic}": value for statistic, value in dataclasses.asdict(found).items()}


def leaders_of(study: Study, frame: pd.DataFrame, metric: str) -> list[Leaders]:
    """Of each block, in order of appearance, which cells lead in ``metric``."""
    if metric not in frame:
        return []
    blocks = block_numbers(frame, param_names(study))
    return [leaders(own, metric) for _, own in frame.groupby(blocks, sort=True)]


def best_cells(study: Study, frame: pd.DataFrame, metric: str) -> list[str]:
    """The labels of the cells that lead their block, or are not told apart from the one that does."""
    return [label for found in leaders_of(study, frame, metric) for label in found.labels]


def text_rows(study: Study, frame: pd.DataFrame, table: pd.DataFrame) -> Rows:
    """The table of ``cells_table`` as people read it, header first: means, and the paired difference to ERM.

    What leads in the headline metric is bold.
    """
    names, main = varying(study) or ["method"], headline(frame)
    columns = [c for c in present_columns(frame) if c.metric != "val/nll" or c is main]
    titles = [f"{c.title} [95% CI]" if c is main else c.title for c in columns]
    tests = _tests(table)
    rows = [[*names, *titles, f"{main.title} - ERM's [95% CI]", *tests, "n"]]
    for _, row in table.iterrows():
        values = [value_text(row[name]) for name in names]
        values[-1] += " *" if row["chosen_on_validation"] else ""
        means = [interval_text(row, c) if c is main else mean_text(row, c) for c in columns]
        if row["best"]:
            means = [Strong(text) if c is main else text for text, c in zip(means, columns, strict=True)]
        p_values = [p_text(row[name]) for name in tests.values()]
        rows.append([*values, *means, difference_text(row, main), *p_values, seeds_text(row)])
    return rows


def _tests(table: pd.DataFrame) -> dict[str, str]:
    """Titles of the p-values that are there, and their columns."""
    candidates = {"p (Holm)": "difference/p_holm", "p (Wilcoxon)": "difference/wilcoxon_p"}
    return {title: name for title, name in candidates.items() if has_metric(table, name)}


def value_text(value: object) -> str:
    """Whole numbers without the .0 that a column with gaps gives them."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:g}"
    return "–" if value is None else str(value)


def number_text(value: float, digits: int) -> str:
    """``–`` for NaN: a number that is not there."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def p_text(p: float) -> str:
    """Two digits, ``–`` for a test that is not there."""
    return "–" if math.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def equation_text(p: float) -> str:
    """``p = 0.012`` or ``p < 0.0001``."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def mean_text(row: pd.Series[typing.Any], column: Column, prefix: str = "") -> str:
    """``0.1234``, the mean of the columns ``PREFIX METRIC/*``; ``–`` where there is none."""
    mean = row.get(f"{prefix}{column.metric}/mean", math.nan)
    return number_text(mean * column.scale, column.digits)


def interval_text(row: pd.Series[typing.Any], column: Column, prefix: str = "") -> str:
    """``0.1234 [0.1200, 0.1268]``, or the mean alone where it has no interval."""
    names = (f"{prefix}{column.metric}/{statistic}" for statistic in ("low", "high"))
    low, high = (number_text(row.get(name, math.nan) * column.scale, column.digits) for name in names)
    mean = mean_text(row, column, prefix)
    return mean if low == "–" else f"{mean} [{low}, {high}]"


def difference_text(row: pd.Series[typing.Any], column: Column, name: str = "difference") -> str:
    """``-0.0123 [-0.0200, -0.0046]``: the mean and interval of the columns ``NAME/*``, or why there is no interval."""
    if f"{name}/mean" not in row or math.isnan(row[f"{name}/mean"]):
        return "–"
    low, mean, high = (row[f"{name}/{statistic}"] * column.scale for statistic in ("low", "mean", "high"))
    without = "[n = 1]" if row[f"{name}/n"] == 1 else "[equal]"
    interval = without if math.isnan(low) else f"[{low:+.{column.digits}f}, {high:+.{column.digits}f}]"
    return f"{mean:+.{column.digits}f} {interval}"


def seeds_text(row: pd.Series[typing.Any]) -> str:
    """``5``, or ``3/5`` when two seeds are missing, ``3/5, 2 diverged`` when they diverged."""
    finished, declared, diverged = int(row["n_finished"]), int(row["seeds"]), int(row["n_diverged"])
    text = str(finished) if finished == declared else f"{finished}/{declared}"
    return f"{text}, {diverged} diverged" if diverged else text


def selection_rows(table: pd.DataFrame) -> Rows:
    """Test error and NLL at the last epoch, at the oracle's, the leak between them, and at the one best on validation.

    Empty where nothing but the last epoch is known.
    """
    if not has_metric(table, "leak/test/error/mean"):
        return []
    has_validation = has_metric(table, "best_val/test/nll/mean")
    rows = [["cell"]]
    for column in (ERROR, NLL):
        rows[0] += [column.title, "oracle", "leak [95% CI]", *(["best on val"] if has_validation else [])]
    rows[0] += ["n"]
    for _, row in table.iterrows():
        texts = [row["cell"]]
        for column in (ERROR, NLL):
            texts += [mean_text(row, column), mean_text(row, column, "oracle/")]
            texts += [difference_text(row, column, f"leak/{column.metric}")]
            texts += [mean_text(row, column, "best_val/")] if has_validation else []
        rows.append([*texts, seeds_text(row)])
    return rows


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


def provenance_rows(frame: pd.DataFrame) -> Rows:
    """The way down from a number: of each trial its run in MLflow, the commit and versions, and its data's digest."""
    header = ["cell", "seed", "outcome", "trial", "run", "commit", "torch", "data digest"]
    digests = frame["dataset.digest"] if "dataset.digest" in frame else pd.Series(None, index=frame.index, dtype=object)
    rows = [header]
    for (_, row), digest in zip(frame.iterrows(), digests, strict=True):
        known = digest if isinstance(digest, str) else "made from its parameters"
        found = [row[name] if isinstance(row[name], str) else "–" for name in ("run_id", "commit", "version.torch")]
        rows.append([row["cell"], str(row["seed"]), row["outcome"], row["trial_id"], *found, known])
    return rows


def notes(frame: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What a reader must know to read the table right, a line each."""
    return [
        f"Means over seeds at the last epoch. Intervals are 95% Student-t over seeds, of differences over paired seeds;"
        f" they cover the choice of the seed, not that of the images measured on{_of_images(frame, table)}.",
        *_how_compared(frame, table),
        "Baselines are not tuned here: a difference says what the method adds to these settings, no more.",
    ]


def _of_images(frame: pd.DataFrame, table: pd.DataFrame) -> str:
    """The binomial standard error of the error, where the size of the test set is known without it."""
    parts = []
    for dataset, cells in frame.groupby("dataset", sort=False, observed=True):
        size = _test_size(str(dataset), cells)
        errors = table.loc[table["cell"].isin(cells["cell"]), "test/error/mean"] if "test/error/mean" in table else None
        if size is None or errors is None or errors.isna().all():
            continue
        lowest = float(errors.min())
        spread = 100 * math.sqrt(lowest * (1 - lowest) / size)
        parts.append(f"{100 * lowest:.2f} ± {spread:.2f} % ({dataset}, {size:,} images)")
    return f", from which alone the lowest error has a standard error: {', '.join(parts)}" if parts else ""


def _test_size(dataset: str, cells: pd.DataFrame) -> int | None:
    if dataset == TwoSpirals.__name__:
        sizes = cells["dataset.test_size"].unique()
        return 2 * int(sizes[0]) if len(sizes) == 1 else None
    known = {one.__name__: one.sizes[1] for one in typing.get_args(Published)}
    return known.get(dataset)


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


def _chosen(row: pd.Series[typing.Any], block: pd.DataFrame, column: Column) -> str:
    mean = interval_text(row, column)
    return f"{row['name']}, chosen on validation, has a {column.title} of {mean}; {_against_erm(row, block, column)}."


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


def _not_told_apart(row: pd.Series[typing.Any], tied: Sequence[str]) -> str:
    if row["seeds"] < 2:
        return "One seed: nothing can be told apart."
    rest = [f"{len(tied) - MOST_NAMED} more"] if len(tied) > MOST_NAMED else []
    return f"Not told apart from it: {', '.join([*tied[:MOST_NAMED], *rest]) or 'none'}."


def _against_erm(row: pd.Series[typing.Any], block: pd.DataFrame, column: Column) -> str:
    if row["method"] == BASELINE:
        return "it is the baseline"
    if "difference/n" not in row or not row["difference/n"] > 0:
        return "no ERM trial to compare it with"
    n = int(block["difference/p"].count())
    lower = f"lower in {row['difference/lower']:.0f} of {row['difference/n']:.0f} seeds"
    p = row["difference/p_holm"]
    corrected = f", Holm-corrected for {n}" if n > 1 else ""
    test = "" if math.isnan(p) else f", {equation_text(p)} (paired t-test{corrected})"
    return f"paired difference to ERM {difference_text(row, column)}, {lower}{test}"


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

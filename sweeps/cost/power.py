"""What difference to ERM a study's seeds can show: from the spread of its own pairs, else from the paper's deviations.

Trials of one seed share initial weights and batch order, so that seeds are pairs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from search_spaces.paper import repetition
from search_spaces.study import Cell, Study
from sweeps.cost.estimate import LEVEL, POWER, detectable
from sweeps.ledger import Measured
from sweeps.table import aligned, short_labels
from trainer.config import Erm, canonical_json
from trainer.declaration import Scalar

Metric = Literal["error", "nll"]
METRICS: tuple[Metric, ...] = ("error", "nll")


MEASURED_NOTE = "N pairs: the spread of that many differences among this study's finished trials, median over methods"
PAPER_NOTE = "the paper: the deviations that it prints, as if pairs were independent; median over methods"


class Spread(NamedTuple):
    """The standard deviation of differences to ERM in a metric, and where it is from."""

    deviation: float
    source: str


class Block(NamedTuple):
    """Cells that differ in nothing but the method, ERM's apart; what they share."""

    params: Mapping[str, Scalar]
    baseline: Cell
    others: list[Cell]


def power_lines(declared: Study, chosen: Study, known: Mapping[str, Measured]) -> Iterator[str]:
    """A heading and a line a block, as ``plan`` prints them; nothing where no method is set beside ERM.

    declared: the whole study, whose finished trials are asked. chosen: what is planned, whose seeds are counted.
    known: what was measured of its trials, by id.
    """
    wanted = {cell.cell_id: len(cell.trials) for cell in chosen.cells()}
    blocks = [block for block in _blocks(declared) if any(cell.cell_id in wanted for cell in block.others)]
    if not blocks:
        return
    labels = short_labels([block.params for block in blocks])
    rows = [(label, *_row(block, wanted, known)) for block, label in zip(blocks, labels, strict=True)]
    yield f"Smallest difference to ERM that a paired t-test finds (two-sided {LEVEL:.0%}, power {POWER}):"
    yield from aligned([("", "seeds", "error %", "NLL", "from"), *rows])
    sources = "; ".join(row[-1] for row in rows)
    yield from (f"  {note}" for word, note in (("pairs", MEASURED_NOTE), ("paper", PAPER_NOTE)) if word in sources)


def _blocks(study: Study) -> list[Block]:
    cells: dict[str, list[Cell]] = {}
    shared: dict[str, dict[str, Scalar]] = {}
    for cell in study.cells():
        params = {name: value for name, value in cell.params.items() if name.partition(".")[0] != "method"}
        key = canonical_json(params)
        cells.setdefault(key, []).append(cell)
        shared[key] = params
    return [
        Block(shared[key], baseline, [cell for cell in members if cell is not baseline])
        for key, members in cells.items()
        for baseline in members
        if isinstance(baseline.trials[0].method, Erm)
    ]


def _row(block: Block, wanted: Mapping[str, int], known: Mapping[str, Measured]) -> tuple[str, str, str, str]:
    """Seeds, the two differences, and where their spreads are from."""
    pairs = min(len(block.baseline.trials), *(wanted.get(cell.cell_id, math.inf) for cell in block.others))
    error, nll = (_spread(block, metric, known) for metric in METRICS)
    sources = dict.fromkeys(spread.source for spread in (error, nll) if spread)
    shown = _shown(error, int(pairs), 100), _shown(nll, int(pairs), 1)
    return str(pairs), *shown, ", ".join(sources) or "not known before seeds of ERM and another method are finished"


def _shown(spread: Spread | None, pairs: int, unit: float) -> str:
    """Nothing where there is no spread, or one pair only."""
    difference = detectable(spread.deviation, pairs) if spread else None
    return "–" if difference is None else f"{unit * difference:.2g}"


def _spread(block: Block, metric: Metric, known: Mapping[str, Measured]) -> Spread | None:
    return _measured_spread(block, metric, known) or _papers_spread(block, metric)


def _measured_spread(block: Block, metric: Metric, known: Mapping[str, Measured]) -> Spread | None:
    """The median over the methods: a setting in which seeds collapse spreads by far more than the others."""
    differences = [_differences(block.baseline, cell, metric, known) for cell in block.others]
    samples = [sample for sample in differences if len(sample) > 1]
    if not samples:
        return None
    pairs = sum(map(len, samples))
    return Spread(statistics.median(map(statistics.stdev, samples)), f"{pairs} pairs")


def _differences(baseline: Cell, cell: Cell, metric: Metric, known: Mapping[str, Measured]) -> list[float]:
    one, other = (_values(of, metric, known) for of in (baseline, cell))
    return [other[seed] - one[seed] for seed in sorted(one.keys() & other.keys())]


def _values(cell: Cell, metric: Metric, known: Mapping[str, Measured]) -> dict[int, float]:
    """By seed, of the trials that were measured."""
    found = {trial.seed: known.get(trial.trial_id) for trial in cell.trials}
    values = {seed: getattr(one, metric) for seed, one in found.items() if one is not None}
    return {seed: value for seed, value in values.items() if value is not None}


def _papers_spread(block: Block, metric: Metric) -> Spread | None:
    """Of the cells that the paper has as well. It prints deviations of each method, none of differences."""
    baseline = _printed(block.baseline, metric)
    others = [deviation for cell in block.others if (deviation := _printed(cell, metric)) is not None]
    if baseline is None or not others:
        return None
    deviation = math.hypot(baseline, statistics.median(others))
    return Spread(deviation, "the paper")


def _printed(cell: Cell, metric: Metric) -> float | None:
    """The deviation that the paper prints, in our units: errors are fractions here, per cent there."""
    repeated = repetition(cell.trials[0])
    if repeated is None:
        return None
    if metric == "error":
        return repeated.published.error.deviation / 100
    criterion = repeated.published.criterion
    return None if criterion is None else criterion.deviation

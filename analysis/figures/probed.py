"""What figures of probes have in common: the arrays of each trial, by cell and seed, and which seeds have none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare import BASELINE, Estimate, estimate
from analysis.figures.base import LOOKS, MOST_NAMED, Look, Material, short_name
from analysis.tables import blocks_of
from trainer.measurement import load_measurement
from trainer.probe_config import Probe

Arrays = Mapping[str, NDArray[Any]]
P = TypeVar("P", bound=Probe)


class Measured(NamedTuple):
    """A cell of which some seed is measured. seeds: declared. arrays: by seed, rising, of those that are measured."""

    name: str
    method: str
    seeds: int
    arrays: Mapping[int, Arrays]

    @property
    def look(self) -> Look:
        return LOOKS[self.method]


@dataclass(frozen=True, slots=True)
class Probed(Generic[P]):
    """What a study's probe of one kind found in the cells of a block, in declared order; of the rest nothing is known.

    alone: whether the study has but one block. unmeasured: the names of the cells of which no seed is measured.
    """

    probe: P
    title: str
    alone: bool
    cells: Sequence[Measured]
    unmeasured: Sequence[str]

    @property
    def erm(self) -> Measured | None:
        return next((cell for cell in self.cells if cell.method == BASELINE), None)

    @property
    def others(self) -> list[Measured]:
        """All but ERM."""
        return [cell for cell in self.cells if cell.method != BASELINE]

    def stem(self, name: str, page: int = 0) -> str:
        """Of the files of the block's figure, or of its ``page``-th one, counted from 1."""
        return " ".join([name, *([] if self.alone else [self.title]), *([str(page)] if page else [])])

    def gaps(self) -> str:
        """A sentence, with a space before it, on what is not measured; empty where all is."""
        short = [f"{cell.name} {len(cell.arrays)} of {cell.seeds}" for cell in self.cells if _is_short(cell)]
        parts = [*short, *(f"{name} none" for name in self.unmeasured)]
        more = f" and {len(parts) - MOST_NAMED} cells more" if len(parts) > MOST_NAMED else ""
        return f" Not every seed is measured: {', '.join(parts[:MOST_NAMED])}{more}." if parts else ""


def _is_short(cell: Measured) -> bool:
    return len(cell.arrays) < cell.seeds


def probed(material: Material, kind: type[P]) -> Iterator[Probed[P]]:
    """Each block of which the study's probe of this kind has measured something; none where there is no such probe."""
    probe = next((probe for probe in material.study.probes if isinstance(probe, kind)), None)
    if probe is None:
        return
    blocks = blocks_of(material.study)
    for block in blocks:
        cells = [_measured(material, probe, label, name) for label, name in block.names.items()]
        found = [cell for cell in cells if cell.arrays]
        if found:
            without = [cell.name for cell in cells if not cell.arrays]
            yield Probed(probe, block.title, len(blocks) == 1, found, without)


def _measured(material: Material, probe: Probe, label: str, name: str) -> Measured:
    own = material.frame[material.frame["cell"] == label].sort_values("seed")
    found = {
        int(seed): load_measurement(material.results.measurement(trial_id, probe.probe_id))
        for trial_id, seed in zip(own["trial_id"], own["seed"], strict=True)
    }
    arrays = {seed: measurement.arrays for seed, measurement in found.items() if measurement}
    return Measured(short_name(name), str(own["method"].iloc[0]), len(own), arrays)


def in_pages(cells: Sequence[Measured], most: int) -> Iterator[tuple[int, Sequence[Measured]]]:
    """At most so many cells at a time, with the number of the page: counted from 1, or 0 where there is but one."""
    for start in range(0, len(cells), most):
        yield (start // most + 1 if len(cells) > most else 0), cells[start : start + most]


def mean_text(found: Estimate) -> str:
    """``0.123 [0.100, 0.146]``: a mean and its interval, where it has one; ``none`` of no values."""
    return _number(found.mean, "") + _interval_text(found, "") if found.n else "none"


def paired_text(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """``-0.120 [-0.200, -0.040], n = 5``: the mean difference over the seeds that both have; ``no pair`` of none."""
    found = estimate((pd.Series(ours, dtype=float) - pd.Series(theirs, dtype=float)).replace([np.inf, -np.inf], np.nan))
    return f"{_number(found.mean, '+')}{_interval_text(found, '+')}, n = {found.n}" if found.n else "no pair"


def _interval_text(found: Estimate, sign: str) -> str:
    return "" if math.isnan(found.low) else f" [{_number(found.low, sign)}, {_number(found.high, sign)}]"


def _number(value: float, sign: str) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:{sign}.0f}" if abs(value) >= 100 else f"{value:{sign}#.3g}"

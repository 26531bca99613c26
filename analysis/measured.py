"""What probes and clocks say of a study's cells, against ERM's: for studies that ask about more than NLL and error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pandas as pd

from analysis.compare import BASELINE, Estimate, estimate, paired_differences
from analysis.figures.base import Material
from analysis.figures.cost import ratios
from analysis.render import Rows
from analysis.tables import blocks_of, param_names
from search_spaces.paper import COST_RATIO

HEADLINES: Mapping[str, str] = {
    "probe/boundary/changes": "the share of neighbouring grid points that are predicted apart",
    "probe/directions/train/rise": "the mean rise of the training loss along filter-normalised directions",
    "probe/directions/test/rise": "the mean rise of the test loss along filter-normalised directions",
}
"""What a study that measures it asks about, in words."""
PROBE_NOTES = (
    "Means over seeds with 95% Student-t intervals; minus ERM's: paired over seeds. Nothing is tested, and nothing"
    " corrected for the number of rows.",
)


def answers(material: Material) -> list[str]:
    """A sentence for each cell that is not ERM and each thing that the study is there to measure; often none."""
    return [*_costs(material), *_probed(material)]


def _costs(material: Material) -> Iterator[str]:
    """Of a study whose trials ran one at a time."""
    value, source = COST_RATIO
    for one in ratios(material) if material.study.at_once == 1 else ():
        interval = "" if math.isnan(one.low) else f" [{one.low:.2f}, {one.high:.2f}]"
        yield (
            f"An epoch of {one.name} takes {one.mean:.2f}{interval} times as long as ERM's (Fieller's 95% interval, n ="
            f" {len(one.seeds)} pairs); the paper states {value:g} for N = 1 on its own machine ({source})."
        )


def _probed(material: Material) -> Iterator[str]:
    merged, differences = _merged(material), _differences(material)
    for metric, words in HEADLINES.items():
        for title, name, own in _cells(material, merged) if metric in merged else ():
            difference = estimate(differences[metric][own.index])
            if own["method"].iloc[0] != BASELINE and difference.n:
                found = _interval(estimate(own[metric]))
                against = f"paired difference to ERM {_interval(difference, signed=True)}, n = {difference.n}"
                yield f"{title}, {name}: {words} is {found}; {against}."


def probe_rows(material: Material) -> Rows:
    """A row a cell and number that probes measured; empty where nothing is measured."""
    merged, differences = _merged(material), _differences(material)
    rows = [["cell", "quantity", "mean [95% CI]", "minus ERM's [95% CI]", "n"]]
    for metric in differences:
        for _, _, own in _cells(material, merged):
            found, difference = estimate(own[metric]), estimate(differences[metric][own.index])
            is_erm = own["method"].iloc[0] == BASELINE
            against = "–" if is_erm or not difference.n else _interval(difference, signed=True)
            if found.n:
                rows.append([str(own["cell"].iloc[0]), metric, _interval(found), against, str(found.n)])
    return rows if len(rows) > 1 else []


def _merged(material: Material) -> pd.DataFrame:
    """The study's frame with what was measured of its finished trials beside it."""
    measured = material.probes.pivot(index="trial_id", columns="metric", values="value").astype(float)
    return material.frame.join(measured, on="trial_id")


def _differences(material: Material) -> dict[str, pd.Series[float]]:
    """By metric, in the order of the probes: every trial's minus that of the ERM trial that is its pair."""
    merged, params = _merged(material), param_names(material.study)
    return {metric: paired_differences(merged, params, metric) for metric in dict.fromkeys(material.probes["metric"])}


def _cells(material: Material, merged: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The title of the block, the name in it, and the trials of each cell."""
    for block in blocks_of(material.study):
        for label, name in block.names.items():
            yield block.title, name, merged[merged["cell"] == label]


def _interval(found: Estimate, signed: bool = False) -> str:
    """``0.0123 [0.0118, 0.0128]``; four digits, for probes have no unit in common."""
    sign = "+" if signed else ""
    mean = f"{found.mean:{sign}.4g}"
    return mean if math.isnan(found.low) else f"{mean} [{found.low:{sign}.4g}, {found.high:{sign}.4g}]"

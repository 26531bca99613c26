"""Several methods against ERM: the paired difference of every seed, its mean and interval, for risk, error and ECE."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.compare import BASELINE, paired_differences
from analysis.figures.base import CELL_PANELS, Drawn, Material, gaps, seed_counts
from analysis.figures.cells import pages, rows_figure
from analysis.tables import param_names

FEWEST_METHODS = 2
"""Beside ERM: of one alone the table says as much in a line."""


def draw(material: Material) -> Iterator[Drawn]:
    """For a study of several methods that has ERM's trials beside them."""
    frame, params = material.frame, param_names(material.study)
    differences = pd.DataFrame(
        {name: paired_differences(frame, params, f"{material.part}/{name}") * scale for name, _, scale in CELL_PANELS}
    )
    paired = frame.loc[differences["nll"].notna() & (frame["method"] != BASELINE), "method"]
    if paired.nunique() < FEWEST_METHODS:
        return
    for page, blocks in pages(material):
        own = frame[frame["cell"].isin([label for block in blocks for label in block.names])]
        figure = rows_figure(material, blocks, differences, " - ERM's", baseline=False)
        yield Drawn(f"comparison {page}".strip(), _caption(material, own), figure)


def _caption(material: Material, own: pd.DataFrame) -> str:
    part = "test" if material.part == "test" else "validation"
    return (
        f"Differences to ERM on the {part} set at the last epoch, paired by seed: left of the line is better than ERM."
        f" The large marker is the mean over {seed_counts(own)} seeds with its 95% interval (paired Student-t, not"
        " corrected for the number of methods; the table's p-values are), the dots below it are the pairs. The"
        f" intervals cover the choice of the seed, not that of the {part} images.{gaps(own)}"
    )

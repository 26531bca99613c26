"""Every cell in a row of its own: all seeds, the mean and its interval, for risk, error and ECE."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from analysis.compare import estimate
from analysis.figures.base import AMP_COLOUR, CELL_PANELS, ERM_COLOUR, FULL_WIDTH, Drawn, Material
from analysis.figures.sensitivity import sensitivity_groups


def draw(material: Material) -> Iterator[Drawn]:
    """For a study that has no curve over ε."""
    if not any(True for _ in sensitivity_groups(material.study, material.frame)):
        yield Drawn("cells", "Every cell: seeds, mean and 95% interval.", _cells(material))


def _cells(material: Material) -> Figure:
    cells = [cell.label for cell in material.study.cells()]
    frame, part = material.frame, material.part
    figure = Figure(figsize=(FULL_WIDTH, 1.0 + 0.3 * len(cells)))
    for axes, (metric, title, scale) in zip(figure.subplots(1, 3, sharey=True), CELL_PANELS, strict=True):
        for place, cell in enumerate(cells):
            values = frame.loc[frame["cell"] == cell, f"{part}/{metric}"].dropna() * scale
            if values.empty:
                continue
            found = estimate(values)
            axes.plot(values, [place] * len(values), ".", color=AMP_COLOUR, alpha=0.55, markersize=4)
            half = 0.0 if np.isnan(found.low) else found.high - found.mean
            axes.errorbar(found.mean, place, xerr=half, color=ERM_COLOUR, marker="|", markersize=10, capsize=3)
        axes.set_title(f"{part} {title}")
    first = figure.axes[0]
    first.set_yticks(range(len(cells)), cells)
    first.invert_yaxis()
    return figure

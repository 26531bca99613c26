"""All figures that a study calls for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from analysis.figures import (
    boundaries,
    calibration,
    cells,
    comparison,
    cost,
    directions,
    heat_map,
    learning_curves,
    reliability,
    sensitivity,
)
from analysis.figures.base import Drawn, Material

FIGURES: tuple[Callable[[Material], Iterator[Drawn]], ...] = (
    boundaries.draw,
    directions.draw,
    cost.draw,
    sensitivity.draw,
    heat_map.draw,
    comparison.draw,
    cells.draw,
    calibration.draw,
    reliability.draw,
    learning_curves.draw,
)
"""In the order of a report, what only few studies ask about first. Each draws what the study has the trials, or probes,
for: nothing, one or several."""


def draw_all(material: Material) -> Iterator[Drawn]:
    """One after the other, drawn when it is asked for: hand it to ``save_figures``."""
    for figure in FIGURES:
        yield from figure(material)

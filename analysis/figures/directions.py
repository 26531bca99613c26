"""Figure 2: training and test loss along filter-normalised random directions, ERM's beside that of other methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.compare import estimate
from analysis.figures.base import FULL_WIDTH, Drawn, Material, legend_below
from analysis.figures.probed import Measured, Probed, in_pages, paired_text, probed
from trainer.probe_config import LossAlongDirections

MOST_ROWS = 4
"""In a figure: a cell in each, with ERM's curves beside its own."""
WORDS = {"train": "training", "test": "test", "val": "validation"}


def draw(material: Material) -> Iterator[Drawn]:
    """A figure a block, or several of a block with more than four cells beside ERM."""
    for block in probed(material, LossAlongDirections):
        for page, cells in in_pages(block.others or block.cells, MOST_ROWS):
            yield Drawn(block.stem("directions", page), _caption(block, cells), _figure(block, cells))


def _parts(block: Probed[LossAlongDirections]) -> list[str]:
    """``train``, and ``test`` or ``val``."""
    arrays = next(iter(block.cells[0].arrays.values()))
    return [part for part in WORDS if f"{part}/loss" in arrays]


def _figure(block: Probed[LossAlongDirections], cells: Sequence[Measured]) -> Figure:
    parts = _parts(block)
    figure = Figure(figsize=(FULL_WIDTH, 2.3 * len(cells) + 0.35))
    grid = figure.subplots(len(cells), len(parts), squeeze=False, sharex=True, sharey="col")
    for panels, cell in zip(grid, cells, strict=True):
        for axes, part in zip(panels, parts, strict=True):
            for shown in _with_erm(block, cell):
                _curves(axes, shown, part)
            axes.set(title=f"{WORDS[part]} loss: {_title(block, cell)}", ylabel="loss L(θ + αd)")
    for axes in grid[-1]:
        axes.set_xlabel("step α along the direction")
    for axes in grid[0]:  # sharey: the same for all panels under it
        axes.set_ylim(bottom=0.0)
    legend_below(figure, columns=2 if block.erm else len(cells))
    return figure


def _with_erm(block: Probed[LossAlongDirections], cell: Measured) -> list[Measured]:
    """ERM underneath, so that the cell's own curves are seen."""
    return [cell] if block.erm in (None, cell) else [block.erm, cell]


def _title(block: Probed[LossAlongDirections], cell: Measured) -> str:
    return " and ".join(shown.name for shown in _with_erm(block, cell))


def _curves(axes: Axes, cell: Measured, part: str) -> None:
    """Every seed and direction thin; the mean over seeds, of each seed's mean over directions, with its interval."""
    colour, line = cell.look.colour, cell.look.line
    alphas = next(iter(cell.arrays.values()))["alphas"]
    for curve in np.concatenate([_losses(arrays, part) for arrays in cell.arrays.values()]):
        axes.plot(alphas, curve, color=colour, linewidth=0.4, alpha=0.35, linestyle=line)
    by_seed = pd.DataFrame([_losses(arrays, part).mean(axis=0) for arrays in cell.arrays.values()])
    found = [estimate(by_seed[place]) for place in by_seed]
    if any(point.n > 1 for point in found):
        low, high = [point.low for point in found], [point.high for point in found]
        axes.fill_between(alphas, low, high, color=colour, alpha=0.25, linewidth=0, label=f"{cell.name}, 95% interval")
    means = [point.mean for point in found]
    axes.plot(
        alphas, means, color=colour, linestyle=line, marker=cell.look.marker, markevery=max(1, len(means) // 4),
        markersize=3.5, label=f"{cell.name}, mean over seeds",
    )  # fmt: skip
    axes.plot([], [], color=colour, linewidth=0.4, linestyle=line, label=f"{cell.name}, a seed and direction")


def _losses(arrays: Mapping[str, NDArray[np.float64]], part: str) -> NDArray[np.float64]:
    """[directions, points], with NaN where the loss overflowed."""
    losses = arrays[f"{part}/loss"]
    return np.where(np.isfinite(losses), losses, np.nan)


def _rises(cell: Measured, part: str) -> dict[int, float]:
    """By seed the mean of L(θ ± extent·d) - L(θ) over directions and signs."""
    return {seed: _rise(_losses(arrays, part)) for seed, arrays in cell.arrays.items()}


def _rise(losses: NDArray[np.float64]) -> float:
    return float((losses[:, [0, -1]] - losses[:, [losses.shape[1] // 2]]).mean())


def _caption(block: Probed[LossAlongDirections], cells: Sequence[Measured]) -> str:
    probe, words = block.probe, " and ".join(WORDS[part] for part in _parts(block))
    counts = ", ".join(f"{cell.name} n = {len(cell.arrays)}" for cell in [*_erm_first(block, cells)])
    return (
        f"{block.title}: {words} loss of the trained models along {probe.directions} random directions d, each filter"
        " of which has the norm of the model's own, so that nets of other scales compare; directions are the same for"
        " all. Thin lines are single seeds and directions; thick ones are means over seeds, directions averaged within"
        " a seed first, for directions are no trainings of their own, and bands are their 95% Student-t intervals at"
        f" each α by itself ({counts} seeds). {_images(probe)}{_differences(block, cells)}{_overflown(block)}"
        f"{block.gaps()} Random directions say little of the steepest one. Figure 2 of the paper, there with"
        " PreActResNet18 on CIFAR-10."
    )


def _erm_first(block: Probed[LossAlongDirections], cells: Sequence[Measured]) -> Iterator[Measured]:
    if block.erm and block.erm not in cells:
        yield block.erm
    yield from cells


def _images(probe: LossAlongDirections) -> str:
    count = "all images" if probe.examples is None else f"at most {probe.examples:,} images"
    return f"Losses are means over {count} of a part, not augmented."


def _differences(block: Probed[LossAlongDirections], cells: Sequence[Measured]) -> str:
    """Sentences on how much less the loss rises to the ends than ERM's does, paired by seed."""
    if block.erm is None or block.erm in cells:
        return ""
    of_part = [
        f"{WORDS[part]}: "
        + "; ".join(f"{cell.name} {paired_text(_rises(cell, part), _rises(block.erm, part))}" for cell in cells)
        for part in _parts(block)
    ]
    return (
        f" Mean rise from α = 0 to α = ±{block.probe.extent:g} less that of ERM, paired by seed, with 95% interval:"
        f" {'. '.join(of_part)}."
    )


def _overflown(block: Probed[LossAlongDirections]) -> str:
    parts = _parts(block)
    whole = all(
        np.isfinite(a[f"{part}/loss"]).all() for cell in block.cells for a in cell.arrays.values() for part in parts
    )
    return "" if whole else " Seeds are left out where a loss overflowed, so that means there are too low."

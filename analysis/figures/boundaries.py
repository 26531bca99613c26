"""Figures 5 and 6: decision boundaries in a plane, ERM's beside those of other methods for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from analysis.compare import estimate
from analysis.figures.base import Drawn, Material, legend_below
from analysis.figures.probed import Arrays, Measured, Probed, in_pages, mean_text, paired_text, probed
from trainer.probe_config import DecisionBoundary

MOST_SEEDS, MOST_COLUMNS = 4, 4
"""In a figure: seeds in rows, cells beside one another."""
PANEL = 1.6
"""Inches."""
SHADES = ("#f3f3f3", "#9db8d6", "#d9c9a3", "#c7c7c7", "#e4d5e8", "#86a58f", "#efe3c4", "#b19cc4", "#d7e6e3", "#8f8f8f")
"""Of the classes' regions: the first two, of two classes, are light and dark."""
MARKERS = "o^sDv<>PX*"
FILLS = ("white", "#303030")
"""Of the markers, by turns, so that two classes differ in more than shape."""
SMALLEST_NAMED = 6.0
"""Grid steps from a region's middle to its edge: smaller ones are too small for their class's number."""


def draw(material: Material) -> Iterator[Drawn]:
    """A figure a block, or several of a block with more than three cells beside ERM."""
    for block in probed(material, DecisionBoundary):
        beside = [block.erm] if block.erm else []
        for page, cells in in_pages(block.others or block.cells, MOST_COLUMNS - len(beside)):
            shown = [cell for cell in beside if cell not in cells] + list(cells)
            seeds = _seeds(shown)
            yield Drawn(block.stem("boundaries", page), _caption(block, shown, seeds), _figure(block, shown, seeds))


def _seeds(cells: Sequence[Measured]) -> list[int]:
    """The first four that most of the cells have."""
    counts = pd.Series([seed for cell in cells for seed in cell.arrays]).value_counts()
    return sorted(sorted(counts.index, key=lambda seed: (-counts[seed], seed))[:MOST_SEEDS])


def _figure(block: Probed[DecisionBoundary], cells: Sequence[Measured], seeds: Sequence[int]) -> Figure:
    """A row a seed, a column a cell."""
    example = next(iter(cells[0].arrays.values()))
    height = PANEL * float(np.ptp(example["v"]) / np.ptp(example["u"])) + 0.1
    figure = Figure(figsize=(PANEL * len(cells) + 0.3, height * len(seeds) + 0.75))
    grid = figure.subplots(len(seeds), len(cells), squeeze=False, sharex=True, sharey=True)
    for panels, seed in zip(grid, seeds, strict=True):
        for axes, cell in zip(panels, cells, strict=True):
            _panel(axes, cell.arrays.get(seed), f"{cell.name}, seed {seed}")
    for axes in grid[-1]:
        axes.set_xlabel("u")
    for axes in grid[:, 0]:
        axes.set_ylabel("v")
    legend_below(figure, columns=len(cells))
    return figure


def _panel(axes: Axes, arrays: Arrays | None, title: str) -> None:
    axes.set_title(title, fontsize=7)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    if arrays is None:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    axes.set_title(f"{title}\n{100 * changes(arrays):.2f} % of neighbours differ", fontsize=7)
    u, v, predicted = arrays["u"], arrays["v"], arrays["class"]
    colours = ListedColormap(SHADES)
    axes.pcolormesh(u, v, predicted % len(SHADES), cmap=colours, vmin=-0.5, vmax=len(SHADES) - 0.5, rasterized=True)
    classes = np.unique(predicted)
    for one in classes[1:] if len(classes) == 2 else classes:
        inside = np.where(predicted == one, arrays["margin"], -arrays["margin"])
        if len(classes) > 1:
            axes.contour(u, v, inside, levels=[0.0], colors="black", linewidths=0.8)
    if len(set(classes) | set(arrays["anchor_labels"])) > 2:
        _name_regions(axes, arrays)
    _points(axes, arrays)


def changes(arrays: Arrays) -> float:
    """The share of neighbours on the grid whose predicted classes differ: ``probe/boundary/changes``."""
    predicted = arrays["class"]
    return float(np.concatenate([(np.diff(predicted, axis=axis) != 0).ravel() for axis in (0, 1)]).mean())


def _name_regions(axes: Axes, arrays: Arrays) -> None:
    """The number of each class where its region is widest, clear of the anchors."""
    free = np.ones(arrays["class"].shape, dtype=bool)
    free[_nearest(arrays)] = False
    for one in np.unique(arrays["class"]):
        depth = distance_transform_edt(np.pad((arrays["class"] == one) & free, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth.max() >= SMALLEST_NAMED:
            where = (arrays["u"][column], arrays["v"][row])
            axes.annotate(str(one), where, ha="center", va="center", fontsize=8, fontweight="bold")


def _points(axes: Axes, arrays: Arrays) -> None:
    """What the plane was laid around: the training points, or three images."""
    points, labels = arrays["anchors"], arrays["anchor_labels"]
    size, what = (6.0, "image") if is_plane_of_three(arrays) else (2.6, "point")
    for one in np.unique(labels):
        axes.plot(
            *points[labels == one].T, MARKERS[one % len(MARKERS)], color=FILLS[one % 2], markeredgecolor="black",
            markeredgewidth=0.4, markersize=size, label=f"training {what} of class {one}",
        )  # fmt: skip


def is_plane_of_three(arrays: Arrays) -> bool:
    """Whether the plane is one through three images, not that of the inputs themselves."""
    return len(arrays["anchors"]) == 3


def crossings(arrays: Arrays) -> NDArray[np.float64]:
    """Points [n, 2] where predictions change between neighbours on the grid, by the margins of the two."""
    u, v = np.meshgrid(arrays["u"], arrays["v"])
    grid = np.stack([u, v], axis=-1)
    return np.concatenate([_between(grid, arrays, axis) for axis in (0, 1)])


def _between(grid: NDArray[np.float64], arrays: Arrays, axis: int) -> NDArray[np.float64]:
    def pair(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        count = values.shape[axis]
        return values.take(range(count - 1), axis), values.take(range(1, count), axis)

    (start, end), (near, far), (before, after) = pair(grid), pair(arrays["margin"]), pair(arrays["class"])
    crossed = before != after
    total = near[crossed] + far[crossed]
    share = np.divide(near[crossed], total, out=np.full_like(total, 0.5), where=total > 0)[:, None]
    return np.asarray(start[crossed] + share * (end - start)[crossed], dtype=float)


def distance(arrays: Arrays) -> float:
    """The mean distance of the anchors to the boundary, in the plane's units, negative for those on its wrong side.

    NaN where there is no boundary in the plane. Whether one lies on the wrong side is read from the nearest grid point.
    """
    found = crossings(arrays)
    if not len(found):
        return float("nan")
    lengths, _ = cKDTree(found).query(arrays["anchors"])
    right = arrays["class"][_nearest(arrays)] == arrays["anchor_labels"]
    return float(np.where(right, lengths, -lengths).mean())


def _nearest(arrays: Arrays) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the grid points next to the anchors."""
    column, row = (
        np.abs(arrays[name][:, None] - arrays["anchors"][:, axis]).argmin(axis=0) for axis, name in enumerate("uv")
    )
    return row, column


def _caption(block: Probed[DecisionBoundary], cells: Sequence[Measured], seeds: Sequence[int]) -> str:
    example, points = next(iter(cells[0].arrays.values())), block.probe.points
    where, unit = ("around the training points", "the inputs")
    if is_plane_of_three(example):
        where, unit = ("in the plane through three training images of different classes", "the stored images")
    return (
        f"{block.title}: predicted classes (shades) and the boundary between them (lines) on a grid of {points} ×"
        f" {points} points {where}, in units of {unit}. Models in one row share seed, initial weights and order of the"
        f" data. {_which(cells, seeds)} Over all seeds, with 95% Student-t intervals, differences paired by seed:"
        f" share of neighbours on the grid that differ in class, in %: {_comparison(block, cells, _percent)};"
        f" mean distance of the {'three images' if is_plane_of_three(example) else 'training points'} to the boundary"
        f" within the grid, negative on its wrong side: {_comparison(block, cells, distance)}.{block.gaps()}"
        f"{_one_plane(example)} Figure 6 of the paper, which gives no settings for it, is of two spirals."
    )


def _percent(arrays: Arrays) -> float:
    return 100 * changes(arrays)


def _which(cells: Sequence[Measured], seeds: Sequence[int]) -> str:
    """Which seeds are shown, where that is not all."""
    count = len({seed for cell in cells for seed in cell.arrays})
    shown = ", ".join(map(str, seeds))
    return f"Shown: the first {len(seeds)} of {count} seeds ({shown})." if count > len(seeds) else f"Seeds: {shown}."


def _comparison(block: Probed[DecisionBoundary], cells: Sequence[Measured], measure: Callable[[Arrays], float]) -> str:
    """``Erm 4.1 [3.9, 4.3], Amp 3.6 [3.2, 4], difference to ERM -0.5 [-1, 0], n = 5``."""
    values = {cell.name: {seed: measure(arrays) for seed, arrays in cell.arrays.items()} for cell in cells}
    texts = []
    for cell in cells:
        text = f"{cell.name} {mean_text(estimate(pd.Series(values[cell.name])))}"
        if block.erm is not None and cell is not block.erm:
            text += f", difference to ERM {paired_text(values[cell.name], values[block.erm.name])}"
        texts.append(text)
    return ", ".join(texts)


def _one_plane(arrays: Arrays) -> str:
    return " One plane says nothing of others." if is_plane_of_three(arrays) else ""

"""Tables in the paper's layout: methods by networks and data sets, or data sets and augmentations by networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from analysis.compare import SIGNIFICANCE
from analysis.published import ERRORS, NLLS, Quantity, protocol_of, spread_text
from analysis.render import Groups, Rows, Strong, flat_rows, latex_table
from analysis.tables import best_cells, blocks_of, has_metric, seeds_text
from search_spaces.paper import augmentation
from search_spaces.recipes import Protocol
from search_spaces.study import Study

SETTINGS: Mapping[Protocol | None, str] = {
    "as_written": "Settings: the paper's, protocol as written.",
    "as_released": "Settings: the paper's, protocol as released.",
    None: "Settings: this study's, not the paper's.",
}


@dataclass(frozen=True, slots=True)
class Pivot:
    """A table in the paper's layout. stem: of its files. groups: the line above the header."""

    stem: str
    title: str
    caption: str
    rows: Rows
    groups: Groups

    @property
    def flat(self) -> Rows:
        """With one header, for forms that have no line above it."""
        return flat_rows(self.rows, self.groups)

    def latex(self, study: str) -> str:
        """For booktabs. study: its name, for the label."""
        return latex_table(self.rows, self.caption, f"tab:{study}-{self.stem}", self.groups)


class Place(NamedTuple):
    """Where a cell stands: data set, network, augmentation, the title of its block but for the data set, its name."""

    dataset: str
    network: str
    augmentation: str
    rest: str
    name: str


Texts = Mapping[Place, Mapping[Quantity, str]]


def pivots(study: Study, frame: pd.DataFrame, table: pd.DataFrame) -> list[Pivot]:
    """None of a study of one method against ERM in one block, whose table says it all, or that has read no test set.

    Where augmentations vary, a table a quantity, as Table 2; else a table a data set, as the parts of Table 1, or one
    for all where each has a single network. frame, table: ``runs.load`` and ``tables.cells_table`` of it.
    """
    methods, blocks = table["method"].nunique(), table["block"].nunique()
    if methods < 2 or methods * blocks == 2 or not has_metric(frame, ERRORS.written):
        return []
    metrics, places, caption = _metrics(study, frame), _places(study), _caption(study, frame, table)
    best = {quantity: set(best_cells(study, frame, metric)) for quantity, metric in metrics.items()}
    texts = {
        places[row["cell"]]: {
            quantity: _text(row, quantity, metric, row["cell"] in best[quantity])
            for quantity, metric in metrics.items()
        }
        for _, row in table.iterrows()
    }
    if len({place.augmentation for place in texts}) > 1 and len({p._replace(rest="") for p in texts}) == len(texts):
        return [_by_augmentation(texts, quantity, caption) for quantity in metrics]
    return list(_by_method(texts, list(metrics), caption))


def _metrics(study: Study, frame: pd.DataFrame) -> dict[Quantity, str]:
    """What is shown of each quantity: in the released protocol what the authors' code reports, else the last epoch."""
    released = _is_released(study, frame)
    found = {quantity: quantity.released if released else quantity.written for quantity in (ERRORS, NLLS)}
    return {quantity: metric for quantity, metric in found.items() if has_metric(frame, metric)}


def _is_released(study: Study, frame: pd.DataFrame) -> bool:
    return protocol_of(study) == "as_released" and has_metric(frame, ERRORS.released)


def _places(study: Study) -> dict[str, Place]:
    """By the label of the cell."""
    cells = {cell.label: cell for cell in study.cells()}
    return {
        label: Place(
            dataset=str(cells[label].params["dataset"]),
            network=str(cells[label].params["model"]),
            augmentation=augmentation(cells[label].trials[0].augment) or "none",
            rest=block.title.partition(" ")[2],
            name=name,
        )
        for block in blocks_of(study)
        for label, name in block.names.items()
    }


def _text(row: pd.Series[Any], quantity: Quantity, metric: str, is_best: bool) -> str:
    """``2.95 ± 0.063``, and of how many seeds where some are missing."""
    text = spread_text(row, quantity.column, metric)
    if row["n_finished"] < row["seeds"]:
        text += f" ({seeds_text(row)})"
    return Strong(text) if is_best else text


def _caption(study: Study, frame: pd.DataFrame, table: pd.DataFrame) -> str:
    seeds = " or ".join(str(count) for count in sorted(set(table["seeds"])))
    shown = "Test error and NLL at the last epoch"
    if _is_released(study, frame):
        shown = (
            "Test error and, as test NLL, the method's own training criterion on the test set, both at the epoch of"
            " lowest test error, which is chosen on the test set, as in the authors' released code"
        )
    return (
        f"{shown}: mean ± standard deviation (n - 1) over {seeds} seeds; where fewer gave a number, how many stands in"
        " brackets. Bold: the lowest mean among the methods of one network, data set and augmentation, and what paired"
        f" t-tests against it, Holm-corrected, do not tell apart at {SIGNIFICANCE:g}. {SETTINGS[protocol_of(study)]}"
    )


def _by_method(texts: Texts, quantities: Sequence[Quantity], caption: str) -> Iterator[Pivot]:
    """A row a method, a group of columns a network; a table a data set, unless each has a single group."""
    columns = list(dict.fromkeys((place.dataset, place.rest) for place in texts))
    datasets = list(dict.fromkeys(dataset for dataset, _ in columns))
    if len(columns) == len(datasets):
        yield _methods("methods", "", texts, columns, quantities, caption)
        return
    for dataset in datasets:
        own = [column for column in columns if column[0] == dataset]
        yield _methods(f"methods-{dataset}", dataset, texts, own, quantities, caption)


def _methods(
    stem: str,
    title: str,
    texts: Texts,
    columns: Sequence[tuple[str, str]],
    quantities: Sequence[Quantity],
    caption: str,
) -> Pivot:
    """title: the data set, where its groups need not say it."""
    cells = {((place.dataset, place.rest), place.name): text for place, text in texts.items()}
    rows = [["method", *(quantity.column.title for _ in columns for quantity in quantities)]]
    for name in dict.fromkeys(name for column, name in cells if column in columns):
        own = [cells.get((column, name), {}) for column in columns]
        rows.append([name, *(text.get(quantity, "") for text in own for quantity in quantities)])
    names = [rest if title else " ".join(filter(None, (dataset, rest))) for dataset, rest in columns]
    return Pivot(stem, title, caption, rows, [("", 1), *((name, len(quantities)) for name in names)])


def _by_augmentation(texts: Texts, quantity: Quantity, caption: str) -> Pivot:
    """A row a data set and augmentation, a group of columns a network, in it a column a method."""
    if len({(place.dataset, place.network) for place in texts}) == len({place.dataset for place in texts}):
        texts = {place._replace(network=""): text for place, text in texts.items()}  # which the data set says
    networks = list(dict.fromkeys(place.network for place in texts))
    columns = [(network, p.name) for network in networks for p in texts if p.network == network]
    columns = list(dict.fromkeys(columns))
    cells = {(place.dataset, place.augmentation, (place.network, place.name)): text for place, text in texts.items()}
    rows = [["data set", "augmentation", *(name for _, name in columns)]]
    for dataset, kind in dict.fromkeys((place.dataset, place.augmentation) for place in texts):
        rows.append([dataset, kind, *(cells.get((dataset, kind, c), {}).get(quantity, "") for c in columns)])
    widths = [(network, sum(column[0] == network for column in columns)) for network in networks]
    stem = quantity.name.replace("test ", "augmentations-").lower()
    return Pivot(stem, quantity.column.title, caption, rows, [("", 2), *widths])

"""What figures have in common: what they are drawn from, one style, colours and markers of methods, limits, saving."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.probes import load_probes
from analysis.runs import load_history
from search_spaces.study import Study
from trainer.machine import Results

STYLE = Path(__file__).parent / "paper.mplstyle"
FULL_WIDTH, COLUMN_WIDTH = 7.2, 3.5
"""Inches: across the page, and in one of two columns."""
CELL_PANELS = (("nll", "NLL", 1.0), ("error", "error (%)", 100.0), ("ece", "ECE (%)", 100.0))
"""Metric, title and scale of the three panels that cells are compared in."""
MOST_NAMED = 8
"""Cells in one sentence of a caption."""
ON_DATA: dict[str, Any] = {"frameon": True, "framealpha": 0.9, "edgecolor": "none", "borderpad": 0.3}
"""Of a legend that lies on curves: they would strike its text through."""
LOG_FROM_RATIO = 4.0
"""Panels whose seeds span more than this factor are drawn on a log axis."""


class Look(NamedTuple):
    """A method's colour, from Okabe and Ito's palette, with a marker, a line and a hatch that tell it without one."""

    colour: str
    marker: str
    line: str
    hatch: str


LOOKS = {
    "Erm": Look("#404040", "s", "--", ""),
    "Dropout": Look("#E69F00", "v", "-.", "//"),
    "LabelSmoothing": Look("#56B4E9", "^", ":", "\\\\"),
    "Flooding": Look("#009E73", "<", "-.", "xx"),
    "MixUp": Look("#CC79A7", ">", ":", ".."),
    "AdversarialTraining": Look("#D55E00", "P", "-.", "++"),
    "Rmp": Look("#8C6D31", "X", ":", "oo"),
    "Amp": Look("#1f5fa8", "o", "-", "||"),
    "Sam": Look("#7A4FA3", "D", "-.", "--"),
}


class Parameter(NamedTuple):
    """One of AMP's parameters on an axis. name: of its column. values: what they are called. log: the axis."""

    name: str
    symbol: str
    values: str
    log: bool

    def label(self, amp: pd.DataFrame) -> str:
        """Of the axis; with the kind of the ball, where it is the ball's radius. amp: the trials that are drawn."""
        if self is not EPSILON:
            return f"{self.name} ({self.symbol})"
        balls = " and ".join(f"{ball} L2 ball" for ball in sorted(amp["method.ball"].dropna().unique()))
        return f"{self.name} ({self.symbol}, {balls})"


EPSILON = Parameter("method.epsilon", "ε", "radius", log=True)
ZETA = Parameter("method.inner_lr", "ζ", "inner learning rate", log=True)
STEPS = Parameter("method.inner_steps", "N", "number of inner steps", log=False)
PARAMETERS = (EPSILON, ZETA, STEPS)
AMP_COLOUR, ERM_COLOUR, CHOSEN_COLOUR = LOOKS["Amp"].colour, LOOKS["Erm"].colour, "#b5402a"


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a study's figures are drawn from.

    frame: ``analysis.runs.load``. table: ``analysis.tables.cells_table`` of it. ``history`` and ``probes`` are read
    when they are first asked for.
    """

    study: Study
    frame: pd.DataFrame
    table: pd.DataFrame
    results: Results

    @cached_property
    def history(self) -> pd.DataFrame:
        """``analysis.runs.load_history``."""
        return load_history(self.study, self.results)

    @cached_property
    def probes(self) -> pd.DataFrame:
        """``analysis.probes.load_probes``."""
        return load_probes(self.study, self.results)

    @property
    def part(self) -> str:
        """``test``, or ``val`` where no trial reads the test set."""
        return "test" if "test/nll" in self.frame else "val"

    @property
    def chosen(self) -> set[str]:
        """The labels of the cells that were chosen on validation."""
        return set(self.table.loc[self.table["chosen_on_validation"], "cell"])


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure that is not saved yet. stem: of its files. caption: what it shows, whole sentences."""

    stem: str
    caption: str
    figure: Figure


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure on disk."""

    png: Path
    svg: Path
    caption: str


def slug(name: str) -> str:
    """``name`` as the name of a file."""
    return "".join(letter if letter.isalnum() or letter in "=._" else "-" for letter in name.strip())


def save_figures(figures: Iterable[Drawn], folder: Path) -> list[Picture]:
    """Write PNG and SVG of each into ``folder``. Those that are still to be drawn are drawn in the paper's style."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(fname=STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # long labels: drawn all the same
        return [_saved(drawn, folder) for drawn in figures]


def _saved(drawn: Drawn, folder: Path) -> Picture:
    png, svg = (folder / f"{slug(drawn.stem)}.{ending}" for ending in ("png", "svg"))
    drawn.figure.savefig(png)
    drawn.figure.set_layout_engine("none")  # it stays as it was laid out: doing that twice doubles the time
    drawn.figure.savefig(svg, metadata={"Date": None})
    return Picture(png, svg, drawn.caption)


def text_of(value: object) -> str:
    """Without the .0 that a column with gaps gives its whole numbers."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def one_of(values: Iterable[object], name: str) -> str:
    """``name=0.5, 1``: all values of a parameter, gaps left out, as they first appear."""
    return f"{name}={', '.join(text_of(value) for value in pd.Series(list(values)).dropna().unique())}"


def gaps(frame: pd.DataFrame) -> str:
    """A sentence, with a space before it, on cells of which not every seed gave a number; empty where all did."""
    counts = frame.groupby("cell", sort=False, observed=True)["outcome"].value_counts(sort=False).unstack(fill_value=0)
    finished = counts["finished"] if "finished" in counts else pd.Series(0, index=counts.index)
    short = counts[finished < counts.sum(axis=1)]
    texts = [
        f"{cell} {', '.join(f'{n} {outcome}' for outcome, n in row.items() if n and outcome != 'finished')}"
        f" of {row.sum()}"
        for cell, row in short.iterrows()
    ]
    more = f" and of {len(texts) - MOST_NAMED} cells more" if len(texts) > MOST_NAMED else ""
    return f" Not every seed has a number: {'; '.join(texts[:MOST_NAMED])}{more}." if texts else ""


def short_name(name: str) -> str:
    """The name of a cell in its block with the symbols of AMP's parameters: ``Amp ε=0.5 N=2``."""
    for parameter in PARAMETERS:
        name = name.replace(f"{parameter.name.removeprefix('method.')}=", f"{parameter.symbol}=")
    return name


def seed_counts(frame: pd.DataFrame) -> str:
    """``5``, or ``3 or 5``: how many seeds the cells were declared with."""
    return " or ".join(str(n) for n in sorted(set(frame.groupby("cell", observed=True)["seed"].nunique())))


def legend_below(figure: Figure, columns: int = 4) -> None:
    """One for all panels, for what any of them has, under them."""
    entries = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def seeds(axes: Axes, x: pd.Series[float], y: pd.Series[float], colour: str, label: str) -> None:
    """Every seed as a point, so that none is averaged away."""
    axes.plot(x, y, ".", color=colour, alpha=0.55, markersize=3, label=label)


def fit_y(axes: Axes, values: pd.Series[float]) -> None:
    """Limits from the seeds' ``values``, so that a wide band hides none; log where they span much."""
    _fit(axes, axes.yaxis, "y", values)


def fit_x(axes: Axes, values: pd.Series[float]) -> None:
    """As ``fit_y``."""
    _fit(axes, axes.xaxis, "x", values)


def _fit(axes: Axes, axis: Axis, name: str, values: pd.Series[float]) -> None:
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > LOG_FROM_RATIO:
        axes.set(**{f"{name}scale": "log"})
        plain_log_ticks(axis, (1.0, 2.0, 3.0, 5.0, 7.0) if high / low < 10 else (1.0, 2.0, 5.0))
        axes.set(**{f"{name}lim": (low / 1.25, high * 1.25)})
    else:
        room = 0.08 * (high - low) or 1.0
        axes.set(**{f"{name}lim": (low - room, high + room)})


def few_digits(low: float, high: float) -> Sequence[float]:
    """Of the labels of a logarithmic axis that is a third of a page wide: so many that they do not touch."""
    decades = math.log10(high / low)
    return (1.0, 2.0, 5.0) if decades < 2.3 else (1.0, 3.0) if decades < 3.5 else (1.0,)


def plain_log_ticks(axis: Axis, digits: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """0.02, 0.05, 0.1: readable without powers of ten. digits: of the labels, in each decade."""
    axis.set_major_locator(LogLocator(subs=digits, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())

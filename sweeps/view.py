"""What a run looks like: a snapshot of it as one line for a log, or as a bar and two tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from sweeps.ledger import State

HIGHEST, MOST_ENDED = 24, 10
"""Lines of the view, and of ended trials, however high the terminal: notes are to be seen above it."""
BAR_WIDTH, SHORTEST_BAR = 40, 6
COLOURS = {"failed": "red", "diverged": "yellow"}


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """label: what tells its cell from the others. epoch: the last one known. seconds: since it was started here."""

    label: str
    seed: int
    epoch: int
    epochs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EndedTrial:
    """error (a fraction), nll, ece: at its last epoch; None where there is none. seconds: of training, in all."""

    label: str
    seed: int
    state: State
    error: float | None
    nll: float | None
    ece: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment.

    count: how many trials are in each state, those of other drivers included. share: of the work that is done.
    left: seconds, None for not known. part: of the data, on which the ended trials' numbers are (``test`` or ``val``).
    """

    name: str
    count: dict[State, int]
    share: float
    elapsed: float
    left: float | None
    part: str
    running: Sequence[RunningTrial]
    ended: Sequence[EndedTrial]  # the newest first


def line(now: Snapshot) -> str:
    """``fig8-digits: 12 of 40 finished, 2 running, 1 failed; 1 min 05 s, about 3 min 20 s left``."""
    return f"{now.name}: {_counts(now)}; {duration(now.elapsed)}, {_left(now)}"


def picture(now: Snapshot, width: int, height: int) -> RenderableType:
    """At most ``width`` × ``height`` characters; the less room there is the less of the tables."""
    name = Text.assemble((now.name, "bold"), "  ", _counts(now), no_wrap=True, overflow="ellipsis")
    shown: list[RenderableType] = [name, _bar(now, width)]
    room = min(height, HIGHEST) - len(shown)
    ended = min(len(now.ended), MOST_ENDED, max(room - 2 - 2 - min(len(now.running), room // 3), 0))
    running = min(len(now.running), max(room - 2 - (ended + 2 if ended else 0), 0))
    if running:
        shown += ["", _running_table(now.running, running, width)]
    if ended:
        shown += ["", _ended_table(now.ended[:ended], now.part, width)]
    return Group(*shown)


def _counts(now: Snapshot) -> str:
    count = now.count
    others = [f"{count[state]} {state}" for state in COLOURS if count[state]]  # type: ignore[index]
    return ", ".join([f"{count['finished']} of {sum(count.values())} finished", f"{count['leased']} running", *others])


def _left(now: Snapshot) -> str:
    return "time left not known yet" if now.left is None else f"about {duration(now.left)} left"


def _bar(now: Snapshot, width: int) -> RenderableType:
    """As long as the times beside it allow."""
    times = f"{now.share:4.0%}  {duration(now.elapsed)}, {_left(now)}"
    room = min(BAR_WIDTH, width - len(times) - 1)
    if room < SHORTEST_BAR:
        return Text(times.strip(), no_wrap=True, overflow="ellipsis")
    row = Table.grid(Column(width=room), Column(no_wrap=True), padding=(0, 1, 0, 0))
    row.add_row(ProgressBar(total=1, completed=now.share, style="bright_black", complete_style="green"), times)
    return row


def _running_table(trials: Sequence[RunningTrial], shown: int, width: int) -> Table:
    table = _table("running", ["seed", "epoch", "time"], width)
    full = len(trials) > shown
    for trial in trials[: shown - full]:
        epoch = f"{trial.epoch or '–'}/{trial.epochs}" if trial.epochs else ""
        table.add_row(trial.label, *_first((str(trial.seed), epoch, _brief(trial.seconds)), table))
    if full:
        table.add_row(f"and {len(trials) - shown + 1} more")
    return table


def _ended_table(trials: Iterable[EndedTrial], part: str, width: int) -> Table:
    table = _table("last ended", ["seed", f"{part} error %", "NLL", "ECE %", "time"], width)
    for trial in trials:
        numbers = (_number(trial.error, 100, 2), _number(trial.nll, 1, 4), _number(trial.ece, 100, 2))
        if trial.state != "finished":
            numbers = (trial.state, "", "")
        cells = (str(trial.seed), *numbers, _brief(trial.seconds))
        table.add_row(trial.label, *_first(cells, table), style=COLOURS.get(trial.state, ""))
    return table


def _table(title: str, columns: Sequence[str], width: int) -> Table:
    """The label takes what the others leave; on a narrow terminal the last columns are left out."""
    label = Column(title, ratio=1, no_wrap=True, overflow="ellipsis", min_width=8)
    table = Table(label, box=None, width=width, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    room = width - max(width // 3, 8)
    for name in columns:
        own = {"seed": 4, "time": 12, "epoch": 8}.get(name, max(len(name), 8))
        room -= own + 1
        if room >= 0:
            table.add_column(name, width=own, justify="right", no_wrap=True, overflow="ellipsis")
    return table


def _first(cells: Sequence[str], table: Table) -> Sequence[str]:
    """Those that the table has columns for."""
    return cells[: len(table.columns) - 1]


def _number(value: float | None, scale: int, digits: int) -> str:
    return "" if value is None else f"{scale * value:.{digits}f}"


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 04 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 2 * 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def _brief(seconds: float) -> str:
    """With tenths of a second, which small trials are told apart by."""
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)

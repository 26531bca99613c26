"""One line that says how far a study is: on a terminal it is rewritten in place, elsewhere printed now and then."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeps.ledger import State

PLAIN_EVERY_SECONDS = 10.0


class Progress:
    """Trials done, running and failed, and the time that the rest will take at the pace so far."""

    def __init__(self, name: str, total: int, already_over: int) -> None:
        self._name, self._total = name, total
        self._first: tuple[float, int] | None = None  # when the first new trial was done, and how many were then
        self._already_over = already_over
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._printed_at = time.monotonic()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        if self._console.is_terminal:
            self._live.start()

    def show(self, states: Mapping[str, State]) -> None:
        """Bring the line up to date."""
        line = self._line(Counter(states.values()))
        now = time.monotonic()
        if self._console.is_terminal:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif now - self._printed_at >= PLAIN_EVERY_SECONDS:
            self._console.print(line, soft_wrap=True)
            self._printed_at = now

    def note(self, message: str) -> None:
        """A line that stays."""
        self._console.print(message, soft_wrap=True)

    def close(self) -> None:
        """Take the line away."""
        self._live.stop()

    def _line(self, count: Mapping[str, int]) -> str:
        failed = count.get("failed", 0) + count.get("diverged", 0)
        over = count.get("finished", 0) + failed
        parts = [f"{over}/{self._total} done", f"{count.get('leased', 0)} running", f"{failed} failed"]
        return f"{self._name}: {', '.join(parts)}, {self._eta(over)}"

    def _eta(self, over: int) -> str:
        """At the pace since the first trial was done: starting Ray and importing torch happens once."""
        now = time.monotonic()
        if over > self._already_over and self._first is None:
            self._first = (now, over)
        if self._first is None or over - self._first[1] < 2:
            return "ETA not known yet"
        since, over_then = self._first
        return f"ETA {duration((now - since) / (over - over_then) * (self._total - over))}"


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

"""Ratios of times that are measured in turns, so that a machine whose speed drifts slows both sides of a ratio."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from trainer.data.splits import Examples
from trainer.machine import Results


class Ratio(NamedTuple):
    """Quartiles over rounds. asked: the bound that the project sets itself, ``>= 15`` say; empty for none."""

    name: str
    q1: float
    median: float
    q3: float
    rounds: int
    asked: str = ""

    def __str__(self) -> str:
        verdict = "" if self.held is None else f"  asked for: {self.asked}{'' if self.held else ': MISSED'}"
        spread = f"[{self.q1:.3f}, {self.q3:.3f}]"
        return f"{self.name:52} {self.median:7.3f}  {spread:18} {self.rounds:3} rounds{verdict}"

    @property
    def held(self) -> bool | None:
        """Whether the median keeps the bound; None without one."""
        if not self.asked:
            return None
        sign, bound = self.asked.split()
        return self.median >= float(bound) if sign == ">=" else self.median <= float(bound)


def ratio(name: str, pairs: Sequence[tuple[float, float]], asked: str = "") -> Ratio:
    """Of the first to the second of each pair."""
    q1, median, q3 = statistics.quantiles([one / other for one, other in pairs], n=4)
    return Ratio(name, q1, median, q3, len(pairs), asked)


def printed(sources: Iterable[Callable[[], Iterator[Ratio]]]) -> list[Ratio]:
    """What the sources measure, each ratio printed as soon as it is known."""
    ratios: list[Ratio] = []
    for source in sources:
        for found in source():
            print(found, flush=True)
            ratios.append(found)
    return ratios


def write(name: str, ratios: Sequence[Ratio], **facts: Any) -> None:
    """Into the results' ``benchmarks/NAME.json``, with facts of the machine; says where."""
    path = Results.here().root / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [found._asdict() | {"held": found.held} for found in ratios]
    path.write_text(json.dumps(facts | {"ratios": listed}, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


def interleaved(sides: Sequence[Callable[[], object]], rounds: int, device: str = "cpu") -> Iterator[list[float]]:
    """The wall time of each side in each round, in seconds; a round before the first one warms up."""
    for number in range(rounds + 1):
        times = [seconds(side, device) for side in sides]
        if number:
            yield times


@contextlib.contextmanager
def in_own_process(work: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """``work`` as a function that has it done in a process of its own, on one thread, and waits.

    What a side sets for its process, or leaves in its memory, is then nothing to the other side.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs), daemon=True)
    process.start()
    theirs.close()  # or the end of the process would not be noticed

    def call() -> None:
        ours.send(None)
        ours.recv()

    try:
        yield call
    finally:
        ours.close()
        process.join()


def _serve(work: Callable[[], object], requests: Connection) -> None:
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError):
        while True:
            requests.recv()
            work()
            requests.send(None)


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall time of one call, until the device has done all that it was given."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    """Wait for the device's queue; a CPU has none."""
    if device != "cpu":
        torch.accelerator.synchronize()


def random_images(count: int, seed: int) -> Examples:
    """uint8 [count, 3, 32, 32] and labels of ten classes: what the levels are does not change what they cost."""
    source = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 32, 32), generator=source, dtype=torch.uint8)
    return Examples(images, torch.arange(count) % 10)

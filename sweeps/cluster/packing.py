"""How many trials share a GPU, as pure functions of what one of them takes of its memory, and what each then gets."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.records import GpuMemory

HEADROOM = 0.1
"""Assumed. Of a trial's memory: what later epochs, and a GPU in many small pieces, may take on top of the first."""
UNITS = 10_000
"""Ray counts resources in ten-thousandths."""
LEAST_SHARE = 1 / UNITS


def trials_per_gpu(memory: GpuMemory, most: int) -> int:
    """So many trials of which each takes ``memory`` fit on one GPU: at least one, at most ``most``."""
    fit = int(memory.gpu_bytes / ((1 + HEADROOM) * memory.taken_bytes))
    return max(1, min(fit, most))


def share(trials: int) -> float:
    """Of a GPU, for each of so many trials: rounded down, for Ray would otherwise leave one of seven outside."""
    return UNITS // trials / UNITS


def trials_that_share(share: float) -> int:
    """The inverse of ``share``, for any share from 0.0001 to 1."""
    return UNITS // round(UNITS * share)


@dataclass(frozen=True, slots=True)
class Place:
    """What a trial is given: a core and, of a GPU of this kind, a share. gpu_kind: empty where Ray knows none.

    to_find_out: how many trials may share a GPU at most, where this one is to find out how many do; else 0.
    """

    gpu_kind: str = ""
    share: float = 0.0
    to_find_out: int = 0

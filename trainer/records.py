"""What a trial tells of itself, epoch by epoch. No torch here: readers of records need none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What was measured after one epoch. ``epoch`` counts from 1; ``timestamp`` is in milliseconds since 1970 (UTC).

    The keys of ``metrics`` are the metric names everywhere (``val/nll``).
    """

    epoch: int
    timestamp: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """What a trial that had a GPU to itself took of its memory, of how much, in bytes.

    taken_bytes: the most that was reserved for its tensors, and all that was in use besides: CUDA's context and
    kernels, and whatever other programs had there.
    """

    taken_bytes: int
    gpu_bytes: int

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

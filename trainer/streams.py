"""Separate random streams derived from a trial's seed.

Initialisation, batch order and the method's noise never draw from one stream, so trials of one seed share weights and
order whatever the method: seeds are true pairs.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

Stream = Literal["init", "order", "noise"]


def stream_seed(seed: int, stream: Stream) -> int:
    """A 63-bit seed for ``stream``; distinct streams of a seed, and equal streams of two seeds, are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{stream}:{seed}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, stream: Stream, device: str = "cpu") -> torch.Generator:
    """A generator for ``stream``; on the CPU what it draws does not depend on where the trial runs."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream))

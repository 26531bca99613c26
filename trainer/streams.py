"""Separate random streams derived from a trial's seed.

Initialisation and batch order never draw from one stream, so trials of one seed share weights and order whatever the
method: seeds are true pairs.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

Stream = Literal["init", "order"]


def stream_seed(seed: int, stream: Stream) -> int:
    """A 63-bit seed for ``stream``; distinct streams of a seed, and equal streams of two seeds, are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{stream}:{seed}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, stream: Stream) -> torch.Generator:
    """A CPU generator for ``stream``, so that what it draws does not depend on the device."""
    return torch.Generator().manual_seed(stream_seed(seed, stream))

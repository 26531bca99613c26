"""Separate random streams derived from a trial's seed.

Initialisation, batch order, augmentation and the method's noise never draw from one stream, so trials of one seed share
weights, order and crops whatever the method: seeds are true pairs.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Literal

import numpy
import torch
from numpy.random import RandomState

Stream = Literal["init", "order", "noise"]


def stream_seed(seed: int, stream: Stream) -> int:
    """A 63-bit seed for ``stream``; distinct streams of a seed, and equal streams of two seeds, are unrelated."""
    return int.from_bytes(_digest(f"{stream}:{seed}")[:8], "big") >> 1


def generator(seed: int, stream: Stream, device: str = "cpu") -> torch.Generator:
    """A generator for ``stream``; on the CPU what it draws does not depend on where the trial runs."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream))


def augmentation(seed: int, epoch: int) -> RandomState:
    """Where the augmentation of one epoch draws from; made anew for each, so there is no state to store."""
    content = _digest(f"augment:{seed}:{epoch}")
    return RandomState([int.from_bytes(content[start : start + 4], "big") for start in range(0, 32, 4)])


@contextlib.contextmanager
def own_randomness(seed: int, epoch: int, device: str) -> Iterator[None]:
    """Let what is drawn within from the global generators, by a user's network say, depend on seed and epoch alone.

    Those of torch, numpy and Python are afterwards as they were.
    """
    number = int.from_bytes(_digest(f"network:{seed}:{epoch}")[:8], "big") >> 1
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]), python_randomness(number):
        torch.default_generator.manual_seed(number)
        if device != "cpu":
            torch.cuda.manual_seed(number)
        yield


@contextlib.contextmanager
def python_randomness(number: int) -> Iterator[None]:
    """Seed numpy's and Python's global generators within; afterwards they are as they were."""
    before, numpy_before = random.getstate(), numpy.random.get_state()
    random.seed(number)
    numpy.random.seed(number % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        numpy.random.set_state(numpy_before)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

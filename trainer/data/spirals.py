"""Two interleaved spirals, made from their declaration alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from trainer.config import TwoSpirals
from trainer.data.splits import Examples

INNER_RADIUS = 1 / 13
"""Where the arms begin, in units of the outer radius, as in Lang and Witbrock's set (0.5 of 6.5)."""


def two_spirals(declared: TwoSpirals, part: Literal["train", "test"]) -> Examples:
    """Points float32 [n, 2, 1, 1] (x and y are channels, so that each is normalised by itself), n / 2 a class.

    The spirals of Lang and Witbrock (1988), "Learning to tell two spirals apart", whose radius grows evenly with the
    angle, in units of the outer radius. Points are drawn uniform in the angle, not set at equal steps, and moved by
    Gaussian noise. The second spiral is the first one, turned by half a turn. Parts are of streams of their own:
    the size of one does not change the other.
    """
    randomness = np.random.RandomState([declared.seed, ("train", "test").index(part)])
    size = declared.train_size if part == "train" else declared.test_size
    progress = randomness.uniform(size=(2, size))
    radius = INNER_RADIUS + (1 - INNER_RADIUS) * progress
    angle = 2 * np.pi * declared.turns * progress + np.array([[0], [np.pi]])
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 2)
    points += randomness.normal(scale=declared.noise, size=points.shape)
    images = torch.from_numpy(points.astype("float32")).reshape(-1, 2, 1, 1)
    return Examples(images, torch.arange(2).repeat_interleave(size))

"""From stored levels to what a network sees."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.config import Normalization
from trainer.data.splits import Subset

CHUNK = 2000
"""Images whose statistics are taken at a time, so that a large set is never in memory as floats."""

CONSTANT = 1e-12
"""A variance below this share of the squared mean is rounding: the channel has one value."""


class PixelScale(NamedTuple):
    """mean and std [1, channels, 1, 1] in levels of the stored images, float32; levels: the highest, or None where the
    numbers are no pixels."""

    mean: Tensor
    std: Tensor
    levels: int | None

    def normalize(self, images: Tensor) -> Tensor:
        """Stored ``images`` [n, channels, height, width] of any type as normalised float32, on their device."""
        return (images.float() - self.mean) / self.std

    def to(self, device: str) -> PixelScale:
        return PixelScale(self.mean.to(device), self.std.to(device), self.levels)


def measured_scale(train: Subset, levels: int | None) -> PixelScale:
    """Mean and standard deviation of the training part, a number a channel; 1 in place of a deviation of 0.

    Sums of levels are exact in float64, so that no order of summation shows.
    """
    over = (0, 2, 3)
    total = square = torch.zeros((), dtype=torch.float64)
    count = 0
    for index in torch.split(train.index, CHUNK):
        pixels = train.stored.images[index].double()
        count += pixels.numel() // pixels.shape[1]
        total, square = total + pixels.sum(over, keepdim=True), square + pixels.square().sum(over, keepdim=True)
    mean = total / count
    variance = (square / count - mean.square()).clamp(min=0)
    varies = variance > CONSTANT * mean.square()
    return PixelScale(mean.float(), torch.where(varies, variance.sqrt(), 1.0).float(), levels)


def declared_scale(declared: Normalization, levels: int | None) -> PixelScale:
    """The constants of ``declared``, which are in units of the highest level."""
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) * (levels or 1) for values in (declared.mean, declared.std))
    return PixelScale(mean, std, levels)

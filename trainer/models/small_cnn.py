"""A small convolutional network for small machines, after no paper: the plain idiom of convolution, BatchNorm, ReLU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from trainer.config import SmallCnn
from trainer.models.common import initialised, require_size

STAGES = 3


def build_small_cnn(declared: SmallCnn, shape: Sequence[int], classes: int) -> nn.Module:
    """``declared`` for images of ``shape`` (channels, height, width), of at least 8 × 8 pixels."""
    require_size(declared, shape)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(declared.width * 2 ** (STAGES - 1), classes))
    return initialised(nn.Sequential(*_features(declared, shape[0]), *head))


def _features(declared: SmallCnn, entering: int) -> Iterator[nn.Module]:
    for stage in range(STAGES):
        leaving = declared.width * 2**stage
        yield nn.Conv2d(entering, leaving, 3, padding=1, bias=False)  # BatchNorm's shift is bias enough
        yield from (nn.BatchNorm2d(leaving), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        entering = leaving

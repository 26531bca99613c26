"""Mini-batches of normalised images on the trial's device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from numpy.random import RandomState
from torch import Tensor

from trainer.config import Augment
from trainer.data.augment import changed, cut_out, draw, refuse_unfit
from trainer.data.pixels import PixelScale
from trainer.data.splits import Examples, Subset

CHUNK_VALUES = 2**23
"""Numbers that are augmented at a time: enough images (2,730 of CIFAR's) for large groups, and little memory."""


def batches(
    subset: Subset,
    order: Tensor,
    size: int,
    scale: PixelScale,
    *,
    augment: Augment | None = None,
    randomness: RandomState | None = None,
) -> Iterator[Examples]:
    """The examples of ``subset`` at the places ``order`` (int64 [m], on the CPU), ``size`` at a time.

    They come out on the device of ``scale``; the last batch has the rest. With ``augment``, which needs ``randomness``,
    images are changed on the CPU before they are normalised; what is done to the example at one place of ``order``
    depends on the state of ``randomness`` and that place alone.
    Raises ConfigError when ``augment`` is not defined for these images.
    """
    if augment is None:
        return _stored(subset, order, size, scale)
    if randomness is None:
        raise ValueError("augment needs randomness: pass a numpy RandomState")
    refuse_unfit(augment, subset.stored.images.shape[1:], scale.levels)
    return _augmented(subset, order, size, scale, augment, randomness)


def _stored(subset: Subset, order: Tensor, size: int, scale: PixelScale) -> Iterator[Examples]:
    device = scale.mean.device
    for places in torch.split(subset.index[order], size):
        stored = subset.stored.take(places)
        images, labels = (part.to(device, non_blocking=True) for part in stored)
        yield Examples(scale.normalize(images), labels)


def _augmented(
    subset: Subset, order: Tensor, size: int, scale: PixelScale, augment: Augment, randomness: RandomState
) -> Iterator[Examples]:
    (images, labels), index, device = subset.stored, subset.index[order], scale.mean.device
    height, width = images.shape[2:]
    draws = draw(augment, len(index), height, width, randomness)
    a_chunk = size * max(CHUNK_VALUES // (images[0].numel() * size), 1)
    for start in range(0, len(index), a_chunk):
        places, drawn = index[start : start + a_chunk], draws.part(start, start + a_chunk)
        found = changed(images.numpy(), places.numpy(), augment, drawn, scale.levels or 255)
        parts = (torch.from_numpy(found), labels[places], torch.from_numpy(drawn.hole))
        for levels, targets, hole in zip(*(torch.split(part, size) for part in parts), strict=True):
            normalized = scale.normalize(levels.to(device, non_blocking=True))
            if augment.cutout:
                cut_out(normalized, hole.to(device, non_blocking=True), augment.cutout)
            yield Examples(normalized, targets.to(device, non_blocking=True))

"""Mini-batches of normalised images on the trial's device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.data.pixels import PixelScale
from trainer.data.splits import Examples, Subset


def batches(subset: Subset, order: Tensor, size: int, scale: PixelScale) -> Iterator[Examples]:
    """The examples of ``subset`` at the places ``order`` (int64 [m]), ``size`` at a time, on the device of ``scale``.

    The last batch has the rest.
    """
    device = scale.mean.device
    for places in torch.split(subset.index[order], size):
        stored = subset.stored.take(places)
        yield Examples(scale.normalize(stored.images.to(device)), stored.labels.to(device))

"""Random changes of training images: crop, flip and AutoAugment on stored levels, Cutout once they are normalised.

All that chance decides in an epoch is drawn at once, a row an example in the epoch's order, and always in full. So what
happens to an example depends on the random state and its place alone, not on how many are changed at a time, and two
declarations of augmentation share what they have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import Augment
from trainer.data.autoaugment import GRAY, SUB_POLICIES, Images, PolicyDraws, apply_policy

Integers = NDArray[np.int64]


class Draws(NamedTuple):
    """What chance decides about n examples.

    flip [n]: 0 or 1, to be mirrored. crop [n, 2]: rows and columns that the cropped window lies below and right of its
    highest and leftmost place. sub_policy [n], uniform [n, 2], sign [n, 2]: see ``PolicyDraws``. hole [n, 2]: row and
    column of the pixel that Cutout's square is centred at.
    """

    flip: Integers
    sub_policy: Integers
    uniform: NDArray[np.float64]
    sign: Integers
    hole: Integers
    crop: Integers

    def part(self, start: int, stop: int) -> Draws:
        """Those of the examples from ``start`` to before ``stop``."""
        return Draws._make(values[start:stop] for values in self)


def draw(augment: Augment, count: int, height: int, width: int, randomness: RandomState) -> Draws:
    """Uniform draws for ``count`` images of ``height`` × ``width`` pixels. (numpy's legacy streams are frozen.)"""

    def below(bound: int, *shape: int) -> Integers:
        return randomness.randint(0, bound, (count, *shape), dtype=np.int64)

    return Draws(
        flip=below(2),
        sub_policy=below(SUB_POLICIES),
        uniform=randomness.random_sample((count, 2)),
        sign=2 * below(2, 2) - 1,
        hole=np.stack([below(height), below(width)], axis=1),
        crop=below(2 * augment.crop_padding + 1, 2),
    )


def refuse_unfit(augment: Augment, shape: Sequence[int], levels: int | None) -> None:
    """Raise ConfigError for images of ``shape`` (channels, height, width) that ``augment`` is not defined for."""
    channels = shape[0]
    augment.check_side(min(shape[1:]))
    fit = augment.policy == "none" or (channels == 3 and levels == 255)
    seen = "points" if levels is None else f"images of {channels} channels and {levels} levels"
    augment.require(fit, "policy", f"'none' for {seen}: AutoAugment is defined for 3 channels and 255 levels")


def changed(stored: Images, index: Integers, augment: Augment, draws: Draws, levels: int) -> Images:
    """Copies [k, channels, height, width] of the images of ``stored`` at ``index`` [k], cropped, flipped and put
    through the policy as ``draws`` says for each. levels: the highest of the stored images."""
    fill = round(GRAY / 255 * levels) if augment.crop_fill == "gray" else 0
    flip = draws.flip if augment.flip == "horizontal" else np.zeros_like(draws.flip)
    images = crop_and_flip(stored, index, draws.crop, flip, augment.crop_padding, fill)
    if augment.policy != "none":
        apply_policy(images, augment.policy, PolicyDraws(draws.sub_policy, draws.uniform, draws.sign))
    return images


def crop_and_flip(stored: Images, index: Integers, crop: Integers, flip: Integers, padding: int, fill: int) -> Images:
    """Windows of the old size, ``crop`` [k, 2] from the corner of images padded with ``fill``; then mirrored."""
    height, width = stored.shape[2:]
    rows, columns = _overlaps(height, padding), _overlaps(width, padding)
    found = np.full((len(index), *stored.shape[1:]), fill, stored.dtype)
    for target, place, (down, right), mirrored in zip(found, index.tolist(), crop.tolist(), flip.tolist(), strict=True):
        (to_rows, from_rows), (to_columns, from_columns) = rows[down], columns[right]
        window = target[:, :, ::-1] if mirrored else target
        window[:, to_rows, to_columns] = stored[place][:, from_rows, from_columns]
    return found


def _overlaps(length: int, padding: int) -> list[tuple[slice, slice]]:
    """For each place of the window along one axis, where it shows the image: (in the window, in the image)."""
    shifts = range(-padding, padding + 1)
    return [
        (slice(max(-shift, 0), max(length - shift, 0)), slice(max(shift, 0), max(length + shift, 0)))
        for shift in shifts
    ]


def cut_out(images: Tensor, hole: Tensor, side: int) -> None:
    """Set the square of ``side`` pixels around ``hole`` [n, 2] to zero, the mean, in normalised ``images`` in place.

    What would lie outside of the image is left out. A square of even side has one more pixel left of and above ``hole``
    than right of and below it.
    """
    height, width = images.shape[2:]
    rows, columns = _within(hole[:, :1], height, side), _within(hole[:, 1:], width, side)
    images.masked_fill_((rows[:, :, None] & columns[:, None])[:, None], 0)


def _within(centre: Tensor, length: int, side: int) -> Tensor:
    """Which of ``length`` places are in the stretch of ``side`` around ``centre`` [n, 1]: bool [n, length]."""
    distance = torch.arange(length, device=centre.device) - (centre - side // 2)
    return (distance >= 0) & (distance < side)

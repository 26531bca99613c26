"""AutoAugment's published policies on batches of stored images, a group of images to a kernel, with PIL's results.

Followed is torchvision's ``AutoAugment`` on PIL images: its tables are those of Cubuk et al. (2019), a magnitude is one
of ten levels from no change to the end of the paper's range, geometry takes the nearest pixel, and the sign of a
shear, translation, rotation or enhancement is drawn at random. What geometry uncovers is gray, level 128: the paper's
own code fills with the mean. Other public code differs in that it shears with cubic interpolation, rotates one way,
translates by fractions of a pixel, or solarises from 256 down.

Tolerance: every operation equals PIL's to the last bit on x86-64. On processors that fuse multiplication and addition
PIL's own Brightness, Color, Contrast and Sharpness may be off by one level in isolated pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]
PolicyName = Literal["cifar10", "svhn"]
Step = tuple[str, float, int | None]
"""An operation, its probability, and its level from 0 to 9 (None for an operation without)."""

GRAY = 128
SUB_POLICIES = 25
TOP_LEVEL = 9
SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
)


class PolicyDraws(NamedTuple):
    """What chance decides about n images: sub_policy int [n] in [0, 25); uniform float [n, 2] in [0, 1), below an
    operation's probability where it is applied; sign [n, 2], -1 or 1."""

    sub_policy: NDArray[np.int64]
    uniform: NDArray[np.float64]
    sign: NDArray[np.int64]


@functools.cache
def sub_policies(name: PolicyName) -> tuple[tuple[Step, Step], ...]:
    """The 25 pairs of operations found on that data set (Cubuk et al. 2019, appendix)."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy  # a second of import that few trials need

    return tuple((first, second) for first, second in AutoAugment(AutoAugmentPolicy(name)).policies)


def apply_policy(images: Images, name: PolicyName, draws: PolicyDraws) -> None:
    """Change ``images`` [n, 3, height, width] of 255 levels in place, each by the sub-policy drawn for it."""
    height, width = images.shape[2:]
    for step in (0, 1):
        for (operation, magnitude), members in _groups(name, step, draws, height, width).items():
            images[members] = OPERATIONS[operation](images[members], magnitude)


def _groups(
    name: PolicyName, step: int, draws: PolicyDraws, height: int, width: int
) -> Mapping[tuple[str, float], NDArray[np.int64]]:
    """The images [k] that the same operation of the same magnitude is applied to, without empty groups."""
    groups: dict[tuple[str, float], list[NDArray[np.int64]]] = {}
    for number, sub_policy in enumerate(sub_policies(name)):
        operation, probability, level = sub_policy[step]
        applied = (draws.sub_policy == number) & (draws.uniform[:, step] < probability)
        for sign in (-1, 1):
            members = np.flatnonzero(applied & (draws.sign[:, step] == sign))
            magnitude = signed_magnitude(operation, level, sign, height, width)
            if len(members):
                groups.setdefault((operation, magnitude), []).append(members)
    return {group: np.concatenate(members) for group, members in groups.items()}


def signed_magnitude(operation: str, level: int | None, sign: int, height: int, width: int) -> float:
    """What ``operation`` does at ``level``: slope, pixels, degrees, change of the factor 1, bits, or threshold."""
    if level is None:
        return 0.0
    share = level / TOP_LEVEL
    if operation == "Posterize":
        return 8 - round(4 * share)
    if operation == "Solarize":
        return 255 - 255 * share
    reach = {
        "ShearX": 0.3,
        "ShearY": 0.3,
        "TranslateX": 150 / 331 * width,  # the paper's pixels are those of images of 331
        "TranslateY": 150 / 331 * height,
        "Rotate": 30.0,
    }
    magnitude = share * reach.get(operation, 0.9)
    return sign * (math.floor(magnitude) if operation.startswith("Translate") else magnitude)


# ---- Geometry


def _transform(operation: str, magnitude: float, images: Images) -> Images:
    """Nearest pixels of ``images``; gray where there is none."""
    count, channels, height, width = images.shape
    padded = np.full((count, channels, height * width + 1), GRAY, np.uint8)
    padded[..., :-1] = images.reshape(count, channels, -1)
    return padded.take(_sources(operation, magnitude, height, width), axis=2).reshape(images.shape)


@functools.lru_cache(maxsize=256)
def _sources(operation: str, magnitude: float, height: int, width: int) -> NDArray[np.intp]:
    """Where each pixel [height * width] of the result comes from, as PIL has it; -1 where from outside."""
    places = Image.fromarray(np.arange(height * width, dtype=np.int32).reshape(height, width))
    if operation == "Rotate":
        moved = places.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=-1)
    else:
        matrix = {
            "ShearX": (1, magnitude, 0, 0, 1, 0),
            "ShearY": (1, 0, 0, magnitude, 1, 0),
            "TranslateX": (1, 0, -magnitude, 0, 1, 0),
            "TranslateY": (1, 0, 0, 0, 1, -magnitude),
        }[operation]
        affine, nearest = Image.Transform.AFFINE, Image.Resampling.NEAREST
        moved = places.transform(places.size, affine, matrix, nearest, fillcolor=-1)
    return np.asarray(moved).reshape(-1).astype(np.intp)


# ---- Levels


def _look_up(images: Images, tables: Images) -> Images:
    """Levels replaced by ``tables`` [rows, 256], a row for each of as many equal parts of ``images``, in order."""
    parts = images.reshape(len(tables), -1)
    found = [part.tobytes().translate(table.tobytes()) for part, table in zip(parts, tables, strict=True)]
    return np.frombuffer(b"".join(found), np.uint8).reshape(images.shape)


def _blend(start: NDArray[np.generic], images: Images, factor: float) -> Images:
    """``start`` at factor 0, ``images`` at 1, and beyond; in float32 and cut off, as PIL does it."""
    origin = start.astype(np.float32)
    mixed = images - origin
    mixed *= np.float32(factor)
    mixed += origin
    return mixed.clip(0, 255, out=mixed).astype(np.uint8)


def _luminance(images: Images) -> NDArray[np.uint32]:
    """ITU-R 601-2 luma [k, height, width], in the fixed-point numbers that PIL converts to "L" with."""
    red, green, blue = images.astype(np.uint32).swapaxes(0, 1)
    luma: NDArray[np.uint32] = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return luma


def _invert(images: Images, _: float) -> Images:
    return ~images


def _posterize(images: Images, bits: float) -> Images:
    return images & np.uint8(256 - 2 ** (8 - int(bits)))


def _solarize(images: Images, threshold: float) -> Images:
    return np.where(images < math.ceil(threshold), images, ~images)


def _auto_contrast(images: Images, _: float) -> Images:
    """Each channel stretched to the whole range; one of a single level stays."""
    channels = images.reshape(-1, images.shape[2] * images.shape[3])
    low, high = (bound.astype(np.float64)[:, None] for bound in (channels.min(1), channels.max(1)))
    scale = 255.0 / np.maximum(high - low, 1)
    levels = np.arange(256)
    stretched = (levels * scale + -low * scale).clip(0, 255)
    return _look_up(images, np.where(high > low, stretched, levels).astype(np.uint8))


def _equalize(images: Images, _: float) -> Images:
    """Each channel's histogram flattened; a channel too uniform for that stays."""
    channels = images.reshape(-1, images.shape[2] * images.shape[3])
    rows = np.arange(len(channels))[:, None]
    histogram = np.bincount((channels + 256 * rows).ravel(), minlength=256 * len(channels)).reshape(-1, 256)
    below_highest = channels.shape[1] - histogram[rows, channels.max(1)[:, None]]
    step = below_highest // 255
    below = histogram.cumsum(1) - histogram
    flattened = ((step // 2 + below) // np.maximum(step, 1)).clip(0, 255)
    return _look_up(images, np.where(step > 0, flattened, np.arange(256)).astype(np.uint8))


def _brightness(images: Images, change: float) -> Images:
    return _look_up(images, _blend(np.zeros((1, 1)), np.arange(256, dtype=np.uint8), 1 + change))


def _contrast(images: Images, change: float) -> Images:
    mean = np.floor(_luminance(images).mean((1, 2)) + 0.5)[:, None]
    return _look_up(images, _blend(mean, np.arange(256, dtype=np.uint8), 1 + change))


def _color(images: Images, change: float) -> Images:
    return _blend(_luminance(images)[:, None], images, 1 + change)


def _sharpness(images: Images, change: float) -> Images:
    """Away from, or towards, the mean of 3 × 3 pixels with the middle one five times; the border stays."""
    if min(images.shape[2:]) < 3:
        return images
    wide = images.astype(np.uint16)
    columns = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    total = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:] + 4 * wide[:, :, 1:-1, 1:-1]
    smooth = images.copy()
    smooth[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26
    return _blend(smooth, images, 1 + change)


Kernel = Callable[[Images, float], Images]
OPERATIONS: Mapping[str, Kernel] = {
    "ShearX": lambda images, slope: _transform("ShearX", slope, images),
    "ShearY": lambda images, slope: _transform("ShearY", slope, images),
    "TranslateX": lambda images, pixels: _transform("TranslateX", pixels, images),
    "TranslateY": lambda images, pixels: _transform("TranslateY", pixels, images),
    "Rotate": lambda images, degrees: _transform("Rotate", degrees, images),
    "Invert": _invert,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Brightness": _brightness,
    "Contrast": _contrast,
    "Color": _color,
    "Sharpness": _sharpness,
}
"""Images [k, 3, height, width] and a magnitude to new images of that shape."""

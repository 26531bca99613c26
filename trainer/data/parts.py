"""Which files hold a data set, and what is known of it before they are read. No torch here: drivers ask as well."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trainer.config import Cifar10, Cifar100, Dataset, Digits, ImageFolder, Mnist5k, Svhn, TwoSpirals
from trainer.declaration import ConfigError
from trainer.machine import Results

Part = Literal["train", "test", "all"]
"""``all`` is of a folder of images whose test set is a declared share of it."""

Downloaded = Cifar10 | Cifar100 | Svhn
CLASSES: dict[type[Dataset], int] = {Mnist5k: 10, Digits: 10, Cifar10: 10, Cifar100: 100, Svhn: 10, TwoSpirals: 2}
LEVELS: dict[type[Dataset], int | None] = {
    **dict.fromkeys((Mnist5k, Cifar10, Cifar100, Svhn, ImageFolder), 255),
    Digits: 16,
    TwoSpirals: None,
}
"""The highest level of a pixel; None for what is no image."""


def classes(dataset: Dataset) -> int:
    """The number of classes."""
    return dataset.classes if isinstance(dataset, ImageFolder) else CLASSES[type(dataset)]


def part_files(dataset: Dataset, data_dir: Path) -> dict[Part, Path]:
    """The file of each part that ``dataset`` is stored in; none for points, which are made when they are needed."""
    if isinstance(dataset, TwoSpirals):
        return {}
    digests: dict[Part, str] = {"train": dataset.digest, "test": dataset.digest}
    if isinstance(dataset, ImageFolder):  # by content, so that folders that share a part share its file
        train, _, test = dataset.digest.partition(":")
        digests = {"train": train, "test": test} if test else {"all": train}
    name = type(dataset).__name__.lower()
    return {part: data_dir / f"{name}-{part}-{digest}.pt" for part, digest in digests.items()}


def not_there(dataset: Dataset, data_dir: Path, study: str = "STUDY=...") -> ConfigError | None:
    """The error for data that a trial cannot bring by itself and that are not in ``data_dir``; None when it can train.

    study: how make is told the study. Only looks whether the files exist; trials verify what is in them.
    """
    absent = [path for path in part_files(dataset, data_dir).values() if not path.exists()]
    if not absent or isinstance(dataset, Mnist5k | Digits):
        return None
    name = type(dataset).__name__
    if isinstance(dataset, ImageFolder):
        where = Results(data_dir.parent).as_make if data_dir.name == "data" else ""
        cure = f"run `make digest FOLDER=PATH{where}` here, with these images and the SIZE and CHANNELS of before"
        return ConfigError(f"{name}: {absent[0].name} is not in {data_dir}: {cure}")
    return ConfigError(f"{name}: not in {data_dir}: fetch it once with `make fetch {study}`")

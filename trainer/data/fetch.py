"""Bringing a data set into the data folder before anything trains on it."""

from __future__ import annotations

from pathlib import Path

from trainer.config import Dataset, ImageFolder
from trainer.data.cache import write_part
from trainer.data.downloads import download
from trainer.data.load import fill, load_part
from trainer.data.parts import Downloaded, not_there, part_files
from trainer.declaration import ConfigError


def fetch(dataset: Dataset, data_dir: Path) -> bool:
    """Have all parts of ``dataset`` in ``data_dir``, verified; False when they were there already.

    Raises ConfigError, one line that says what to do, and OSError when the folder cannot be written.
    """
    if isinstance(dataset, ImageFolder) and (error := not_there(dataset, data_dir)):
        raise error
    if _is_there(dataset, data_dir):
        return False
    if isinstance(dataset, Downloaded):
        for path, examples in zip(part_files(dataset, data_dir).values(), download(dataset, data_dir), strict=True):
            write_part(path, examples)
    else:
        fill(dataset, data_dir)
    _load(dataset, data_dir)
    return True


def _is_there(dataset: Dataset, data_dir: Path) -> bool:
    if not all(path.exists() for path in part_files(dataset, data_dir).values()):
        return False
    try:
        _load(dataset, data_dir)
    except ConfigError:  # damaged, and mended by being written again
        if isinstance(dataset, ImageFolder):
            raise
        return False
    return True


def _load(dataset: Dataset, data_dir: Path) -> None:
    load_part(dataset, "train", data_dir)
    load_part(dataset, "test", data_dir)

"""CIFAR-10, CIFAR-100 and SVHN through torchvision: downloaded on request, never by a trial."""

from __future__ import annotations

import contextlib
import http.client
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100, SVHN
from torchvision.datasets.utils import download_url

from trainer.config import Cifar10, Svhn
from trainer.data.parts import Downloaded
from trainer.data.splits import Examples
from trainer.declaration import ConfigError

TIMEOUT_SECONDS = 30.0
"""Of silence, after which a download has failed; torchvision sets none, so a dead connection would hang for ever."""


class Archive(NamedTuple):
    """A file as published."""

    file: str
    url: str
    md5: str


def archives(dataset: Downloaded) -> list[Archive]:
    """The files that ``dataset`` is read from, as torchvision knows them."""
    if isinstance(dataset, Svhn):
        return [Archive(file, url, md5) for url, file, md5 in (SVHN.split_list[part] for part in ("train", "test"))]
    kind = _cifar(dataset)
    return [Archive(kind.filename, kind.url, kind.tgz_md5)]


def download(dataset: Downloaded, data_dir: Path) -> tuple[Examples, Examples]:
    """The training and the test part, out of archives in ``data_dir``; those that are not there are downloaded.

    Archives stay, so that one put there by hand serves as well; each is verified, whoever put it there.
    Raises ConfigError, which says what can be done by hand.
    """
    published = archives(dataset)
    expected = "md5:" + ":".join(archive.md5 for archive in published)
    dataset.require(dataset.digest == expected, "digest", f"{expected!r}, which torchvision knows")
    name = type(dataset).__name__
    for place, archive in enumerate(published):
        _obtain(archive, published[place:], name, data_dir)
    try:
        return _read_svhn(data_dir) if isinstance(dataset, Svhn) else _read_cifar(dataset, data_dir)
    except RuntimeError as error:  # torchvision's word for a file inside that is not as published
        raise ConfigError(f"{name}: {data_dir / published[0].file}: {error}") from error


def _obtain(archive: Archive, left: Sequence[Archive], name: str, data_dir: Path) -> None:
    """left: ``archive`` and those still to come; without a network they have to be put there by hand as well."""
    try:
        with _timeout():
            download_url(archive.url, data_dir, archive.file, archive.md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        wanted = " and ".join(f"{one.file} ({one.url}, MD5 {one.md5})" for one in left)
        instead = f" instead of the {archive.file} there now" if (data_dir / archive.file).exists() else ""
        raise ConfigError(
            f"{name}: could not be downloaded ({reason}): try again, or put {wanted} into {data_dir}{instead} and run"
            " this again"
        ) from error


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _cifar(dataset: Downloaded) -> type[Any]:
    kind: type[Any] = CIFAR10 if isinstance(dataset, Cifar10) else CIFAR100
    return kind


def _read_cifar(dataset: Downloaded, data_dir: Path) -> tuple[Examples, Examples]:
    kind = _cifar(dataset)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".") as folder:
        with tarfile.open(data_dir / kind.filename) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.3 and before have none
            tar.extractall(folder)  # noqa: S202  what is published is verified
        train, test = (kind(folder, train=train) for train in (True, False))
    channels_first = (0, 3, 1, 2)
    return (
        _examples(train.data.transpose(channels_first), train.targets),
        _examples(test.data.transpose(channels_first), test.targets),
    )


def _read_svhn(data_dir: Path) -> tuple[Examples, Examples]:
    train, test = SVHN(data_dir, split="train"), SVHN(data_dir, split="test")
    return _examples(train.data, train.labels), _examples(test.data, test.labels)


def _examples(images: np.ndarray[Any, Any], labels: Sequence[int]) -> Examples:
    """images: uint8 [n, channels, height, width], whatever their order in memory."""
    return Examples(torch.from_numpy(np.ascontiguousarray(images)), torch.as_tensor(labels, dtype=torch.int64))

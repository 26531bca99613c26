"""A user's own images: a folder a class, read once into a tensor that is known by its digest."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pictures

from trainer.config import Holdout, ImageFolder
from trainer.data.cache import read_part, write_part
from trainer.data.description import Description
from trainer.data.parts import Part, part_files
from trainer.data.splits import Examples, digest
from trainer.declaration import ConfigError

MODES = {1: "L", 3: "RGB"}
"""PIL's names for grey and for colour."""
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""PIL's names for more than 8 bits a pixel, which its conversion would clip, not scale."""
MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Of a container, its own: version 2's files lie right there."""
TEST_SHARE = Holdout(fraction=0.2, seed=0)
"""What is suggested for a folder that is not split yet."""
LEAST_IMAGES = 2
"""Of a class in such a folder: of fewer, ``TEST_SHARE`` may leave none to train on."""


class Folder(NamedTuple):
    """What a folder of images holds. parts: ``train`` and ``test``, or ``all``; classes: their names, sorted.

    size: to which they were resized, None for images that were taken as they are.
    """

    parts: dict[Part, Examples]
    classes: list[str]
    size: int | None = None

    @property
    def declaration(self) -> ImageFolder:
        """What a study writes to train on these images."""
        digests = ":".join(digest(examples) for examples in self.parts.values())
        return ImageFolder(digest=digests, classes=len(self.classes), test=TEST_SHARE if "all" in self.parts else None)

    def store(self, data_dir: Path) -> list[Path]:
        """Put the parts into ``data_dir``, by content; what is there already and sound stays untouched."""
        paths = part_files(self.declaration, data_dir)
        for part, examples in self.parts.items():
            if not _holds(paths[part], examples):
                write_part(paths[part], examples)
            Description(len(examples.labels), self.size, examples.images.shape[1]).write(paths[part])
        return list(paths.values())


class _Part(NamedTuple):
    """The files of a part, in the order of their classes' names and then of their own, each with its label."""

    files: list[Path]
    labels: list[int]


def available_memory() -> int:
    """Bytes that a new tensor may take without swapping, as far as the system, or the container, says."""
    return max(0, min(_free_of_the_machine(), _free_of_the_container()))


def _free_of_the_machine() -> int:
    try:
        return 1024 * _table(MEMINFO)["MemAvailable:"]
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_of_the_container() -> int:
    """Files that were read long ago count as used there, but make room when it is asked for."""
    try:
        limit, used = (int((CONTROL_GROUP / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
        return limit - used + _table(CONTROL_GROUP / "memory.stat")["inactive_file"]
    except (OSError, ValueError, KeyError):  # no container, one of the older kind, or "max": no limit
        return sys.maxsize


def _table(file: Path) -> dict[str, int]:
    """The kernel's lines of a name, a number and maybe a unit."""
    rows = (line.split() for line in file.read_text("ascii").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def read_folder(folder: Path, size: int | None, channels: int, memory: Callable[[], int] = available_memory) -> Folder:
    """The images below ``folder``: in ``train`` and ``test`` with a folder a class each, or in a folder a class.

    size: None for images that have one size already, else the side of a square: the shorter side is resized to it
        (bicubic, antialiased), the middle of the longer one kept. channels: 3 for RGB, 1 for grey.

    Pixels are taken as stored, as torchvision does: a camera's note on how to turn the picture is not followed.
    Hidden files are left out. Raises ConfigError, one line, for what cannot be a data set; all that can be told from
    names and headers, and whether it fits into ``memory()``, is told before anything is decoded.
    """
    try:
        found, classes = _scan(folder)
        files = [file for part in found.values() for file in part.files]
        shape = (channels, *_common_size(files, size))
        _require_memory(folder, len(files), shape, memory())
        return Folder({name: _decode(part, shape, size) for name, part in found.items()}, classes, size)
    except PermissionError as error:
        raise ConfigError(f"{error.filename}: no permission to read it: give yourself that (chmod -R u+rX)") from error


def _scan(folder: Path) -> tuple[dict[Part, _Part], list[str]]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file: name the folder" if folder.exists() else f"{folder}: no such folder")
    names = {path.name for path in _visible(folder)}
    if not _is_split(folder, names):
        part, classes = _scan_part(folder)
        _require_images(folder, part, classes)
        return {"all": part}, classes
    if extra := sorted(names - {"train", "test"}):
        raise ConfigError(f"{folder / extra[0]}: beside train and test nothing is read: move it away")
    (train, classes), (test, others) = _scan_part(folder / "train"), _scan_part(folder / "test")
    if different := sorted({*classes} ^ {*others}):
        where = "train" if different[0] in classes else "test"
        raise ConfigError(f"{folder}: class {different[0]!r} is in {where} alone: both must have the same classes")
    return {"train": train, "test": test}, classes


def _is_split(folder: Path, names: set[str]) -> bool:
    """Whether it is one of ``train`` and ``test``. Raises ConfigError for one that was meant to be."""
    found = sorted(name for name in names if name.lower() in ("train", "test"))
    if {"train", "test"} <= names or not found:
        return bool(found)
    if len(found) == 1 and not _holds_folders(folder / found[0]):  # a class of that name
        return False
    for name in found:
        if name != name.lower():
            raise ConfigError(f"{folder / name}: train and test must be written in lower case: rename it")
    (missing,) = {"train", "test"} - {*found}
    raise ConfigError(
        f"{folder / missing}: is missing beside {found[0]}: make it, or put the folders of the classes into {folder}"
    )


def _holds_folders(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in _visible(folder))


def _require_images(folder: Path, part: _Part, classes: Sequence[str]) -> None:
    for label, name in enumerate(classes):
        if (images := part.labels.count(label)) < LEAST_IMAGES:
            raise ConfigError(
                f"{folder / name}: {images} image in it: a class needs at least {LEAST_IMAGES}, so that one is left to"
                " train on when a share is the test set (or lay out train/CLASS and test/CLASS yourself)"
            )


def _scan_part(folder: Path) -> tuple[_Part, list[str]]:
    folders = _visible(folder)
    for path in folders:
        if not path.is_dir():
            raise ConfigError(f"{path}: not in the folder of a class: images lie in {folder}/CLASS/")
    if len(folders) < 2:
        raise ConfigError(f"{folder}: folders of {len(folders)} classes: must be of 2 or more")
    part = _Part([], [])
    for label, path in enumerate(folders):
        files = _images(path)
        part.files.extend(files)
        part.labels.extend([label] * len(files))
    return part, [path.name for path in folders]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except PermissionError:
        raise
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from error


def _images(folder: Path) -> list[Path]:
    files = _visible(folder)
    if not files:
        raise ConfigError(f"{folder}: no image in it: remove the folder or fill it")
    for path in files:
        if path.is_dir():
            raise ConfigError(f"{path}: a folder within a class, {folder.name!r}: images lie in the class's folder")
        if not path.is_file():  # to open a pipe would be to wait for somebody who writes into it
            raise ConfigError(f"{path}: not a file: move it away")
    return files


def _common_size(files: Sequence[Path], size: int | None) -> tuple[int, int]:
    """Height and width of all images, from their headers; each is looked at, so that all are known to be images."""
    found: dict[tuple[int, int], Path] = {}
    for path in files:
        with _opened(path) as image:
            found.setdefault((image.height, image.width), path)
        if size is None and len(found) > 1:
            (first, one), (second, other) = found.items()
            side = min(first + second)
            raise ConfigError(
                f"images of different sizes, {first[1]} × {first[0]} pixels ({one}) and {second[1]} × {second[0]}"
                f" ({other}): --size {side} (of make: SIZE={side}) gives them one"
            )
    return (size, size) if size else next(iter(found))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # whether it fits is looked into
            opened = Image.open(path)
        with opened as image:
            if image.mode in DEEP:
                raise ConfigError(f"{path}: more than 8 bits a pixel: save it with 8")
            yield image
    except UnidentifiedImageError as error:
        raise ConfigError(f"{path}: not an image: move it away") from error
    except (ConfigError, PermissionError):
        raise
    except Exception as error:  # out of a damaged file PIL raises whatever it comes upon
        raise ConfigError(
            f"{path}: cannot be decoded ({' '.join(str(error).split())}): mend it or move it away"
        ) from error


def _require_memory(folder: Path, images: int, shape: tuple[int, ...], free: int) -> None:
    needed = images * math.prod(shape)
    if needed > free:
        raise ConfigError(
            f"{folder}: {images} images {list(shape)} take {needed / 1e9:.1f} GB of memory,"
            f" {free / 1e9:.1f} GB are free: make them smaller by --size (of make: SIZE=N), or take fewer"
        )


def _decode(part: _Part, shape: tuple[int, int, int], size: int | None) -> Examples:
    images = torch.empty((len(part.files), *shape), dtype=torch.uint8)
    for place, path in enumerate(part.files):
        with _opened(path) as image:
            images[place] = _pixels(image, shape[0], size)
    return Examples(images, torch.tensor(part.labels))


def _pixels(image: Image.Image, channels: int, size: int | None) -> Tensor:
    """uint8 [channels, height, width]."""
    plain = image.convert(MODES[channels])
    if size is not None:
        plain = pictures.center_crop(pictures.resize(plain, [size], InterpolationMode.BICUBIC), [size])
    pixels: Tensor = pictures.pil_to_tensor(plain)
    return pixels


def _holds(path: Path, examples: Examples) -> bool:
    try:
        return path.exists() and digest(read_part(path, cure="").examples) == digest(examples)
    except ConfigError:
        return False

"""The data of one trial: loaded, verified against the declared digest, and split."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from trainer.config import Dataset, ImageFolder, TrialConfig, TwoSpirals
from trainer.data.cache import Stored, read_part, write_part
from trainer.data.parts import LEVELS, Downloaded, Part, classes, not_there, part_files
from trainer.data.pixels import PixelScale, declared_scale, measured_scale
from trainer.data.shipped import SHIPPED
from trainer.data.spirals import two_spirals
from trainer.data.splits import Examples, Subset, digest, hold_out
from trainer.declaration import ConfigError
from trainer.machine import Machine


class TrialData(NamedTuple):
    """Stored images on the CPU, and the scale that turns them into what the network sees, on the trial's device.

    ``val`` and ``test`` are None where the trial has none.
    """

    train: Subset
    val: Subset | None
    test: Subset | None
    classes: int
    scale: PixelScale


def load(trial: TrialConfig, machine: Machine) -> TrialData:
    """The data that ``trial`` trains on and is evaluated on; a search trial's test set is not even opened.

    (The first trial on a machine fills the cache, for which the package that ships a set is read as a whole. A folder
    of images with a declared split is one file: a search trial then opens it, but indexes none of its test images.)
    Raises ConfigError when the data are not those that the declaration names. Nothing is downloaded.
    """
    train, val, test = load_part(trial.dataset, "train", machine.data_dir), None, None
    if trial.validation is not None:
        kept, held_out = hold_out(train.labels, trial.validation)
        train, val = Subset(train.stored, train.index[kept]), Subset(train.stored, train.index[held_out])
    _require_every_class(trial, train)
    if "test" in trial.evaluate:
        test = load_part(trial.dataset, "test", machine.data_dir)
    scale = _scale(trial, train).to(machine.device)
    return TrialData(train, val, test, classes(trial.dataset), scale)


def load_part(dataset: Dataset, part: Literal["train", "test"], data_dir: Path) -> Subset:
    """The whole training or test part of ``dataset``, verified. Raises ConfigError."""
    if isinstance(dataset, ImageFolder) and dataset.test is not None:
        everything = _load_part(dataset, "all", data_dir)
        kept, held_out = hold_out(everything.labels, dataset.test)
        return Subset(everything, kept if part == "train" else held_out)
    examples = _load_part(dataset, part, data_dir)
    return Subset(examples, torch.arange(len(examples.labels)))


def _require_every_class(trial: TrialConfig, train: Subset) -> None:
    """Raise ConfigError for a class that the data have and a split has left without an image to train on."""
    if missing := sorted({*train.stored.labels.tolist()} - {*train.labels.tolist()}):
        raise ConfigError(
            f"{type(trial.dataset).__name__}: class {missing[0]} has no image among the {len(train)} that are trained"
            " on: hold out less (validation, or the data set's test), or have more images of this class"
        )


def _scale(trial: TrialConfig, train: Subset) -> PixelScale:
    """As declared, else from the training part alone. Raises ConfigError for constants of another kind of image."""
    levels, declared = LEVELS[type(trial.dataset)], trial.normalization
    if declared is None:
        return measured_scale(train, levels)
    channels = train.stored.images.shape[1]
    declared.require(len(declared.mean) == channels, "mean", f"a number for each of {channels} channels")
    return declared_scale(declared, levels)


@functools.lru_cache(maxsize=8)
def _load_part(dataset: Dataset, part: Part, data_dir: Path) -> Examples:
    """One part as stored, verified; kept for the next trial of this process. Never changed in place."""
    if isinstance(dataset, TwoSpirals):
        return two_spirals(dataset, "train" if part == "train" else "test")
    path = part_files(dataset, data_dir)[part]
    if not path.exists():
        if absent := not_there(dataset, data_dir):
            raise absent
        try:
            fill(dataset, data_dir)
        except OSError as error:
            raise ConfigError(
                f"{type(dataset).__name__}: {data_dir}: cannot write to it ({error.strerror or error}):"
                " run `make fetch STUDY=...` once as somebody who can"
            ) from error
    cure = _cure(dataset, path)
    stored = read_part(path, cure)
    _verify(dataset, part, stored, cure)
    _require_classes(dataset, stored.examples)
    return stored.examples


def fill(dataset: Dataset, data_dir: Path) -> None:
    """Store both parts of a set that a package ships. Raises ConfigError when it ships another, and OSError."""
    cure = "the package that ships it has another version; install the pinned one"
    for (part, path), examples in zip(part_files(dataset, data_dir).items(), SHIPPED[type(dataset)](), strict=True):
        _verify(dataset, part, Stored(examples, None), cure)
        write_part(path, examples)


def _cure(dataset: Dataset, path: Path) -> str:
    again = "start again"
    if isinstance(dataset, Downloaded):
        again = "fetch it again with `make fetch STUDY=...`"
    if isinstance(dataset, ImageFolder):
        again = "run `make digest FOLDER=PATH` again"
    return f"delete {path} and {again}"


def _verify(dataset: Dataset, part: Part, stored: Stored, cure: str) -> None:
    """A declared digest is two, ``TRAIN:TEST``, so that one part is verified without reading the other.

    What is downloaded is declared by its archive; its parts are what they were when that archive was verified.
    """
    declared = getattr(dataset, "digest", "").partition(":")[2 if part == "test" else 0]
    if isinstance(dataset, Downloaded):
        declared = stored.digest or ""
    found = digest(stored.examples)
    if found != declared:
        name = type(dataset).__name__
        raise ConfigError(f"{name}.digest: the {part} part is {found}, declared is {declared or 'nothing'}: {cure}")


def _require_classes(dataset: Dataset, examples: Examples) -> None:
    found = int(examples.labels.max()) + 1
    if isinstance(dataset, ImageFolder):
        dataset.require(found == dataset.classes, "classes", f"{found}, as these images have")

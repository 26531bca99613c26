"""The data of one trial: loaded, verified against the declared digest, and split."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from trainer.config import Dataset, TrialConfig
from trainer.data.pixels import PixelScale, declared_scale, measured_scale
from trainer.data.sources import CLASSES, LEVELS, SOURCES
from trainer.data.splits import Examples, Subset, digest, hold_out
from trainer.declaration import ConfigError
from trainer.files import write_atomically
from trainer.machine import Machine

Part = Literal["train", "test"]


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

    (The first trial on a machine fills the cache, for which the package that ships a set is read as a whole.)
    Raises ConfigError when the data are not those that the declaration names.
    """
    train, val, test = _whole(_load_part(trial.dataset, "train", machine.data_dir)), None, None
    if trial.validation is not None:
        kept, held_out = hold_out(train.labels, trial.validation)
        train, val = Subset(train.stored, kept), Subset(train.stored, held_out)
    if "test" in trial.evaluate:
        test = _whole(_load_part(trial.dataset, "test", machine.data_dir))
    scale = _scale(trial, train).to(machine.device)
    return TrialData(train, val, test, CLASSES[type(trial.dataset)], scale)


def _whole(examples: Examples) -> Subset:
    return Subset(examples, torch.arange(len(examples.labels)))


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
    path = data_dir / f"{type(dataset).__name__.lower()}-{part}-{dataset.digest}.pt"
    if not path.exists():
        _fill_cache(dataset, data_dir)
    content = path.read_bytes()
    try:
        examples = Examples(**torch.load(io.BytesIO(content), weights_only=True))
    except Exception as error:  # out of a damaged file zip and pickle raise whatever they come upon
        raise ConfigError(f"{path} is damaged: delete {path} and start again") from error
    _verify(dataset, part, examples, f"delete {path} and start again")
    return examples


def _fill_cache(dataset: Dataset, data_dir: Path) -> None:
    parts: tuple[Part, Part] = ("train", "test")
    for part, examples in zip(parts, SOURCES[type(dataset)](), strict=True):
        _verify(dataset, part, examples, "the package that ships it has another version; install the pinned one")
        path = data_dir / f"{type(dataset).__name__.lower()}-{part}-{dataset.digest}.pt"
        contents = {name: tensor.contiguous() for name, tensor in examples._asdict().items()}
        write_atomically(path, lambda file, contents=contents: torch.save(contents, file))  # type: ignore[misc]


def _verify(dataset: Dataset, part: Part, examples: Examples, cure: str) -> None:
    """The declared digest is two, ``TRAIN:TEST``, so that one part is verified without reading the other."""
    declared = dataset.digest.partition(":")[0 if part == "train" else 2]
    found = digest(examples)
    if found != declared:
        name = type(dataset).__name__
        raise ConfigError(f"{name}.digest: the {part} part is {found}, declared is {declared or 'nothing'}: {cure}")

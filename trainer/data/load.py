"""The data of one trial: loaded, verified against the declared digest, split, normalised and moved to the device."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainer.config import Dataset, TrialConfig
from trainer.data.sources import CLASSES, SOURCES
from trainer.data.splits import Examples, digest, hold_out
from trainer.declaration import ConfigError
from trainer.files import write_atomically
from trainer.machine import Machine

Part = Literal["train", "test"]


class TrialData(NamedTuple):
    """Normalised float32 images on the trial's device. ``val`` and ``test`` are None where the trial has none."""

    train: Examples
    val: Examples | None
    test: Examples | None
    classes: int


def load(trial: TrialConfig, machine: Machine) -> TrialData:
    """The data that ``trial`` trains on and is evaluated on; a search trial's test set is not even opened.

    (The first trial on a machine fills the cache, for which the package that ships a set is read as a whole.)
    Normalised with mean and standard deviation of the training part's pixels, a number a channel. Raises ConfigError
    when the data are not those that the declaration names.
    """
    train, val, test = _load_part(trial.dataset, "train", machine.data_dir), None, None
    if trial.validation is not None:
        train, val = hold_out(train, trial.validation)
    if "test" in trial.evaluate:
        test = _load_part(trial.dataset, "test", machine.data_dir)
    mean, deviation = _pixel_statistics(train.images)

    def prepare(examples: Examples | None) -> Examples | None:
        if examples is None:
            return None
        images = (examples.images.float() - mean) / deviation
        return Examples(images.to(machine.device), examples.labels.to(machine.device))

    prepared = prepare(train)
    assert prepared is not None
    return TrialData(prepared, prepare(val), prepare(test), CLASSES[type(trial.dataset)])


def _pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [1, channels, 1, 1], in float64 so that no order of summation shows."""
    pixels = images.double()
    over = (0, 2, 3)
    return pixels.mean(over, keepdim=True).float(), pixels.std(over, keepdim=True, correction=0).float()


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

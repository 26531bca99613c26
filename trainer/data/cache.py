"""The parts of a data set as files of the data folder, mapped into memory: a machine's trials share one copy."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from trainer.data.splits import Examples, digest
from trainer.declaration import ConfigError
from trainer.files import write_atomically


class Stored(NamedTuple):
    """What a file holds. digest: of the examples when they were written, where the file says."""

    examples: Examples
    digest: str | None


def write_part(path: Path, examples: Examples) -> None:
    """Store ``examples`` (images uint8) at ``path`` with their digest: whole, or not at all. Raises OSError."""
    tensors = {name: tensor.contiguous() for name, tensor in examples._asdict().items()}
    contents = {**tensors, "digest": digest(examples)}
    write_atomically(path, lambda file: torch.save(contents, file))


def read_part(path: Path, cure: str) -> Stored:
    """The examples at ``path``, not yet verified; the tensors are the file's own pages, read when touched.

    The mapping is private: a change made in this process reaches neither the file nor another process.
    Raises ConfigError, which ends in ``cure``, for a file that cannot be what ``write_part`` left.
    """
    try:
        contents = torch.load(path, mmap=True, weights_only=True)
        stored = Stored(Examples(contents["images"], contents["labels"]), contents.get("digest"))
        images, labels = stored.examples
        sound = images.ndim == 4 and labels.shape == images.shape[:1] and images.numel() > 0
        types = (images.dtype, labels.dtype)
    except PermissionError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # out of a damaged file zip and pickle raise whatever they come upon
        raise ConfigError(f"{path} is damaged: {cure}") from error
    if not sound or types != (torch.uint8, torch.int64):
        raise ConfigError(f"{path} is damaged: {cure}")
    return stored

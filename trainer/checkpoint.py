"""The stored state of one trial: everything that a resumed run needs to equal an uninterrupted one, and its records.

A trial's records in its checkpoint are the truth about it: what reaches MLflow is read from here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.declaration import ConfigError
from trainer.files import write_atomically
from trainer.records import EpochRecord


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after the epoch of the last record; empty where a trial that is over keeps its records alone.

    diverged: the reason when the epoch after that did not end well; the state is then of no further use.
    """

    trial_id: str
    records: tuple[EpochRecord, ...]
    state: Mapping[str, Any]
    diverged: str | None = None

    def save(self, path: Path) -> None:
        """Write whole or not at all. Raises OSError."""
        records = [asdict(record) for record in self.records]
        plain = {"trial_id": self.trial_id, "records": records, "state": self.state, "diverged": self.diverged}
        write_atomically(path, lambda file: torch.save(plain, file))


def load_checkpoint(path: Path, trial_id: str) -> Checkpoint | None:
    """The checkpoint at ``path``, or None when there is none or what is there is damaged (then it starts anew).

    Raises ConfigError when it belongs to another trial, OSError when the machine does not let it be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return read_checkpoint(content, str(path), trial_id)


def read_checkpoint(content: bytes, where: str, trial_id: str) -> Checkpoint | None:
    """The checkpoint that a file's content is; None when it is damaged. where: what a refusal calls it.

    Raises ConfigError when it belongs to another trial.
    """
    try:
        _require_whole(content)
        plain = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        records = tuple(EpochRecord(**record) for record in plain["records"])
        checkpoint = Checkpoint(plain["trial_id"], records, plain["state"], plain["diverged"])
    except Exception:  # out of a damaged file zip and pickle raise whatever they come upon
        return None
    if checkpoint.trial_id != trial_id:
        raise ConfigError(f"{where}: holds trial {checkpoint.trial_id}, not {trial_id}: choose another file")
    return checkpoint


def _require_whole(content: bytes) -> None:
    """Raises BadZipFile where bytes have changed: torch would take them for weights, it compares no checksum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(damaged)


def unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """What a user's network has registered as not persistent, and may carry from one epoch to the next all the same."""
    saved = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


def load_network(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put the network's part of a checkpoint's ``state`` into ``model``."""
    model.load_state_dict(state["model"])
    for name, buffer in unsaved_buffers(model).items():
        buffer.copy_(state["unsaved_buffers"][name])

"""A trial's network as its training left it, with the data it was trained and evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from trainer.checkpoint import load_checkpoint, load_network
from trainer.config import REVISION, TrialConfig
from trainer.data.batches import batches
from trainer.data.load import TrialData, load
from trainer.data.pixels import PixelScale
from trainer.data.splits import Examples, Subset, stratified
from trainer.declaration import ConfigError
from trainer.loop import EVALUATION_BATCH, initial_model
from trainer.machine import Machine

Part = Literal["train", "val", "test"]

SAMPLE_SEED = 0
"""Trials that share their data are measured on the same images."""


class Sample(NamedTuple):
    """Images to measure on, not augmented. chunk: how many at a time; what fits in training fits here."""

    subset: Subset
    scale: PixelScale
    chunk: int

    def chunks(self) -> Iterator[Examples]:
        """All of them in order, normalised, on the device, a few at a time."""
        return batches(self.subset, torch.arange(self.size), self.chunk, self.scale)

    @property
    def size(self) -> int:
        return len(self.subset)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """model: the final network, in float32 whatever the trial's precision."""

    trial: TrialConfig
    model: nn.Module
    data: TrialData

    @property
    def held_out(self) -> Part:
        """The part that the model is judged on: the test set of a final trial, else the validation part."""
        return "val" if self.data.test is None else "test"

    def sample(self, part: Part, examples: int | None = None) -> Sample:
        """At most ``examples`` images of ``part``, every class in proportion, or all of them."""
        subset = {"train": self.data.train, "val": self.data.val, "test": self.data.test}[part]
        assert subset is not None, f"{part} is not among the data of this trial"
        if examples is not None and examples < len(subset):
            places, _ = stratified(subset.labels, examples, SAMPLE_SEED)
            subset = Subset(subset.stored, subset.index[places])
        return Sample(subset, self.data.scale, min(EVALUATION_BATCH, self.trial.batch_size))


def load_trained(trial: TrialConfig, machine: Machine, checkpoint: Path | str) -> TrainedModel:
    """The network of ``trial`` after its last epoch, from the file ``checkpoint``.

    Raises ConfigError, one line, when there is no such file, when it is of another trial or of an earlier epoch, has
    no weights any more, or when the data are not those that the trial declares.
    """
    if trial.revision != REVISION:
        raise ConfigError(f"TrialConfig.revision = {trial.revision}: this code measures revision {REVISION}")
    stored = load_checkpoint(Path(checkpoint), trial.trial_id)
    if stored is None:
        raise ConfigError(
            f"{checkpoint}: no checkpoint of trial {trial.trial_id} (lost or damaged):"
            f" `python -m sweeps forget {trial.trial_id}`, and the next run trains it again"
        )
    if len(stored.records) < trial.epochs:
        ended = "diverged" if stored.diverged is not None else f"{len(stored.records)} of {trial.epochs} epochs"
        raise ConfigError(f"{checkpoint}: trial {trial.trial_id} is not finished ({ended}): train it first")
    if not stored.state:
        raise ConfigError(
            f"{checkpoint}: gc has removed the weights of trial {trial.trial_id}: forget it, train it again"
        )
    data = load(trial, machine)
    model = initial_model(replace(trial, precision="float32"), machine, data)
    load_network(model, stored.state)
    return TrainedModel(trial, model, data)

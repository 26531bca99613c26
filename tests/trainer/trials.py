"""Small trials that the tests of this package train: three epochs of eight batches, a few hundredths of a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch

from search_spaces import recipes
from trainer.config import (
    AdversarialTraining,
    Amp,
    Augment,
    Dropout,
    Erm,
    Flooding,
    LabelSmoothing,
    Method,
    MixUp,
    Mlp,
    Rmp,
    Sam,
    TrialConfig,
)
from trainer.data.load import TrialData
from trainer.data.pixels import PixelScale
from trainer.data.splits import Examples, Subset
from trainer.methods import base
from trainer.methods.registry import build_method
from trainer.records import EpochRecord

BATCHES = 8
"""An epoch's, with 400 training images in batches of 50."""

SMALL_AMP = Amp(epsilon=0.1)
BN_MLP = Mlp(hidden=(16,), norm="batch")
SHIFTS = Augment(flip="none", crop_padding=1, cutout=2)
METHODS: tuple[Method, ...] = (
    Erm(),
    Dropout(rate=0.1),
    AdversarialTraining(step=1.0),
    AdversarialTraining(
        step=1.0, unit="normalized", start="random", gradient_mode="eval", clip="none", bn_stats="adversarial"
    ),
    SMALL_AMP,
    Amp(epsilon=0.1, inner_steps=2, ball="per_tensor", bn_stats="all"),
    LabelSmoothing(smoothing=0.2),
    LabelSmoothing(smoothing=0.2, spread="other_classes"),
    Flooding(level=0.5),
    MixUp(alpha=1.0),
    Rmp(epsilon=0.1),
    Rmp(epsilon=0.1, law="box", bn_stats="perturbed"),
    Sam(rho=0.1),
    Sam(rho=0.1, bn_stats="all"),
)
"""The settings that the tests of every method go through."""


def tiny(method: Method | None = None, seed: int = 0, **changes: Any) -> TrialConfig:
    """Three epochs on the digits, the last one with a smaller learning rate; plain SGD unless ``method`` is given."""
    trial = dataclasses.replace(recipes.digits_mlp(method or Erm(), seed), epochs=3, lr_milestones=(2,))
    return dataclasses.replace(trial, **changes)


def search_trial(method: Method | None = None) -> TrialConfig:
    """The one that never reads the test set."""
    return tiny(method, evaluate="val")


def seen(data: TrialData, part: Subset) -> Examples:
    """A whole part as the network sees it."""
    stored = part.stored.take(part.index)
    return Examples(data.scale.normalize(stored.images), stored.labels)


UNIT_SCALE = PixelScale(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), levels=16)


def built(method: Method, noise: torch.Generator | None = None) -> base.Method:
    """The method on its own, for images whose levels are the numbers that a network sees."""
    return build_method(method, noise or torch.Generator(), UNIT_SCALE)


def numbers(records: Iterable[EpochRecord]) -> list[dict[str, float]]:
    """Everything measured but the time it took."""
    return [{name: value for name, value in record.metrics.items() if name != "epoch_seconds"} for record in records]


def after(calls: int) -> Callable[[], bool]:
    """A ``stop`` that says so from call number ``calls + 1`` on: after that many batches."""
    left = [calls]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop

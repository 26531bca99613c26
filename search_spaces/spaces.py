"""What is searched of each method: its own parameters, and η and weight decay, which decide as much.

The paper tunes "hyper-parameters on each data set" (§5) and gives no ranges; these hold its settings in their middle.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.search import LogUniform, OneOf, Space, Uniform
from trainer.config import (
    AdversarialTraining,
    Amp,
    Dropout,
    Erm,
    Flooding,
    LabelSmoothing,
    Method,
    MixUp,
    Rmp,
    Sam,
)

OF_METHODS: Mapping[type[Method], Space] = {
    Erm: {},
    Dropout: {"method.rate": Uniform(low=0.01, high=0.7)},
    LabelSmoothing: {"method.smoothing": Uniform(low=0.01, high=0.6)},
    Flooding: {"method.level": LogUniform(low=1e-3, high=0.5)},
    MixUp: {"method.alpha": LogUniform(low=0.05, high=5.0)},
    AdversarialTraining: {"method.step": LogUniform(low=0.01, high=20.0)},
    Rmp: {"method.epsilon": LogUniform(low=0.01, high=5.0)},
    Amp: {
        "method.epsilon": LogUniform(low=0.01, high=5.0),
        "method.inner_lr": LogUniform(low=0.05, high=5.0),
        "method.inner_steps": OneOf(values=(1, 2, 3)),
    },
    Sam: {"method.rho": LogUniform(low=0.01, high=5.0)},
}
OF_TRAINING: Space = {"lr": LogUniform(low=0.005, high=0.5), "weight_decay": LogUniform(low=1e-6, high=0.1)}


def narrow_space(method: Method) -> Space:
    """The method's own parameters alone: of ERM there are none, so that it would stay untuned (as in the paper)."""
    return OF_METHODS[type(method)]


def full_space(method: Method) -> Space:
    """The same, and η and weight decay, for every method alike."""
    return {**OF_METHODS[type(method)], **OF_TRAINING}

"""Dropout (Srivastava et al., JMLR 2014), as a method that any network can be trained with.

Setting of the paper (§5.1): 10% after each ReLU. Where the text and the authors' released code differ: ``placement``.
Masks come from the trial's noise stream, not from torch's global one, so that a resumed trial draws what it would have.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainer.config import Dropout
from trainer.declaration import ConfigError
from trainer.methods.erm import ErmMethod


class DropoutMethod(ErmMethod):
    """ERM through a network whose activations are dropped at random, anew for each example; in training only."""

    def __init__(self, settings: Dropout, noise: torch.Generator) -> None:
        self.settings, self._noise = settings, noise

    def attach(self, model: nn.Module) -> None:
        places = list(self._places(model))
        if not places:
            raise ConfigError(
                "Dropout: the network has no torch.nn.ReLU module, after which dropout would go: use modules in place"
                " of functions"
            )
        for module in places:
            module.register_forward_hook(self._drop)

    def _places(self, model: nn.Module) -> Iterable[nn.Module]:
        if self.settings.placement == "released":
            return released_places(model)
        return (module for module in model.modules() if isinstance(module, nn.ReLU))

    def _drop(self, module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        if not module.training:
            return output
        kept = 1 - self.settings.rate
        return output * torch.empty_like(output).bernoulli_(kept, generator=self._noise).div_(kept)


def released_places(model: nn.Module) -> list[nn.Module]:
    """What the network names as ``released_dropout``: the modules whose outputs are dropped in the released code."""
    places: Iterable[nn.Module] = getattr(model, "released_dropout", ())
    return list(places)

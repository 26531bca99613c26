"""Random model perturbation (paper, §5.1): the gradient at weights displaced at random, AMP without the adversary.

Setting of the paper: L2 radius 0.1. Where the text and the authors' released code differ: ``law`` and ``bn_stats``. The
clean loss costs a forward pass of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.config import Rmp
from trainer.data.splits import Examples
from trainer.methods.base import Method, global_norm, gradients, restored, running_stats_frozen, trained_parameters


class RmpMethod(Method):
    """A new perturbation is drawn for each mini-batch."""

    def __init__(self, settings: Rmp, noise: torch.Generator) -> None:
        self.settings, self._noise = settings, noise

    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        theta, clean_moves = trained_parameters(model), self.settings.bn_stats == "clean"

        def closure() -> Tensor:
            return self.criterion(model(batch.images), batch.labels)

        with torch.no_grad(), running_stats_frozen(model, not clean_moves):
            loss = closure()
        with restored(theta), running_stats_frozen(model, clean_moves):
            with torch.no_grad():
                torch._foreach_add_(theta, self.perturbation(theta))
            gradients(closure, theta, self.max_norm)
        return loss

    def perturbation(self, theta: list[Tensor]) -> list[Tensor]:
        """``sphere``: uniform on the L2 sphere of radius ε over all tensors; ``box``: see ``trainer.config.Rmp``."""
        if self.settings.law == "box":
            return [self._uniform(tensor, math.sqrt(self.settings.epsilon / tensor.numel())) for tensor in theta]
        delta = [torch.empty_like(tensor).normal_(generator=self._noise) for tensor in theta]
        torch._foreach_mul_(delta, self.settings.epsilon / global_norm(delta))
        return delta

    def _uniform(self, tensor: Tensor, bound: float) -> Tensor:
        return torch.empty_like(tensor).uniform_(-bound, bound, generator=self._noise)

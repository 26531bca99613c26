"""MixUp (Zhang et al., ICLR 2018, equation 1): training on convex combinations of pairs of examples.

Setting of the paper (§5.1): Beta(1, 1). One λ is drawn for each example, as the authors' released code does; partners
are a permutation of the mini-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import MixUp
from trainer.data.splits import Examples
from trainer.methods.base import Method, gradients, trained_parameters


class MixUpMethod(Method):
    """The loss that is returned, and descended, is that of the mixed mini-batch; evaluation uses the cross-entropy."""

    def __init__(self, settings: MixUp, noise: torch.Generator) -> None:
        self.settings, self._noise = settings, noise

    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        share, partner = self._draw(len(batch.labels))
        share = share.to(batch.images)
        weight = share.reshape(-1, *[1] * (batch.images.ndim - 1))
        images = weight * batch.images + (1 - weight) * batch.images[partner]

        def closure() -> Tensor:
            logits = model(images)
            own = functional.cross_entropy(logits, batch.labels, reduction="none")
            other = functional.cross_entropy(logits, batch.labels[partner], reduction="none")
            return (share * own + (1 - share) * other).mean()

        return gradients(closure, trained_parameters(model), self.max_norm)[0]

    def _draw(self, examples: int) -> tuple[Tensor, Tensor]:
        """λ ~ Beta(α, α) for each example, from two gamma variables, and each example's partner."""
        device = self._noise.device
        alpha = torch.full((2, examples), self.settings.alpha, dtype=torch.float64, device=device)
        one, other = torch._standard_gamma(alpha, generator=self._noise)
        return one / (one + other), torch.randperm(examples, generator=self._noise, device=device)

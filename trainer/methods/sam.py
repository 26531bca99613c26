"""Sharpness-aware minimisation (Foret et al., ICLR 2021, equations 2 and 3), AMP's closest rival.

The gradient at θ + ρ·g/‖g‖, g the gradient at θ: always on the sphere, where AMP with N = 1 is on it only if ζ‖g‖ ≥ ε.
Not among the paper's methods; its own authors use ρ = 0.05 on CIFAR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.config import Sam
from trainer.data.splits import Examples
from trainer.methods.base import Method, global_norm, gradients, restored, running_stats_frozen, trained_parameters

TINY = 1e-12  # keeps a gradient of zero from becoming a displacement of 0/0


class SamMethod(Method):
    """Two passes a mini-batch; the first one's loss is the clean loss."""

    def __init__(self, settings: Sam) -> None:
        self.settings = settings

    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        theta = trained_parameters(model)

        def closure() -> Tensor:
            return self.criterion(model(batch.images), batch.labels)

        with restored(theta):
            loss, ascent = gradients(closure, theta, self.max_norm)
            with torch.no_grad():
                torch._foreach_mul_(ascent, self.settings.rho / (global_norm(ascent) + TINY))
                torch._foreach_add_(theta, ascent)
            del ascent  # or there would be two gradients at a time
            with running_stats_frozen(model, self.settings.bn_stats == "clean"):
                gradients(closure, theta, self.max_norm)
        return loss

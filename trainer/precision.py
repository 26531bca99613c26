"""The precision of training's forward and backward passes; parameters, losses and evaluation stay float32 or better.

(Mixed precision, that is. In this project AMP means Adversarial Model Perturbation and nothing else.)
"""

from __future__ import annotations

import types
from typing import Literal

import torch
from torch import Tensor, nn


def set_precision(model: nn.Module, precision: Literal["float32", "bfloat16"], device: str) -> None:
    """Let ``model`` run as declared from now on; with ``bfloat16`` under autocast in training mode, logits float32.

    The context ends with each forward pass, and with it autocast's copies of the weights: they would not follow a
    perturbation.
    """
    if precision == "float32":
        return
    exact, kind = type(model).forward, torch.device(device).type

    def forward(self: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.training):
            logits: Tensor = exact(self, images)
            return logits.float()

    model.forward = types.MethodType(forward, model)  # as a method, so that a copy of the model has its own

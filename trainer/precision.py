"""The precision of forward and backward passes; parameters, losses and metrics stay float32 or better.

(Mixed precision, that is. In this project AMP means Adversarial Model Perturbation and nothing else.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


def set_precision(model: nn.Module, precision: Literal["float32", "bfloat16"], device: str) -> None:
    """Let ``model`` run as declared from now on; with ``bfloat16`` under autocast, logits are float32 again.

    The context ends with each forward pass, and with it autocast's copies of the weights: they would not follow a
    perturbation.
    """
    if precision == "float32":
        return
    forward, kind = model.forward, torch.device(device).type

    def low_precision(images: Tensor) -> Tensor:
        with torch.autocast(kind, dtype=torch.bfloat16):
            logits: Tensor = forward(images)
            return logits.float()

    model.forward = low_precision

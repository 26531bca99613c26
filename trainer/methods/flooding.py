"""Flooding (Ishida et al., ICML 2020, equation 1): the training loss is kept from falling below a level b.

Setting of the paper (§5.1): level 0.02. The text and the authors' released code agree; the level applies to each
mini-batch's mean, as in the original.
"""

from __future__ import annotations

from torch import Tensor

from trainer.config import Flooding
from trainer.methods.erm import ErmMethod


class FloodingMethod(ErmMethod):
    """ERM on |L - b| + b, L the mean cross-entropy of a batch: below the level the gradient turns round."""

    def __init__(self, settings: Flooding) -> None:
        self.settings = settings

    def criterion(self, logits: Tensor, labels: Tensor) -> Tensor:
        level = self.settings.level
        return (super().criterion(logits, labels) - level).abs() + level

"""Empirical risk minimisation (Vapnik 1998; paper, equation 2): the gradient of the mean batch loss, nothing else.

It has no setting, and the text and the authors' released code agree on it.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.data.splits import Examples
from trainer.methods.base import Method, gradients, trained_parameters


class ErmMethod(Method):
    """The baseline; a method that changes nothing but the criterion is this with another one."""

    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        def closure() -> Tensor:
            return self.criterion(model(batch.images), batch.labels)

        return gradients(closure, trained_parameters(model), self.max_norm)[0]

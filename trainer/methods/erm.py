"""Empirical risk minimisation (paper, equation 2): the gradient of the mean batch loss, nothing else."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.data.splits import Examples
from trainer.methods.base import Method, gradients


class ErmMethod(Method):
    """The baseline."""

    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        loss, _ = gradients(lambda: self.criterion(model(batch.images), batch.labels), parameters)
        return loss

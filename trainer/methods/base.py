"""A method is a gradient: ``backward`` leaves it in ``.grad``, and a plain optimizer does the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.data.splits import Examples


class Method(ABC):
    """One regularizer. It keeps no state that a checkpoint would have to hold, only sums over the running epoch."""

    @abstractmethod
    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        """Leave the method's gradient in every ``.grad`` of ``model`` and return the clean loss at θ, detached."""

    def criterion(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The method's own training criterion, a scalar mean: what the paper's tables call NLL on the test set."""
        return functional.cross_entropy(logits, labels)

    def observations(self) -> dict[str, float]:
        """Means over the batches since the last call, by metric name."""
        return {}


def gradients(closure: Callable[[], Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Run ``closure`` and backward; return its loss, detached, and the gradients, which are also in ``.grad``.

    Replaces what was in ``.grad``. A parameter that the loss does not depend on has gradient zero. Backward, not
    ``torch.autograd.grad``, so that hooks (of DistributedDataParallel, say) see every pass.
    """
    for parameter in parameters:
        parameter.grad = None
    with torch.enable_grad():
        loss = closure()
    torch.autograd.backward(loss, inputs=list(parameters))
    found: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        found.append(parameter.grad)
    return loss.detach(), found

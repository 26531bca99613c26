"""A method is a gradient: ``backward`` leaves it in ``.grad``, and a plain optimizer does the step."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from trainer.data.splits import Examples


class Method(ABC):
    """One regularizer. It keeps no state that a checkpoint would have to hold, only sums over the running epoch.

    max_norm: what the norm of the gradient of every pass is brought down to, or None for no clipping.
    """

    max_norm: float | None = None

    def attach(self, model: nn.Module) -> None:  # noqa: B027  most methods act outside the network
        """Change ``model`` where the method acts inside the network; once, before training. Raises ConfigError."""

    @abstractmethod
    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        """Leave the method's gradient in every ``.grad`` of ``model`` and return the clean loss at θ, detached."""

    def criterion(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The method's own training criterion, a scalar mean: what the paper's tables call NLL on the test set."""
        return functional.cross_entropy(logits, labels)

    def observations(self) -> dict[str, float]:
        """Means over the batches since the last call, by metric name."""
        return {}


def gradients(
    closure: Callable[[], Tensor], parameters: Sequence[Tensor], max_norm: float | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Run ``closure`` and backward; return its loss, detached, and the gradients, which are also in ``.grad``.

    Replaces what was in ``.grad``. A parameter that the loss does not depend on has gradient zero. Backward, not
    ``torch.autograd.grad``, so that hooks (of DistributedDataParallel, say) see every pass.
    """
    for parameter in parameters:
        parameter.grad = None
    torch.clear_autocast_cache()  # in a caller's autocast it would keep the weights of the pass before
    with torch.enable_grad():
        loss = closure()
    torch.autograd.backward(loss, inputs=list(parameters))
    found: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        found.append(parameter.grad)
    if max_norm is not None:
        nn.utils.clip_grad_norm_(list(parameters), max_norm, foreach=True)
    return loss.detach(), found


@contextlib.contextmanager
def restored(theta: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Whatever happens to ``theta`` within is undone bit for bit, also by an error; gives the copy it keeps."""
    with torch.no_grad():
        origin = list(torch._foreach_mul(list(theta), 1.0))  # a copy in one operation, however many tensors
    try:
        yield origin
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(theta), origin)


@contextlib.contextmanager
def running_stats_frozen(model: nn.Module, frozen: bool = True) -> Iterator[None]:
    """Normalise by batch statistics without moving the running ones.

    BatchNorm moves them while it tracks, InstanceNorm while it has them; momentum 0 would still count the batch.
    """
    layers = [layer for layer in model.modules() if frozen and isinstance(layer, _NormBase) and layer.training]
    kept = [(layer, layer.track_running_stats, layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    try:
        yield
    finally:
        for layer, tracked, mean, variance in kept:
            layer.track_running_stats, layer.running_mean, layer.running_var = tracked, mean, variance


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all numbers in ``tensors``, a 0-dimensional float64."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(tensor_norms(tensors)))
    return norm


def tensor_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The L2 norm of each tensor. Summed in float64: over millions of numbers float32 is off by some 1e-3."""
    return list(torch._foreach_norm(list(tensors), 2, dtype=torch.float64))


def trained_parameters(model: nn.Module) -> list[Tensor]:
    """The tensors θ of ``model`` that need a gradient, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]

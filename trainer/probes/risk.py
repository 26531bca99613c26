"""The empirical risk L(θ), the mean cross-entropy in nats over a sample, and its gradient, a few images at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.trained import Sample


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within; every module's own mode is put back, also by an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predict(model: nn.Module, sample: Sample) -> tuple[Tensor, Tensor]:
    """Logits [n, classes] and labels [n]."""
    found = [(model(chunk.images), chunk.labels) for chunk in sample.chunks()]
    logits, labels = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(labels)


def risk(model: nn.Module, sample: Sample) -> float:
    """L at the weights that ``model`` has; summed in float64, so that differences of two can be trusted."""
    logits, labels = predict(model, sample)
    return functional.cross_entropy(logits.double(), labels).item()


def risk_and_gradient(model: nn.Module, theta: Sequence[Tensor], sample: Sample) -> tuple[Tensor, list[Tensor]]:
    """L and ∇L with respect to ``theta``; ``.grad`` is left alone."""
    total = torch.zeros((), dtype=torch.float64, device=sample.scale.mean.device)
    gradient = [torch.zeros_like(parameter) for parameter in theta]
    for chunk in sample.chunks():
        with torch.enable_grad():
            loss = functional.cross_entropy(model(chunk.images).double(), chunk.labels, reduction="sum") / sample.size
        torch._foreach_add_(gradient, torch.autograd.grad(loss, theta, materialize_grads=True))
        total += loss.detach()
    return total, gradient

"""A trial as the authors' released code trains it, written plainly for comparison; the code itself is not fetched.

PIL transforms behind a ``DataLoader`` without workers, an AMP optimizer that goes through its tensors one by one and
compares norms in Python, float32, evaluation through the same loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

Batches = Iterable[tuple[Tensor, Tensor]]


class PerTensorAmp:
    """N ascent steps with a ball for each tensor, then a step of SGD at the perturbed gradient."""

    def __init__(self, model: nn.Module, lr: float, epsilon: float, inner_lr: float, inner_steps: int) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.epsilon, self.inner_lr, self.inner_steps = epsilon, inner_lr, inner_steps
        self.sgd = torch.optim.SGD(self.parameters, lr=lr, momentum=0.9, weight_decay=1e-4, nesterov=True)

    def step(self, closure: Callable[[], Tensor]) -> float:
        """One mini-batch; the clean loss as a number."""
        deviations = [torch.zeros_like(parameter) for parameter in self.parameters]
        loss = self._pass(closure)
        for _ in range(self.inner_steps):
            for parameter, deviation in zip(self.parameters, deviations, strict=True):
                self._ascend(parameter, deviation)
            self._pass(closure)
        with torch.no_grad():
            for parameter, deviation in zip(self.parameters, deviations, strict=True):
                parameter.sub_(deviation)
        self.sgd.step()
        return loss

    @torch.no_grad()
    def _ascend(self, parameter: Tensor, deviation: Tensor) -> None:
        assert parameter.grad is not None
        parameter.sub_(deviation)
        deviation.add_(parameter.grad, alpha=self.inner_lr)
        norm = deviation.norm().item()
        if norm > self.epsilon:
            deviation.mul_(self.epsilon / norm)
        parameter.add_(deviation)

    def _pass(self, closure: Callable[[], Tensor]) -> float:
        self.sgd.zero_grad()
        loss = closure()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 50.0)
        return loss.item()


def train_epoch(model: nn.Module, optimizer: PerTensorAmp, batches: Batches) -> float:
    """One epoch; the mean clean loss over its examples."""
    model.train()
    total, count = 0.0, 0
    for images, labels in batches:

        def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            return functional.cross_entropy(model(images), labels)

        total, count = total + optimizer.step(closure) * len(labels), count + len(labels)
    return total / count


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Error and mean loss."""
    model.eval()
    wrong, total, count = 0, 0.0, 0
    for images, labels in batches:
        logits = model(images)
        total += functional.cross_entropy(logits, labels).item() * len(labels)
        wrong += int((logits.argmax(dim=1) != labels).sum().item())
        count += len(labels)
    return wrong / count, total / count

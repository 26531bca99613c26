"""Algorithm 1 of the paper on one flat vector, line by line: slow, literal, sharing nothing with trainer.methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

ExampleLoss = Callable[[Tensor], Tensor]
"""ℓ(x_i, y_i; ·): the loss of one example as a function of the flat weights."""


class Outcome(NamedTuple):
    gradient: Tensor
    delta: Tensor
    clips: list[bool]


def mean_gradient(losses: Sequence[ExampleLoss], weights: Tensor) -> Tensor:
    """Σ ∇ℓ(x_i, y_i; weights) / m, one example after the other (lines 6 and 12)."""
    total = torch.zeros_like(weights)
    for loss in losses:
        point = weights.clone().requires_grad_()
        total += torch.autograd.grad(loss(point), point)[0]
    return total / len(losses)


def mean_loss(losses: Sequence[ExampleLoss], weights: Tensor) -> float:
    return sum(loss(weights).item() for loss in losses) / len(losses)


def algorithm_1(
    losses: Sequence[ExampleLoss], theta: Tensor, balls: Sequence[slice], *, epsilon: float, zeta: float, steps: int
) -> Outcome:
    """Lines 4 to 12 for one mini-batch.

    balls: the stretches of the vector that have a ball of radius ε each: the whole vector in the paper, one a
        parameter tensor in the released code.
    """
    delta = torch.zeros_like(theta)  # line 4
    clips = []
    for _ in range(steps):  # line 5
        gradient = mean_gradient(losses, theta + delta)  # line 6
        delta = delta + zeta * gradient  # line 7
        for ball in balls:
            norm = math.sqrt(sum(number * number for number in delta[ball].tolist()))
            clips.append(norm > epsilon)
            if norm > epsilon:  # line 8
                delta[ball] = epsilon * delta[ball] / norm  # line 9
    return Outcome(mean_gradient(losses, theta + delta), delta, clips)  # line 12


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def flat_gradient(model: nn.Module) -> Tensor:
    found = [parameter.grad for parameter in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in found if gradient is not None])


def balls_of(model: nn.Module, ball: str) -> list[slice]:
    ends = [0]
    for parameter in model.parameters():
        ends.append(ends[-1] + parameter.numel())
    return [slice(0, ends[-1])] if ball == "global" else [slice(*pair) for pair in itertools.pairwise(ends)]


def example_losses(model: nn.Module, images: Tensor, labels: Tensor) -> list[ExampleLoss]:
    """The cross-entropy of each example under the network that ``model`` is with other weights."""

    def loss_of(image: Tensor, label: Tensor) -> ExampleLoss:
        return lambda weights: functional.cross_entropy(
            functional_call(model, _named(model, weights), (image.unsqueeze(0),)), label.unsqueeze(0)
        )

    return [loss_of(image, label) for image, label in zip(images, labels, strict=True)]


def _named(model: nn.Module, weights: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    pieces = torch.split(weights, [parameter.numel() for parameter in parameters])
    return {name: piece.view_as(parameter) for name, piece, parameter in zip(names, pieces, parameters, strict=True)}

"""Loss along filter-normalised random directions (Li et al., NeurIPS 2018, §4; the paper's Figure 2).

A direction is drawn from a standard Gaussian; then each of its filters, the weights that make one output channel or one
neuron, is scaled to the norm of the model's filter at its place. Biases and BatchNorm's parameters, tensors of one
dimension, are not moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.measurement import Measurement
from trainer.methods.base import restored, trained_parameters
from trainer.probe_config import LossAlongDirections
from trainer.probes.risk import risk
from trainer.trained import Sample, TrainedModel


def measure_along_directions(probe: LossAlongDirections, trained: TrainedModel) -> Measurement:
    """``probe/directions/PART/rise``: the mean of L(θ ± extent·d) - L(θ) over directions and signs, in nats.

    PART is ``train`` and ``test``, or ``val`` for a search trial. Arrays: ``alphas`` [points], ``PART/loss``
    [directions, points].
    """
    middle = probe.points // 2
    alphas = probe.extent * np.arange(-middle, middle + 1) / middle
    theta = trained_parameters(trained.model)
    source = torch.Generator().manual_seed(probe.seed)
    samples = {part: trained.sample(part, probe.examples) for part in ("train", trained.held_out)}
    curves: dict[str, list[NDArray[np.float64]]] = {part: [] for part in samples}
    for _ in range(probe.directions):
        direction = filter_normalised(theta, source)
        for part, sample in samples.items():
            curves[part].append(_curve(trained.model, sample, theta, direction, alphas))
    losses = {f"{part}/loss": np.stack(rows) for part, rows in curves.items()}
    metrics = {f"probe/directions/{part}/rise": _rise(losses[f"{part}/loss"]) for part in samples}
    return Measurement(metrics, {"alphas": alphas, **losses})


def filter_normalised(theta: Sequence[Tensor], source: torch.Generator) -> list[Tensor]:
    """A direction d of the shapes of ``theta``, drawn on the CPU from ``source``, on the devices of ``theta``."""
    return [_scaled(torch.randn(tensor.shape, generator=source).to(tensor), tensor.detach()) for tensor in theta]


def _scaled(direction: Tensor, weights: Tensor) -> Tensor:
    if weights.ndim < 2:
        return torch.zeros_like(weights)
    over = tuple(range(1, weights.ndim))
    norms = [torch.linalg.vector_norm(tensor, dim=over, keepdim=True) for tensor in (weights, direction)]
    scaled: Tensor = direction * (norms[0] / norms[1])
    return scaled


@torch.no_grad()
def _curve(
    model: nn.Module, sample: Sample, theta: list[Tensor], direction: list[Tensor], alphas: NDArray[np.float64]
) -> NDArray[np.float64]:
    losses = []
    for alpha in alphas.tolist():
        with restored(theta):
            torch._foreach_add_(theta, direction, alpha=alpha)
            losses.append(risk(model, sample))
    return np.array(losses)


def _rise(losses: NDArray[np.float64]) -> float:
    middle = losses.shape[1] // 2
    return float((losses[:, [0, -1]] - losses[:, [middle]]).mean())

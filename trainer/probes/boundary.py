"""The decision boundary in a plane: predicted classes and margins on a grid (the paper's Figures 5 and 6).

For images the plane is the one through three of them (Somepalli et al., CVPR 2022, §3): x₁ + u·e₁ + v·e₂ with e₁ along
x₂ - x₁ and e₂ at a right angle to it, such that x₃ lies in the plane.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trainer.data.pixels import PixelScale
from trainer.declaration import ConfigError
from trainer.loop import EVALUATION_BATCH
from trainer.measurement import Measurement
from trainer.probe_config import DecisionBoundary
from trainer.trained import Sample, TrainedModel


class Plane(NamedTuple):
    """origin [d]; basis [2, d], orthonormal; points [n, 2] to lay the grid around, as coordinates (u, v); float64.

    All in units of the images as they are stored.
    """

    origin: Tensor
    basis: Tensor
    points: Tensor
    labels: Tensor


def measure_boundary(probe: DecisionBoundary, trained: TrainedModel) -> Measurement:
    """``probe/boundary/changes``: the share of neighbours on the grid whose predicted classes differ.

    Arrays: ``u`` and ``v`` [points]; ``class`` (int64) and ``margin``, the highest logit less the second one, [v, u];
    ``anchors`` [n, 2] and ``anchor_labels`` [n]: the training points, or the three images, in the plane.
    """
    sample = trained.sample("train")
    flat = sample.subset.stored.images[0].numel() == 2
    plane = _plane_itself(sample) if flat else _plane_through_three(sample, probe.seed)
    u, v = (_axis(plane.points[:, axis], probe) for axis in (0, 1))
    grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).reshape(-1, 2)
    inputs = (plane.origin + grid @ plane.basis).reshape(-1, *sample.subset.stored.images.shape[1:])
    logits = _logits(trained.model, inputs, sample.scale)
    top = logits.topk(2, dim=1)
    predicted = top.indices[:, 0].reshape(len(v), len(u)).numpy()
    margin = (top.values[:, 0] - top.values[:, 1]).reshape(len(v), len(u)).numpy()
    arrays = {"u": u.numpy(), "v": v.numpy(), "class": predicted, "margin": margin}
    anchors = {"anchors": plane.points.numpy(), "anchor_labels": plane.labels.numpy()}
    changes = [np.diff(predicted, axis=axis).ravel() != 0 for axis in (0, 1)]
    return Measurement({"probe/boundary/changes": float(np.concatenate(changes).mean())}, arrays | anchors)


def _plane_itself(sample: Sample) -> Plane:
    points = sample.subset.stored.images[sample.subset.index].reshape(-1, 2).double()
    return Plane(torch.zeros(2).double(), torch.eye(2).double(), points, sample.subset.labels)


def _plane_through_three(sample: Sample, seed: int) -> Plane:
    """Through three training images, of as many classes as there are up to three. Raises ConfigError for a line."""
    places = _three_places(sample.subset.labels, seed)
    images, labels = sample.subset.stored.take(sample.subset.index[places])
    first, second, third = images.reshape(3, -1).double()
    along = second - first
    basis = [along / torch.linalg.vector_norm(along)]
    across = third - first - basis[0] * (basis[0] @ (third - first))
    basis.append(across / torch.linalg.vector_norm(across))
    frame = torch.stack(basis)
    if not frame.isfinite().all():
        raise ConfigError(f"DecisionBoundary.seed = {seed}: draws three images that lie on a line: choose another")
    points = (torch.stack([first, second, third]) - first) @ frame.T
    return Plane(first, frame, points, labels)


def _three_places(labels: Tensor, seed: int) -> Tensor:
    """Where three of the images lie: the first of each class in a random order, then whatever is left of it."""
    order = np.random.RandomState(seed).permutation(len(labels))
    _, firsts = np.unique(labels.numpy()[order], return_index=True)
    places = [*sorted(firsts), *(place for place in range(len(order)) if place not in firsts)]
    if len(places) < 3:
        raise ConfigError("DecisionBoundary: needs three training images")
    return torch.from_numpy(order[places[:3]])


def _axis(coordinates: Tensor, probe: DecisionBoundary) -> Tensor:
    low, high = coordinates.min().item(), coordinates.max().item()
    beyond = probe.margin * (high - low)
    return torch.linspace(low - beyond, high + beyond, probe.points, dtype=torch.float64)


@torch.no_grad()
def _logits(model: nn.Module, inputs: Tensor, scale: PixelScale) -> Tensor:
    """On the CPU, of ``inputs`` in units of the stored images."""
    device = scale.mean.device
    chunks = torch.split(inputs.float(), EVALUATION_BATCH)
    return torch.cat([model(scale.normalize(chunk.to(device))).cpu() for chunk in chunks])

"""Fully connected network on flattened images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from trainer.config import Mlp


def build_mlp(declared: Mlp, shape: Sequence[int], classes: int) -> nn.Module:
    """``declared`` for images of ``shape`` (channels, height, width), with torch's default initialisation."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for hidden in declared.hidden:
        layers.append(nn.Linear(width, hidden))
        if declared.norm == "batch":
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU())
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, classes))

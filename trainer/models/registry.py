"""From a network's declaration to an initialised network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from trainer.config import Mlp
from trainer.config import Model as Declared
from trainer.models.mlp import build_mlp


def build_model(
    declared: Declared, shape: Sequence[int], classes: int, init_seed: int, code_dir: Path = Path()
) -> nn.Module:
    """The network for images of ``shape`` (channels, height, width), on the CPU, with weights drawn from ``init_seed``.

    code_dir: where the module of a ``Custom`` network is looked for first.

    Drawn on the CPU whatever the device, and the caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(init_seed)  # torch.manual_seed would seed the caller's GPUs as well
        match declared:
            case Mlp():
                return build_mlp(declared, shape, classes)
            case _:
                raise NotImplementedError(declared)

"""What plans say of a network is what torch counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from sweeps.cost.network import network_cost
from trainer.config import Mlp, Model, PreActResNet18, PyramidNet, SmallCnn, Vgg16, WideResNet
from trainer.models.registry import build_model

NETWORKS: list[tuple[Model, tuple[int, int, int], int]] = [
    (Mlp(hidden=(), norm="none"), (1, 8, 8), 10),
    (Mlp(hidden=(128, 64), norm="batch"), (3, 7, 5), 10),
    (SmallCnn(width=3), (1, 13, 9), 4),
    (PreActResNet18(), (3, 32, 32), 10),
    (PreActResNet18(width=4, form="released"), (1, 28, 19), 100),
    (Vgg16(), (3, 32, 32), 100),
    (Vgg16(width=3, hidden=7), (1, 65, 32), 10),
    (WideResNet(depth=16, widen_factor=4), (3, 32, 32), 10),
    (WideResNet(depth=16, widen_factor=4, form="released"), (3, 17, 32), 10),
    (WideResNet(depth=10, widen_factor=1), (3, 9, 9), 10),
    (PyramidNet(depth=29, alpha=27), (3, 32, 32), 10),
    (PyramidNet(depth=20, alpha=5, width=7), (1, 15, 9), 10),
]


@pytest.mark.parametrize(("model", "shape", "classes"), NETWORKS)
def test_costs_are_those_that_torch_counts(model: Model, shape: tuple[int, int, int], classes: int) -> None:
    images = 2
    with torch.device("meta"):
        network = build_model(model, shape, classes, init_seed=0)
        batch, labels = torch.empty(images, *shape), torch.zeros(images, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        logits = network(batch)
    with FlopCounterMode(display=False) as backward:
        functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert network_cost(model, shape, classes) == (
        forward.get_total_flops() / images,
        backward.get_total_flops() / images,
        sum(layer.weight.numel() for layer in layers),
        len(layers),
    )


@pytest.mark.parametrize("model", [PreActResNet18(), Vgg16(), WideResNet(), PyramidNet()])
def test_what_is_left_out_of_the_weights_is_little(model: Model) -> None:
    with torch.device("meta"):
        network = build_model(model, (3, 32, 32), 10, init_seed=0)
    cost = network_cost(model, (3, 32, 32), 10)
    assert cost is not None
    assert 0.98 < cost.weights / sum(tensor.numel() for tensor in network.parameters()) < 1

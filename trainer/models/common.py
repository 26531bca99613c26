"""What the convolutional networks share: initial weights, the smallest image, and the end of a residual network.

Their ReLUs work in place, on what a BatchNorm or a linear layer has made and nobody else reads: less memory traffic.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from trainer.config import PreActResNet18, PyramidNet, SmallCnn, Vgg16, WideResNet
from trainer.declaration import ConfigError

Network = TypeVar("Network", bound=nn.Module)
Sized = SmallCnn | PreActResNet18 | Vgg16 | WideResNet | PyramidNet


def initialised(model: Network) -> Network:
    """``model`` with convolutions Kaiming-normal (He et al. 2015, fan-out: variance 2 / outputs) and linear biases 0.

    The rest stays as torch makes it: BatchNorm's scale 1 and shift 0; linear weights, and biases of convolutions,
    uniform in ±1/sqrt(fan-in).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model


def require_size(declared: Sized, shape: Sequence[int]) -> None:
    """Raise ConfigError for images of ``shape`` (channels, height, width) that would vanish in the halvings."""
    smallest = declared.smallest_side
    if min(shape[1:]) < smallest:
        raise ConfigError(
            f"{type(declared).__name__}: images of {shape[1]} × {shape[2]} pixels: its halvings need at least"
            f" {smallest} × {smallest}: choose another network (Mlp takes any size) or larger images"
        )


def residual_head(channels: int, classes: int, bn_momentum: float = 0.1) -> OrderedDict[str, nn.Module]:
    """Where networks of pre-activation blocks end: BatchNorm, ReLU, mean over the image, Linear.

    bn_momentum: the share of the newest batch in the running statistics.
    """
    return OrderedDict(
        norm=nn.BatchNorm2d(channels, momentum=bn_momentum),
        relu=nn.ReLU(inplace=True),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(channels, classes),
    )

"""From a network's declaration to an initialised network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from trainer.config import Custom, Mlp, PreActResNet18, PyramidNet, SmallCnn, Vgg16, WideResNet
from trainer.config import Model as Declared
from trainer.models.custom import build_custom
from trainer.models.mlp import build_mlp
from trainer.models.preact_resnet import build_preact_resnet
from trainer.models.pyramid_net import build_pyramid_net
from trainer.models.small_cnn import build_small_cnn
from trainer.models.vgg import build_vgg
from trainer.models.wide_resnet import build_wide_resnet


def build_model(
    declared: Declared, shape: Sequence[int], classes: int, init_seed: int, code_dir: Path = Path()
) -> nn.Module:
    """The network for images of ``shape`` (channels, height, width), on the CPU, with weights drawn from ``init_seed``.

    code_dir: where the module of a ``Custom`` network is looked for first.

    Drawn on the CPU whatever the device, and the caller's random state is left as it was. Raises ConfigError for images
    that are too small for the network, and for a ``Custom`` one that cannot be built as declared.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(init_seed)  # torch.manual_seed would seed the caller's GPUs as well
        return _build(declared, shape, classes, code_dir)


def _build(declared: Declared, shape: Sequence[int], classes: int, code_dir: Path) -> nn.Module:
    match declared:
        case Mlp():
            return build_mlp(declared, shape, classes)
        case SmallCnn():
            return build_small_cnn(declared, shape, classes)
        case PreActResNet18():
            return build_preact_resnet(declared, shape, classes)
        case Vgg16():
            return build_vgg(declared, shape, classes)
        case WideResNet():
            return build_wide_resnet(declared, shape, classes)
        case PyramidNet():
            return build_pyramid_net(declared, shape, classes)
        case Custom():
            return build_custom(declared, shape, classes, code_dir)

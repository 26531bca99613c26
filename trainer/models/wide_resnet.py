"""WideResNet (Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, Table 1).

Three stages of n pre-activation blocks B(3,3), of 16k, 32k and 64k channels, the second and third halving the image in
their first block's first convolution. WideResNet-28-10 has n = 4, k = 10 and 36.5 million weights with 10 classes. The
dropout within blocks that the paper also tries is left out; here dropout is a method (``trainer.config.Dropout``).

The released form halves in the second convolution of those blocks, and in its last BatchNorm the newest batch has a
share of 0.9 in the running statistics, not 0.1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import nn

from trainer.config import WideResNet
from trainer.models.common import initialised, require_size, residual_head
from trainer.models.preact_block import PreActBlock

STAGES = 3


def build_wide_resnet(declared: WideResNet, shape: Sequence[int], classes: int) -> nn.Module:
    """``declared`` for images of ``shape`` (channels, height, width), of at least 4 × 4 pixels."""
    require_size(declared, shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(shape[0], declared.width, 3, padding=1, bias=False),
        blocks=nn.Sequential(*_blocks(declared)),
    )
    channels = declared.width * declared.widen_factor * 2 ** (STAGES - 1)
    momentum = 0.9 if declared.form == "released" else 0.1
    return initialised(nn.Sequential(layers | residual_head(channels, classes, momentum)))


def _blocks(declared: WideResNet) -> Iterator[nn.Module]:
    halving = (1, 2) if declared.form == "released" else (2, 1)
    entering = declared.width
    for stage in range(STAGES):
        leaving = declared.width * declared.widen_factor * 2**stage
        for block in range((declared.depth - 4) // 6):
            yield PreActBlock(entering, leaving, halving if stage > 0 and block == 0 else (1, 1))
            entering = leaving

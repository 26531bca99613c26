"""PyramidNet with bottleneck blocks (Han, Kim and Kim, "Deep Pyramidal Residual Networks", CVPR 2017).

Three stages of n blocks; block k of all 3n has ⌊16 + α·k / 3n⌋ channels in its 3 × 3 convolution (equation 2, additive
widening) and four times as many at its end. The second and the third stage halve the image. PyramidNet-164-270 has
n = 18, α = 270 and 27 million weights with 10 classes. As in the paper's own code, a BatchNorm follows the stem. No
difference of the released form is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional

from trainer.config import PyramidNet
from trainer.models.common import initialised, require_size, residual_head

STAGES, EXPANSION, PAPER_WIDTH = 3, 4, 16


class PyramidBlock(nn.Module):
    """BN, conv 1 × 1, BN, ReLU, conv 3 × 3, BN, ReLU, conv 1 × 1, BN, and an identity shortcut around.

    [n, entering, h, w] to [n, 4·inner, h / stride, w / stride]. The shortcut is averaged over 2 × 2 pixels where the
    block halves, and the channels that it lacks are zero.
    """

    def __init__(self, entering: int, inner: int, stride: int) -> None:
        super().__init__()
        leaving = EXPANSION * inner
        self.residual = nn.Sequential(
            nn.BatchNorm2d(entering),
            nn.Conv2d(entering, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, leaving, 1, bias=False),
            nn.BatchNorm2d(leaving),
        )
        # A convolution of stride 2 rounds odd sides up, and so must the mean.
        self.shortcut = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.padding = leaving - entering

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + functional.pad(self.shortcut(x), (0, 0, 0, 0, 0, self.padding))  # type: ignore[no-any-return]


def build_pyramid_net(declared: PyramidNet, shape: Sequence[int], classes: int) -> nn.Module:
    """``declared`` for images of ``shape`` (channels, height, width), of at least 4 × 4 pixels."""
    require_size(declared, shape)
    stem = nn.Conv2d(shape[0], declared.width, 3, padding=1, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(stem, nn.BatchNorm2d(declared.width)), blocks=nn.Sequential(*_blocks(declared))
    )
    return initialised(nn.Sequential(layers | residual_head(EXPANSION * inner_channels(declared)[-1], classes)))


def inner_channels(declared: PyramidNet) -> list[int]:
    """Of each block's 3 × 3 convolution (equation 2, additive), scaled by width / 16; whole numbers all the way."""
    blocks = (declared.depth - 2) // 3
    return [
        declared.width * (PAPER_WIDTH * blocks + declared.alpha * block) // (PAPER_WIDTH * blocks)
        for block in range(1, blocks + 1)
    ]


def _blocks(declared: PyramidNet) -> Iterator[nn.Module]:
    channels, entering = inner_channels(declared), declared.width
    for block, inner in enumerate(channels):
        starts_stage = block > 0 and block % (len(channels) // STAGES) == 0
        yield PyramidBlock(entering, inner, stride=2 if starts_stage else 1)
        entering = EXPANSION * inner

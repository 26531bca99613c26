"""PreActResNet18 for 32 × 32 images (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016).

The 18-layer network of He et al. (CVPR 2016) made of pre-activation blocks, with the start that networks for CIFAR
have: a 3 × 3 convolution without pooling. Four stages of two blocks, of 64, 128, 256 and 512 channels; all but the
first halve the image. 11.2 million weights with 10 classes. As the paper's appendix says, the first block's activation
comes before the paths split, so that its shortcut carries it too, and one more follows the last block.

In the released form the convolutions of blocks and shortcuts have biases, and each identity shortcut carries
ReLU(BN(x)).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import nn

from trainer.config import PreActResNet18
from trainer.models.common import initialised, require_size, residual_head
from trainer.models.preact_block import PreActBlock

STAGES, BLOCKS = 4, 2


class PreActResNet(nn.Sequential):
    """Logits [n, classes] of images [n, channels, height, width]."""

    @property
    def released_dropout(self) -> list[nn.Module]:
        """Whose outputs the authors' released code drops: each block's second ReLU and the classifier's input."""
        blocks = [module.relu2 for module in self.modules() if isinstance(module, PreActBlock)]
        return [*blocks, *(module for module in self.modules() if isinstance(module, nn.Flatten))]


def build_preact_resnet(declared: PreActResNet18, shape: Sequence[int], classes: int) -> nn.Module:
    """``declared`` for images of ``shape`` (channels, height, width), of at least 8 × 8 pixels."""
    require_size(declared, shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(shape[0], declared.width, 3, padding=1, bias=False),
        blocks=nn.Sequential(*_blocks(declared)),
    )
    return initialised(PreActResNet(layers | residual_head(declared.width * 2 ** (STAGES - 1), classes)))


def _blocks(declared: PreActResNet18) -> Iterator[nn.Module]:
    released, entering = declared.form == "released", declared.width
    for stage in range(STAGES):
        leaving = declared.width * 2**stage
        for block in range(BLOCKS):
            stride = 2 if stage > 0 and block == 0 else 1
            first = stage == block == 0
            yield PreActBlock(entering, leaving, (stride, 1), bias=released, activated=released or first)
            entering = leaving

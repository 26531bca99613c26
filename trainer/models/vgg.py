"""VGG16 with BatchNorm (Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, Table 1, column D).

Thirteen 3 × 3 convolutions of 64 to 512 channels in five stages, each ending in a 2 × 2 maximum; then two hidden layers
of 4096 and the classifier: 33.6 million weights for 32 × 32 images and 10 classes. The paper has no BatchNorm (Ioffe
and Szegedy 2015), which follows each convolution here; its dropout in the hidden layers is left to the method
(``trainer.config.Dropout``). No difference of the released form is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import nn

from trainer.config import Vgg16
from trainer.models.common import initialised, require_size

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of each convolution, in units of the first one's."""


class Vgg(nn.Sequential):
    """Logits [n, classes] of images [n, channels, height, width]."""

    @property
    def released_dropout(self) -> list[nn.Module]:
        """Whose outputs the authors' released code drops: every ReLU's."""
        return [module for module in self.modules() if isinstance(module, nn.ReLU)]


def build_vgg(declared: Vgg16, shape: Sequence[int], classes: int) -> nn.Module:
    """``declared`` for images of ``shape`` (channels, height, width), of at least 32 × 32 pixels."""
    require_size(declared, shape)
    pixels = (shape[1] >> len(STAGES)) * (shape[2] >> len(STAGES))
    hidden = declared.hidden
    head = nn.Sequential(
        nn.Linear(declared.width * STAGES[-1][-1] * pixels, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, classes),
    )
    features = nn.Sequential(*_features(declared, shape[0]))
    return initialised(Vgg(OrderedDict(features=features, flatten=nn.Flatten(), head=head)))


def _features(declared: Vgg16, entering: int) -> Iterator[nn.Module]:
    for stage in STAGES:
        for multiple in stage:
            leaving = declared.width * multiple
            yield from (nn.Conv2d(entering, leaving, 3, padding=1), nn.BatchNorm2d(leaving), nn.ReLU(inplace=True))
            entering = leaving
        yield nn.MaxPool2d(2)

"""What a built-in network costs, from its declaration alone: importing torch to count takes longer than a whole plan.

FLOPs are counted as torch's own counter does, two for each multiply-add of linear layers and convolutions; the tests
hold the two against each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trainer.config import Mlp, Model, PreActResNet18, PyramidNet, SmallCnn, Vgg16, WideResNet

EXPANSION = 4  # of PyramidNet's bottlenecks


class Layer(NamedTuple):
    """A linear layer or convolution. positions: how often its weights are used for one example."""

    weights: int
    positions: int

    @property
    def flop(self) -> int:
        return 2 * self.weights * self.positions


class NetworkCost(NamedTuple):
    """FLOPs of one example, forward and backward (of which the images need no gradient); weights; layers.

    Biases and BatchNorm's parameters, less than 2% of the paper's networks, are not among the weights.
    """

    forward: int
    backward: int
    weights: int
    layers: int


class Size(NamedTuple):
    """Of an image, in pixels."""

    height: int
    width: int

    def halved(self, stride: int = 2) -> Size:
        """By a padded convolution of that stride, which rounds up."""
        return Size(-(-self.height // stride), -(-self.width // stride))

    def pooled(self) -> Size:
        """By a 2 × 2 maximum, which rounds down."""
        return Size(self.height // 2, self.width // 2)


def network_cost(model: Model, shape: Sequence[int], classes: int) -> NetworkCost | None:
    """Of ``model`` on images of ``shape`` (channels, height, width); None for a network of a user's own."""
    layers = list(_layers(model, shape, classes))
    if not layers:
        return None
    forward = sum(layer.flop for layer in layers)
    weights = sum(layer.weights for layer in layers)
    return NetworkCost(forward, 2 * forward - layers[0].flop, weights, len(layers))


def _layers(model: Model, shape: Sequence[int], classes: int) -> Iterator[Layer]:
    """In order; nothing for a network that is not known here."""
    channels, size = shape[0], Size(*shape[1:])
    match model:
        case Mlp():
            yield from _linear(math.prod(shape), *model.hidden, classes)
        case SmallCnn():
            yield from _small_cnn(model, channels, size, classes)
        case PreActResNet18():
            yield from _preact_resnet(model, channels, size, classes)
        case Vgg16():
            yield from _vgg(model, channels, size, classes)
        case WideResNet():
            yield from _wide_resnet(model, channels, size, classes)
        case PyramidNet():
            yield from _pyramid_net(model, channels, size, classes)


def _linear(*widths: int) -> Iterator[Layer]:
    for entering, leaving in itertools.pairwise(widths):
        yield Layer(entering * leaving, 1)


def _conv(entering: int, leaving: int, kernel: int, size: Size) -> Layer:
    """size: of what leaves it."""
    return Layer(entering * leaving * kernel**2, math.prod(size))


def _small_cnn(model: SmallCnn, channels: int, size: Size, classes: int) -> Iterator[Layer]:
    for leaving in (model.width, 2 * model.width, 4 * model.width):
        yield _conv(channels, leaving, 3, size)
        channels, size = leaving, size.pooled()
    yield from _linear(channels, classes)


def _vgg(model: Vgg16, channels: int, size: Size, classes: int) -> Iterator[Layer]:
    for multiple, convolutions in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(convolutions):
            yield _conv(channels, multiple * model.width, 3, size)
            channels = multiple * model.width
        size = size.pooled()
    yield from _linear(channels * math.prod(size), model.hidden, model.hidden, classes)


def _preact_resnet(model: PreActResNet18, channels: int, size: Size, classes: int) -> Iterator[Layer]:
    yield _conv(channels, model.width, 3, size)
    channels = model.width
    for stage in range(4):
        strides = (2, 1) if stage else (1, 1)
        yield from _preact_stage(channels, model.width * 2**stage, size, strides, blocks=2)
        channels, size = model.width * 2**stage, size.halved(math.prod(strides))
    yield from _linear(channels, classes)


def _wide_resnet(model: WideResNet, channels: int, size: Size, classes: int) -> Iterator[Layer]:
    yield _conv(channels, model.width, 3, size)
    channels, halving = model.width, (1, 2) if model.form == "released" else (2, 1)
    for stage in range(3):
        strides = halving if stage else (1, 1)
        leaving = model.width * model.widen_factor * 2**stage
        yield from _preact_stage(channels, leaving, size, strides, blocks=(model.depth - 4) // 6)
        channels, size = leaving, size.halved(math.prod(strides))
    yield from _linear(channels, classes)


def _preact_stage(entering: int, leaving: int, size: Size, strides: tuple[int, int], blocks: int) -> Iterator[Layer]:
    """Two 3 × 3 convolutions a block and, where the first one changes the shape, a 1 × 1 one around them.

    size: of the images that enter; strides: of the first block's two convolutions.
    """
    for block in range(blocks):
        inner = size.halved(strides[0]) if block == 0 else size
        outer = inner.halved(strides[1]) if block == 0 else size
        yield _conv(entering, leaving, 3, inner)
        yield _conv(leaving, leaving, 3, outer)
        if entering != leaving:
            yield _conv(entering, leaving, 1, outer)
        entering, size = leaving, outer


def _pyramid_net(model: PyramidNet, channels: int, size: Size, classes: int) -> Iterator[Layer]:
    blocks = (model.depth - 2) // 3
    yield _conv(channels, model.width, 3, size)
    channels = model.width
    for block in range(blocks):
        inner = model.width * (16 * blocks + model.alpha * (block + 1)) // (16 * blocks)
        yield _conv(channels, inner, 1, size)
        size = size.halved() if block and block % (blocks // 3) == 0 else size
        yield _conv(inner, inner, 3, size)
        yield _conv(inner, EXPANSION * inner, 1, size)
        channels = EXPANSION * inner
    yield from _linear(channels, classes)

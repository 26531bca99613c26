"""Each network against its paper: sizes, work, shapes, initial weights, and where the released form differs."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import (
    Amp,
    Custom,
    Digits,
    Dropout,
    Mlp,
    Mnist5k,
    Model,
    PreActResNet18,
    PyramidNet,
    SmallCnn,
    Vgg16,
    WideResNet,
)
from trainer.declaration import ConfigError
from trainer.loop import train
from trainer.machine import Machine
from trainer.models.preact_block import PreActBlock
from trainer.models.pyramid_net import PyramidBlock
from trainer.models.registry import build_model
from trainer.precision import set_precision

from .trials import tiny

HERE = Path()
COLOUR = (3, 32, 32)

NARROW: tuple[Model, ...] = (
    SmallCnn(width=4),
    PreActResNet18(width=4),
    PreActResNet18(width=4, form="released"),
    Vgg16(width=4, hidden=16),
    WideResNet(depth=10, widen_factor=1, width=4),
    WideResNet(depth=16, widen_factor=2, width=4, form="released"),
    PyramidNet(depth=20, alpha=48, width=4),
)
ALL: tuple[Model, ...] = (Mlp(hidden=(16, 8), norm="batch"), *NARROW)


def network(declared: Model, shape: tuple[int, ...] = COLOUR, classes: int = 10, seed: int = 1) -> nn.Module:
    return build_model(declared, shape, classes, seed, HERE)


def of_width(declared: Model, width: int) -> Model:
    assert not isinstance(declared, Mlp | Custom)
    return dataclasses.replace(declared, width=width)


def images(number: int = 6, shape: tuple[int, ...] = COLOUR, seed: int = 2) -> Tensor:
    return torch.randn(number, *shape, generator=torch.Generator().manual_seed(seed))


def of_kind(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def perturbed_norms(model: nn.Module) -> nn.Module:
    """BatchNorms that are no identities, so that a hand computation which forgets one shows."""
    numbers = torch.Generator().manual_seed(3)
    for module in of_kind(model, nn.BatchNorm2d):
        assert isinstance(module, nn.BatchNorm2d)
        for tensor in (module.weight, module.bias, module.running_mean):
            assert tensor is not None
            tensor.data.add_(torch.randn(tensor.shape, generator=numbers, dtype=tensor.dtype) / 4)
    return model


@pytest.mark.parametrize(
    ("declared", "millions"),
    [
        (PreActResNet18(), 11.2),
        (PreActResNet18(form="released"), 11.2),
        (Vgg16(), 33.6),
        (WideResNet(), 36.5),
        (WideResNet(form="released"), 36.5),
        (PyramidNet(), 27.0),
    ],
    ids=repr,
)
def test_parameters_are_within_one_per_cent_of_the_published_count(declared: Model, millions: float) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in network(declared).parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("declared", "giga"),
    [
        (PreActResNet18(), 166),
        (PreActResNet18(form="released"), 166),
        (Vgg16(), 99.5),
        (WideResNet(), 1573),
        (WideResNet(form="released"), 1785),
        (PyramidNet(), 1371),
    ],
    ids=repr,
)
def test_work_of_a_training_step_is_what_other_code_was_measured_at(declared: Model, giga: float) -> None:
    """FLOPs of forward and backward at batch 50, of independent implementations (rounded to the last digit given)."""
    with torch.device("meta"):
        model = network(declared)
        counter = FlopCounterMode(display=False)
        with counter:
            labels = torch.zeros(50, dtype=torch.long)
            torch.autograd.backward(functional.cross_entropy(model(torch.empty(50, *COLOUR)), labels))
    assert counter.get_total_flops() == pytest.approx(giga * 1e9, rel=0.005)


@pytest.mark.parametrize("declared", [PreActResNet18(), Vgg16(), WideResNet(), PyramidNet()], ids=repr)
def test_depth_is_what_the_name_says(declared: Model) -> None:
    """Convolutions and linear layers; projections count in the name of WideResNet alone."""
    with torch.device("meta"):
        model = network(declared)
    layers = len(of_kind(model, nn.Conv2d)) + len(of_kind(model, nn.Linear))
    projections = sum(
        isinstance(block.shortcut, nn.Conv2d) for block in model.modules() if isinstance(block, PreActBlock)
    )
    expected = {PreActResNet18: 18 + projections, Vgg16: 16, WideResNet: 28 + 1, PyramidNet: 164}
    assert layers == expected[type(declared)]


@pytest.mark.parametrize("declared", ALL, ids=repr)
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_have_a_column_a_class(declared: Model, classes: int, channels: int) -> None:
    shape = (channels, 32, 32)
    logits = network(declared, shape, classes)(images(2, shape))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("declared", "smallest"),
    [
        (SmallCnn(width=4), 8),
        (PreActResNet18(width=4), 8),
        (Vgg16(width=4, hidden=16), 32),
        (WideResNet(depth=10, widen_factor=1, width=4), 4),
        (PyramidNet(depth=11, alpha=48, width=4), 4),
    ],
    ids=repr,
)
def test_any_size_down_to_the_smallest(declared: Model, smallest: int) -> None:
    for shape in ((1, smallest, smallest), (1, smallest + 1, smallest + 3), (1, 33, 70)):
        assert network(declared, shape)(images(2, shape)).shape == (2, 10)
    for shape in ((1, smallest - 1, smallest), (1, smallest, smallest - 1), (2, 1, 1)):
        with pytest.raises(
            ConfigError, match=rf"^{type(declared).__name__}: images of {shape[1]} × {shape[2]} .*larger"
        ):
            network(declared, shape)


@pytest.mark.parametrize("declared", NARROW, ids=repr)
def test_width_scales_every_convolution(declared: Model) -> None:
    narrow, wide = ([layer.out_channels for layer in convolutions(network(of_width(declared, w)))] for w in (4, 8))
    assert wide == [2 * channels for channels in narrow]


@pytest.mark.parametrize("declared", ALL, ids=repr)
def test_equal_seeds_give_equal_weights_and_the_callers_random_state_stays(declared: Model) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = network(declared)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(weights(network(declared)), weights(one))
    assert not torch.equal(weights(network(declared, seed=2)), weights(one))


@pytest.mark.parametrize("declared", NARROW, ids=repr)
def test_initial_weights(declared: Model) -> None:
    """Convolutions: variance 2 / (kernel · outputs); linear biases 0; BatchNorm 1, 0."""
    model = network(of_width(declared, 32))
    for layer in convolutions(model):
        weight, count = layer.weight.detach(), layer.weight.numel()
        unit = weight * (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels / 2) ** 0.5
        assert abs(unit.mean()) < 5 / count**0.5
        assert abs(unit.var() - 1) < 5 * (2 / count) ** 0.5
    for module in of_kind(model, nn.Linear):
        assert isinstance(module, nn.Linear)
        assert not module.bias.any()
        assert module.weight.abs().max() <= module.in_features**-0.5
    for module in of_kind(model, nn.BatchNorm2d):
        assert isinstance(module, nn.BatchNorm2d)
        assert torch.equal(module.weight, torch.ones_like(module.weight))
        assert not module.bias.any()


@pytest.mark.parametrize("declared", ALL, ids=repr)
def test_each_relu_is_a_module_that_is_called_once(declared: Model) -> None:
    """Dropout hangs on these modules; an activation outside of them would be left out."""
    model, calls = network(declared), collections.Counter[nn.Module]()
    relus = of_kind(model, nn.ReLU)
    for relu in relus:
        relu.register_forward_hook(lambda module, *_: calls.update([module]))
    used = _Operations()
    with used:
        model(images())
    assert calls == dict.fromkeys(relus, 1)
    assert used.names.count("relu") == len(relus)


class _Operations(torch.overrides.TorchFunctionMode):
    """Names of the functions called within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN204
        self.names.append(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("declared", ALL, ids=repr)
def test_a_gradient_reaches_every_parameter(declared: Model) -> None:
    model = network(declared)
    torch.autograd.backward(functional.cross_entropy(model(images()), torch.arange(6)))
    for name, parameter in model.named_parameters():
        # A shift before a BatchNorm is taken out again by it: such a gradient is zero but for rounding.
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def sides(model: nn.Module, shape: tuple[int, ...] = COLOUR) -> list[int]:
    """Of the feature maps that the 3 × 3 convolutions give, in the order of the forward pass."""
    found: list[int] = []
    for layer in convolutions(model):
        if layer.kernel_size == (3, 3):
            layer.register_forward_hook(lambda _module, _inputs, output: found.append(output.shape[-1]))
    model(images(2, shape))
    return found


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (SmallCnn(width=4), [32, 16, 8]),
        (PreActResNet18(width=4), [32] * 5 + [16] * 4 + [8] * 4 + [4] * 4),
        (PreActResNet18(width=4, form="released"), [32] * 5 + [16] * 4 + [8] * 4 + [4] * 4),
        (Vgg16(width=4, hidden=16), [32] * 2 + [16] * 2 + [8] * 3 + [4] * 3 + [2] * 3),
        (WideResNet(depth=16, widen_factor=2, width=4), [32] * 5 + [16] * 4 + [8] * 4),
        (WideResNet(depth=16, widen_factor=2, width=4, form="released"), [32] * 6 + [16] * 4 + [8] * 3),
        (PyramidNet(depth=20, alpha=48, width=4), [32] * 3 + [16] * 2 + [8] * 2),
    ],
    ids=repr,
)
def test_where_the_image_is_halved(declared: Model, expected: list[int]) -> None:
    assert sides(network(declared)) == expected


def test_pyramid_widens_by_alpha_over_all_blocks() -> None:
    with torch.device("meta"):
        model = network(PyramidNet())
        uneven = network(PyramidNet(depth=20, alpha=10))
    wide = [layer.out_channels for layer in convolutions(model) if layer.kernel_size == (3, 3)]
    assert wide == list(range(16, 16 + 271, 5))
    assert [layer.out_channels for layer in convolutions(uneven) if layer.kernel_size == (3, 3)] == [
        *(16, 17, 19, 21, 22, 24, 26)  # 16 + ⌊10k / 6⌋
    ]


def batch_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """By the formula, over the batch and its pixels."""
    assert isinstance(norm, nn.BatchNorm2d)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    scaled = (x - mean) / (variance + norm.eps).sqrt()
    return scaled * norm.weight.reshape(1, -1, 1, 1) + norm.bias.reshape(1, -1, 1, 1)


def conv(x: Tensor, layer: nn.Module, stride: int = 1) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    return functional.conv2d(x, layer.weight, layer.bias, stride, padding=layer.kernel_size[0] // 2)


def inputs_and_outputs(model: nn.Module, kind: type[nn.Module]) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Each module of ``kind`` with what went in and came out in one forward pass in training mode, in float64."""
    model, seen = perturbed_norms(model.double()), []
    for module in of_kind(model, kind):
        module.register_forward_hook(lambda m, given, found: seen.append((m, given[0].clone(), found.detach().clone())))
    model(images(4).double())
    return seen


@pytest.mark.parametrize("form", ["published", "released"])
def test_preact_resnet_by_hand(form: str) -> None:
    """The identity carries x; in the released form, and in the first block, ReLU(BN(x)), as projections always do."""
    model = network(PreActResNet18(width=4, form=form))  # type: ignore[arg-type]
    blocks = inputs_and_outputs(model, PreActBlock)
    assert len(blocks) == 8
    for place, (block, x, found) in enumerate(blocks):
        assert isinstance(block, PreActBlock)
        stride, projects = (2, True) if place in (2, 4, 6) else (1, False)
        pre = functional.relu(batch_norm(x, block.bn1))
        shortcut = conv(pre, block.shortcut, stride) if projects else pre if form == "released" or place == 0 else x
        inner = functional.relu(batch_norm(conv(pre, block.conv1, stride), block.bn2))
        torch.testing.assert_close(found, conv(inner, block.conv2) + shortcut, rtol=1e-10, atol=1e-10)
        assert isinstance(block.shortcut, nn.Conv2d) == projects


@pytest.mark.parametrize("form", ["published", "released"])
def test_wide_resnet_by_hand(form: str) -> None:
    model = network(WideResNet(depth=16, widen_factor=2, width=4, form=form))  # type: ignore[arg-type]
    blocks = inputs_and_outputs(model, PreActBlock)
    assert len(blocks) == 6
    for place, (block, x, found) in enumerate(blocks):
        assert isinstance(block, PreActBlock)
        stride, projects = 2 if place in (2, 4) else 1, place in (0, 2, 4)
        first, second = (1, stride) if form == "released" else (stride, 1)
        pre = functional.relu(batch_norm(x, block.bn1))
        inner = functional.relu(batch_norm(conv(pre, block.conv1, first), block.bn2))
        shortcut = conv(pre, block.shortcut, stride) if projects else x
        torch.testing.assert_close(found, conv(inner, block.conv2, second) + shortcut, rtol=1e-10, atol=1e-10)


def test_pyramid_net_by_hand() -> None:
    blocks = inputs_and_outputs(network(PyramidNet(depth=20, alpha=48, width=4)), PyramidBlock)
    assert len(blocks) == 6
    for place, (block, x, found) in enumerate(blocks):
        assert isinstance(block, PyramidBlock)
        stride = 2 if place in (2, 4) else 1
        bn1, conv1, bn2, _, conv2, bn3, _, conv3, bn4 = block.residual
        inner = conv(batch_norm(x, bn1), conv1)
        inner = conv(functional.relu(batch_norm(inner, bn2)), conv2, stride)
        residual = batch_norm(conv(functional.relu(batch_norm(inner, bn3)), conv3), bn4)
        expected, shortcut = residual.clone(), functional.avg_pool2d(x, stride) if stride == 2 else x
        expected[:, : x.shape[1]] += shortcut
        assert residual.shape[1] > x.shape[1]
        torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("declared", [model for model in NARROW if not isinstance(model, SmallCnn | Vgg16)], ids=repr)
def test_residual_networks_end_in_norm_relu_mean_linear(declared: Model) -> None:
    model, last = perturbed_norms(network(declared).double()), []
    blocks = model.get_submodule("blocks")
    blocks.register_forward_hook(lambda _module, _inputs, output: last.append(output))
    found = model(images().double())
    pooled = functional.relu(batch_norm(last[0], model.get_submodule("norm"))).mean((2, 3))
    classifier = model.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    torch.testing.assert_close(found, pooled @ classifier.weight.T + classifier.bias, rtol=1e-10, atol=1e-10)


def test_pyramid_net_starts_with_a_batch_norm() -> None:
    model = network(PyramidNet(depth=20, alpha=48, width=4))
    assert [type(layer).__name__ for layer in model.get_submodule("stem").children()] == ["Conv2d", "BatchNorm2d"]


def test_vgg_ends_in_two_hidden_layers() -> None:
    model = network(Vgg16(width=4, hidden=16))
    assert [type(layer).__name__ for layer in model.get_submodule("head").children()] == [
        *("Linear", "ReLU", "Linear", "ReLU", "Linear")
    ]
    with torch.device("meta"):
        sizes = [tuple(layer.weight.shape) for layer in network(Vgg16()).modules() if isinstance(layer, nn.Linear)]
    assert sizes == [(4096, 512), (4096, 4096), (10, 4096)]


def test_vgg_has_a_batch_norm_and_a_relu_after_each_convolution() -> None:
    kinds = [type(layer).__name__ for layer in network(Vgg16(width=4, hidden=16)).get_submodule("features").children()]
    stage = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == [kind for convs in (2, 2, 3, 3, 3) for kind in [*stage * convs, "MaxPool2d"]]


def test_biases_of_convolutions() -> None:
    """In PreActResNet's released form those of blocks and shortcuts; the stem never."""
    assert not any(layer.bias is not None for layer in convolutions(network(PreActResNet18(width=4))))
    stem, *rest = convolutions(network(PreActResNet18(width=4, form="released")))
    assert stem.bias is None
    assert all(layer.bias is not None for layer in rest)
    assert len(rest) == 8 * 2 + 3
    for declared in (WideResNet(depth=10, width=4), PyramidNet(depth=11, alpha=48, width=4)):
        assert not any(layer.bias is not None for layer in convolutions(network(declared)))


def test_last_batch_norm_of_the_released_wide_resnet() -> None:
    for form, last in (("published", 0.1), ("released", 0.9)):
        model = network(WideResNet(depth=10, widen_factor=1, width=4, form=form))  # type: ignore[arg-type]
        momenta = [layer.momentum for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert momenta == [0.1] * (len(momenta) - 1) + [last]


@pytest.mark.parametrize("form", ["published", "released"])
def test_released_dropout_of_preact_resnet(form: str) -> None:
    """After each block's second ReLU and on what the classifier takes in."""
    model = network(PreActResNet18(width=4, form=form))  # type: ignore[arg-type]
    places = model.released_dropout
    assert isinstance(places, list)
    *relus, last = places
    assert relus == [block.relu2 for block in model.modules() if isinstance(block, PreActBlock)]
    assert len(relus) == 8
    classifier = model.get_submodule("classifier")
    seen: list[Tensor] = []
    last.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    classifier.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(images())
    assert seen[0] is seen[1]
    assert seen[0].shape == (6, 32)


def test_released_dropout_of_vgg_is_after_every_relu() -> None:
    model = network(Vgg16(width=4, hidden=16))
    assert model.released_dropout == of_kind(model, nn.ReLU)
    assert len(of_kind(model, nn.ReLU)) == 15


@pytest.mark.parametrize("declared", NARROW, ids=repr)
def test_released_dropout_registers_nothing(declared: Model) -> None:
    model = network(declared)
    names = set(model.state_dict())
    places = getattr(model, "released_dropout", None)
    assert (places is not None) == isinstance(declared, PreActResNet18 | Vgg16)
    assert set(model.state_dict()) == names
    assert len(list(model.modules())) == len(list(model.named_modules(remove_duplicate=False)))


@pytest.mark.parametrize("declared", NARROW, ids=repr)
def test_bfloat16_and_channels_last(declared: Model) -> None:
    """Close to the plain network, in every layer in the fast layout, and the parameters stay float32."""
    plain, fast = network(declared).eval(), network(declared).eval()
    fast = fast.to(memory_format=torch.channels_last)
    x, outputs = images(), list[Tensor]()
    for module in fast.modules():
        if isinstance(module, nn.Conv2d | PreActBlock | PyramidBlock):
            module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        expected = plain(x)
        exact = fast(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(exact, expected, rtol=1e-4, atol=1e-4)
    assert outputs
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in outputs)
    outputs.clear()
    set_precision(fast, "bfloat16", "cpu")
    fast.train()
    expected = plain.train()(x).detach()
    found = fast(x.contiguous(memory_format=torch.channels_last))
    torch.autograd.backward(functional.cross_entropy(found, torch.arange(6)))
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.15 * expected.abs().max()
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.float32}
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in fast.parameters())


@pytest.mark.parametrize("declared", [model for model in NARROW if not isinstance(model, Vgg16)], ids=repr)
def test_each_network_trains(declared: Model, machine: Machine) -> None:
    residual = isinstance(declared, PreActResNet18)
    method = Dropout(rate=0.1, placement="released") if residual else Amp(epsilon=0.05)
    trial = tiny(model=declared, epochs=2, lr_milestones=(), lr=0.05)
    records = list(train(dataclasses.replace(trial, method=method), machine))
    assert records[1].metrics["train/criterion"] < records[0].metrics["train/criterion"] < 2.6


def test_vgg_on_small_images_is_refused_before_training(machine: Machine) -> None:
    for dataset, side in ((Digits(), 8), (Mnist5k(), 28)):
        message = f"TrialConfig.model = .* one for images of {side} × {side} pixels: this one needs 32 × 32"
        with pytest.raises(ConfigError, match=message):
            next(iter(train(tiny(model=Vgg16(), dataset=dataset), machine)))

"""Every method through one table of settings, and each against its own formula, in float64 on a smooth network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import (
    AdversarialTraining,
    Amp,
    ClipGradients,
    Dropout,
    Flooding,
    LabelSmoothing,
    Method,
    MixUp,
    Rmp,
    Sam,
)
from trainer.data.pixels import PixelScale
from trainer.data.splits import Examples
from trainer.declaration import ConfigError
from trainer.methods import base
from trainer.methods.adversarial_training import AdversarialTrainingMethod
from trainer.methods.mixup import MixUpMethod
from trainer.methods.registry import build_method
from trainer.methods.rmp import RmpMethod

from .trials import METHODS, built

EXAMPLES, CLASSES = 30, 10


def network(norm: bool = False, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Linear(16, 8), *([nn.BatchNorm1d(8)] if norm else []), activation()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, CLASSES)).double()


def attached(declared: Method, seed: int = 2) -> tuple[base.Method, nn.Sequential]:
    """The method, and a network with BatchNorm and a ReLU that it is attached to."""
    method, model = built(declared, noise(seed)), network(norm=True, activation=nn.ReLU)
    method.attach(model)
    return method, model


def batch(seed: int = 1) -> Examples:
    numbers = torch.Generator().manual_seed(seed)
    images = torch.randn(EXAMPLES, 1, 4, 4, generator=numbers, dtype=torch.float64)
    return Examples(images, torch.randint(CLASSES, (EXAMPLES,), generator=numbers))


def noise(seed: int = 2) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def gradient_of(model: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def by_hand(logits: Tensor, labels: Tensor, targets: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean cross-entropy against the rows that ``targets`` makes of one-hot labels."""
    return -(targets(functional.one_hot(labels, CLASSES).double()) * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("declared", METHODS, ids=repr)
def test_the_weights_are_theta_again_and_every_gradient_is_there(declared: Method) -> None:
    method, model = attached(declared)
    before = weights(model)
    loss = method.backward(model, batch())
    assert torch.equal(weights(model), before)
    assert len(gradient(model)) == len(before)
    assert gradient(model).isfinite().all()
    assert loss.ndim == 0
    assert not loss.requires_grad


@pytest.mark.parametrize("declared", [d for d in METHODS if not isinstance(d, MixUp | Dropout)], ids=repr)
def test_the_loss_is_the_clean_one(declared: Method) -> None:
    (method, model), examples = attached(declared), batch()
    loss = method.backward(model, examples)
    twin = network(norm=True, activation=nn.ReLU)
    torch.testing.assert_close(loss, method.criterion(twin(examples.images), examples.labels).detach())


@pytest.mark.parametrize("declared", METHODS, ids=repr)
def test_running_statistics_follow_the_passes_that_bn_stats_names(declared: Method) -> None:
    (method, model), examples = attached(declared), batch()
    method.backward(model, examples)
    twin = network(norm=True)
    twin(examples.images)
    norm, clean = model[2], twin[2]
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(clean, nn.BatchNorm1d)
    counted = {"clean": 1, "perturbed": 1, "adversarial": 1}.get(getattr(declared, "bn_stats", "clean"))
    passes = declared.inner_steps + 1 if isinstance(declared, Amp) else 2
    assert norm.num_batches_tracked == (counted or passes)
    if isinstance(declared, MixUp) or getattr(declared, "bn_stats", "clean") != "clean":
        assert not torch.equal(norm.running_mean, clean.running_mean)  # type: ignore[arg-type]
    else:
        assert torch.equal(norm.running_mean, clean.running_mean)  # type: ignore[arg-type]
        assert torch.equal(norm.running_var, clean.running_var)  # type: ignore[arg-type]


@pytest.mark.parametrize("declared", METHODS, ids=repr)
def test_noise_comes_from_the_methods_own_stream(declared: Method) -> None:
    def found(seed: int) -> Tensor:
        (method, model), examples = attached(declared, seed), batch()
        callers = torch.get_rng_state()
        method.backward(model, examples)
        assert torch.equal(torch.get_rng_state(), callers)
        return gradient(model)

    assert torch.equal(found(2), found(2))
    draws = isinstance(declared, MixUp | Rmp | Dropout) or getattr(declared, "start", None) == "random"
    assert torch.equal(found(2), found(3)) == (not draws)


@pytest.mark.parametrize(
    ("declared", "targets", "minimum"),
    [
        (
            LabelSmoothing(smoothing=0.2),
            lambda hot: 0.8 * hot + 0.02,
            -0.82 * math.log(0.82) - 0.18 * math.log(0.02),
        ),
        (LabelSmoothing(smoothing=0.2, spread="other_classes"), lambda hot: 0.8 * hot + 0.2 / 9 * (1 - hot), 0.9399),
    ],
    ids=["all_classes", "other_classes"],
)
def test_label_smoothing(declared: Method, targets: Callable[[Tensor], Tensor], minimum: float) -> None:
    model, examples, method = network(), batch(), build_method(declared, noise())
    loss = method.backward(model, examples)
    expected = by_hand(model(examples.images), examples.labels, targets)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(model), gradient_of(model, expected), rtol=1e-10, atol=1e-14)
    # The least value it can have, which is what explains the "NLL" of label smoothing in the paper's tables.
    best = targets(functional.one_hot(examples.labels, CLASSES).double()).log()
    assert method.criterion(best, examples.labels).item() == pytest.approx(minimum, abs=1e-4)


def test_label_smoothing_over_the_other_class_of_two_may_exceed_a_half() -> None:
    """1 - s and s/(K-1) are targets for every s in (0, 1); as a uniform mixture the latter's share would exceed 1."""
    method = built(LabelSmoothing(smoothing=0.6, spread="other_classes"))
    logits, labels = torch.randn(7, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    targets = 0.4 * functional.one_hot(labels, 2) + 0.6 * (1 - functional.one_hot(labels, 2))
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(method.criterion(logits, labels), expected)


@pytest.mark.parametrize("declared", [Amp(epsilon=0.5, inner_lr=1e6), Rmp(epsilon=0.5), Sam(rho=0.5)], ids=repr)
def test_the_radius_holds_for_millions_of_weights(declared: Method) -> None:
    """Summed in float32, as torch's norm is on a CPU, it would be off by some 1e-3."""
    theta = nn.Parameter(torch.zeros(2**22))
    seen: list[float] = []

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = theta

        def forward(self, images: Tensor) -> Tensor:
            seen.append(self.theta.detach().double().norm().item())
            return images + self.theta.sum() * torch.tensor([1.0, 0.0])

    method = built(declared, noise())
    method.backward(Linear(), Examples(torch.zeros(3, 2), torch.tensor([1, 1, 0])))
    assert max(seen) == pytest.approx(0.5, rel=1e-6)


def test_the_offset_of_a_hundred_classes() -> None:
    method = build_method(LabelSmoothing(smoothing=0.2, spread="other_classes"), noise())
    labels = torch.arange(100)
    best = (0.8 * torch.eye(100) + 0.2 / 99 * (1 - torch.eye(100))).double().log()
    assert method.criterion(best, labels).item() == pytest.approx(1.419, abs=1e-3)


@pytest.mark.parametrize("level", [0.02, 10.0])
def test_flooding_turns_the_gradient_round_below_its_level(level: float) -> None:
    model, examples = network(), batch()
    loss = build_method(Flooding(level=level), noise()).backward(model, examples)
    plain = functional.cross_entropy(model(examples.images), examples.labels)
    assert loss.item() == pytest.approx(abs(plain.item() - level) + level, rel=1e-12)
    sign = 1 if plain.item() > level else -1
    torch.testing.assert_close(gradient(model), sign * gradient_of(model, plain), rtol=1e-12, atol=0)


def test_mixup_is_the_loss_of_mixed_examples_on_mixed_targets() -> None:
    model, examples = network(), batch()
    loss = build_method(MixUp(alpha=0.7), noise()).backward(model, examples)
    share, partner = MixUpMethod(MixUp(alpha=0.7), noise())._draw(EXAMPLES)
    column, hot = share.reshape(-1, 1), functional.one_hot(examples.labels, CLASSES).double()
    flat = examples.images.flatten(1)
    logits = model(column * flat + (1 - column) * flat[partner])
    expected = -((column * hot + (1 - column) * hot[partner]) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(model), gradient_of(model, expected), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixups_lambda_is_beta_distributed_and_its_partners_a_permutation(alpha: float) -> None:
    share, partner = MixUpMethod(MixUp(alpha=alpha), noise())._draw(100_000)
    assert sorted(partner.tolist()) == list(range(100_000))
    assert share.mean().item() == pytest.approx(0.5, abs=0.01)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_rmp_on_the_sphere_has_its_radius_and_is_new_each_time() -> None:
    method = RmpMethod(Rmp(epsilon=0.1), noise())
    theta: list[Tensor] = list(network().parameters())
    one, other = (torch.cat([delta.flatten() for delta in method.perturbation(theta)]) for _ in range(2))
    assert one.norm().item() == pytest.approx(0.1, rel=1e-12)
    assert other.norm().item() == pytest.approx(0.1, rel=1e-12)
    assert abs(torch.dot(one, other).item()) < 0.1**2 / 2


def test_rmp_in_the_box_has_a_norm_of_about_the_root_of_a_third_of_epsilon_in_each_tensor() -> None:
    method = RmpMethod(Rmp(epsilon=0.1, law="box"), noise())
    (delta,) = method.perturbation([torch.zeros(300, 300, dtype=torch.float64)])
    assert delta.abs().max().item() <= math.sqrt(0.1 / 90_000)
    assert delta.norm().item() == pytest.approx(math.sqrt(0.1 / 3), rel=0.01)


def test_rmps_gradient_is_taken_at_the_displaced_weights() -> None:
    model, examples = network(), batch()
    build_method(Rmp(epsilon=0.3), noise()).backward(model, examples)
    twin = network()
    theta: list[Tensor] = list(twin.parameters())
    with torch.no_grad():
        for parameter, delta in zip(theta, RmpMethod(Rmp(epsilon=0.3), noise()).perturbation(theta), strict=True):
            parameter.add_(delta)
    expected = gradient_of(twin, functional.cross_entropy(twin(examples.images), examples.labels))
    torch.testing.assert_close(gradient(model), expected, rtol=1e-12, atol=0)


def test_sam_by_hand() -> None:
    model, examples = network(), batch()
    build_method(Sam(rho=0.3), noise()).backward(model, examples)
    twin = network()
    ascent = gradient_of(twin, functional.cross_entropy(twin(examples.images), examples.labels))
    moved = weights(twin) + 0.3 * ascent / ascent.norm()
    nn.utils.vector_to_parameters(moved, twin.parameters())
    expected = gradient_of(twin, functional.cross_entropy(twin(examples.images), examples.labels))
    torch.testing.assert_close(gradient(model), expected, rtol=1e-9, atol=1e-14)


def dropout_by_hand(model: nn.Sequential, examples: Examples, rate: float) -> Tensor:
    """Logits of the network with its one ReLU's outputs dropped, scaled so that their mean stays."""
    flatten, first, relu, last = model
    active = relu(first(flatten(examples.images)))
    mask = torch.empty_like(active).bernoulli_(1 - rate, generator=noise())
    return last(active * mask / (1 - rate))  # type: ignore[no-any-return]


def test_dropout_by_hand_and_in_training_alone() -> None:
    method, model, examples = built(Dropout(rate=0.3), noise()), network(activation=nn.ReLU), batch()
    method.attach(model)
    loss = method.backward(model, examples)
    twin = network(activation=nn.ReLU)
    expected = functional.cross_entropy(dropout_by_hand(twin, examples, 0.3), examples.labels)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(model), gradient_of(twin, expected), rtol=1e-10, atol=1e-14)
    assert torch.equal(model.eval()(examples.images), twin.eval()(examples.images))
    assert list(model.state_dict()) == list(twin.state_dict())


def test_dropouts_rate_is_the_share_that_is_dropped_and_each_batch_draws_anew() -> None:
    model = nn.Sequential(nn.ReLU())
    built(Dropout(rate=0.1), noise()).attach(model)
    one, other = (model(torch.ones(100_000)) for _ in range(2))
    assert (one == 0).float().mean().item() == pytest.approx(0.1, abs=0.005)
    assert one.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert not torch.equal(one, other)


def test_dropout_refuses_a_network_without_a_place_for_it() -> None:
    with pytest.raises(ConfigError, match=r"Dropout.*no torch\.nn\.ReLU module"):
        built(Dropout(rate=0.1)).attach(network())


SCALE = PixelScale(torch.full((1, 1, 1, 1), 100.0), torch.full((1, 1, 1, 1), 50.0), levels=255)
RELEASED = AdversarialTraining(
    step=1.0, unit="normalized", start="random", gradient_mode="eval", clip="none", bn_stats="adversarial"
)


def dark(seed: int = 1) -> Examples:
    """Normalised images, with pixels at the lowest and at the highest level among them."""
    examples = batch(seed)
    levels = (examples.images * 90 + 128).clamp(0, 255)
    return Examples((levels - 100) / 50, examples.labels)


def adversarial(settings: AdversarialTraining) -> AdversarialTrainingMethod:
    return AdversarialTrainingMethod(settings, noise(), SCALE)


@pytest.mark.parametrize("step", [1.0, 8.0])
def test_fgsm_moves_each_pixel_by_a_step_of_levels_up_the_slope_and_stays_valid(step: float) -> None:
    model, examples = network(), dark()
    moved = adversarial(AdversarialTraining(step=step)).adversarial(model, examples)
    images = examples.images.clone().requires_grad_()
    slope = torch.autograd.grad(functional.cross_entropy(network()(images), examples.labels), images)[0]
    levels = examples.images * 50 + 100
    expected = (levels + step * slope.sign()).clamp(0, 255)
    torch.testing.assert_close(moved * 50 + 100, expected, rtol=0, atol=1e-4)
    assert ((expected == 0) | (expected == 255)).any()
    assert ((expected - levels).abs() < step - 1e-9).any()  # some are held back by the valid range


def test_the_network_is_trained_on_the_adversarial_images_alone() -> None:
    model, examples = network(), dark()
    method = adversarial(AdversarialTraining(step=3.0))
    method.backward(model, examples)
    twin = network()
    moved = adversarial(AdversarialTraining(step=3.0)).adversarial(twin, examples)
    expected = gradient_of(twin, functional.cross_entropy(twin(moved), examples.labels))
    torch.testing.assert_close(gradient(model), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("bn_stats", ["clean", "adversarial"])
def test_in_eval_mode_the_step_sees_the_statistics_before_this_batch(bn_stats: Any) -> None:
    settings = AdversarialTraining(step=8.0, gradient_mode="eval", bn_stats=bn_stats)
    model, examples = network(norm=True), dark()
    adversarial(settings).backward(model, examples)
    twin = network(norm=True)
    moved = adversarial(settings).adversarial(twin, examples)
    expected = gradient_of(twin, functional.cross_entropy(twin(moved), examples.labels))
    torch.testing.assert_close(gradient(model), expected, rtol=1e-9, atol=1e-14)


def test_as_released_the_step_is_of_normalised_units_from_a_random_start_and_unclipped() -> None:
    model, examples = network(norm=True), dark()
    moved = adversarial(RELEASED).adversarial(model, examples)
    radius = 1 / 255
    start = 2 * torch.rand(examples.images.shape, generator=noise()).double() - 1
    images = (examples.images + radius * start).requires_grad_()
    twin = network(norm=True).eval()
    slope = torch.autograd.grad(functional.cross_entropy(twin(images), examples.labels), images)[0]
    expected = (images.detach() + radius * slope.sign()).clamp(examples.images - radius, examples.images + radius)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-7)
    assert (moved * 50 + 100 > 255).any()
    assert model.training
    assert model[2].num_batches_tracked == 0


@pytest.mark.parametrize("scale", [None, SCALE._replace(levels=None)])
def test_adversarial_training_refuses_what_has_no_pixel_levels(scale: PixelScale | None) -> None:
    with pytest.raises(ConfigError, match="AdversarialTraining: needs images"):
        build_method(AdversarialTraining(step=1.0), noise(), scale)


@pytest.mark.parametrize("declared", [Amp(epsilon=10.0, inner_lr=0.1, inner_steps=2), Sam(rho=0.1), Rmp(epsilon=0.1)])
def test_every_pass_is_clipped_where_that_is_declared(declared: Method) -> None:
    """With a bound that no gradient reaches nothing changes; with a small one each pass has that norm."""

    def found(clip: ClipGradients | None) -> tuple[Tensor, float]:
        model = network()
        method = build_method(declared, noise(), clip=clip)
        method.backward(model, batch())
        return gradient(model), method.observations().get("amp/delta_norm", 0.0)

    free, norm = found(None)
    loose, _ = found(ClipGradients(max_norm=1e6, passes="every"))
    tight, clipped_norm = found(ClipGradients(max_norm=1e-3, passes="every"))
    outer, outer_norm = found(ClipGradients(max_norm=1e-3, passes="outer"))
    torch.testing.assert_close(loose, free, rtol=1e-12, atol=0)
    assert tight.norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert torch.equal(outer, free)  # the optimizer's gradient is the loop's to clip
    assert outer_norm == norm
    if isinstance(declared, Amp):
        assert clipped_norm == pytest.approx(2 * 0.1 * 1e-3, rel=1e-2)


def penalised(penalty: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of J + penalty(‖∇J‖²) by double differentiation."""
    model, examples = network(), batch()
    parameters = list(model.parameters())
    loss = functional.cross_entropy(model(examples.images), examples.labels)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    square = torch.stack([slope.square().sum() for slope in slopes]).sum()
    return gradient_of(model, loss + penalty(square))


def amp(epsilon: float, inner_lr: float) -> Tensor:
    model = network()
    build_method(Amp(epsilon=epsilon, inner_lr=inner_lr), noise()).backward(model, batch())
    return gradient(model)


@pytest.mark.parametrize("inside", [True, False], ids=["inside the ball", "on the ball"])
def test_theorem_2(inside: bool) -> None:
    """AMP's step is one on J + (ζ/2)‖∇J‖² inside the ball, on J + ε‖∇J‖ on it: what is left is of second order.

    The text lacks the factor ½; without it, what is left would be of first order.
    """

    def left(size: float, factor: float) -> float:
        if inside:
            rest = amp(1e9, size) - penalised(lambda square: factor * size * square)
        else:
            rest = amp(size, 1e9) - penalised(lambda square: 2 * factor * size * square.sqrt())
        return float(rest.norm())

    assert left(1e-3, 0.5) / left(5e-4, 0.5) == pytest.approx(4, rel=0.1)
    assert left(1e-3, 1.0) / left(5e-4, 1.0) == pytest.approx(2, rel=0.1)

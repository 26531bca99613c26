"""Probes against their definitions, computed another way, in float64 where numbers are compared closely."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tests.trainer.reference import algorithm_1, balls_of, example_losses, flat, mean_loss
from tests.trainer.trials import BN_MLP, search_trial, tiny
from trainer.config import Mlp, TrialConfig, TwoSpirals
from trainer.data.pixels import PixelScale
from trainer.data.splits import Examples, Subset
from trainer.declaration import ConfigError
from trainer.loop import Diverged, train
from trainer.machine import Machine
from trainer.measurement import Measurement, load_measurement
from trainer.metrics import classification_metrics
from trainer.probe_config import (
    PROBE_REVISION,
    AmpLoss,
    Calibration,
    DecisionBoundary,
    Hessian,
    LossAlongDirections,
    Probe,
    Sharpness,
)
from trainer.probes.calibration import reliability
from trainer.probes.directions import filter_normalised
from trainer.probes.measure import measure
from trainer.probes.risk import predict, risk
from trainer.trained import TrainedModel, load_trained

SMALL = 40
"""Examples for references that take one at a time."""

PROBES: tuple[Probe, ...] = (
    Sharpness(radii=(0.01, 0.1)),
    AmpLoss(radii=(0.01, 0.1), inner_steps=2),
    Hessian(examples=SMALL, trace_samples=3),
    LossAlongDirections(directions=2, points=3),
    DecisionBoundary(points=7),
    Calibration(),
)


def kind(value: object) -> str:
    return type(value).__name__


def trained_by(trial: TrialConfig, machine: Machine, path: Path) -> TrainedModel:
    list(train(trial, machine, path))
    return load_trained(trial, machine, path)


@pytest.fixture
def trained(machine: Machine, path: Path) -> TrainedModel:
    """A small network with BatchNorm, after three epochs."""
    return trained_by(tiny(model=BN_MLP), machine, path)


@pytest.fixture
def exact(machine: Machine, path: Path) -> TrainedModel:
    """A smaller one in float64, normalised inputs included."""
    return in_double(trained_by(tiny(model=Mlp(hidden=(4,), norm="batch")), machine, path))


def in_double(trained: TrainedModel) -> TrainedModel:
    scale = trained.data.scale
    exact_scale = PixelScale(scale.mean.double(), scale.std.double(), scale.levels)
    return dataclasses.replace(trained, model=trained.model.double(), data=trained.data._replace(scale=exact_scale))


def convolutional(trained: TrainedModel) -> TrainedModel:
    """The same data with a convolutional network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return dataclasses.replace(trained, model=nn.Sequential(*layers, nn.Linear(3, 10)))


def images_of(subset: Subset, scale: PixelScale) -> Tensor:
    return (subset.stored.images[subset.index] - scale.mean) / scale.std


def loss_at(trained: TrainedModel, examples: int | None = None) -> Callable[[Tensor], Tensor]:
    """L on the training images, all in one batch, as a function of the flat weights."""
    subset, scale, _ = trained.sample("train", examples)
    images, labels, model = images_of(subset, scale), subset.labels, trained.model.eval()

    def loss(weights: Tensor) -> Tensor:
        names, parameters = zip(*model.named_parameters(), strict=True)
        pieces = torch.split(weights, [parameter.numel() for parameter in parameters])
        named = {n: piece.view_as(p) for n, piece, p in zip(names, pieces, parameters, strict=True)}
        return functional.cross_entropy(functional_call(model, named, (images,)), labels)

    return loss


@pytest.mark.parametrize("examples", [None, SMALL])
def test_sharpness_is_the_rise_of_the_loss_along_the_gradient(exact: TrainedModel, examples: int | None) -> None:
    found = measure(Sharpness(radii=(0.05, 0.5), examples=examples), exact)
    loss, theta = loss_at(exact, examples), flat(exact.model)
    point = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    rises = [(loss(theta + rho * gradient / gradient.norm()) - loss(theta)).item() for rho in (0.05, 0.5)]
    assert min(rises) > 1e-3
    assert list(found.metrics) == ["probe/sharpness/0.05", "probe/sharpness/0.5"]
    assert list(found.metrics.values()) == pytest.approx(rises, rel=1e-9)
    assert found.arrays["sharpness"].tolist() == list(found.metrics.values())
    assert found.arrays["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-9)
    assert found.arrays["loss"] == pytest.approx(loss(theta).item(), rel=1e-12)


@pytest.mark.parametrize("ball", ["global", "per_tensor"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_amp_loss_is_that_of_algorithm_1(exact: TrainedModel, ball: Any, steps: int) -> None:
    radii = (0.02, 0.2, 20.0)
    probe = AmpLoss(radii=radii, inner_lr=0.3, inner_steps=steps, ball=ball, examples=SMALL)
    found = measure(probe, exact)
    subset, scale, _ = exact.sample("train", SMALL)
    losses, theta = example_losses(exact.model.eval(), images_of(subset, scale), subset.labels), flat(exact.model)
    for place, epsilon in enumerate(radii):
        outcome = algorithm_1(losses, theta, balls_of(exact.model, ball), epsilon=epsilon, zeta=0.3, steps=steps)
        expected = mean_loss(losses, theta + outcome.delta)
        assert found.metrics[f"probe/amp_loss/{epsilon:g}"] == pytest.approx(expected, rel=1e-9)
        assert found.arrays["amp_loss"][place] == pytest.approx(expected, rel=1e-9)
        assert found.arrays["delta_norm"][place] == pytest.approx(outcome.delta.norm().item(), rel=1e-9)
        assert found.arrays["clip_fraction"][place] == pytest.approx(sum(outcome.clips) / len(outcome.clips))
    assert found.arrays["clip_fraction"][-1] == 0 < found.arrays["clip_fraction"][0]
    assert found.arrays["loss"] == pytest.approx(mean_loss(losses, theta), rel=1e-9)


def test_the_amp_loss_sums_over_all_images(exact: TrainedModel) -> None:
    """400 images are two chunks; with one step on the sphere AMP's Δ is SAM's."""
    theta, loss = flat(exact.model), loss_at(exact)
    point = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    found = measure(AmpLoss(radii=(0.1,), inner_lr=1e3), exact)
    expected = loss(theta + 0.1 * gradient / gradient.norm()).item()
    assert found.metrics["probe/amp_loss/0.1"] == pytest.approx(expected, rel=1e-9)


@pytest.fixture
def matrix(exact: TrainedModel) -> Tensor:
    """The whole Hessian of the loss on all training images."""
    rows = torch.autograd.functional.hessian(loss_at(exact), flat(exact.model), vectorize=True)  # type: ignore[no-untyped-call]
    assert isinstance(rows, Tensor)
    return rows


def test_the_hessian_is_the_matrix_of_second_derivatives(exact: TrainedModel, matrix: Tensor) -> None:
    probe = Hessian(examples=None, trace_samples=60, tolerance=1e-8)
    found = measure(probe, exact)
    largest = torch.linalg.eigvalsh(matrix)[-1].item()
    assert found.metrics["probe/hessian/largest_eigenvalue"] == pytest.approx(largest, rel=1e-6)
    assert found.arrays["eigenvalue"] == found.metrics["probe/hessian/largest_eigenvalue"]
    samples, trace = found.arrays["trace_samples"], torch.trace(matrix).item()
    off_diagonal = matrix - torch.diag(torch.diag(matrix))
    deviation = math.sqrt(2) * off_diagonal.norm().item()  # of zᵀHz for random signs
    assert len(samples) == 60
    assert found.metrics["probe/hessian/trace"] == pytest.approx(samples.mean(), rel=1e-12)
    assert abs(samples.mean() - trace) < 3 * deviation / math.sqrt(60) < trace / 2
    assert 0.5 * deviation < samples.std() < 2 * deviation


def test_each_sample_of_the_trace_is_a_quadratic_form_in_signs(exact: TrainedModel, matrix: Tensor) -> None:
    samples = measure(Hessian(examples=None, trace_samples=3, seed=5), exact).arrays["trace_samples"]
    source = torch.Generator().manual_seed(5)
    for sample in samples:
        signs = torch.empty(len(matrix), dtype=torch.float64).bernoulli_(0.5, generator=source) * 2 - 1
        assert sample == pytest.approx((signs @ matrix @ signs).item(), rel=1e-9)


def test_in_float32_the_hessian_is_near_that_in_float64(machine: Machine, path: Path) -> None:
    trained, probe = trained_by(tiny(model=BN_MLP), machine, path), Hessian(examples=100, trace_samples=4)
    single = measure(probe, trained)
    double = measure(probe, in_double(trained))
    assert single.metrics == pytest.approx(double.metrics, rel=5e-3)


def test_the_hessian_of_convolutions_in_either_memory_format(trained: TrainedModel) -> None:
    plain = convolutional(trained)
    found = measure(Hessian(examples=SMALL, trace_samples=3), plain)
    last = dataclasses.replace(plain, model=plain.model.to(memory_format=torch.channels_last))
    assert measure(Hessian(examples=SMALL, trace_samples=3), last).metrics == pytest.approx(found.metrics, rel=1e-3)
    weights = flat(plain.model)
    second = torch.autograd.functional.hessian(loss_at(plain, SMALL), weights, vectorize=True)  # type: ignore[no-untyped-call]
    largest = torch.linalg.eigvalsh(second)[-1].item()
    assert found.metrics["probe/hessian/largest_eigenvalue"] == pytest.approx(largest, rel=2e-3)


def with_activation(trained: TrainedModel, first: nn.Module, second: nn.Module) -> TrainedModel:
    """The same data with another network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(first, nn.Flatten(), nn.Linear(64, 8), second, nn.Linear(8, 10))
    return dataclasses.replace(trained, model=model)


def test_the_hessian_of_a_network_that_changes_its_input(trained: TrainedModel) -> None:
    probe = Hessian(examples=SMALL, trace_samples=3)
    one, other = (with_activation(trained, nn.ReLU(inplace=inplace), nn.ReLU(inplace)) for inplace in (True, False))
    assert measure(probe, one).metrics == measure(probe, other).metrics


class Remembering(nn.Module):
    """Keeps what cannot be kept while it is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        assert isinstance(self.largest, Tensor)
        self.largest.copy_(inputs.max())
        return inputs


@pytest.mark.parametrize(("layer", "why"), [(nn.SiLU(), "silu_backward"), (Remembering(), "in-place")])
def test_a_network_without_a_second_derivative_is_refused(trained: TrainedModel, layer: nn.Module, why: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"Hessian: torch cannot differentiate this .*{why}.*: leave it out"
    ) as error:
        measure(Hessian(examples=SMALL), with_activation(trained, nn.Identity(), layer))
    assert "\n" not in str(error.value)


def test_another_error_of_a_network_is_its_own(trained: TrainedModel) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        measure(Hessian(examples=SMALL), with_activation(trained, nn.Identity(), nn.Linear(3, 8)))


@pytest.fixture
def hard(exact: TrainedModel) -> TrainedModel:
    """Images of noise, and a network that tells no class from another: no eigenvalue stands out."""
    noise = torch.randint(256, (400, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    subset = Subset(Examples(noise, torch.arange(400) % 10), torch.arange(400))
    linear = nn.Linear(64, 10).double()
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    mean, std = torch.tensor([127.5, 74.0], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
    scale = PixelScale(mean, std, 255)
    model, data = nn.Sequential(nn.Flatten(), linear), exact.data._replace(train=subset, scale=scale)
    return dataclasses.replace(exact, model=model, data=data)


def test_lanczos_that_does_not_converge_says_what_to_change(hard: TrainedModel) -> None:
    with pytest.raises(ConfigError, match=r"Hessian.iterations = 1: must be more"):
        measure(Hessian(examples=None, iterations=1, tolerance=1e-12), hard)


def test_lanczos_starts_from_the_seed(hard: TrainedModel) -> None:
    """Seen where it ends far from the eigenvalue."""
    one, again, other = (
        measure(Hessian(examples=None, trace_samples=2, tolerance=0.9, seed=seed), hard).arrays["eigenvalue"].item()
        for seed in (0, 0, 1)
    )
    assert one == again
    assert one == pytest.approx(other, rel=0.3)
    assert abs(one / other - 1) > 1e-9


def test_filters_of_a_direction_have_the_norms_of_the_model(trained: TrainedModel) -> None:
    theta = list(convolutional(trained).model.parameters())
    direction = filter_normalised(theta, torch.Generator().manual_seed(3))
    assert [tensor.shape for tensor in direction] == [tensor.shape for tensor in theta]
    for moved, weights in zip(direction, theta, strict=True):
        if weights.ndim == 1:
            assert not moved.any()
        for own, other in zip(moved, weights, strict=True):
            assert weights.ndim == 1 or own.norm().item() == pytest.approx(other.norm().item(), rel=1e-5)
    raw = torch.randn(theta[0].shape, generator=torch.Generator().manual_seed(3))
    cosines = functional.cosine_similarity(direction[0].flatten(1), raw.flatten(1))
    assert cosines.tolist() == pytest.approx([1.0] * 3, rel=1e-5)


def test_a_filter_without_weights_is_not_moved() -> None:
    weights = torch.ones(2, 3)
    weights[0] = 0
    (direction,) = filter_normalised([weights], torch.Generator().manual_seed(0))
    assert direction[0].tolist() == [0, 0, 0]
    assert direction[1].norm() > 1


def test_loss_along_directions(exact: TrainedModel) -> None:
    probe = LossAlongDirections(directions=3, extent=0.8, points=5, seed=2)
    found = measure(probe, exact)
    assert found.arrays["alphas"].tolist() == pytest.approx([-0.8, -0.4, 0.0, 0.4, 0.8])
    assert found.arrays["alphas"][2] == 0.0
    source, theta, loss = torch.Generator().manual_seed(2), list(exact.model.parameters()), loss_at(exact)
    for curve in found.arrays["train/loss"]:
        step = torch.cat([tensor.flatten() for tensor in filter_normalised(theta, source)])
        expected = [loss(flat(exact.model) + alpha * step).item() for alpha in found.arrays["alphas"].tolist()]
        assert curve.tolist() == pytest.approx(expected, rel=1e-9)
    for part in ("train", "test"):
        curves = found.arrays[f"{part}/loss"]
        rise = (curves[:, 0] + curves[:, 4]).mean() / 2 - curves[:, 2].mean()
        assert found.metrics[f"probe/directions/{part}/rise"] == pytest.approx(rise, rel=1e-9)
    assert set(found.metrics) == {"probe/directions/train/rise", "probe/directions/test/rise"}


def test_the_middle_of_a_direction_is_the_model(machine: Machine, path: Path) -> None:
    trial = tiny(model=BN_MLP)
    last = list(train(trial, machine, path))[-1].metrics
    found = measure(LossAlongDirections(directions=2, points=3), load_trained(trial, machine, path))
    for part in ("train", "test"):
        assert found.arrays[f"{part}/loss"][:, 1].tolist() == pytest.approx([last[f"{part}/nll"]] * 2, rel=1e-12)


def test_directions_may_be_measured_on_some_images(exact: TrainedModel) -> None:
    found = measure(LossAlongDirections(directions=1, points=3, examples=SMALL), exact)
    exact.model.eval()
    for part in ("train", "test"):
        expected = risk(exact.model, exact.sample(part, SMALL))
        assert found.arrays[f"{part}/loss"][0, 1] == expected != risk(exact.model, exact.sample(part))


def test_models_of_one_architecture_share_directions_and_images(machine: Machine, path: Path) -> None:
    """Up to the norms of their filters."""
    one, other = (trained_by(tiny(seed=seed, model=BN_MLP), machine, path.with_name(f"{seed}.pt")) for seed in (0, 1))
    first, second = (
        filter_normalised(list(model.parameters()), torch.Generator().manual_seed(0))
        for model in (one.model, other.model)
    )
    assert not torch.equal(first[0], second[0])
    cosines = functional.cosine_similarity(first[0], second[0])
    assert cosines.tolist() == pytest.approx([1.0] * len(cosines), rel=1e-5)
    assert torch.equal(one.sample("train", 50).subset.index, other.sample("train", 50).subset.index)


def test_calibration_reproduces_the_trials_own_ece(machine: Machine, path: Path) -> None:
    trial = tiny(model=BN_MLP)
    last = list(train(trial, machine, path))[-1].metrics
    found = measure(Calibration(), load_trained(trial, machine, path))
    count, gap = found.arrays["test/count"], found.arrays["test/accuracy"] - found.arrays["test/confidence"]
    assert count.sum() == 1197
    assert found.metrics["probe/calibration/test/ece"] == pytest.approx(last["test/ece"], abs=1e-13)
    assert np.nansum(count / 1197 * np.abs(gap)) == pytest.approx(last["test/ece"], abs=1e-13)
    assert (count * np.nan_to_num(found.arrays["test/accuracy"])).sum() / 1197 == pytest.approx(1 - last["test/error"])
    assert found.metrics["probe/calibration/test/mce"] == pytest.approx(np.nanmax(np.abs(gap)), abs=1e-13)
    assert found.arrays["edges"].tolist() == pytest.approx([place / 15 for place in range(16)])
    assert np.isnan(gap[count == 0]).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 6), st.floats(0.1, 30))
def test_bins_add_up_to_ece_and_lie_between_their_edges(seed: int, examples: int, classes: int, size: float) -> None:
    source = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(examples, classes, generator=source)
    labels = torch.randint(classes, (examples,), generator=source)
    count, confidence, accuracy = reliability(logits, labels, 15)
    assert count.sum() == examples
    full = count > 0
    ece = (count[full] * np.abs(accuracy[full] - confidence[full])).sum() / examples
    assert ece == pytest.approx(classification_metrics(logits, labels).ece, abs=1e-12)
    lower = np.arange(15)[full] / 15
    assert (confidence[full] >= lower - 1e-12).all()
    assert (confidence[full] <= lower + 1 / 15 + 1e-12).all()


def test_bins_of_another_number() -> None:
    logits = torch.tensor([[0.55, 0.45], [0.95, 0.05], [0.05, 0.95]], dtype=torch.float64).log()
    count, confidence, accuracy = reliability(logits, torch.tensor([0, 1, 1]), 4)
    assert count.tolist() == [0, 0, 1, 2]
    assert confidence[2:].tolist() == pytest.approx([0.55, 0.95])
    assert accuracy[2:].tolist() == [1.0, 0.5]


def test_the_boundary_in_the_plane_of_the_points(machine: Machine, path: Path) -> None:
    trial = tiny(model=BN_MLP, dataset=TwoSpirals())
    trained = in_double(trained_by(trial, machine, path))
    found = measure(DecisionBoundary(points=11, margin=0.1), trained)
    subset, scale, _ = trained.sample("train")
    points = subset.stored.images[subset.index].reshape(-1, 2).double()
    assert found.arrays["anchors"].tolist() == points.tolist()
    assert found.arrays["anchor_labels"].tolist() == subset.labels.tolist()
    for axis, name in enumerate("uv"):
        low, high = points[:, axis].min().item(), points[:, axis].max().item()
        ends = [low - 0.1 * (high - low), high + 0.1 * (high - low)]
        assert found.arrays[name][[0, -1]].tolist() == pytest.approx(ends)
        assert np.ptp(np.diff(found.arrays[name])) < 1e-12
    for row, column in ((0, 0), (3, 8), (10, 2)):
        place = torch.tensor([[found.arrays["u"][column], found.arrays["v"][row]]]).reshape(1, 2, 1, 1)
        logits = trained.model.eval()((place.float() - scale.mean) / scale.std)[0]
        assert found.arrays["class"][row, column] == logits.argmax().item()
        margin = (logits.max() - logits.min()).item()
        assert found.arrays["margin"][row, column] == pytest.approx(margin, rel=1e-9)
    assert_changes(found)


def assert_changes(found: Measurement) -> None:
    """The share of differing neighbours, counted one pair after the other."""
    grid = found.arrays["class"]
    rows, columns = grid.shape
    pairs = [(grid[r, c], grid[r, c + 1]) for r in range(rows) for c in range(columns - 1)]
    pairs += [(grid[r, c], grid[r + 1, c]) for r in range(rows - 1) for c in range(columns)]
    share = sum(one != other for one, other in pairs) / len(pairs)
    assert 0 < share == pytest.approx(found.metrics["probe/boundary/changes"])


def test_the_boundary_in_the_plane_of_three_images(exact: TrainedModel) -> None:
    found = measure(DecisionBoundary(points=41, margin=0.0, seed=4), exact)
    anchors, labels = found.arrays["anchors"], found.arrays["anchor_labels"]
    assert len(set(labels.tolist())) == 3
    assert anchors[0].tolist() == [0.0, 0.0]
    assert anchors[1, 1] == pytest.approx(0, abs=1e-9)
    assert anchors[1, 0] > 0 < anchors[2, 1]
    images = exact.data.train.stored.images[exact.data.train.index].flatten(1).double()
    distances = torch.cdist(images, images)
    sides = [float(np.linalg.norm(anchors[i] - anchors[j])) for i, j in ((0, 1), (0, 2), (1, 2))]
    (first, second) = ((distances - side).abs() < 1e-9 for side in sides[:2])
    corners = [i for i in range(len(images)) if first[i].any() and second[i].any()]
    assert corners, "no training image has these distances to two others"
    assert_changes(found)


def test_an_anchor_on_the_grid_is_predicted_as_its_image(exact: TrainedModel) -> None:
    """With no margin the second image is a corner of the box or lies on its lower edge, at u's end where it is."""
    for seed in range(20):
        found = measure(DecisionBoundary(points=5, margin=0.0, seed=seed), exact)
        if found.arrays["u"][-1] == pytest.approx(found.arrays["anchors"][1, 0]):
            break
    else:
        pytest.fail("no seed puts the second image at the corner")
    order = np.random.RandomState(seed).permutation(len(exact.data.train))
    labels = exact.data.train.labels.numpy()[order]
    firsts = sorted(list(labels).index(label) for label in set(labels.tolist()))
    place = exact.data.train.index[order[firsts[1]]]
    image = exact.data.train.stored.images[place].unsqueeze(0)
    logits = exact.model.eval()((image - exact.data.scale.mean) / exact.data.scale.std)[0]
    assert found.arrays["class"][0, -1] == logits.argmax().item()
    first, second = logits.topk(2).values.tolist()
    assert found.arrays["margin"][0, -1] == pytest.approx(first - second, abs=1e-4)


def test_images_on_a_line_are_refused(trained: TrainedModel) -> None:
    train_part = trained.data.train
    same = Subset(train_part.stored, train_part.index[:1].repeat(5))
    with pytest.raises(ConfigError, match="lie on a line"):
        measure(DecisionBoundary(), dataclasses.replace(trained, data=trained.data._replace(train=same)))


def state_of(trained: TrainedModel) -> list[Any]:
    tensors = [*trained.model.state_dict().values(), torch.get_rng_state(), trained.data.train.stored.images]
    numbers = [tensor.clone() for tensor in tensors]
    modes = [module.training for module in trained.model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in trained.model.parameters()]
    return [numbers, modes, gradients, np.random.get_state(legacy=False)]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return equal(list(one.values()), list(other.values()))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize("probe", PROBES, ids=kind)
def test_the_model_and_the_callers_random_state_are_left_as_they_were(trained: TrainedModel, probe: Probe) -> None:
    for variant in (trained, convolutional(trained)):
        variant.model.train()
        list(variant.model.children())[1].eval()
        next(variant.model.parameters()).grad = torch.ones_like(next(variant.model.parameters()))
        before = state_of(variant)
        measure(probe, variant)
        assert equal(state_of(variant), before)


@pytest.mark.parametrize("probe", PROBES, ids=kind)
def test_the_same_numbers_each_time_whatever_was_drawn_before(trained: TrainedModel, probe: Probe) -> None:
    one = measure(probe, trained)
    torch.rand(3)
    trained.model.train()
    other = measure(probe, trained)
    assert dict(one.metrics) == dict(other.metrics)
    assert one.arrays.keys() == other.arrays.keys()
    assert all(np.array_equal(one.arrays[name], other.arrays[name], equal_nan=True) for name in one.arrays)


@pytest.mark.parametrize("probe", [probe for probe in PROBES if hasattr(probe, "seed")], ids=kind)
def test_another_seed_measures_something_else(trained: TrainedModel, probe: Any) -> None:
    one, other = measure(probe, trained), measure(dataclasses.replace(probe, seed=1), trained)
    assert any(not np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


@pytest.mark.parametrize("probe", PROBES, ids=kind)
def test_metrics_are_numbers_under_probe(trained: TrainedModel, probe: Probe) -> None:
    found = measure(probe, trained)
    assert found.metrics
    assert all(name.startswith("probe/") and type(value) is float for name, value in found.metrics.items())
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fi" for array in found.arrays.values())


@pytest.mark.parametrize("probe", PROBES, ids=kind)
def test_a_search_trial_is_probed_without_its_test_set(machine: Machine, path: Path, probe: Probe) -> None:
    trained = trained_by(search_trial(), machine, path)
    assert trained.data.test is None
    found = measure(probe, trained)
    assert not [name for name in [*found.metrics, *found.arrays] if "test" in name.split("/")]
    if isinstance(probe, Calibration | LossAlongDirections):
        assert any("val" in name.split("/") for name in found.metrics)


def test_a_sample_has_every_class_in_proportion(trained: TrainedModel) -> None:
    labels = trained.sample("train", 100).subset.labels
    shares = torch.bincount(trained.data.train.labels) / len(trained.data.train) * 100
    assert (torch.bincount(labels) - shares).abs().max() <= 1
    assert trained.sample("train", 10**6).size == trained.sample("train").size == 400


def test_a_bfloat16_trial_is_probed_in_float32(machine: Machine, path: Path) -> None:
    trained = trained_by(tiny(precision="bfloat16"), machine, path)
    subset, scale, _ = trained.sample("test")
    images = images_of(subset, scale)
    logits = nn.Sequential(*trained.model.children())(images)
    assert torch.allclose(predict(trained.model.eval(), trained.sample("test"))[0], logits, atol=1e-5)


def test_a_missing_or_damaged_checkpoint_is_refused_in_one_line(machine: Machine, path: Path) -> None:
    assert_refused(tiny(), machine, path, "no checkpoint of trial")
    path.parent.mkdir()
    path.write_bytes(b"nonsense")
    assert_refused(tiny(), machine, path, "lost or damaged")


def test_a_trial_of_another_revision_is_refused(machine: Machine, path: Path) -> None:
    with pytest.raises(ConfigError, match=r"TrialConfig.revision = 99"):
        load_trained(tiny(revision=99), machine, path)


def test_a_diverged_trial_is_refused(machine: Machine, path: Path) -> None:
    trial = tiny(lr=1e30)
    with pytest.raises(Diverged):
        list(train(trial, machine, path))
    assert_refused(trial, machine, path, r"is not finished \(diverged\)")


def assert_refused(trial: TrialConfig, machine: Machine, path: Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_trained(trial, machine, path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_an_earlier_epoch_is_refused(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loop.CHECKPOINT_EVERY_SECONDS", 0.0)
    records = train(tiny(), machine, path)
    next(records)
    records.close()  # type: ignore[attr-defined]
    assert_refused(tiny(), machine, path, r"is not finished \(1 of 3 epochs\)")


def test_another_trials_checkpoint_is_refused(machine: Machine, path: Path) -> None:
    list(train(tiny(), machine, path))
    assert_refused(tiny(seed=1), machine, path, "holds trial")


def test_the_loaded_model_is_the_final_one(machine: Machine, path: Path) -> None:
    trial = tiny(model=BN_MLP)
    last = list(train(trial, machine, path))[-1].metrics
    trained = load_trained(trial, machine, str(path))
    trained.model.eval()
    found = classification_metrics(*predict(trained.model, trained.sample("test")))
    assert (found.error, found.nll, found.ece) == (last["test/error"], last["test/nll"], last["test/ece"])
    assert risk(trained.model, trained.sample("train")) == pytest.approx(last["train/nll"], rel=1e-12)


def test_a_measurement_survives_its_file(path: Path) -> None:
    metrics = {"probe/a/1": 1 / 3, "probe/b": math.inf}
    arrays = {"train/loss": np.arange(6.0).reshape(2, 3), "n": np.array(3)}
    Measurement(metrics, arrays).save(path, PROBES[0])
    found = load_measurement(path)
    assert found is not None
    assert found.metrics == metrics
    assert found.finite_metrics() == {"probe/a/1": 1 / 3}
    assert found.arrays.keys() == arrays.keys()
    assert all(np.array_equal(found.arrays[name], arrays[name]) for name in arrays)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [None, b"", b"nonsense", "cut"])
def test_what_cannot_be_read_was_not_measured(path: Path, content: bytes | str | None) -> None:
    if content is not None:
        Measurement({"probe/a": 1.0}, {"a": np.arange(100.0)}).save(path, PROBES[0])
        path.write_bytes(path.read_bytes()[:-30] if isinstance(content, str) else content)
    assert load_measurement(path) is None


BAD: Sequence[tuple[Callable[[], Probe], str]] = [
    (lambda: Sharpness(radii=()), "Sharpness.radii = ()"),
    (lambda: Sharpness(radii=(0.0,)), "Sharpness.radii = (0.0,): must be one or more, each > 0"),
    (lambda: Sharpness(radii=(0.2, 0.1)), "rising"),
    (lambda: Sharpness(radii=(0.1,), examples=0), "Sharpness.examples = 0: must be >= 1 (None for all)"),
    (lambda: Sharpness(radii=(0.1, 0.1000001)), "must be numbers that differ in their first six digits"),
    (lambda: AmpLoss(radii=(-1.0,)), "AmpLoss.radii"),
    (lambda: AmpLoss(radii=(1.0,), inner_lr=0), "AmpLoss.inner_lr = 0.0: must be > 0"),
    (lambda: AmpLoss(radii=(1.0,), inner_steps=0), "AmpLoss.inner_steps"),
    (lambda: AmpLoss(radii=(1.0,), ball="box"), "AmpLoss.ball"),  # type: ignore[arg-type]
    (lambda: AmpLoss(radii=(1.0,), examples=-1), "AmpLoss.examples"),
    (lambda: Hessian(examples=0), "Hessian.examples"),
    (lambda: Hessian(examples=1, trace_samples=1), "Hessian.trace_samples"),
    (lambda: Hessian(examples=1, iterations=0), "Hessian.iterations"),
    (lambda: Hessian(examples=1, tolerance=0), "Hessian.tolerance"),
    (lambda: Hessian(examples=1, seed=-1), "Hessian.seed"),
    (lambda: LossAlongDirections(directions=0), "LossAlongDirections.directions"),
    (lambda: LossAlongDirections(extent=0), "LossAlongDirections.extent"),
    (lambda: LossAlongDirections(points=4), "LossAlongDirections.points"),
    (lambda: LossAlongDirections(examples=0), "LossAlongDirections.examples"),
    (lambda: LossAlongDirections(seed=2**32), "LossAlongDirections.seed"),
    (lambda: DecisionBoundary(points=1), "DecisionBoundary.points"),
    (lambda: DecisionBoundary(margin=-0.1), "DecisionBoundary.margin"),
    (lambda: DecisionBoundary(seed=-1), "DecisionBoundary.seed"),
    (lambda: Calibration(bins=0), "Calibration.bins"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_declarations_are_refused_in_one_line(make: Callable[[], Probe], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_probe_has_an_identity_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Hessian(examples=100)
    assert probe.probe_id == Hessian(examples=100.0).probe_id  # type: ignore[arg-type]
    others = [Hessian(examples=101), Hessian(examples=100, seed=1), Sharpness(radii=(1,)), AmpLoss(radii=(1,))]
    ids = {other.probe_id for other in [probe, *others]}
    assert len(ids) == 5
    assert (probe.params()["probe"], probe.params()["revision"]) == ("Hessian", PROBE_REVISION)
    monkeypatch.setattr("trainer.probe_config.PROBE_REVISION", PROBE_REVISION + 1)
    assert probe.probe_id not in ids

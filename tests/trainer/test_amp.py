from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer import reference
from trainer.config import Amp, Erm
from trainer.data.splits import Examples
from trainer.methods.amp import AmpMethod, amp_gradient, amp_step
from trainer.methods.base import gradients
from trainer.methods.registry import build_method

Ball = Literal["global", "per_tensor"]
BALLS: tuple[Ball, Ball] = ("global", "per_tensor")
CLASSES = 3
every_ball = pytest.mark.parametrize("ball", BALLS)
every_n = pytest.mark.parametrize("n", [1, 2, 3])


def smooth_network(seed: int = 0, *, norm: nn.Module | None = None) -> nn.Sequential:
    """Without kinks, so that two ways of computing stay together; in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = [norm] if norm is not None else []
        layers = [nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, CLASSES)]
        return nn.Sequential(*layers).double()


def batch(seed: int = 0, size: int = 6) -> Examples:
    source = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 4, generator=source, dtype=torch.float64)
    return Examples(images, torch.randint(CLASSES, (size,), generator=source))


def loss_of(model: nn.Module, examples: Examples) -> Callable[[], Tensor]:
    return lambda: functional.cross_entropy(model(examples.images), examples.labels)


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """What lies in ``.grad``, as copies."""
    found = [parameter.grad for parameter in parameters]
    return [gradient.clone() for gradient in found if gradient is not None]


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Bit for bit."""
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# ---- Algorithm 1


@every_ball
@every_n
@pytest.mark.parametrize(("epsilon", "zeta"), [(1e-3, 1.0), (0.05, 0.3), (0.4, 1.0), (0.5, 2.0), (50.0, 0.5)])
def test_equals_algorithm_1(ball: Ball, n: int, epsilon: float, zeta: float) -> None:
    model, examples = smooth_network(), batch()
    losses, theta = reference.example_losses(model, *examples), reference.flat(model)
    expected = reference.algorithm_1(
        losses, theta, reference.balls_of(model, ball), epsilon=epsilon, zeta=zeta, steps=n
    )
    loss = amp_gradient(
        loss_of(model, examples), model.parameters(), epsilon=epsilon, inner_lr=zeta, inner_steps=n, ball=ball
    )
    assert_near(reference.flat_gradient(model), expected.gradient)
    assert loss.item() == pytest.approx(reference.mean_loss(losses, theta), rel=1e-12, abs=1e-12)


@every_ball
@pytest.mark.parametrize(("epsilon", "clipped"), [(1e-3, {True}), (0.5, {True, False}), (50.0, {False})])
def test_reference_cases_reach_idle_and_active_clips(ball: Ball, epsilon: float, clipped: set[bool]) -> None:
    """Guards the test above: its radii lie below, among and above what the ascent reaches; the shares agree."""
    model, examples = smooth_network(), batch()
    expected = reference.algorithm_1(
        reference.example_losses(model, *examples),
        reference.flat(model),
        reference.balls_of(model, ball),
        epsilon=epsilon,
        zeta=0.4,
        steps=3,
    )
    step = amp_step(
        loss_of(model, examples), model.parameters(), Amp(epsilon=epsilon, inner_lr=0.4, inner_steps=3, ball=ball)
    )
    assert set(expected.clips) == clipped
    assert step.clip_fraction.item() == pytest.approx(sum(expected.clips) / len(expected.clips))
    assert step.delta_norm.item() == pytest.approx(expected.delta.norm().item(), rel=1e-12)


@every_ball
@pytest.mark.parametrize(("n", "epsilon"), [(1, 0.05), (2, 0.5)])
def test_twenty_steps_of_sgd_equal_algorithm_1(ball: Ball, n: int, epsilon: float) -> None:
    model, rate, momentum = smooth_network(), 0.2, 0.9
    theta, velocity = reference.flat(model), torch.zeros_like(reference.flat(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    for number in range(20):
        examples = batch(seed=number, size=4)
        losses, balls = reference.example_losses(model, *examples), reference.balls_of(model, ball)
        found = reference.algorithm_1(losses, theta, balls, epsilon=epsilon, zeta=1.0, steps=n)
        velocity = momentum * velocity + found.gradient
        theta = theta - rate * velocity  # line 13
        amp_gradient(
            loss_of(model, examples), model.parameters(), epsilon=epsilon, inner_lr=1.0, inner_steps=n, ball=ball
        )
        optimizer.step()
        assert_near(reference.flat(model), theta)


@pytest.mark.parametrize(("epsilon", "zeta"), [(1e3, 0.1), (0.01, 1.0)], ids=["inside the ball", "on the ball"])
def test_quadratic_has_the_closed_form(epsilon: float, zeta: float) -> None:
    """J = θᵀHθ/2: the gradient is H(θ + ζHθ) inside the ball and H(θ + ε·Hθ/‖Hθ‖) on it."""
    hessian = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    theta = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    slope = hessian @ theta.detach()
    delta = zeta * slope if zeta * slope.norm() < epsilon else epsilon * slope / slope.norm()
    amp_gradient(lambda: theta @ hessian @ theta / 2, [theta], epsilon=epsilon, inner_lr=zeta)
    assert theta.grad is not None
    assert_near(theta.grad, hessian @ (theta.detach() + delta))


def test_tiny_epsilon_approaches_erm_along_the_hessian() -> None:
    """(gradient at θ+Δ - g) / ε tends to H·g/‖g‖, so the distance to ERM's gradient vanishes with ε."""
    model, examples = smooth_network(), batch()
    parameters = list(model.parameters())
    plain = torch.autograd.grad(loss_of(model, examples)(), parameters, create_graph=True)
    norm = torch.cat([gradient.flatten() for gradient in plain]).norm().detach()
    along = sum((gradient * (gradient.detach() / norm)).sum() for gradient in plain)
    assert isinstance(along, Tensor)
    curvature = torch.autograd.grad(along, parameters)
    epsilon = 1e-6
    amp_gradient(loss_of(model, examples), parameters, epsilon=epsilon, inner_lr=1e3)
    for found, gradient, expected in zip(gradients_of(parameters), plain, curvature, strict=True):
        assert_near((found - gradient.detach()) / epsilon, expected, tolerance=1e-5)


# ---- What is touched, and what is not


@every_ball
@every_n
def test_weights_are_restored_bit_for_bit(ball: Ball, n: int) -> None:
    model = smooth_network().float()
    examples = Examples(batch().images.float(), batch().labels)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    amp_gradient(loss_of(model, examples), model.parameters(), epsilon=0.37, inner_lr=3.3, inner_steps=n, ball=ball)
    assert_equal([parameter.detach() for parameter in model.parameters()], before)


@pytest.mark.parametrize("failing_call", [1, 2, 3])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@every_ball
def test_weights_are_restored_when_closure_raises(ball: Ball, error: type[BaseException], failing_call: int) -> None:
    model, calls = smooth_network(), itertools.count(1)
    before, perturbed = [parameter.detach().clone() for parameter in model.parameters()], []

    def closure() -> Tensor:
        if next(calls) == failing_call:
            perturbed.append(not torch.equal(next(model.parameters()), before[0]))
            raise error("out of memory")
        return loss_of(model, batch())()

    with pytest.raises(error, match="out of memory"):
        amp_gradient(closure, model.parameters(), epsilon=0.5, inner_lr=1.0, inner_steps=2, ball=ball)
    assert perturbed == [failing_call > 1]
    assert_equal([parameter.detach() for parameter in model.parameters()], before)


def test_gradients_are_replaced_not_accumulated() -> None:
    fresh, stale = smooth_network(), smooth_network()
    for parameter in stale.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    for model in (fresh, stale):
        amp_gradient(loss_of(model, batch()), model.parameters(), epsilon=0.5, inner_lr=1.0, inner_steps=2)
    assert_equal(gradients_of(stale.parameters()), gradients_of(fresh.parameters()))


@every_n
def test_loss_is_the_clean_one_detached(n: int) -> None:
    model = smooth_network()
    clean = loss_of(model, batch())()
    loss = amp_gradient(loss_of(model, batch()), model.parameters(), epsilon=5.0, inner_lr=2.0, inner_steps=n)
    assert torch.equal(loss, clean.detach())
    assert not loss.requires_grad
    assert loss.grad_fn is None


def test_frozen_parameters_are_untouched() -> None:
    model, seen = smooth_network(), []
    frozen = next(model.parameters()).requires_grad_(False)
    before = frozen.detach().clone()

    def closure() -> Tensor:
        seen.append(frozen.detach().clone())
        return loss_of(model, batch())()

    amp_gradient(closure, model.parameters(), epsilon=0.5, inner_lr=1.0, inner_steps=2)
    assert_equal(seen, [before] * 3)
    assert frozen.grad is None
    assert all(parameter.grad is not None for parameter in list(model.parameters())[1:])


@every_ball
def test_parameter_that_the_loss_does_not_use_has_gradient_zero(ball: Ball) -> None:
    alone, together = smooth_network(), smooth_network()
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    settings = Amp(epsilon=0.5, inner_steps=2, ball=ball)
    amp_step(loss_of(alone, batch()), alone.parameters(), settings)
    amp_step(loss_of(together, batch()), [unused, *together.parameters()], settings)
    assert_equal(gradients_of([unused]), [torch.zeros(3, dtype=torch.float64)])
    assert torch.equal(unused.detach(), torch.ones(3, dtype=torch.float64))
    for found, expected in zip(gradients_of(together.parameters()), gradients_of(alone.parameters()), strict=True):
        assert_near(found, expected)


def twice(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter for parameter in parameters for _ in range(2)]


def one_by_one(parameters: Iterable[Tensor]) -> Iterator[Tensor]:
    yield from parameters


@every_ball
@pytest.mark.parametrize("given_as", [tuple, twice, one_by_one])
def test_duplicates_and_generators_are_accepted(
    ball: Ball, given_as: Callable[[Iterable[Tensor]], Iterable[Tensor]]
) -> None:
    plain, other = smooth_network(), smooth_network()
    expected = amp_step(loss_of(plain, batch()), list(plain.parameters()), Amp(epsilon=0.2, ball=ball))
    found = amp_step(loss_of(other, batch()), given_as(other.parameters()), Amp(epsilon=0.2, ball=ball))
    assert_equal(list(found), list(expected))
    assert_equal(gradients_of(other.parameters()), gradients_of(plain.parameters()))


@pytest.mark.parametrize("parameters", [[], [torch.zeros(2)]], ids=["none", "frozen"])
def test_nothing_to_perturb_is_refused(parameters: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        amp_gradient(lambda: torch.zeros(()), parameters, epsilon=0.5, inner_lr=1.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": float("nan")},
        {"inner_lr": 0.0},
        {"inner_lr": float("inf")},
        {"inner_steps": 0},
        {"inner_steps": 1.5},
        {"ball": "box"},
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_anything_runs(bad: dict[str, Any]) -> None:
    weight = torch.ones(2, requires_grad=True)
    ran: list[int] = []

    def closure() -> Tensor:
        ran.append(1)
        return weight.sum()

    with pytest.raises(ValueError, match=f"Amp.{next(iter(bad))} = "):
        amp_gradient(closure, [weight], **({"epsilon": 0.5, "inner_lr": 1.0} | bad))
    assert not ran
    assert weight.grad is None


@every_n
def test_closure_is_called_n_plus_1_times(n: int) -> None:
    model, calls = smooth_network(), itertools.count()

    def closure() -> Tensor:
        next(calls)
        return loss_of(model, batch())()

    amp_gradient(closure, model.parameters(), epsilon=0.5, inner_lr=1.0, inner_steps=n)
    assert next(calls) == n + 1


@every_ball
def test_zero_gradient_gives_no_nan(ball: Ball) -> None:
    flat_one = torch.zeros(3, requires_grad=True)
    steep = torch.full((2,), 4.0, requires_grad=True)
    for parameters, norm in (([flat_one], 0.0), ([flat_one, steep], 0.5)):
        step = amp_step(lambda: (flat_one**2).sum() + steep.sum(), parameters, Amp(epsilon=0.5, ball=ball))
        assert step.delta_norm.item() == pytest.approx(norm)
        assert_equal(gradients_of([flat_one]), [torch.zeros(3)])
    assert_equal(gradients_of([steep]), [torch.ones(2)])


def test_works_for_callers_under_no_grad() -> None:
    plain, other = smooth_network(), smooth_network()
    amp_gradient(loss_of(plain, batch()), plain.parameters(), epsilon=0.5, inner_lr=1.0, inner_steps=2)
    with torch.no_grad():
        amp_gradient(loss_of(other, batch()), other.parameters(), epsilon=0.5, inner_lr=1.0, inner_steps=2)
        assert not torch.is_grad_enabled()
    assert_equal(gradients_of(other.parameters()), gradients_of(plain.parameters()))


# ---- No waiting for the device


class NoSynchronisation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where a value would be brought from the device to Python, which waits for all work queued before it."""

    waits = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "unique_dim", "_unique2")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.waits:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait", [Tensor.item, float, bool, lambda t: torch.equal(t, t), Tensor.nonzero], ids=lambda wait: wait.__name__
)
def test_the_guard_sees_a_synchronisation(wait: Callable[[Tensor], object]) -> None:
    with NoSynchronisation(), pytest.raises(AssertionError, match="waits for the device"):
        wait(torch.ones(()))


@every_ball
@every_n
@pytest.mark.parametrize("epsilon", [1e-3, 50.0])
def test_amp_gradient_does_not_synchronise(ball: Ball, n: int, epsilon: float) -> None:
    model = smooth_network()
    with NoSynchronisation():
        amp_gradient(
            loss_of(model, batch()), model.parameters(), epsilon=epsilon, inner_lr=1.0, inner_steps=n, ball=ball
        )


@pytest.mark.parametrize("declared", [Erm(), Amp(epsilon=0.5), Amp(epsilon=0.5, bn_stats="all")], ids=str)
def test_methods_do_not_synchronise_in_a_batch(declared: Erm | Amp) -> None:
    model, method, examples = smooth_network(norm=nn.BatchNorm1d(6)), build_method(declared, torch.Generator()), batch()
    with NoSynchronisation():
        method.backward(model, examples)


# ---- What it costs: operations and memory, counted


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts dispatched operations, and the bytes that tensors made meanwhile hold at their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        outputs = func(*args, **(kwargs or {}))
        for tensor in outputs if isinstance(outputs, tuple | list) else [outputs]:
            if isinstance(tensor, Tensor) and func._schema.name not in ("aten::detach", "aten::view", "aten::t"):
                self._hold(tensor.untyped_storage())
        return outputs

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def deep_network(layers: int) -> nn.Sequential:
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers)])


@every_ball
def test_the_optimizers_side_is_at_most_20_operations_however_many_tensors(ball: Ball) -> None:
    found = []
    for layers in (2, 40):
        model, images = deep_network(layers), torch.randn(5, 8)

        def closure(model: nn.Module = model, images: Tensor = images) -> Tensor:
            return model(images).square().sum()  # type: ignore[no-any-return]

        with Counted() as passes:
            for _ in range(2):
                gradients(closure, list(model.parameters()))
        with Counted() as step:
            amp_gradient(closure, model.parameters(), epsilon=0.5, inner_lr=1.0, ball=ball)
        found.append(step.operations - passes.operations)
    assert found[0] == found[1] <= 20


@every_ball
@pytest.mark.parametrize(("n", "bound"), [(1, 1.2), (2, 2.2), (3, 2.2)])
def test_extra_memory(ball: Ball, n: int, bound: float) -> None:
    """Beside what a plain pass holds at its peak, in multiples of the parameters; few activations, many weights."""
    model, images = nn.Sequential(*[nn.Linear(200, 200) for _ in range(10)]), torch.randn(2, 200)
    size = sum(parameter.nbytes for parameter in model.parameters())

    def closure() -> Tensor:
        return model(images).square().sum()  # type: ignore[no-any-return]

    with Counted() as plain:
        gradients(closure, list(model.parameters()))
    with Counted() as step:
        amp_gradient(closure, model.parameters(), epsilon=0.5, inner_lr=1.0, inner_steps=n, ball=ball)
    assert plain.peak >= size
    assert 0.9 < (step.peak - plain.peak) / size < bound


# ---- The ball, whatever the numbers

finite = st.floats(-1e6, 1e6, allow_subnormal=False)
slopes = st.lists(st.lists(finite, min_size=1, max_size=4), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(slopes, st.floats(1e-6, 1e3), st.floats(1e-3, 1e3), st.integers(1, 3), st.sampled_from(BALLS))
def test_perturbation_stays_in_its_ball(
    slopes: list[list[float]], epsilon: float, zeta: float, n: int, ball: Ball
) -> None:
    """For a linear loss of slope c, Δ after k steps is k·ζ·c brought back to length ε where it is longer."""
    slope = [torch.tensor(numbers, dtype=torch.float64) for numbers in slopes]
    theta = [torch.zeros_like(numbers, requires_grad=True) for numbers in slope]
    seen: list[list[Tensor]] = []

    def closure() -> Tensor:
        seen.append([parameter.detach().clone() for parameter in theta])
        return torch.stack([(c * t).sum() for c, t in zip(slope, theta, strict=True)]).sum()

    step = amp_step(closure, theta, Amp(epsilon=epsilon, inner_lr=zeta, inner_steps=n, ball=ball))
    groups = [slope] if ball == "global" else [[c] for c in slope]
    lengths = [zeta * torch.cat(group).norm().item() for group in groups]
    assume(all(abs(k * length - epsilon) > 1e-9 * epsilon for k in range(1, n + 1) for length in lengths))
    delta = seen[-1]
    realised = [torch.cat(group).norm().item() for group in ([delta] if ball == "global" else [[d] for d in delta])]
    for norm, length in zip(realised, lengths, strict=True):
        assert norm <= epsilon * (1 + 1e-6)
        assert norm == pytest.approx(min(n * length, epsilon), rel=1e-9, abs=1e-100)
    assert step.delta_norm.item() == pytest.approx(torch.cat(delta).norm().item(), rel=1e-9, abs=1e-100)
    clips = [k * length > epsilon for k in range(1, n + 1) for length in lengths]
    assert step.clip_fraction.item() == pytest.approx(sum(clips) / len(clips))


# ---- The methods of the trainer


def test_erm_is_the_plain_gradient() -> None:
    model, examples = smooth_network(), batch()
    expected = torch.autograd.grad(loss_of(model, examples)(), list(model.parameters()))
    loss = build_method(Erm(), torch.Generator()).backward(model, examples)
    assert_equal(gradients_of(model.parameters()), expected)
    assert torch.equal(loss, loss_of(model, examples)().detach())


@every_ball
def test_amp_method_is_amp_gradient(ball: Ball) -> None:
    plain, other = smooth_network(), smooth_network()
    loss = amp_gradient(
        loss_of(plain, batch()), plain.parameters(), epsilon=0.3, inner_lr=2.0, inner_steps=2, ball=ball
    )
    declared = Amp(epsilon=0.3, inner_lr=2.0, inner_steps=2, ball=ball)
    assert torch.equal(build_method(declared, torch.Generator()).backward(other, batch()), loss)
    assert_equal(gradients_of(other.parameters()), gradients_of(plain.parameters()))


def test_observations_are_means_since_the_last_call() -> None:
    declared, model = Amp(epsilon=0.4, inner_lr=0.4), smooth_network()  # clipped for seed 1 alone
    method = AmpMethod(declared)
    for seeds in ([0, 1, 2], [3]):
        steps = [amp_step(loss_of(model, batch(seed)), model.parameters(), declared) for seed in seeds]
        for seed in seeds:
            method.backward(model, batch(seed))
        assert method.observations() == {
            "amp/delta_norm": pytest.approx(sum(step.delta_norm.item() for step in steps) / len(seeds)),
            "amp/clip_fraction": pytest.approx(sum(step.clip_fraction.item() for step in steps) / len(seeds)),
        }


# ---- BatchNorm's running statistics

normalisations = pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(6),
        nn.BatchNorm1d(6, momentum=None),
        nn.BatchNorm1d(6, affine=False),
        nn.Sequential(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()),
    ],
    ids=["batch", "cumulative", "without weights", "instance"],
)


@every_n
@normalisations
def test_clean_statistics_are_those_of_one_plain_forward(norm: nn.Module, n: int) -> None:
    model = smooth_network(norm=copy.deepcopy(norm))
    expected = copy.deepcopy(model)
    expected(batch().images)
    build_method(Amp(epsilon=0.5, inner_steps=n, bn_stats="clean"), torch.Generator()).backward(model, batch())
    assert_equal(list(model.buffers()), list(expected.buffers()))


@every_n
@normalisations
def test_all_statistics_are_those_of_every_pass(norm: nn.Module, n: int) -> None:
    model = smooth_network(norm=copy.deepcopy(norm))
    replayed, weights = copy.deepcopy(model), []
    hook = model.register_forward_pre_hook(lambda *_: weights.append(reference.flat(model)))
    build_method(Amp(epsilon=0.5, inner_steps=n, bn_stats="all"), torch.Generator()).backward(model, batch())
    hook.remove()
    assert len(weights) == n + 1
    assert not torch.equal(weights[0], weights[-1])
    for each in weights:
        nn.utils.vector_to_parameters(each, replayed.parameters())
        replayed(batch().images)
    assert_equal(list(model.buffers()), list(replayed.buffers()))


def test_batches_are_counted_as_the_policy_says() -> None:
    for policy, counted in (("clean", 1), ("all", 4)):
        norm = nn.BatchNorm1d(6)
        AmpMethod(Amp(epsilon=0.5, inner_steps=3, bn_stats=policy)).backward(smooth_network(norm=norm), batch())  # type: ignore[arg-type]
        assert norm.num_batches_tracked is not None
        assert norm.num_batches_tracked.item() == counted


def test_the_policy_does_not_change_the_gradient() -> None:
    found = []
    for declared in (Amp(epsilon=0.5, bn_stats="clean"), Amp(epsilon=0.5, bn_stats="all")):
        model = smooth_network(norm=nn.BatchNorm1d(6))
        AmpMethod(declared).backward(model, batch())
        found.append(gradients_of(model.parameters()))
    assert_equal(*found)


@pytest.mark.parametrize("failing_call", [1, 2])
def test_statistics_move_again_after_a_pass_that_raised(failing_call: int) -> None:
    norm, calls = nn.BatchNorm1d(6), itertools.count(1)
    model = smooth_network(norm=norm)

    def fail(*_: object) -> None:
        if next(calls) == failing_call:
            raise RuntimeError("out of memory")

    norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        AmpMethod(Amp(epsilon=0.5)).backward(model, batch())
    assert norm.num_batches_tracked is not None
    before = norm.num_batches_tracked.item()
    model(batch().images)
    assert norm.num_batches_tracked.item() == before + 1


def test_a_norm_that_is_not_in_training_normalises_by_its_running_statistics() -> None:
    norm = nn.BatchNorm1d(6)
    model = smooth_network(norm=norm)
    model(batch(1).images)
    norm.eval()
    plain = copy.deepcopy(model)
    before = [buffer.clone() for buffer in norm.buffers()]
    AmpMethod(Amp(epsilon=0.5)).backward(model, batch())
    amp_gradient(loss_of(plain, batch()), plain.parameters(), epsilon=0.5, inner_lr=1.0)
    assert_equal(list(norm.buffers()), before)
    assert_equal(gradients_of(model.parameters()), gradients_of(plain.parameters()))

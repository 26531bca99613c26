from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import trainer.loop
from tests.trainer.trials import BN_MLP, SMALL_AMP, after, numbers, tiny
from trainer.checkpoint import load_checkpoint
from trainer.config import Erm, Method
from trainer.loop import train
from trainer.machine import Machine
from trainer.methods.amp import amp_gradient
from trainer.precision import set_precision


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def test_float32_leaves_the_network_alone() -> None:
    model = network()
    forward = model.forward
    set_precision(model, "float32", "cpu")
    assert model.forward == forward


def test_bfloat16_computes_in_it_and_gives_float32_logits_and_gradients() -> None:
    model, images = network(), torch.randn(5, 8)
    exact, inside = model(images), list[torch.dtype]()
    model[0].register_forward_hook(lambda _module, _inputs, output: inside.append(output.dtype))  # type: ignore[index]
    set_precision(model, "bfloat16", "cpu")
    logits = model(images)
    logits.sum().backward()
    assert inside == [torch.bfloat16]
    assert logits.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}
    assert not torch.equal(logits, exact)
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)
    assert list(model.state_dict()) == list(network().state_dict())


def test_evaluation_is_in_float32_and_a_copy_has_its_own_weights() -> None:
    model, images = network(), torch.randn(5, 8)
    exact = model(images)
    set_precision(model, "bfloat16", "cpu")
    assert not torch.equal(model(images), exact)
    assert torch.equal(model.eval()(images), exact)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert (twin(images) == 0).all()


def test_amp_in_somebody_elses_autocast_perturbs_all_the_same() -> None:
    """Autocast keeps its copies of the weights until its outermost context ends."""
    images, labels, found = torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1]), []
    for outside in (True, False):
        model = network()

        def closure(model: nn.Module = model, outside: bool = outside) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not outside):
                return nn.functional.cross_entropy(model(images).float(), labels)

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outside):
            amp_gradient(closure, model.parameters(), epsilon=0.5, inner_lr=50.0)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    plain = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(plain(images).float(), labels)
    erm = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(plain.parameters()))])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0.01)
    assert (found[0] - erm).norm() > 0.05


def test_a_perturbation_reaches_the_low_precision_weights() -> None:
    """Autocast keeps copies of weights while its context lasts; they must not outlive a forward pass."""
    model, images, labels = network(), torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1])
    set_precision(model, "bfloat16", "cpu")
    losses: list[Tensor] = []

    def closure() -> Tensor:
        loss = nn.functional.cross_entropy(model(images), labels)
        losses.append(loss.detach())
        return loss

    amp_gradient(closure, model.parameters(), epsilon=1.0, inner_lr=100.0)
    assert losses[1] > losses[0] + 0.1


@pytest.mark.parametrize("method", [Erm(), SMALL_AMP], ids=str)
def test_a_trial_in_bfloat16_is_near_and_not_equal_to_one_in_float32(machine: Machine, method: Method) -> None:
    exact, low = (numbers(train(tiny(method, model=BN_MLP, precision=p), machine)) for p in ("float32", "bfloat16"))
    assert exact[-1]["train/nll"] != low[-1]["train/nll"]
    assert low[-1]["train/nll"] == pytest.approx(exact[-1]["train/nll"], rel=0.05)
    assert low[-1]["test/error"] == pytest.approx(exact[-1]["test/error"], abs=0.03)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_an_interrupted_trial_in_bfloat16_goes_on_bit_for_bit(
    machine: Machine, path: Path, memory_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tiny(SMALL_AMP, model=BN_MLP, precision="bfloat16", memory_format=memory_format)
    monkeypatch.setattr(trainer.loop, "CHECKPOINT_EVERY_SECONDS", 0)
    whole = numbers(train(trial, machine))
    list(train(trial, machine, path, stop=after(12)))
    stored = load_checkpoint(path, trial.trial_id)
    assert stored is not None
    assert len(stored.records) == 1
    assert numbers(train(trial, machine, path)) == whole

from __future__ import annotations

import dataclasses
import itertools
import pickle
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trainer.loop
from tests.trainer.trials import (
    BATCHES,
    BN_MLP,
    METHODS,
    SHIFTS,
    SMALL_AMP,
    after,
    built,
    numbers,
    search_trial,
    seen,
    tiny,
)
from trainer.checkpoint import load_checkpoint
from trainer.config import REVISION, Amp, ClipGradients, Custom, Erm, Holdout, Method, Mlp, SmallCnn, TrialConfig
from trainer.custom_source import source_digest
from trainer.data.load import load
from trainer.data.splits import Examples
from trainer.declaration import ConfigError
from trainer.loop import Diverged, OutOfMemory, train
from trainer.machine import Machine
from trainer.metrics import classification_metrics
from trainer.models.registry import build_model
from trainer.records import EpochRecord
from trainer.streams import Stream, generator, stream_seed

BN_AMP = tiny(SMALL_AMP, model=BN_MLP)
LINEAR = Mlp(hidden=(), norm="none")
WITHOUT_NORM = Mlp(hidden=(8,), norm="none")
EXPLODING = tiny(lr=10, weight_decay=5, epochs=8, lr_milestones=(), model=LINEAR)
"""Its weights grow by a factor of 49 a step until they overflow, in epoch 3 of 8."""

every_method = pytest.mark.parametrize("method", METHODS, ids=str)


def stored(path: Path, trial: TrialConfig) -> tuple[EpochRecord, ...]:
    checkpoint = load_checkpoint(path, trial.trial_id)
    return checkpoint.records if checkpoint else ()


def until_diverged(records: Iterator[EpochRecord]) -> tuple[list[EpochRecord], str]:
    good: list[EpochRecord] = []
    with pytest.raises(Diverged) as caught:
        good.extend(records)  # keeps those that came before the error
    return good, str(caught.value)


def always_saved(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> None:
    monkeypatch.setattr(trainer.loop, "CHECKPOINT_EVERY_SECONDS", seconds)


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr(trainer.loop, "_Session", refuse)


# ---- Repeatable, in pairs


@every_method
def test_the_same_trial_twice_is_equal_bit_for_bit(machine: Machine, method: Method) -> None:
    trial = tiny(method, model=BN_MLP)
    first = numbers(train(trial, machine))
    torch.rand(3)  # whatever the caller has drawn meanwhile
    np.random.rand(3)
    assert numbers(train(trial, machine)) == first
    assert len(first) == trial.epochs


def test_another_seed_differs(machine: Machine) -> None:
    first, other = (numbers(train(tiny(seed=seed), machine)) for seed in (0, 1))
    for one, another in zip(first, other, strict=True):
        assert [name for name in one if name != "lr" and one[name] == another[name]] == []


def test_the_random_state_of_the_caller_is_left_alone(machine: Machine) -> None:
    def state() -> bytes:
        return pickle.dumps((torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()))

    before = state()
    list(train(BN_AMP, machine))
    assert state() == before


def seen_by(trial: TrialConfig, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """The initial weights and all batches of labels and images that reach the method."""
    weights: list[Tensor] = []
    batches: list[Tensor] = []
    kind = type(built(trial.method))
    backward = kind.backward

    def spy(self: object, model: nn.Module, batch: Examples) -> Tensor:
        if not batches:
            weights.extend(parameter.detach().clone() for parameter in model.parameters())
        batches.extend(batch)
        return backward(self, model, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(kind, "backward", spy)
        list(train(trial, machine))
    return weights, batches


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("other", METHODS[1:], ids=str)
def test_trials_of_a_seed_are_pairs(machine: Machine, monkeypatch: pytest.MonkeyPatch, other: Method) -> None:
    weights, batches = seen_by(tiny(Erm()), machine, monkeypatch)
    paired = seen_by(tiny(other), machine, monkeypatch)
    assert len(batches) == 2 * 3 * BATCHES
    assert equal(weights, paired[0])
    assert equal(batches, paired[1])
    for found, unpaired in zip(paired, seen_by(tiny(other, seed=1), machine, monkeypatch), strict=True):
        assert not equal(found, unpaired)


@pytest.mark.parametrize("other", METHODS[1:], ids=str)
def test_trials_of_a_seed_share_their_crops(machine: Machine, monkeypatch: pytest.MonkeyPatch, other: Method) -> None:
    plain = seen_by(tiny(Erm()), machine, monkeypatch)[1]
    batches = seen_by(tiny(Erm(), augment=SHIFTS), machine, monkeypatch)[1]
    assert equal(batches[1::2], plain[1::2])  # the same labels in the same order
    assert not any(map(torch.equal, batches[0::2], plain[0::2]))
    assert equal(batches, seen_by(tiny(other, augment=SHIFTS), machine, monkeypatch)[1])


def test_every_epoch_is_augmented_anew(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    images = seen_by(tiny(augment=SHIFTS, batch_size=400), machine, monkeypatch)[1][0::2]
    ones = [set(map(tuple, epoch.flatten(1).tolist())) for epoch in images]
    assert len(ones) == 3
    assert len(ones[0] & ones[1]) < 200


def test_an_interrupted_trial_with_augmentation_goes_on_bit_for_bit(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tiny(SMALL_AMP, augment=SHIFTS)
    whole = numbers(train(trial, machine))
    monkeypatch.setattr(trainer.loop, "CHECKPOINT_EVERY_SECONDS", 0)
    list(train(trial, machine, path, stop=after(12)))
    stored = load_checkpoint(path, trial.trial_id)
    assert stored is not None
    assert len(stored.records) == 1
    assert numbers(train(trial, machine, path)) == whole


RANDOM_NETWORK = """
from torch import nn

def make(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes))
"""


UNSAVED_BUFFER = """
import torch
from torch import nn

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen += 1
        return x * (1 + 0.01 * self.seen)

def make(shape, classes):
    return nn.Sequential(nn.Flatten(), Counting(), nn.Linear(64, classes))
"""
ALWAYS_DROPPING = """
from torch import nn
from torch.nn import functional

class Dropping(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.3)  # in evaluation too

def make(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Dropping(), nn.Linear(16, classes))
"""


@pytest.mark.parametrize("source", [RANDOM_NETWORK, UNSAVED_BUFFER, ALWAYS_DROPPING])
def test_a_users_network_with_a_will_of_its_own_is_as_repeatable_as_ours(
    data_dir: Path, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "random_network.py").write_text(source)
    machine = Machine(data_dir=data_dir, code_dir=tmp_path)
    network = Custom("random_network:make", digest=source_digest("random_network", [tmp_path]))
    trial = tiny(SMALL_AMP, model=network)
    before, whole = torch.get_rng_state(), numbers(train(trial, machine))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    monkeypatch.setattr(trainer.loop, "CHECKPOINT_EVERY_SECONDS", 0)
    list(train(trial, machine, path, stop=after(12)))
    torch.rand(3)
    assert numbers(train(trial, machine, path)) == whole
    assert len({record["train/criterion"] for record in whole}) == 3


def test_evaluation_sees_the_images_as_they_are(machine: Machine, path: Path) -> None:
    trial = tiny(model=BN_MLP, augment=SHIFTS)
    (*_, last) = train(trial, machine, path)
    checkpoint, data = load_checkpoint(path, trial.trial_id), load(trial, machine)
    assert checkpoint is not None
    network = build_model(BN_MLP, (1, 8, 8), 10, init_seed=0)
    network.load_state_dict(checkpoint.state["model"])
    images, labels = seen(data, data.train)
    expected = classification_metrics(network.eval()(images), labels)
    assert last.metrics["train/nll"] == pytest.approx(expected.nll, rel=1e-6)


def test_an_epoch_sees_every_example_once_in_an_order_of_its_own(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = seen_by(tiny(batch_size=64), machine, monkeypatch)[1][0::2]
    assert [len(batch) for batch in images] == [64, 64, 64, 64, 64, 64, 16] * 3
    epochs = [torch.cat(images[start : start + 7]).flatten(1) for start in (0, 7, 14)]
    data = load(tiny(), machine)
    expected = sorted(seen(data, data.train).images.flatten(1).tolist())
    assert all(sorted(epoch.tolist()) == expected for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


STREAMS: tuple[Stream, ...] = ("init", "order")


def test_streams_of_a_seed_and_seeds_of_a_stream_are_unrelated() -> None:
    seeds = [stream_seed(seed, stream) for seed in (0, 1, 2**63 - 1) for stream in STREAMS]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert torch.equal(torch.rand(3, generator=generator(0, "order")), torch.rand(3, generator=generator(0, "order")))


def test_a_model_is_drawn_from_its_seed_alone() -> None:
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(list(build_model(BN_MLP, (1, 8, 8), 10, init_seed=5).state_dict().values()))
    assert equal(*found)
    assert not equal(found[0], list(build_model(BN_MLP, (1, 8, 8), 10, init_seed=6).state_dict().values()))


# ---- What a record says

EVERY_EPOCH = {"train/criterion", "lr", "epoch_seconds"}
VAL = {"val/error", "val/nll", "val/ece"}
TEST = {"test/error", "test/nll", "test/ece", "test/criterion"}
AMP_ONLY = {"amp/delta_norm", "amp/clip_fraction"}
LAST = {"train/error", "train/nll"}


@every_method
@pytest.mark.parametrize(("evaluate", "parts"), [("val", VAL), ("test", TEST), ("val+test", VAL | TEST)])
def test_metrics_are_those_of_the_design(machine: Machine, method: Method, evaluate: str, parts: set[str]) -> None:
    validation = Holdout(fraction=0.25) if "val" in evaluate else None
    records = list(train(tiny(method, evaluate=evaluate, validation=validation), machine))
    expected = EVERY_EPOCH | parts | (AMP_ONLY if isinstance(method, Amp) else set())
    assert [set(record.metrics) for record in records] == [expected, expected, expected | LAST]
    for name, value in itertools.chain.from_iterable(record.metrics.items() for record in records):
        assert type(value) is float, name
        assert value >= 0, name
        assert value <= 1 or not name.endswith(("/error", "/ece", "/clip_fraction")), name


def test_a_search_trial_has_no_test_metrics_and_else_the_numbers_of_the_final_one(machine: Machine) -> None:
    final, search = numbers(train(tiny(), machine)), numbers(train(search_trial(), machine))
    assert search == [{name: value for name, value in one.items() if not name.startswith("test/")} for one in final]


def test_epochs_timestamps_and_learning_rates(machine: Machine) -> None:
    before = time.time_ns() // 1_000_000
    records = list(train(tiny(lr=0.04, lr_decay=0.5, epochs=4, lr_milestones=(1, 3)), machine))
    stamps = [record.timestamp for record in records]
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert [record.metrics["lr"] for record in records] == pytest.approx([0.04, 0.02, 0.02, 0.01])
    assert [before, *stamps, time.time_ns() // 1_000_000] == sorted([before, *stamps, time.time_ns() // 1_000_000])
    seconds = sum(record.metrics["epoch_seconds"] for record in records)
    assert 0 < seconds <= (time.time_ns() // 1_000_000 - before + 1) / 1000


@every_method
@pytest.mark.parametrize("model", [WITHOUT_NORM, BN_MLP], ids=str)
def test_metrics_are_those_of_the_stored_weights(machine: Machine, path: Path, method: Method, model: Mlp) -> None:
    """In evaluation mode, without perturbation, on whole parts."""
    trial = tiny(method, model=model)
    (*_, last) = train(trial, machine, path)
    checkpoint, data = load_checkpoint(path, trial.trial_id), load(trial, machine)
    assert checkpoint is not None
    network = build_model(model, (1, 8, 8), 10, init_seed=0)
    network.load_state_dict(checkpoint.state["model"])
    network.eval()
    for name, part in (("train", data.train), ("val", data.val), ("test", data.test)):
        assert part is not None
        expected = classification_metrics(network(seen(data, part).images), part.labels)
        assert last.metrics[f"{name}/error"] == expected.error
        assert last.metrics[f"{name}/nll"] == pytest.approx(expected.nll, rel=1e-6)
    assert data.test is not None
    own = built(method).criterion(network(seen(data, data.test).images).double(), data.test.labels)
    assert last.metrics["test/criterion"] == pytest.approx(own.item(), rel=1e-6)


def test_the_training_criterion_is_the_mean_over_examples(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, losses = type(built(Erm())), []
    backward = kind.backward

    def spy(self: object, model: nn.Module, batch: Examples) -> Tensor:
        loss = backward(self, model, batch)  # type: ignore[arg-type]
        losses.extend([loss.item()] * len(batch.labels))
        return loss

    monkeypatch.setattr(kind, "backward", spy)
    (record,) = train(tiny(epochs=1, lr_milestones=(), batch_size=64), machine)
    assert len(losses) == 400
    assert record.metrics["train/criterion"] == pytest.approx(sum(losses) / 400, rel=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_erm_is_plain_sgd_with_momentum_weight_decay_and_milestones(
    machine: Machine, path: Path, nesterov: bool, max_norm: float | None
) -> None:
    """Written out with tensors: η, μ and λ reach the weights as §5.1 has them."""
    trial = tiny(
        model=LINEAR,
        momentum=0.9,
        weight_decay=0.01,
        lr=0.05,
        lr_decay=0.1,
        momentum_form="nesterov" if nesterov else "classical",
        clip_gradients=ClipGradients(max_norm=max_norm) if max_norm else None,
    )
    list(train(trial, machine, path))
    data, order = load(trial, machine), generator(trial.seed, "order")
    images, labels = seen(data, data.train)
    network = build_model(LINEAR, (1, 8, 8), 10, stream_seed(trial.seed, "init"))
    weights = list(network.parameters())
    velocity = [torch.zeros_like(weight) for weight in weights]
    for epoch in range(3):
        rate = 0.05 if epoch < 2 else 0.005
        for index in torch.split(torch.randperm(400, generator=order), 50):
            loss = nn.functional.cross_entropy(network(images[index]), labels[index])
            gradients = torch.autograd.grad(loss, weights)
            norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
            shrink = min(1.0, max_norm / norm) if max_norm else 1.0
            with torch.no_grad():
                for weight, gradient, speed in zip(weights, gradients, velocity, strict=True):
                    slope = shrink * gradient + 0.01 * weight
                    speed.mul_(0.9).add_(slope)
                    weight.sub_(rate * (slope + 0.9 * speed if nesterov else speed))
    checkpoint = load_checkpoint(path, trial.trial_id)
    assert checkpoint is not None
    for found, expected in zip(checkpoint.state["model"].values(), weights, strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def without_memory(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["load", "batches"])
def test_out_of_memory_says_what_to_change(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    monkeypatch.setattr(trainer.loop, place, without_memory(error))
    with pytest.raises(OutOfMemory, match=r"out of memory on cpu: .*fewer trials.*batch_size below 50.*bfloat16") as e:
        list(train(tiny(), machine))
    assert e.value.__cause__ is error
    assert "\n" not in str(e.value)


def test_what_a_machine_really_cannot_allocate_is_out_of_memory(machine: Machine) -> None:
    with pytest.raises(OutOfMemory, match="out of memory on cpu"):
        list(train(tiny(model=Mlp(hidden=(2**46,), norm="none")), machine))


def test_other_errors_are_not_taken_for_memory(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.loop, "load", without_memory(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit") as caught:
        list(train(tiny(), machine))
    assert not isinstance(caught.value, OutOfMemory)


def test_a_diverged_trial_keeps_the_weights_of_its_last_good_epoch_and_ends_soon(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, calls = type(built(Erm())), [0]
    backward = kind.backward

    def spoil(self: object, model: nn.Module, batch: Examples) -> Tensor:
        calls[0] += 1
        loss = backward(self, model, batch)  # type: ignore[arg-type]
        return loss * float("nan") if calls[0] > 400 else loss

    monkeypatch.setattr(kind, "backward", spoil)
    trial = tiny(batch_size=1, model=LINEAR)
    found = train(trial, machine, path)
    with pytest.raises(Diverged, match="train/criterion is nan in epoch 2"):
        list(found)
    stored = load_checkpoint(path, trial.trial_id)
    assert stored is not None
    assert len(stored.records) == 1
    assert all(tensor.isfinite().all() for tensor in stored.state["model"].values())
    assert calls[0] == 400 + trainer.loop.CHECK_EVERY_BATCHES


def test_a_checkpoint_of_another_kind_of_device_is_refused_in_one_line(machine: Machine, path: Path) -> None:
    list(train(tiny(), machine, path, stop=after(0)))
    list(train(dataclasses.replace(tiny(), epochs=3), machine, path))
    stored = load_checkpoint(path, tiny().trial_id)
    assert stored is not None
    records, state = stored.records[:1], {**stored.state, "device": "cuda"}
    dataclasses.replace(stored, records=records, state=state).save(path)
    with pytest.raises(ConfigError, match=r"trial\.pt: this trial was begun on cuda.*delete .*start anew on cpu") as e:
        list(train(tiny(), machine, path))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("size", [1, 57])
def test_a_batch_of_one_is_refused_only_where_batchnorm_cannot_normalise_it(machine: Machine, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"batch_size = {size}: leaves a batch of one of 400"):
        list(train(tiny(model=BN_MLP, batch_size=size), machine))
    short = tiny(model=SmallCnn(width=2), batch_size=size, epochs=1, lr_milestones=())
    if size > 1:
        assert len(list(train(short, machine))) == 1


def test_clipping_every_pass_is_for_erm_what_clipping_the_outer_one_is(machine: Machine) -> None:
    passes: tuple[Literal["outer", "every"], ...] = ("outer", "every")
    one, other = (
        numbers(train(tiny(clip_gradients=ClipGradients(max_norm=1e-4, passes=which)), machine)) for which in passes
    )
    assert one == other


def test_threads_are_those_of_the_machine(data_dir: Path) -> None:
    for threads in (2, 1):
        list(train(tiny(), Machine(data_dir=data_dir, threads=threads)))
        assert torch.get_num_threads() == threads


REMINDER = (
    "The numbers that a declaration leads to have changed. If that is meant, raise trainer.config.REVISION, so that"
    " trials recorded before are not taken for new ones, and store the new numbers here. If not, find out why."
)
STORED: list[tuple[TrialConfig, dict[str, float]]] = [
    (
        tiny(Erm()),
        {"train/criterion": 1.741829, "train/nll": 1.684079, "val/nll": 1.712466, "test/nll": 1.710027},
    ),
    (
        tiny(Amp(epsilon=0.3, inner_lr=0.5, inner_steps=2), seed=1, model=Mlp(hidden=(32, 16), norm="batch")),
        {
            "train/criterion": 1.378088,
            "train/nll": 1.296714,
            "val/nll": 1.326844,
            "test/nll": 1.356225,
            "test/criterion": 1.356225,
            "amp/delta_norm": 0.3,
        },
    ),
]


@pytest.mark.parametrize(("trial", "expected"), STORED, ids=["Erm", "Amp"])
def test_stored_numbers(machine: Machine, trial: TrialConfig, expected: dict[str, float]) -> None:
    (*_, last) = train(trial, machine)
    found = {name: last.metrics[name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-4), REMINDER


# ---- Interrupted and resumed

INTERRUPTIONS = [(0,), (1,), (7,), (8,), (9,), (16,), (23,), (3, 9, 1), (8, 8), (12, 12), (0, 23, 0), (9, 8, 7, 7)]


def interrupted(trial: TrialConfig, machine: Machine, path: Path, points: tuple[int, ...]) -> list[EpochRecord]:
    """Stopped after so many batches of each run, then run to the end; each run's records continue the last one's."""
    for point in points:
        on_disk = list(stored(path, trial))
        found = list(train(trial, machine, path, stop=after(point)))
        assert found[: len(on_disk)] == on_disk, "metrics or timestamps of delivered records have changed"
        assert found == list(stored(path, trial)), "what was yielded is not what is on disk"
        assert len(found) < trial.epochs
    on_disk = list(stored(path, trial))
    records = list(train(trial, machine, path))
    assert records[: len(on_disk)] == on_disk
    return records


@pytest.mark.parametrize("points", INTERRUPTIONS, ids=str)
@pytest.mark.parametrize("trial", [tiny(), BN_AMP], ids=["Erm", "Amp"])
def test_resumed_equals_uninterrupted(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch, trial: TrialConfig, points: tuple[int, ...]
) -> None:
    always_saved(monkeypatch)
    expected = numbers(train(trial, machine))
    assert numbers(interrupted(trial, machine, path, points)) == expected


@every_method
def test_resumed_weights_and_momentum_equal_uninterrupted_ones(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    always_saved(monkeypatch)
    trial = tiny(method, model=BN_MLP)
    list(train(trial, machine, tmp_path / "whole.pt"))
    interrupted(trial, machine, tmp_path / "parts.pt", (9, 8))
    whole, parts = (load_checkpoint(tmp_path / name, trial.trial_id) for name in ("whole.pt", "parts.pt"))
    assert whole is not None
    assert parts is not None
    for name in whole.state.keys() - {"device"}:
        torch.testing.assert_close(parts.state[name], whole.state[name], rtol=0, atol=0)


def test_a_stop_between_saves_loses_only_the_epoch_under_way(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_saved(monkeypatch, seconds=3600)
    found = list(train(tiny(), machine, path, stop=after(2 * BATCHES + 3)))
    assert len(found) == 2
    assert found == list(stored(path, tiny()))
    content = path.read_bytes()
    assert list(train(tiny(), machine, path, stop=after(3))) == found
    assert path.read_bytes() == content, "nothing new to store"
    assert numbers(train(tiny(), machine, path)) == numbers(train(tiny(), machine))


def test_a_stopped_trial_without_checkpoint_has_yielded_its_whole_epochs(machine: Machine) -> None:
    expected = numbers(train(tiny(), machine))
    assert numbers(train(tiny(), machine, stop=after(2 * BATCHES + 3))) == expected[:2]


def test_stop_is_asked_before_every_batch(machine: Machine) -> None:
    calls = itertools.count()

    def stop() -> bool:
        next(calls)
        return False

    list(train(tiny(), machine, stop=stop))
    assert next(calls) == 3 * BATCHES


def test_a_listener_that_goes_away_harms_nothing(machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always_saved(monkeypatch)
    expected, first = numbers(train(BN_AMP, machine)), []
    for _ in range(3):
        records = train(BN_AMP, machine, path)
        first.append(next(records))
        records.close()  # type: ignore[attr-defined]
    assert first == [first[0]] * 3
    assert numbers(train(BN_AMP, machine, path)) == expected


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_a_record_is_yielded_once_it_is_on_disk(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    always_saved(monkeypatch, seconds)
    on_disk = []
    for record in train(tiny(), machine, path):
        assert record in stored(path, tiny())
        on_disk.append(len(stored(path, tiny())))
    assert on_disk == ([1, 2, 3] if seconds == 0 else [3, 3, 3])


def test_saves_are_ten_seconds_apart(machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With epochs of four seconds, epochs 3, 6 and the last one are written."""
    trial, batches = tiny(epochs=8), itertools.count()
    now = [0.0]

    def tick() -> bool:
        now[0] = 4.0 * (next(batches) + 1) / BATCHES
        return False

    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter, time_ns=time.time_ns)
    monkeypatch.setattr(trainer.loop, "time", clock)
    seen = [len(stored(path, trial)) for _ in train(trial, machine, path, stop=tick)]
    assert seen == [3, 3, 3, 6, 6, 6, 8, 8]


def test_a_checkpoint_that_cannot_be_written_is_an_error(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        list(train(tiny(), machine, tmp_path / "file" / "trial.pt"))


def test_a_finished_trial_yields_what_is_stored_without_training(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(train(BN_AMP, machine, path))
    content = path.read_bytes()
    no_training(monkeypatch)
    assert list(train(BN_AMP, machine, path)) == first
    assert list(train(BN_AMP, machine, path, stop=lambda: True)) == first
    assert path.read_bytes() == content
    with pytest.raises(AssertionError, match="a session was made"):
        list(train(BN_AMP, machine))


def to_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def to_all_but_its_end(content: bytes) -> bytes:
    return content[:-30]


def to_nothing(_: bytes) -> bytes:
    return b""


def to_garbage(content: bytes) -> bytes:
    return random.Random(0).randbytes(len(content))


@pytest.mark.parametrize("spoil", [to_half, to_all_but_its_end, to_nothing, to_garbage])
def test_a_spoilt_checkpoint_starts_anew(machine: Machine, path: Path, spoil: Callable[[bytes], bytes]) -> None:
    first = list(train(tiny(), machine, path))
    path.write_bytes(spoil(path.read_bytes()))
    again = list(train(tiny(), machine, path))
    assert numbers(again) == numbers(first)
    assert again == list(stored(path, tiny()))


def test_another_trials_checkpoint_is_refused_and_kept(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(train(tiny(), machine, path))
    content = path.read_bytes()
    no_training(monkeypatch)
    with pytest.raises(ConfigError, match=tiny().trial_id):
        list(train(tiny(seed=1), machine, path))
    assert path.read_bytes() == content


# ---- Divergence


@pytest.mark.parametrize(
    ("trial", "good"),
    [
        (EXPLODING, 2),
        (tiny(lr=1e6), 0),
        (tiny(SMALL_AMP, lr=1e6, weight_decay=1.0), 0),
        (tiny(model=BN_MLP, lr=1e6, weight_decay=1.0), None),
        (tiny(batch_size=400, lr=1e38, weight_decay=1e3), 0),
    ],
    ids=["late", "at once", "Amp", "BatchNorm", "in the last batch"],
)
@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_a_diverged_trial_says_so_after_its_last_good_record(
    machine: Machine,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trial: TrialConfig,
    good: int | None,
    seconds: float,
) -> None:
    always_saved(monkeypatch, seconds)
    bare, reason = until_diverged(train(trial, machine))
    records, message = until_diverged(train(trial, machine, path))
    assert good is None or len(records) == good
    assert (numbers(records), message) == (numbers(bare), reason)
    assert f"in epoch {len(records) + 1}" in message
    assert "\n" not in message
    assert all(np.isfinite(list(record.metrics.values())).all() for record in records)
    checkpoint = load_checkpoint(path, trial.trial_id)
    assert checkpoint is not None
    assert (list(checkpoint.records), checkpoint.diverged) == (records, message)
    no_training(monkeypatch)
    assert until_diverged(train(trial, machine, path)) == (records, message)


def test_an_interrupted_trial_diverges_as_an_uninterrupted_one(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_saved(monkeypatch)
    expected, reason = until_diverged(train(EXPLODING, machine))
    list(train(EXPLODING, machine, path, stop=after(BATCHES + 2)))
    records, message = until_diverged(train(EXPLODING, machine, path))
    assert (numbers(records), message) == (numbers(expected), reason)


# ---- Refusals


@pytest.mark.parametrize("size", [1, 3, 7, 19, 21, 57, 133, 399])
def test_a_batch_of_one_is_refused_where_batchnorm_would_meet_it(machine: Machine, path: Path, size: int) -> None:
    assert size == 1 or 400 % size == 1
    with pytest.raises(ConfigError) as caught:
        list(train(tiny(model=BN_MLP, batch_size=size), machine, path))
    assert f"TrialConfig.batch_size = {size}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("changes", [{"batch_size": 399}, {"batch_size": 400, "model": BN_MLP}, {"batch_size": 9999}])
def test_other_batches_are_not_refused(machine: Machine, changes: dict[str, Any]) -> None:
    assert len(list(train(tiny(**changes), machine))) == 3


@pytest.mark.parametrize("revision", [REVISION - 1, REVISION + 1])
def test_a_trial_of_another_revision_is_refused(machine: Machine, path: Path, revision: int) -> None:
    with pytest.raises(ConfigError) as caught:
        list(train(tiny(revision=revision), machine, path))
    assert f"TrialConfig.revision = {revision}" in str(caught.value)
    assert str(REVISION) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [1e-6, 0.9999])
def test_a_split_that_leaves_nothing_is_no_divergence(machine: Machine, fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        list(train(tiny(validation=Holdout(fraction=fraction)), machine))

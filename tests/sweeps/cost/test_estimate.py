"""Estimates: figures by hand, FLOPs against the trainer's own passes, power against a simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from search_spaces import recipes
from sweeps.cost.estimate import (
    Estimate,
    Known,
    Passes,
    cost_of,
    detectable,
    epoch_seconds,
    examples,
    kind,
    measured,
    passes,
    wall_seconds,
)
from sweeps.ledger import Measured
from tests.sweeps.conftest import FIRST_TIMESTAMP, make_trial
from trainer.config import (
    AdversarialTraining,
    Amp,
    Augment,
    Cifar10,
    ClipGradients,
    Custom,
    Dataset,
    Digits,
    Dropout,
    Erm,
    Flooding,
    Holdout,
    ImageFolder,
    LabelSmoothing,
    Method,
    MixUp,
    Mlp,
    Mnist5k,
    Normalization,
    Rmp,
    Sam,
    Svhn,
    TrialConfig,
    TwoSpirals,
)
from trainer.data.load import load
from trainer.machine import Machine
from trainer.records import EpochRecord

HERE = "a machine"
ERM = make_trial()
AMP = make_trial(epsilon=0.5)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Erm(), 1),
        (Dropout(rate=0.1), 1),
        (LabelSmoothing(smoothing=0.2), 1),
        (Flooding(level=0.02), 1),
        (MixUp(alpha=1), 1),
        (Amp(epsilon=0.5), 2),
        (Amp(epsilon=0.5, inner_steps=3), 4),
        (Sam(rho=0.05), 2),
        (Rmp(epsilon=0.1), 4 / 3),
        (AdversarialTraining(step=1), 2),
        (recipes.RELEASED_ADVERSARIAL_TRAINING, 7 / 3),
    ],
)
def test_passes_of_each_method(method: Method, expected: float) -> None:
    assert passes(method).total == pytest.approx(expected)


@pytest.mark.parametrize(
    "method",
    [
        Erm(),
        Amp(epsilon=0.5, inner_steps=2),
        Sam(rho=0.05),
        Rmp(epsilon=0.1),
        AdversarialTraining(step=1),
        AdversarialTraining(step=1, start="random"),
        AdversarialTraining(step=1, gradient_mode="eval"),
    ],
)
def test_passes_are_those_that_the_trainer_makes(method: Method) -> None:
    import torch
    from torch import nn

    from trainer.data.pixels import PixelScale
    from trainer.data.splits import Examples
    from trainer.methods.registry import build_method

    forwards = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model.register_forward_hook(lambda *_: forwards.append(torch.is_grad_enabled()))
    scale = PixelScale(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), 16)
    trained = build_method(method, torch.Generator().manual_seed(0), scale)
    trained.backward(model, Examples(torch.rand(5, 1, 2, 2), torch.arange(5) % 3))
    assert passes(method) == Passes(forwards.count(True), forwards.count(False))


@pytest.mark.parametrize(
    "other",
    [
        replace(ERM, seed=7),
        replace(ERM, epochs=9, lr=0.2, lr_milestones=(4,), lr_decay=0.5, momentum=0.5, weight_decay=0),
        replace(ERM, method=Amp(epsilon=3)),
        replace(ERM, validation=Holdout(fraction=1 / 3, seed=5)),
        replace(ERM, momentum_form="nesterov", clip_gradients=ClipGradients(max_norm=5)),
        replace(ERM, normalization=Normalization(mean=(0.5,), std=(0.5,))),
    ],
)
def test_what_leaves_the_time_of_an_epoch_as_it_is(other: TrialConfig) -> None:
    assert kind(other) == kind(ERM)


@pytest.mark.parametrize(
    "other",
    [
        replace(ERM, model=Mlp(hidden=(64,), norm="none")),
        replace(ERM, dataset=Mnist5k()),
        replace(ERM, batch_size=25),
        replace(ERM, validation=Holdout(fraction=0.5)),
        replace(ERM, evaluate="val"),
        replace(ERM, precision="bfloat16"),
        replace(ERM, memory_format="channels_last"),
        replace(ERM, augment=Augment(flip="horizontal", crop_padding=0)),
    ],
)
def test_what_changes_the_time_of_an_epoch(other: TrialConfig) -> None:
    assert kind(other) != kind(ERM)


@pytest.mark.parametrize("dataset", [Digits(), Mnist5k(), TwoSpirals(train_size=30, test_size=70)])
def test_sizes_and_shapes_are_those_of_the_data(tmp_path: Path, dataset: Dataset) -> None:
    trial = replace(ERM, dataset=dataset)
    data = load(trial, Machine(data_dir=tmp_path))
    assert data.val is not None
    assert data.test is not None
    assert examples(trial) == pytest.approx((len(data.train), len(data.val) + len(data.test)), abs=1)
    assert not isinstance(dataset, ImageFolder)
    assert dataset.shape == data.train.stored.images.shape[1:]


@pytest.mark.parametrize("dataset", [Cifar10(), Svhn()])
def test_sizes_are_those_that_the_declaration_names(dataset: Dataset) -> None:
    trained, evaluated = examples(replace(ERM, dataset=dataset, validation=None, evaluate="test")) or (0, 0)
    assert f"{trained:,.0f} and {evaluated:,.0f} images [3, 32, 32]" in (dataset.__doc__ or "")


def test_examples_of_search_trials_and_of_trials_without_validation() -> None:
    assert examples(replace(ERM, evaluate="val")) == pytest.approx((400, 200))
    assert examples(replace(ERM, evaluate="test", validation=None)) == (600, 1197)


def test_an_epoch_from_flops_by_hand() -> None:
    trial = replace(
        AMP,
        model=Mlp(hidden=(10,), norm="none"),
        validation=None,
        evaluate="test",
        method=Amp(epsilon=1, inner_steps=2),
    )
    forward, first = 2 * (64 * 10 + 10 * 10), 2 * 64 * 10
    flop = 600 * 3 * (3 * forward - first) + 1197 * forward
    layers = (12 * 3 + 6 / 3) * 2  # 12 batches of 50 in training, 6 of 200 in evaluation
    assert epoch_seconds(trial, peak=1e9) == pytest.approx(flop / 0.5e9 + layers * 1.6e-4)


def test_a_forward_pass_more_costs_a_forward_pass() -> None:
    trial = replace(ERM, validation=None, evaluate="test", batch_size=600)
    more, cost = replace(trial, method=Rmp(epsilon=0.1)), cost_of(trial)
    assert cost is not None
    without, with_it = epoch_seconds(trial, 1e6), epoch_seconds(more, 1e6)
    assert without is not None
    assert with_it is not None
    assert with_it - without == pytest.approx(600 * cost.forward / 0.5e6 + cost.layers * 1.6e-4 / 3)


def test_what_cannot_be_told_from_a_declaration_is_unknown() -> None:
    own_images = replace(ERM, dataset=ImageFolder(digest="0" * 16 + ":" + "1" * 16, classes=3))
    own_network = replace(ERM, model=Custom("somewhere:net", digest="0" * 16))
    for trial in (own_images, own_network):
        assert Known([], peak=1e9).estimate(trial) == Estimate(None, "unknown", None)
    assert Known([], peak=None).estimate(ERM) == Estimate(None, "unknown", 8 * (64 * 64 * 2 + 64 * 10))


def seen(trial: TrialConfig, seconds: float, size: int | None = 100) -> Measured:
    return Measured(kind(trial), HERE, passes(trial.method).total, seconds, size, 0.1, 0.5)


def test_the_median_of_what_was_measured_comes_first() -> None:
    known = Known([seen(ERM, 2.0), seen(ERM, 50.0, 300), seen(replace(ERM, seed=3), 3.0, None)], peak=1e9)
    assert known.estimate(ERM) == Estimate(3 * 3.0, "measured", 200)


def test_another_methods_time_is_scaled_by_the_passes() -> None:
    known = Known([seen(AMP, 4.0)], peak=1e9)
    assert known.estimate(ERM) == Estimate(3 * 2.0, "scaled", 100)
    assert known.estimate(replace(ERM, method=Amp(epsilon=1, inner_steps=2))) == Estimate(3 * 6.0, "scaled", 100)
    assert Known([seen(AMP, 4.0), seen(ERM, 1.0)], peak=1e9).estimate(ERM) == Estimate(3 * 1.0, "measured", 100)


def test_without_measurements_flops_decide() -> None:
    found, one = Known([], peak=1e9).estimate(ERM), epoch_seconds(ERM, 1e9)
    assert one is not None
    assert found.seconds == pytest.approx(3 * one)
    assert found.source == "FLOPs"
    assert found.checkpoint_bytes == 8 * (64 * 64 * 2 + 64 * 10)


def record(epoch: int, seconds: float) -> EpochRecord:
    metrics = {"epoch_seconds": seconds, "val/error": 0.3, "val/nll": 0.9, "test/error": epoch / 10, "test/nll": 0.7}
    return EpochRecord(epoch, FIRST_TIMESTAMP + epoch, metrics)


def test_what_a_finished_trial_leaves() -> None:
    records = [record(1, 9.0), record(2, 1.0), record(3, 2.0)]
    assert measured(AMP, records, HERE, 77) == Measured(kind(AMP), HERE, 2, 2.0, 77, 0.3, 0.7)
    search = measured(replace(AMP, evaluate="val"), records, HERE, None)
    assert search is not None
    assert (search.error, search.nll, search.checkpoint_bytes) == (0.3, 0.9, None)
    assert measured(AMP, [], HERE, 77) is None


@pytest.mark.parametrize(
    ("seconds", "jobs", "expected"),
    [([], 2, 0), ([4, 4, 4, 4], 1, 16), ([4, 4, 4, 4], 2, 8), ([1, 1, 10], 3, 10), ([3], 8, 3)],
)
def test_wall_time(seconds: list[float], jobs: int, expected: float) -> None:
    assert wall_seconds(seconds, jobs) == expected


def test_the_longest_may_start_last_and_others_may_be_running() -> None:
    assert wall_seconds([10, 1, 1], 2) == 10
    assert wall_seconds([1, 1, 10], 2) == 11
    assert wall_seconds([4, 4], 2, running=[1, 6]) == 9
    assert wall_seconds([], 2, running=[3]) == 3


def test_what_a_test_detects_against_tabulated_sizes() -> None:
    """Effect sizes for power 0.8 at 5% two-sided, from Cohen's n: 34 pairs for 0.5, 15 for 0.8 (rounded up)."""
    for pairs, effect in ((34, 0.5), (15, 0.8)):
        more, fewer = detectable(1.0, pairs), detectable(1.0, pairs - 1)
        assert more is not None
        assert fewer is not None
        assert more <= effect < fewer


@pytest.mark.parametrize("pairs", [2, 3, 5, 10])
def test_the_power_is_what_a_simulation_finds(pairs: int) -> None:
    difference = detectable(0.3, pairs)
    assert difference is not None
    samples = np.random.default_rng(pairs).normal(difference, 0.3, size=(20_000, pairs))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 20_000))


def test_one_pair_detects_nothing() -> None:
    assert detectable(0.3, 1) is None

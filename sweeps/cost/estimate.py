"""What trials will take and what their number can show, as pure functions of declarations and of what was measured.

An epoch's time is that measured on the same hardware, of the same network, data and batches; else it follows from
FLOPs, a share of what a matrix multiplication reaches there, and the time that a layer takes however small it is.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sweeps.cost.network import NetworkCost, network_cost
from sweeps.cost.own import Own, declared_images
from sweeps.ledger import Measured
from trainer.config import (
    AdversarialTraining,
    Amp,
    ImageFolder,
    Method,
    Rmp,
    Sam,
    TrialConfig,
    identity,
)
from trainer.data.parts import classes
from trainer.records import EpochRecord

SHARE_OF_PEAK = 0.5
"""Assumed. The networks of the paper reach 0.5 to 1.5 in float32 on one core here, narrow ones 0.15 to 0.4."""
LAYER_SECONDS = 1.6e-4
"""Forward and backward of a layer with next to nothing in it, measured here: 0.16 to 0.17 ms in deep networks with
BatchNorm on a CPU."""
EVALUATION_BATCH = 200
BYTES_A_WEIGHT = 8
"""In a checkpoint: the weight and its momentum, in float32."""
POWER, LEVEL = 0.8, 0.05

NOT_COSTLY = {"seed", "epochs", "lr", "lr_milestones", "lr_decay", "momentum", "momentum_form", "weight_decay"}
NOT_COSTLY |= {"revision", "validation.seed"}

Source = Literal["measured", "scaled", "FLOPs", "unknown"]
"""Where a trial's time is from. ``scaled``: measured with another method, times the number of passes."""


class Passes(NamedTuple):
    """Of one training step over its mini-batch: forward and backward, and forward alone."""

    gradient: int
    forward: int = 0

    @property
    def total(self) -> float:
        """In units of ERM's step: a backward pass costs two forward ones."""
        return self.gradient + self.forward / 3


def passes(method: Method) -> Passes:
    """AMP costs N + 1 passes (paper, Algorithm 1)."""
    match method:
        case Amp():
            return Passes(method.inner_steps + 1)
        case Sam():
            return Passes(2)
        case Rmp():
            return Passes(1, 1)
        case AdversarialTraining():
            known = method.start == "image" and method.gradient_mode == "train"
            return Passes(2, 0 if known else 1)
    return Passes(1)


def kind(trial: TrialConfig) -> str:
    """The same for trials whose epochs take equally long on a machine but for their methods' passes."""
    parts = ("method", "normalization", "clip_gradients")
    costly = {k: v for k, v in trial.params().items() if k.partition(".")[0] not in parts and k not in NOT_COSTLY}
    return identity(costly)


def memory_kind(trial: TrialConfig) -> str:
    """The same for trials that take equally much of a GPU's memory: their methods differ in numbers at most."""
    return identity({"kind": kind(trial), "method": type(trial.method).__name__})


def measured(
    trial: TrialConfig, records: Sequence[EpochRecord], hardware: str, checkpoint_bytes: int | None
) -> Measured | None:
    """What a finished trial leaves for later plans; None without records."""
    if not records:
        return None
    last, part = records[-1].metrics, "test" if trial.phase == "final" else "val"
    return Measured(
        kind=kind(trial),
        hardware=hardware,
        passes=passes(trial.method).total,
        epoch_seconds=statistics.median(record.metrics["epoch_seconds"] for record in records),
        checkpoint_bytes=checkpoint_bytes,
        error=last.get(f"{part}/error"),
        nll=last.get(f"{part}/nll"),
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one trial: seconds of training and evaluation, bytes of its checkpoint; None for unknown."""

    seconds: float | None
    source: Source
    checkpoint_bytes: float | None


class Known:
    """What was measured, for looking up. peak: FLOP/s of a matrix multiplication on one device, None for unknown.

    own: by ``kind``, what was seen of users' own images and networks.
    """

    def __init__(self, found: Iterable[Measured], peak: float | None, own: Mapping[str, Own] | None = None) -> None:
        self._peak, self._own = peak, own or {}
        self._seconds: dict[tuple[str, float], list[float]] = {}
        self._a_pass: dict[str, list[float]] = {}
        self._bytes: dict[str, list[int]] = {}
        for one in found:
            self._seconds.setdefault((one.kind, one.passes), []).append(one.epoch_seconds)
            self._a_pass.setdefault(one.kind, []).append(one.epoch_seconds / one.passes)
            if one.checkpoint_bytes is not None:
                self._bytes.setdefault(one.kind, []).append(one.checkpoint_bytes)

    def estimate(self, trial: TrialConfig) -> Estimate:
        """The medians of what was measured, else what follows from the declaration."""
        here, steps = kind(trial), passes(trial.method).total
        own = self._own.get(here)
        cost = cost_of(trial, own)
        stored = statistics.median(self._bytes[here]) if here in self._bytes else cost and BYTES_A_WEIGHT * cost.weights
        if (here, steps) in self._seconds:
            return Estimate(trial.epochs * statistics.median(self._seconds[here, steps]), "measured", stored)
        if here in self._a_pass:
            return Estimate(trial.epochs * steps * statistics.median(self._a_pass[here]), "scaled", stored)
        seconds = self._peak and epoch_seconds(trial, self._peak, own)
        return Estimate(seconds and trial.epochs * seconds, "FLOPs" if seconds else "unknown", stored)


def cost_of(trial: TrialConfig, own: Own | None = None) -> NetworkCost | None:
    """Of the trial's network on its data; None for a user's own network or images that nobody has looked at."""
    if own is not None:
        return own.cost
    if isinstance(trial.dataset, ImageFolder):
        return None
    return network_cost(trial.model, trial.dataset.shape, classes(trial.dataset))


def examples(trial: TrialConfig, own: Own | None = None) -> tuple[float, float] | None:
    """How many examples an epoch trains on, and evaluates; None for a folder of images that nobody has looked into."""
    if own is None and isinstance(trial.dataset, ImageFolder):
        return None
    train, test = own.images if own is not None else declared_images(trial.dataset)
    held_out = train * trial.validation.fraction if trial.validation else 0.0
    return train - held_out, held_out + (test if "test" in trial.evaluate else 0)


def epoch_seconds(trial: TrialConfig, peak: float, own: Own | None = None) -> float | None:
    """From FLOPs, for a device whose matrix multiplication reaches ``peak`` FLOP/s; None where they are not known."""
    cost, count = cost_of(trial, own), examples(trial, own)
    if cost is None or count is None:
        return None
    (trained, evaluated), step = count, passes(trial.method)
    an_example = step.gradient * (cost.forward + cost.backward) + step.forward * cost.forward
    flop = trained * an_example + evaluated * cost.forward
    layers = math.ceil(trained / trial.batch_size) * step.total + math.ceil(evaluated / EVALUATION_BATCH) / 3
    return flop / (SHARE_OF_PEAK * peak) + layers * cost.layers * LAYER_SECONDS


def wall_seconds(seconds: Iterable[float], jobs: int, running: Sequence[float] = ()) -> float:
    """Of trials of these lengths, started in order, ``jobs`` at a time. running: what is left of those before them."""
    free = [*running, *[0.0] * (jobs - len(running))]
    heapq.heapify(free)
    for length in seconds:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def detectable(deviation: float, pairs: int) -> float | None:
    """The mean difference of ``pairs`` pairs that a two-sided paired t-test at 5% finds with power 0.8.

    deviation: of the differences, whose unit the result has. None for fewer than two pairs. The test's statistic is
    noncentral t with noncentrality difference · sqrt(pairs) / deviation; the tail on the wrong side is left out.
    """
    from scipy.special import nctdtrinc, stdtrit  # a third of a second, which ``status`` need not wait

    if pairs < 2:
        return None
    critical = stdtrit(pairs - 1, 1 - LEVEL / 2)
    return float(nctdtrinc(pairs - 1, 1 - POWER, critical)) * deviation / math.sqrt(pairs)

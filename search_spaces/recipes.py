"""The paper's hyper-parameters and the settings of the small studies, as functions: their only home.

Each gives one trial of a method and a seed; a study varies the rest with ``dataclasses.replace``.
"""

from __future__ import annotations

from trainer.config import Amp, Digits, Holdout, Method, Mlp, Mnist5k, TrialConfig

SEEDS = range(5)


def fig8_amp(epsilon: float) -> Amp:
    """AMP as in Figure 8: ζ = 2, N = 2 (paper, §5.4, where ζ is misprinted as η), Algorithm 1's global ball."""
    return Amp(epsilon=epsilon, inner_lr=2.0, inner_steps=2, ball="global")


def mnist5k_mlp(method: Method, seed: int) -> TrialConfig:
    """A small network with BatchNorm on 1,000 digits, in the overfitting regime that AMP needs.

    Momentum, weight decay, batch size and the two divisions of η by ten are the paper's (§5.1); the rest is sized for
    two CPU cores.
    """
    return TrialConfig(
        method=method,
        model=Mlp(hidden=(128, 128), norm="batch"),
        dataset=Mnist5k(),
        seed=seed,
        validation=Holdout(fraction=0.5),
        evaluate="val+test",
        epochs=30,
        batch_size=50,
        lr=0.05,
        lr_milestones=(15, 22),
        lr_decay=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )


def digits_mlp(method: Method, seed: int) -> TrialConfig:
    """A smaller network without BatchNorm on 400 digits of 8 × 8 pixels: a trial takes a fraction of a second."""
    return TrialConfig(
        method=method,
        model=Mlp(hidden=(64, 64), norm="none"),
        dataset=Digits(),
        seed=seed,
        validation=Holdout(fraction=1 / 3),
        evaluate="val+test",
        epochs=40,
        batch_size=50,
        lr=0.05,
        lr_milestones=(20, 30),
        lr_decay=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )

"""§5.5: what an epoch costs with AMP, N = 1, in units of ERM's.

The trials are this study's alone, so that no time is taken over from a trial that shared its machine. They hold a few
images out and never read the test set: nearly all of ``epoch_seconds`` is then training, but in the last epoch, which
measures the training set as well. The first warms up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Cifar10, Erm, Holdout, SmallCnn, TrialConfig

REPETITIONS = range(3)
SMALL_REPETITIONS = range(5)


def _timed(trial: TrialConfig) -> TrialConfig:
    held_out = Holdout(fraction=0.02)
    return dataclasses.replace(trial, epochs=5, lr_milestones=(), validation=held_out, evaluate="val")


def _cost() -> Iterator[TrialConfig]:
    for seed in REPETITIONS:
        for model in recipes.TABLE1_MODELS:
            for method in (Erm(), recipes.amp(*recipes.TABLE1_AMP[type(model)], "as_written")):
                yield _timed(recipes.vanilla_trial(method, model, Cifar10(), seed, "as_written"))


def _cost_small() -> Iterator[TrialConfig]:
    for seed in SMALL_REPETITIONS:
        for method in (Erm(), recipes.MNIST5K_AMP):
            yield _timed(dataclasses.replace(recipes.mnist5k_mlp(method, seed), model=SmallCnn(width=16)))


STUDIES = (
    Study(
        name="cost",
        question="How much longer than with ERM does an epoch take with AMP and one inner step, one trial at a time"
        " (1.8 times in §5.5)?",
        trials=tuple(_cost()),
        at_once=1,
    ),
    Study(
        name="cost-small",
        question="How much longer than with ERM does an epoch take with AMP and one inner step for a small network on"
        " this machine, one trial at a time?",
        trials=tuple(_cost_small()),
        at_once=1,
    ),
)

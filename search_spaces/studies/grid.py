"""Inner learning rates ζ times inner steps N times data sets times networks, ERM beside each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Erm, Method, TrialConfig

SEEDS = range(3)
ZETAS = (0.2, 1.0, 5.0)
INNER_STEPS = (1, 2, 3)
SMALL_ZETAS = (0.2, 5.0)
SMALL_INNER_STEPS = (1, 2)
SMALL = (
    (recipes.mnist5k_mlp, recipes.MNIST5K_AMP.epsilon),
    (recipes.mnist5k_cnn, recipes.CNN_EPSILON),
    (recipes.digits_mlp, recipes.DIGITS_AMP.epsilon),
    (recipes.digits_cnn, recipes.CNN_EPSILON),
)


def _methods(epsilon: float, zetas: tuple[float, ...], inner_steps: tuple[int, ...]) -> Iterator[Method]:
    yield Erm()
    for zeta, steps in itertools.product(zetas, inner_steps):
        yield Amp(epsilon=epsilon, inner_lr=zeta, inner_steps=steps)


def _grid() -> Iterator[TrialConfig]:
    for seed, dataset, model in itertools.product(SEEDS, recipes.PAPER_DATASETS, recipes.TABLE1_MODELS):
        epsilon, _ = recipes.TABLE1_AMP[type(model)]
        for method in _methods(epsilon, ZETAS, INNER_STEPS):
            yield recipes.vanilla_trial(method, model, dataset, seed, "as_written")


STUDIES = (
    Study(
        name="grid",
        question="Do ζ and N matter in the same way on three data sets and with two networks, each at its radius of"
        " Table 1?",
        trials=tuple(_grid()),
    ),
    Study(
        name="grid-small",
        question="Do ζ and N matter in the same way on two small data sets, with and without convolutions, each network"
        " at one radius?",
        trials=tuple(
            trial(method, seed)
            for seed in SEEDS
            for trial, epsilon in SMALL
            for method in _methods(epsilon, SMALL_ZETAS, SMALL_INNER_STEPS)
        ),
    ),
)

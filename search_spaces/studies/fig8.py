"""Figure 8 on data that packages ship: the risk of the trained model against the radius ε, ERM as the level line."""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Erm, Method

MNIST5K_EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0)
DIGITS_EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
MNIST5K_METHODS: tuple[Method, ...] = (Erm(), *map(recipes.fig8_amp, MNIST5K_EPSILONS))
DIGITS_METHODS: tuple[Method, ...] = (Erm(), *map(recipes.fig8_amp, DIGITS_EPSILONS))

STUDIES = (
    Study(
        name="fig8-mnist5k",
        question="How do training and test risk on 5,000 MNIST digits depend on AMP's radius, and is any radius better"
        " than ERM?",
        trials=tuple(recipes.mnist5k_mlp(method, seed) for seed in recipes.SEEDS for method in MNIST5K_METHODS),
    ),
    Study(
        name="fig8-digits",
        question="The same on 8 × 8 digits with a network without BatchNorm, in seconds: where does AMP stop helping,"
        " and where do seeds collapse?",
        trials=tuple(recipes.digits_mlp(method, seed) for seed in recipes.SEEDS for method in DIGITS_METHODS),
    ),
)

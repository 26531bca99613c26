"""AMP against its number of inner steps N at Table 1's ε and ζ; the paper finds N = 1 enough (§5.5)."""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Cifar10, Erm, Method, PreActResNet18

INNER_STEPS = (1, 2, 3, 5)
METHODS: tuple[Method, ...] = (Erm(), *(Amp(epsilon=0.5, inner_lr=1.0, inner_steps=steps) for steps in INNER_STEPS))

STUDIES = (
    Study(
        name="inner-steps",
        question="Is one inner step enough (§5.5), or do training and test risk change with more at ε = 0.5, ζ = 1?",
        trials=tuple(
            recipes.vanilla_trial(method, PreActResNet18(), Cifar10(), seed, "as_written")
            for seed in recipes.SEEDS
            for method in METHODS
        ),
    ),
    Study(
        name="inner-steps-small",
        question="Is one inner step enough on 5,000 MNIST digits, or do training and test risk change with more at"
        " ε = 0.5, ζ = 1?",
        trials=tuple(recipes.mnist5k_mlp(method, seed) for seed in recipes.SEEDS for method in METHODS),
    ),
)

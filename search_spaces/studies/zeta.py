"""AMP against its inner learning rate ζ at Table 1's radius, with one inner step."""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Cifar10, Erm, Method, PreActResNet18

ZETAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
METHODS: tuple[Method, ...] = (Erm(), *(Amp(epsilon=0.5, inner_lr=zeta) for zeta in ZETAS))

STUDIES = (
    Study(
        name="zeta",
        question="How do training and test risk depend on AMP's inner learning rate ζ at ε = 0.5, N = 1?",
        trials=tuple(
            recipes.vanilla_trial(method, PreActResNet18(), Cifar10(), seed, "as_written")
            for seed in recipes.SEEDS
            for method in METHODS
        ),
    ),
    Study(
        name="zeta-small",
        question="How do training and test risk on 5,000 MNIST digits depend on AMP's inner learning rate ζ at ε = 0.5,"
        " N = 1, and from where on does the ball alone decide?",
        trials=tuple(recipes.mnist5k_mlp(method, seed) for seed in recipes.SEEDS for method in METHODS),
    ),
)

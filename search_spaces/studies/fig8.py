"""Figure 8: the risk of the trained model against the radius ε, ERM as the level line; and on data that packages ship.

The paper names no network for it and draws CIFAR-10 in the text, the other sets in its Appendix E. Here the network is
PreActResNet18, whose ERM trials are Table 1's, and the ball is the one of Algorithm 1.
"""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Cifar10, Cifar100, Dataset, Erm, Method, PreActResNet18, Svhn
from trainer.probe_config import Sharpness

EPSILONS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.5, 1.0, 2.0)
METHODS: tuple[Method, ...] = (Erm(), *map(recipes.fig8_amp, EPSILONS))
MNIST5K_EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0)
DIGITS_EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
MNIST5K_METHODS: tuple[Method, ...] = (Erm(), *map(recipes.fig8_amp, MNIST5K_EPSILONS))
DIGITS_METHODS: tuple[Method, ...] = (Erm(), *map(recipes.fig8_amp, DIGITS_EPSILONS))
PROBES = (Sharpness(radii=(0.1, 0.5), examples=10_000),)
"""At the same radii whatever the cell's ε: is a minimum that AMP selects flatter?"""


def _fig8(name: str, dataset: Dataset, images: str) -> Study:
    model = PreActResNet18()
    return Study(
        name=name,
        question=f"How do training and test risk on {images} depend on AMP's radius, and is the test risk lowest near"
        " 0.06?",
        trials=tuple(
            recipes.vanilla_trial(method, model, dataset, seed, "as_written")
            for seed in recipes.SEEDS
            for method in METHODS
        ),
        probes=PROBES,
    )


STUDIES = (
    _fig8("fig8", Cifar10(), "CIFAR-10"),
    _fig8("fig8-cifar100", Cifar100(), "CIFAR-100"),
    _fig8("fig8-svhn", Svhn(), "SVHN"),
    Study(
        name="fig8-mnist5k",
        question="How do training and test risk on 5,000 MNIST digits depend on AMP's radius, and is any radius better"
        " than ERM?",
        trials=tuple(recipes.mnist5k_mlp(method, seed) for seed in recipes.SEEDS for method in MNIST5K_METHODS),
        probes=PROBES,
    ),
    Study(
        name="fig8-digits",
        question="How do training and test risk on 8 × 8 digits, with a network without BatchNorm, depend on AMP's"
        " radius, and from which radius on does it harm?",
        trials=tuple(recipes.digits_mlp(method, seed) for seed in recipes.SEEDS for method in DIGITS_METHODS),
        probes=PROBES,
    ),
)

"""Figure 2: training and test loss along random directions from the solutions of ERM and of AMP."""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Cifar10, Erm, PreActResNet18
from trainer.probe_config import LossAlongDirections

SEEDS = range(3)
MODEL = PreActResNet18()
METHODS = (Erm(), recipes.amp(*recipes.TABLE1_AMP[PreActResNet18], "as_written"))

STUDIES = (
    Study(
        name="fig2",
        question="Is the training and the test loss flatter around AMP's solution than around ERM's, along"
        " filter-normalised random directions?",
        trials=tuple(
            recipes.vanilla_trial(method, MODEL, Cifar10(), seed, "as_written") for seed in SEEDS for method in METHODS
        ),
        probes=(LossAlongDirections(examples=10_000),),
    ),
    Study(
        name="fig2-small",
        question="Is the loss around AMP's solution flatter than around ERM's on 5,000 MNIST digits, along"
        " filter-normalised random directions?",
        trials=tuple(
            recipes.mnist5k_mlp(method, seed) for seed in recipes.SEEDS for method in (Erm(), recipes.MNIST5K_AMP)
        ),
        probes=(LossAlongDirections(),),
    ),
)

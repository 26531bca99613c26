"""Figure 6: the decision boundaries of ERM and AMP between two spirals."""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Erm
from trainer.probe_config import DecisionBoundary

METHODS = (Erm(), recipes.SPIRALS_AMP)

STUDIES = (
    Study(
        name="fig6",
        question="Is AMP's decision boundary between two spirals smoother and farther from the training points than"
        " ERM's?",
        trials=tuple(recipes.spirals_mlp(method, seed) for seed in recipes.PAPER_SEEDS for method in METHODS),
        probes=(DecisionBoundary(points=200),),
    ),
    Study(
        name="fig6-small",
        question="What does the boundary between two spirals look like with ERM and with AMP, for two of fig6's seeds?",
        trials=tuple(recipes.spirals_mlp(method, seed) for seed in range(2) for method in METHODS),
        probes=(DecisionBoundary(),),
    ),
)

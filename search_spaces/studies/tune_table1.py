"""Table 1 with every method tuned alike: the comparison that settings taken from a paper cannot give."""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.search import Search, Tuning
from search_spaces.spaces import full_space
from trainer.config import TrialConfig


def _search(data: str, base: TrialConfig) -> Search:
    method = type(base.method).__name__.lower()
    return Search(name=f"{data}-{method}", base=base, space=full_space(base.method), settings=40, seeds=3)


STUDIES = (
    Tuning(
        name="tune-table1-small",
        question="Which of Table 1's eight methods has the lowest test NLL with a small network on few digits once each"
        " had the same budget to tune its own parameters, the learning rate and the weight decay on validation images?",
        searches=(
            *(_search("mnist5k", recipes.mnist5k_mlp(method, seed=0)) for method in recipes.MNIST5K_TABLE1),
            *(_search("digits", recipes.digits_mlp(method, seed=0)) for method in recipes.DIGITS_TABLE1),
        ),
    ),
)

"""Table 2: ERM and AMP on top of three augmentations, with two large networks on three data sets."""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.study import Study

STUDIES = (
    Study(
        name="table2",
        question="With the settings of the paper's text, does AMP lower the test error of large networks on top of"
        " vanilla augmentation, Cutout and AutoAugment?",
        trials=tuple(recipes.table2_trials("as_written", recipes.PAPER_SEEDS)),
    ),
    Study(
        name="table2-released",
        question="Does what the authors' released code does, written anew, reproduce the numbers printed in Table 2?",
        trials=tuple(recipes.table2_trials("as_released", recipes.PAPER_SEEDS)),
    ),
    Study(
        name="table2-small",
        question="Does AMP, its radius chosen on validation, lower the test NLL of a small network on few digits on"
        " top of crops and of Cutout?",
        trials=tuple(recipes.table2_small_trials(recipes.SEEDS)),
    ),
)

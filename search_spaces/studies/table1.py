"""Table 1: eight methods, two networks, three data sets. Figure 7 reads the same trials."""

from __future__ import annotations

from search_spaces import recipes
from search_spaces.study import Study
from trainer.probe_config import Calibration

STUDIES = (
    Study(
        name="table1",
        question="With the settings of the paper's text, which of eight methods has the lowest test error and NLL"
        " (Table 1), and which is best calibrated (Figure 7)?",
        trials=tuple(recipes.table1_trials("as_written", recipes.PAPER_SEEDS)),
        probes=(Calibration(),),
    ),
    Study(
        name="table1-released",
        question="Does what the authors' released code does, written anew, reproduce the numbers printed in Table 1?",
        trials=tuple(recipes.table1_trials("as_released", recipes.PAPER_SEEDS)),
        probes=(Calibration(),),
    ),
    Study(
        name="table1-small",
        question="Which of Table 1's eight methods has the lowest test NLL with a small network on few digits, each"
        " with the paper's setting but AMP on the smaller set, whose radius was chosen on validation?",
        trials=tuple(
            trial
            for seed in recipes.SEEDS
            for trial in (
                *(recipes.mnist5k_mlp(method, seed) for method in recipes.MNIST5K_TABLE1),
                *(recipes.digits_mlp(method, seed) for method in recipes.DIGITS_TABLE1),
            )
        ),
        probes=(Calibration(),),
    ),
)

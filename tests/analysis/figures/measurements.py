"""Material whose trials are probed: what the probes found is made up and stored where the real ones are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from analysis.figures.base import Material
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.figures.materials import made_material
from trainer.config import Amp, Erm, Method, TrialConfig
from trainer.machine import Results
from trainer.measurement import Measurement
from trainer.probe_config import Probe

METHODS: tuple[Method, ...] = (Erm(), Amp(epsilon=0.5))


def study_of(probe: Probe | None, methods: tuple[Method, ...] = METHODS, seeds: int = 3) -> Study:
    trials = [recipes.digits_mlp(method, seed) for seed in range(seeds) for method in methods]
    return Study(name="made-up", question="?", trials=trials, probes=[probe] if probe else [])


def probed_material(
    study: Study, folder: Path, arrays: Callable[[TrialConfig], Mapping[str, NDArray[Any]] | None]
) -> Material:
    """arrays: what the study's probe found of a trial; None for one that is not measured."""
    results = Results(folder)
    for trial in study.trials:
        found = arrays(trial)
        if found is not None:
            path = results.measurement(trial.trial_id, study.probes[0].probe_id)
            Measurement({}, found).save(path, study.probes[0])
    return dataclasses.replace(made_material(study, lambda _: {"test/nll": 0.5}), results=results)

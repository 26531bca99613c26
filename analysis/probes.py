"""What probes measured of a study's trials, read from the files they left: numbers as a tidy frame, arrays by trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from search_spaces.study import Study
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.measurement import load_measurement
from trainer.probe_config import Probe

COLUMNS = ("trial_id", "cell", "seed", "probe", "probe_id", "metric", "value")


def load_probes(study: Study, results: Results) -> pd.DataFrame:
    """One row a trial, probe and metric, trials and probes in declared order; what is not measured yet has no row.

    Columns: ``trial_id``; ``cell``, the label of its cell; ``seed``; ``probe``, its kind; ``probe_id``; ``metric``
    (``probe/hessian/trace``); ``value``. ``trial_id`` joins them to ``analysis.runs.load``.
    """
    return pd.DataFrame(_rows(study, results), columns=list(COLUMNS))


def _rows(study: Study, results: Results) -> Iterator[tuple[Any, ...]]:
    labels = {trial.trial_id: cell.label for cell in study.cells() for trial in cell.trials}
    for trial in study.trials:
        for probe in study.probes:
            measured = load_measurement(results.measurement(trial.trial_id, probe.probe_id))
            for metric, value in (measured.metrics if measured else {}).items():
                about = (trial.trial_id, labels[trial.trial_id], trial.seed, type(probe).__name__, probe.probe_id)
                yield (*about, metric, value)


def load_arrays(trial: TrialConfig, probe: Probe, results: Results) -> Mapping[str, NDArray[Any]]:
    """The arrays that ``probe`` found in ``trial``; what they hold is said where it is measured, in trainer/probes.

    Raises ConfigError when it was not measured yet.
    """
    path = results.measurement(trial.trial_id, probe.probe_id)
    measured = load_measurement(path)
    if measured is None:
        name = type(probe).__name__
        raise ConfigError(f"{path}: {name} of trial {trial.trial_id} is not measured yet: make probe STUDY=...")
    return measured.arrays

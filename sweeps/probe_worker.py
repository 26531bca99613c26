"""What measures probes, in a worker process or on a node of a Ray. Writes measurements, never the ledger or MLflow.

Importing this module does not import torch, for the driver imports it as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Machine, Results
from trainer.probe_config import Probe

LOST_WORKER_TRIES = 3
SHOW_EVERY_SECONDS = 0.5
Started = Callable[[str], None]
"""Is called with each trial that is running, again and again."""


@dataclass(frozen=True, slots=True)
class Job:
    """A finished trial and the probes that are to be measured of it."""

    trial: TrialConfig
    probes: tuple[Probe, ...]
    machine: Machine
    results: Results


Done = tuple[Job, list[str]]
"""A job and what went wrong with it, a line each."""


def lost_worker(job: Job, cause: str = "out of memory?") -> Done:
    """The outcome of a job whose worker process was lost as often as is tried. cause: as far as it is known."""
    return job, [f"its worker process was lost {LOST_WORKER_TRIES} times ({cause})"]


def measure_trial(job: Job) -> list[str]:
    """Measure and store, one probe after the other; what could not be measured is returned, a line each."""
    from trainer.probes.measure import measure
    from trainer.settings import set_for_training
    from trainer.trained import load_trained

    set_for_training(job.machine.threads)
    trial_id, problems = job.trial.trial_id, []
    try:
        trained = load_trained(job.trial, job.machine, job.results.checkpoint(trial_id))
    except Exception as error:
        return [_line(error)]
    for probe in job.probes:
        try:
            measure(probe, trained).save(job.results.measurement(trial_id, probe.probe_id), probe)
        except Exception as error:  # the other probes may do all the same
            problems.append(f"{type(probe).__name__}: {_line(error)}")
    return problems


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}"

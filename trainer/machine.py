"""Facts of the machine: device, threads and where files lie. Never part of a trial's identity."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from trainer.declaration import ConfigError

RESULTS_VARIABLE = "SWEEPS_RESULTS"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
OPTUNA_VARIABLE = "SWEEPS_OPTUNA_URL"
LEDGER_VARIABLE = "SWEEPS_LEDGER_URL"
SUBMITTED_VARIABLE = "SWEEPS_SUBMITTED"
"""In a job: the variables by which make submit finds its study again where it was sent from."""
CACHE_VARIABLE = "SWEEPS_DATA_CACHE"
"""In a node's environment: the absolute path of a folder on its own disk, for data sets."""


TRACKING_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "DO_NOT_TRACK": "true",
}
"""What MLflow's client is to find in the environment, unless the user has said otherwise."""


def set_tracking_defaults() -> None:
    """Put ``TRACKING_SETTINGS`` into the environment; before MLflow is imported, for it reports home from then on."""
    for name, value in TRACKING_SETTINGS.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where one trial runs.

    device: a torch device, ``cpu`` or ``cuda``.
    data_dir: folder for data sets and their cached tensors; made when needed. By default it lies under the results.
    threads: torch threads of the trial. Numbers are the same bit for bit only with the same number of threads.
    code_dir: folder where the module of a ``Custom`` network is looked for first, by default the working directory.
    """

    data_dir: Path = field(default_factory=lambda: Results.here().data)
    device: str = "cpu"
    threads: int = 1
    code_dir: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(
                f"Machine.device = {self.device!r}: must be 'cpu' or 'cuda' (CUDA_VISIBLE_DEVICES says which GPU)"
            )


@dataclass(frozen=True, slots=True)
class Results:
    """The one folder that everything a run leaves lies under."""

    root: Path

    @classmethod
    def here(cls) -> Results:
        """The folder that ``SWEEPS_RESULTS`` names, else ``results`` in the working directory; always absolute."""
        return cls(Path(os.environ.get(RESULTS_VARIABLE) or "results").resolve())

    @property
    def as_make(self) -> str:
        """The variable by which make finds this folder again, with a blank before it; empty where it would anyway."""
        return "" if self.root == Path("results").resolve() else f" RESULTS={shlex.quote(str(self.root))}"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def ledger_url(self) -> str:
        """The ledger's database, which it shares with nobody: ``SWEEPS_LEDGER_URL``, else an SQLite file."""
        return os.environ.get(LEDGER_VARIABLE) or f"sqlite:///{self.root / 'ledger.db'}"

    def has_ledger(self) -> bool:
        """Whether there is a ledger yet. A database server is taken to have one: only asking it would tell."""
        file = self.ledger_url.removeprefix("sqlite:///")
        return file == self.ledger_url or Path(file).is_file()

    @property
    def optuna_url(self) -> str:
        """Optuna's database, which it shares with nobody: what ``SWEEPS_OPTUNA_URL`` says, else an SQLite file."""
        return os.environ.get(OPTUNA_VARIABLE) or f"sqlite:///{self.root / 'optuna.db'}"

    @property
    def tracking_uri(self) -> str:
        """What ``MLFLOW_TRACKING_URI`` says, else an SQLite file; absolute, for MLflow's own default is not."""
        return os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def drivers(self) -> Path:
        """A folder for each driver that has joined a Ray, as long as it runs."""
        return self.root / "drivers"

    def checkpoint(self, trial_id: str) -> Path:
        """The file that holds a trial's state and all its records."""
        return self.root / "checkpoints" / f"{trial_id}.pt"

    def measurement(self, trial_id: str, probe_id: str) -> Path:
        """The file that holds what a probe measured of a trial."""
        return self.root / "probes" / trial_id / f"{probe_id}.npz"

    @property
    def reports(self) -> Path:
        """The folder of all reports."""
        return self.root / "reports"

    def report(self, study: str) -> Path:
        """The folder of a study's tables and figures."""
        return self.reports / study

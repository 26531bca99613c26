"""What differs for a driver that is a submitted job: its code goes along to every node, its folder is thrown away."""

from __future__ import annotations

import json
import os
from pathlib import Path

from trainer.declaration import ConfigError
from trainer.machine import RESULTS_VARIABLE

CODE = Path(__file__).resolve().parents[2]
"""The folder of our packages, in this process."""
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""In which Ray tells the driver of a job what job that is."""


def code_travels() -> bool:
    """Whether Ray brings this driver's code to every node, to each at a path of its own."""
    job = json.loads(os.environ.get(JOB_VARIABLE) or "{}")
    return bool((job.get("runtime_env") or {}).get("working_dir"))


def require_lasting_results() -> None:
    """Raise ConfigError in a job whose results would lie in its working directory: that is thrown away, and unseen."""
    named = os.environ.get(RESULTS_VARIABLE, "")
    if code_travels() and not Path(named).is_absolute():
        raise ConfigError(
            f"RESULTS ({RESULTS_VARIABLE}) is {named or 'not set'} in this job: it must be an absolute path that all"
            " nodes see: set it where the head is started, or make submit RESULTS=/PATH"
        )


def portable(folder: Path) -> str:
    """``folder`` as another node finds it: relative to the code where it lies in there, else as it is."""
    folder = folder.resolve()
    return str(folder.relative_to(CODE)) if folder.is_relative_to(CODE) else str(folder)


def at_hand(folder: str) -> Path:
    """Where a ``portable`` folder lies for this process."""
    return CODE / folder

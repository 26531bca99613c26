"""What runs in a Ray worker: one trial, reported to the driver. Writes a checkpoint, never the ledger or MLflow.

Importing this module does not import torch, for the driver imports it as well.
"""

from __future__ import annotations

import errno
import json
import os
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Machine
from trainer.records import EpochRecord

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REPORT_EVERY_SECONDS = 5.0  # a report costs the driver some milliseconds, an epoch of a small trial not much more


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's message: records that are on disk and, in the last one, the outcome.

    outcome: ``finished``, ``diverged``, ``failed``, ``out_of_memory`` or ``stopped``; None while the trial goes on.
    """

    records: tuple[EpochRecord, ...]
    outcome: str | None = None
    cause: str | None = None

    def encode(self) -> dict[str, Any]:
        """As a Tune result: one string, which Tune neither flattens nor looks into."""
        return {"report": json.dumps(asdict(self))}

    @classmethod
    def decode(cls, result: dict[str, Any]) -> Report:
        """The inverse of ``encode``."""
        plain = json.loads(result["report"])
        return cls(tuple(EpochRecord(**record) for record in plain["records"]), plain["outcome"], plain["cause"])


def job(params: str, checkpoint: Path, machine: Machine, stop_file: Path) -> dict[str, Any]:
    """The Tune configuration of a trial: plain values, so that Tune may copy and print them.

    params: the canonical JSON of the trial's parameters. stop_file: once it exists the trial ends at its next batch.
    """
    facts = {name: str(getattr(machine, name)) for name in ("data_dir", "device", "threads", "code_dir")}
    return {"params": params, "checkpoint": str(checkpoint), "stop_file": str(stop_file), **facts}


def run_trial(config: dict[str, Any]) -> None:
    """The Tune trainable. An error of the trial is reported, so that the process lives on for the next trial."""
    pending: list[EpochRecord] = []
    try:
        outcome, cause = _train(config, pending)
    except Exception as error:
        if _breaks_the_process(error):
            raise
        outcome, cause = "failed", traceback.format_exc()
    tune.report(Report(tuple(pending), outcome, cause).encode())


def _train(config: dict[str, Any], pending: list[EpochRecord]) -> tuple[str, str | None]:
    from trainer.loop import Diverged, OutOfMemory, train

    trial = TrialConfig.from_params(json.loads(config["params"]))
    machine = Machine(
        data_dir=Path(config["data_dir"]),
        device=config["device"],
        threads=int(config["threads"]),
        code_dir=Path(config["code_dir"]),
    )
    stop_file, reported, epochs = config["stop_file"], time.monotonic(), 0
    try:
        for record in train(trial, machine, Path(config["checkpoint"]), stop=lambda: os.path.exists(stop_file)):
            pending.append(record)
            epochs = record.epoch
            if epochs < trial.epochs and time.monotonic() - reported > REPORT_EVERY_SECONDS:
                tune.report(Report(tuple(pending)).encode())
                pending.clear()
                reported = time.monotonic()
    except Diverged as error:
        return "diverged", str(error)
    except OutOfMemory as error:
        return "out_of_memory", str(error)
    except ConfigError as error:
        return "failed", str(error)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return "failed", f"{error.filename}: {error.strerror}: make room; what was stored before is kept"
    return ("finished" if epochs == trial.epochs else "stopped"), None


def _breaks_the_process(error: Exception) -> bool:
    """After most CUDA errors every later call in the process fails too; out of memory is not one of them."""
    import torch

    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)

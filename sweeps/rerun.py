"""One trial of the ledger trained here and now, to watch it fail: what ``python -m sweeps trial`` does."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

from sweeps.ledger import LedgerRow
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Machine, Results
from trainer.records import EpochRecord

SHOWN = ("train/criterion", "val/nll", "val/error", "test/nll", "test/error", "epoch_seconds")


def rerun(row: LedgerRow, results: Results, device: str, code_dir: Path) -> int:
    """Train the trial in this process from its first epoch, a line an epoch; 1 when it diverges or does not fit.

    Nothing is kept: whoever trains the trial for the study is not disturbed. Any other error of the trial is raised as
    it is, for its traceback to be seen whole; that of what is behind a ConfigError is printed first.
    """
    import torch

    from trainer.loop import Diverged, OutOfMemory, train

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU on this machine: train with --device cpu")
    trial = TrialConfig.from_params(json.loads(row.params))
    what = f"trial {row.trial_id} ({_named(trial)}; {row.state} in the ledger), for you to watch, from its first epoch"
    print(f"{what}: ledger, checkpoint and MLflow stay as they are", flush=True)
    machine = Machine(data_dir=results.data, device=device, code_dir=code_dir)
    try:
        for record in train(trial, machine):
            print(epoch_line(record, trial.epochs), flush=True)
    except (Diverged, OutOfMemory) as error:
        print(f"{'diverged' if isinstance(error, Diverged) else 'failed'}: {error}")
        return 1
    except ConfigError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise
    print("finished")
    return 0


def _named(trial: TrialConfig) -> str:
    parts = (trial.method, trial.model, trial.dataset)
    return ", ".join([*(type(part).__name__ for part in parts), f"seed {trial.seed}"])


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """``epoch  3/60  train/criterion 0.4131  val/nll 0.5012 …``."""
    shown = [f"{name} {record.metrics[name]:.4g}" for name in SHOWN if name in record.metrics]
    return "  ".join([f"epoch {record.epoch:{len(str(epochs))}}/{epochs}", *shown])

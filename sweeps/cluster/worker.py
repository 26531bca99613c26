"""What runs in a Ray worker: one trial, reported to the driver, or the probes of one.

Writes checkpoints and measurements, never the ledger or MLflow.

Importing this module does not import torch, for the driver imports it as well.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import platform
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from sweeps.cluster.job_code import at_hand, portable
from sweeps.cluster.node import GPU_KIND
from sweeps.cluster.packing import Place, trials_per_gpu
from sweeps.hardware import hardware
from sweeps.probe_worker import Job, measure_trial
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Machine
from trainer.records import EpochRecord, GpuMemory

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
A_LITTLE = 0.001
"""Of what a node has one of for its kind of GPU: enough to be there."""
REPORT_EVERY_SECONDS = 5.0  # a report costs the driver some milliseconds, an epoch of a small trial not much more


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's message: records that are on disk and, in the last one, the outcome.

    outcome: ``finished``, ``diverged``, ``failed``, ``out_of_memory`` or ``stopped``; None while the trial goes on.
    memory: of its GPU that it took, where that was to be measured. note: something that the user should know.
    misplaced: Ray's id of the node, where that does not see the driver's folder: nothing was trained there.
    hardware: what the trial ran on, in the last one.
    """

    records: tuple[EpochRecord, ...]
    outcome: str | None = None
    cause: str | None = None
    memory: GpuMemory | None = None
    note: str | None = None
    misplaced: str | None = None
    hardware: str = ""

    def encode(self) -> dict[str, Any]:
        """As a Tune result: one string, which Tune neither flattens nor looks into."""
        return {"report": json.dumps(asdict(self))}

    @classmethod
    def decode(cls, result: dict[str, Any]) -> Report:
        """The inverse of ``encode``."""
        plain = json.loads(result["report"])
        records = tuple(EpochRecord(**record) for record in plain["records"])
        memory = GpuMemory(**plain["memory"]) if plain["memory"] else None
        return cls(**plain | {"records": records, "memory": memory})


def job(
    params: str, checkpoint: Path, machine: Machine, stop_file: Path, place: Place, shunned: Iterable[str] = ()
) -> dict[str, Any]:
    """The Tune configuration of a trial: plain values, so that Tune may copy and print them.

    params: the canonical JSON of the trial's parameters. stop_file: once it exists the trial ends at its next batch, as
    it does once there is the one of ``given_up``. shunned: ids of the nodes on which it must not run.
    """
    facts = {name: str(getattr(machine, name)) for name in ("data_dir", "device", "threads")}
    facts["code_dir"] = portable(machine.code_dir)
    files = {"checkpoint": str(checkpoint), "stop_file": str(stop_file)}
    given = {"gpu": place.share, "gpu_kind": place.gpu_kind, "most_on_gpu": place.to_find_out}
    return {"params": params, **files, **given, "shunned": ",".join(sorted(shunned)), **facts}


def given_up(stop_file: Path, trial_id: str) -> Path:
    """The file by which this trial alone is stopped."""
    return stop_file.with_name(f"{stop_file.name}-{trial_id}")


def demand(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a job takes of Ray's resources, and where: trials have one thread each."""
    bundle = {"CPU": 1.0, "GPU": config["gpu"]}
    if config["gpu_kind"]:
        bundle[GPU_KIND + config["gpu_kind"]] = A_LITTLE
    if not config["shunned"]:
        return tune.PlacementGroupFactory([bundle])
    elsewhere = {"ray.io/node-id": f"!in({config['shunned']})"}
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])


@dataclass(slots=True)
class _Scout:
    """Finds out what a trial that has a GPU to itself takes of its memory; ``most`` trials may share it in any case.

    As soon as that is known, after an epoch, the trial gives its GPU back when others fit beside it: it goes on from
    its checkpoint with a share of one. A trial may take a day, and all that time there would be room for others.
    """

    device: str
    most: int
    memory: GpuMemory | None = None

    def __post_init__(self) -> None:
        if self.most:
            from trainer.memory import forget_peak

            forget_peak(self.device)

    def should_share(self) -> bool:
        """Asked after each epoch that is on disk; those of an earlier stint come before anything is on the GPU."""
        if not self.most or self.memory:
            return False
        from trainer.memory import gpu_memory

        self.memory = gpu_memory(self.device)
        return self.memory is not None and trials_per_gpu(self.memory, self.most) > 1


def run_trial(config: dict[str, Any]) -> None:
    """The Tune trainable. An error of the trial is reported, so that the process lives on for the next trial."""
    if not Path(config["stop_file"]).parent.is_dir():
        # Its checkpoint is not seen either: it would be trained from its first epoch, into a folder that is nobody's.
        tune.report(Report((), misplaced=ray.get_runtime_context().get_node_id()).encode())
        return
    pending: list[EpochRecord] = []
    scout: _Scout | None = None
    try:
        scout = _Scout(config["device"], config["most_on_gpu"])
        outcome, cause = _train(config, pending, scout)
    except Exception as error:
        if _breaks_the_process(error):
            raise
        outcome, cause = "failed", traceback.format_exc()
    memory, ran_on = scout.memory if scout else None, hardware(config["device"])
    tune.report(Report(tuple(pending), outcome, cause, memory, hardware=ran_on).encode())


def _train(config: dict[str, Any], pending: list[EpochRecord], scout: _Scout) -> tuple[str, str | None]:
    from trainer.loop import Diverged, OutOfMemory, train

    trial = TrialConfig.from_params(json.loads(config["params"]))
    machine = _machine(config, trial)
    checkpoint, stop_file = Path(config["checkpoint"]), Path(config["stop_file"])
    stops = str(stop_file), str(given_up(stop_file, trial.trial_id))
    reported, epochs = time.monotonic(), 0
    try:
        _tell_of_damage(checkpoint, trial.trial_id)
        for record in train(trial, machine, checkpoint, stop=lambda: any(map(os.path.exists, stops))):
            pending.append(record)
            epochs = record.epoch
            if scout.should_share() and epochs < trial.epochs:
                break
            if epochs < trial.epochs and time.monotonic() - reported > REPORT_EVERY_SECONDS:
                tune.report(Report(tuple(pending), memory=scout.memory).encode())
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
        where = Path(error.filename).parent if error.filename else "a disk"
        return "failed", f"{where}: {error.strerror}: make room; what was stored before is kept"
    return ("finished" if epochs == trial.epochs else "stopped"), None


def _machine(config: dict[str, Any], trial: TrialConfig) -> Machine:
    """This node's, with the trial's data on its own disk where it wants that."""
    from trainer.data.near import nearest

    data_dir, note = nearest(trial, Path(config["data_dir"]))
    if note is not None:
        _tell_once(note)
    threads, code_dir = int(config["threads"]), at_hand(config["code_dir"])
    return Machine(data_dir=data_dir, device=config["device"], threads=threads, code_dir=code_dir)


def measure_probes(job: Job) -> list[str]:
    """``measure_trial``, with the data on the node's own disk where it wants that. The node is known to be fit."""
    from trainer.data.near import nearest

    data_dir, _ = nearest(job.trial, job.machine.data_dir)
    machine = replace(job.machine, data_dir=data_dir, code_dir=at_hand(str(job.machine.code_dir)))
    return measure_trial(replace(job, machine=machine))


@functools.cache
def _tell_once(note: str) -> None:
    """What is wrong with the node concerns all trials of this process."""
    tune.report(Report((), note=f"node {platform.node()}: {note}").encode())


def _tell_of_damage(checkpoint: Path, trial_id: str) -> None:
    """Otherwise nobody would know why a trial that was nearly over takes all of its time again."""
    from trainer.checkpoint import load_checkpoint

    if checkpoint.exists() and load_checkpoint(checkpoint, trial_id) is None:
        note = f"{checkpoint} is damaged: its trial is trained anew from the first epoch"
        tune.report(Report((), note=note).encode())


def _breaks_the_process(error: Exception) -> bool:
    """After most CUDA errors every later call in the process fails too; out of memory is not one of them."""
    import torch

    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)

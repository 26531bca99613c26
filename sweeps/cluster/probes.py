"""Probes measured on the nodes of a Ray that was joined, beside trials of others: a core each or, on GPUs, a GPU."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeps.cluster.connection import ray_for, shared_folder  # first: Ray finds its settings made when it is imported

# isort: split
import ray
from ray.exceptions import RayError, RayTaskError

from sweeps.children import sigterm_as_ctrl_c
from sweeps.cluster.job_code import at_hand, portable
from sweeps.cluster.node import Node, trials_at_once
from sweeps.cluster.nodes import alive, require_fit
from sweeps.probe_worker import (
    LOST_WORKER_TRIES,
    SHOW_EVERY_SECONDS,
    Done,
    Job,
    Started,
    lost_worker,
    measure_trial,
)
from sweeps.sweep import ADDRESS_VARIABLE
from trainer.declaration import ConfigError
from trainer.machine import Results


def measured_on_nodes(
    jobs: Sequence[Job], results: Results, most: int, started: Started
) -> Generator[Done, None, None]:
    """Each job once it is done, at most so many at a time; those of a lost node or worker are tried again.

    Raises ConfigError where no node is fit for it, or none of those that were is left.
    """
    if not jobs:
        return
    device = jobs[0].machine.device
    # SIGTERM once more, for Ray has put a handler of its own in place.
    with ray_for(1, Path()), shared_folder(results) as folder, sigterm_as_ctrl_c():
        nodes = [node for node in alive() if trials_at_once([node], device, per_gpu=1)]
        if not nodes:
            raise ConfigError(f"{ADDRESS_VARIABLE}: that Ray has no {_wanted(device)}: nothing can be measured on it")
        require_fit(nodes, folder)
        most = min(most, trials_at_once(nodes, device, per_gpu=1))
        yield from _FitNodes(nodes, most, device).measured(jobs, started)


def _wanted(device: str) -> str:
    return "CPU" if device == "cpu" else "GPU with a CPU beside it"


@dataclass(frozen=True, slots=True)
class _FitNodes:
    """Nodes that were asked and are fit: of one that comes later nobody knows whether it sees the results."""

    nodes: Sequence[Node]
    most: int
    device: str

    def measured(self, jobs: Sequence[Job], started: Started) -> Generator[Done, None, None]:
        left, waiting, losses = deque(jobs), dict[ray.ObjectRef[list[str]], Job](), Counter[str]()
        while left or waiting:
            while left and len(waiting) < self.most:
                job = left.popleft()
                waiting[self._sent(job)] = job
            for job in waiting.values():
                started(job.trial.trial_id)
            done, _ = ray.wait(list(waiting), timeout=SHOW_EVERY_SECONDS)
            for answer in done:
                job = waiting.pop(answer)
                if (problems := _problems(answer)) is not None:
                    yield job, problems
                    continue
                losses[job.trial.trial_id] += 1
                if losses[job.trial.trial_id] < LOST_WORKER_TRIES:
                    left.append(job)
                else:
                    yield lost_worker(job)
            if not done:
                self._require_some()

    def _sent(self, job: Job) -> ray.ObjectRef[list[str]]:
        """Ray's own retries are off: after a lack of memory it would try for ever."""
        task: Any = ray.remote(measure_here)
        there = replace(job, machine=replace(job.machine, code_dir=Path(portable(job.machine.code_dir))))
        fit = {"ray.io/node-id": f"in({','.join(node.id for node in self.nodes)})"}
        options = {"num_cpus": 1, "num_gpus": int(self.device == "cuda"), "max_retries": 0, "label_selector": fit}
        answer: ray.ObjectRef[list[str]] = task.options(**options).remote(there)
        return answer

    def _require_some(self) -> None:
        """Else what waits would do so for ever. Raises ConfigError."""
        if not {node.id for node in self.nodes} & {node.id for node in alive()}:
            raise ConfigError(f"{ADDRESS_VARIABLE}: all nodes that could measure are gone: what was measured is kept")


def _problems(answer: ray.ObjectRef[list[str]]) -> list[str] | None:
    """None where its worker, or the whole node, was lost."""
    try:
        return ray.get(answer)
    except RayTaskError as error:
        return [" ".join(str(error.cause).split())[:300]]
    except RayError:
        return None


def measure_here(job: Job) -> list[str]:
    """Run on a node: ``measure_trial``, with the data on the node's own disk where it wants that."""
    from trainer.data.near import nearest

    data_dir, _ = nearest(job.trial, job.machine.data_dir)
    machine = replace(job.machine, data_dir=data_dir, code_dir=at_hand(str(job.machine.code_dir)))
    return measure_trial(replace(job, machine=machine))

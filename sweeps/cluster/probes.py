"""Probes measured on the nodes of a Ray that was joined, beside trials of others: a core each or, on GPUs, a GPU."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweeps.cluster.connection import ray_for, shared_folder  # first: Ray finds its settings made when it is imported

# isort: split
import ray
from ray.exceptions import RayError, RayTaskError, TaskUnschedulableError

from sweeps.cluster.job_code import portable
from sweeps.cluster.node import Node, trials_at_once
from sweeps.cluster.nodes import alive, clauses, unfit
from sweeps.cluster.worker import measure_probes
from sweeps.probe_worker import LOST_WORKER_TRIES, SHOW_EVERY_SECONDS, Done, Job, Started, lost_worker
from sweeps.sweep import ADDRESS_VARIABLE
from trainer.declaration import ConfigError
from trainer.machine import Results

LOOK_EVERY_SECONDS = 5.0
"""At the nodes that there are."""
PATIENCE_SECONDS = 60.0
"""With nodes that were fit and are gone: started anew, or evicted, they come back."""
Answer = ray.ObjectRef[list[str]]


def measured_on_nodes(
    jobs: Sequence[Job], results: Results, most: int, started: Started, say: Callable[[str], None]
) -> Generator[Done, None, None]:
    """Each job once it is done, at most so many at a time; those of a lost node or worker are tried again.

    Nodes that are not fit for it are told, through ``say``, and left out. Raises ConfigError where there is no other.
    """
    if not jobs:
        return
    with ray_for(1, Path()), shared_folder(results) as folder:
        yield from _Nodes(folder, jobs[0].machine.device, most, say).measured(jobs, started)


@dataclass(slots=True)
class _Nodes:
    """Those that were asked, of which some are fit; what comes later is asked as well, what goes is not waited for.

    folder: this driver's, which fit nodes see. most: jobs at a time, however many nodes there are.
    """

    folder: Path
    device: str
    most: int
    say: Callable[[str], None]
    _asked: set[str] = field(default_factory=set)
    _fit: list[Node] = field(default_factory=list)
    _waiting: dict[Answer, tuple[Job, frozenset[str]]] = field(default_factory=dict)
    """Jobs that were sent, with the nodes on any of which they may be done."""
    _losses: Counter[str] = field(default_factory=Counter)
    """Of workers, by trial."""
    _looked: float = -math.inf
    _last_fit: float = -math.inf
    """When there was a fit node."""

    def measured(self, jobs: Sequence[Job], started: Started) -> Generator[Done, None, None]:
        left, waiting = deque(jobs), self._waiting
        while left or waiting:
            self._follow()
            left.extend(self._stranded())
            while left and len(waiting) < min(self.most, trials_at_once(self._fit, self.device, per_gpu=1)):
                job = left.popleft()
                waiting[self._sent(job)] = job, frozenset(self._ids)
            for job, _ in waiting.values():
                started(job.trial.trial_id)
            for answer in self._done():
                (job, nodes), outcome = waiting.pop(answer), _outcome(answer)
                if not isinstance(outcome, RayError):
                    yield job, outcome
                elif self._is_tried_again(job, nodes, outcome):
                    left.append(job)
                else:
                    yield lost_worker(job, _line(outcome).partition(". ")[0])

    def _is_tried_again(self, job: Job, nodes: frozenset[str], error: RayError) -> bool:
        """So many workers it may lose; that all its nodes went before it came to any is none of its doing."""
        if isinstance(error, TaskUnschedulableError) and nodes.isdisjoint(node.id for node in alive()):
            self._looked = -math.inf
            return True
        self._losses[job.trial.trial_id] += 1
        return self._losses[job.trial.trial_id] < LOST_WORKER_TRIES

    def _done(self) -> list[Answer]:
        """Those of the jobs that are, after some time at most, which passes as well where none could be sent."""
        if self._waiting:
            return ray.wait(list(self._waiting), timeout=SHOW_EVERY_SECONDS)[0]
        time.sleep(SHOW_EVERY_SECONDS)
        return []

    @property
    def _ids(self) -> Iterator[str]:
        return (node.id for node in self._fit)

    def _stranded(self) -> list[Job]:
        """Jobs all of whose nodes are gone, taken back: whether they had begun or not nobody would tell."""
        ids = set(self._ids)
        stranded = [answer for answer, (_, nodes) in self._waiting.items() if not nodes & ids]
        for answer in stranded:
            ray.cancel(answer, force=True)
        return [self._waiting.pop(answer)[0] for answer in stranded]

    def _follow(self) -> None:
        """Some may have come or gone. Raises ConfigError where none is left that could measure."""
        if time.monotonic() - self._looked < LOOK_EVERY_SECONDS:
            return
        self._looked, there = time.monotonic(), alive()
        able = [node for node in there if trials_at_once([node], self.device, per_gpu=1)]
        new = [node for node in able if node.id not in self._asked]
        self._asked.update(node.id for node in new)
        if wrong := unfit(new, self.folder):
            self.say(f"{clauses(wrong)}: nothing is measured there")
        ids, gone = {node.id for node in able}, self._fit
        self._fit = [node for node in [*self._fit, *new] if node.id in ids and node not in wrong]
        if self._fit:
            self._last_fit = self._looked
        else:
            self._wait_for_one(had=bool(gone))

    def _wait_for_one(self, had: bool) -> None:
        """Raises ConfigError where there never was a fit node, or has been none for too long."""
        wanted = "a CPU" if self.device == "cpu" else "a GPU, and a CPU beside it"
        if self._looked - self._last_fit > PATIENCE_SECONDS:
            raise ConfigError(
                f"{ADDRESS_VARIABLE}: no fit node has {wanted} to measure probes: make probe, once there is one"
            )
        if had:
            self.say(f"the last node that measured probes is gone: another one is waited for, {PATIENCE_SECONDS:.0f} s")

    def _sent(self, job: Job) -> Answer:
        """Ray's own retries are off: after a lack of memory it would try for ever.

        A process that has seen a GPU ends with its job: it would stay on that one, whichever it is given next.
        """
        on_gpu = self.device == "cuda"
        task: Any = ray.remote(max_calls=1)(measure_probes) if on_gpu else ray.remote(measure_probes)
        there = replace(job, machine=replace(job.machine, code_dir=Path(portable(job.machine.code_dir))))
        fit = {"ray.io/node-id": f"in({','.join(self._ids)})"}
        options = {"num_cpus": 1, "num_gpus": int(on_gpu), "max_retries": 0, "label_selector": fit}
        answer: Answer = task.options(**options).remote(there)
        return answer


def _outcome(answer: Answer) -> list[str] | RayError:
    """Ray's error where the worker, or the whole node, was lost."""
    try:
        return ray.get(answer)
    except RayTaskError as error:
        return [_line(error.cause)]
    except RayError as error:
        return error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

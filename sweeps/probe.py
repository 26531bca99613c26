"""Measuring the declared probes of the finished trials: what ``python -m sweeps probe`` does, and ``run`` at its end.

What was measured lies in one file a trial and probe, whole or not at all, and is never measured again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from search_spaces.study import Study
from sweeps.children import deaf_to_ctrl_c, sigterm_as_ctrl_c, worker_pool
from sweeps.cost.eta import Work
from sweeps.ledger import State
from sweeps.probe_worker import (
    LOST_WORKER_TRIES,
    SHOW_EVERY_SECONDS,
    Done,
    Job,
    Started,
    lost_worker,
    measure_trial,
)
from sweeps.progress import Progress
from sweeps.sweep import INTERRUPTED, StudySweep, joined
from sweeps.tracking.tracker import UNREACHABLE, Tracker, first_line, is_passing, open_tracker
from sweeps.view import duration
from trainer.config import TrialConfig
from trainer.machine import Machine, Results
from trainer.measurement import Measurement, load_measurement
from trainer.probe_config import Probe


def probe(sweep: StudySweep) -> int:
    """The command; its exit code is returned."""
    if not sweep.study.probes:
        print(f"{sweep.study.name}: declares no probes: name some in its Study(..., probes=[...])")
        return 0
    return measure_probes(sweep, open_tracker(sweep.study, sweep.ledger, sweep.results))


def measure_probes(sweep: StudySweep, tracker: Tracker) -> int:
    """Measure what is not measured yet of every finished trial, deliver it to MLflow, say how it stands.

    Returns 0, 1 when something could not be measured, or INTERRUPTED. Two drivers at it at a time do the same work
    twice and come to the same numbers.
    """
    name, rows, started = sweep.study.name, sweep.rows(), time.monotonic()
    finished = [trial for trial in sweep.study.trials if rows[trial.trial_id].state == "finished"]
    if not finished:
        print(f"{name}: no trial is finished yet, so there is none to probe: make sweep {sweep.named}")
        return 0
    jobs = [_job(sweep, trial) for trial in finished]
    due = [job for job in jobs if job.probes]
    states: dict[str, State] = {job.trial.trial_id: "pending" if job.probes else "finished" for job in jobs}
    workers = _workers(sweep)
    study = replace(sweep.study, trials=finished)
    work = {trial.trial_id: Work(0, 0.0, ("probes",)) for trial in finished}
    progress = Progress(study, work, states, workers, name=f"{name} (probes)")
    try:
        with sigterm_as_ctrl_c():
            measurer = _measurer(sweep, workers, progress.note)
            _work_off(jobs, measurer, _Mail(sweep, tracker, progress.note), progress, states)
    except KeyboardInterrupt:
        progress.note(f"Interrupted; what was measured is kept. To go on: make probe {sweep.named}")
        return INTERRUPTED
    finally:
        progress.close()
    done = sum(state == "finished" for state in states.values())
    took = f"measured, after {duration(time.monotonic() - started)}" if due else "already measured"
    print(f"{name}: probes of {done} of {len(finished)} trials {took}")
    return 0 if done == len(finished) else 1


def _workers(sweep: StudySweep) -> int:
    """On GPUs of this machine one: what probes take of its memory is not known."""
    return sweep.jobs if joined() or sweep.device == "cpu" else 1


def _job(sweep: StudySweep, trial: TrialConfig) -> Job:
    """What is not measured yet of ``trial``, perhaps nothing."""
    done = {probe for probe, _ in _stored(sweep.study, trial, sweep.results)}
    missing = tuple(probe for probe in sweep.study.probes if probe not in done)
    machine = Machine(data_dir=sweep.results.data, device=sweep.device, threads=1, code_dir=sweep.code_dir)
    return Job(trial, missing, machine, sweep.results)


def _stored(study: Study, trial: TrialConfig, results: Results) -> Iterator[tuple[Probe, Measurement]]:
    """What was measured of ``trial``, in the order of the study's probes."""
    for probe in study.probes:
        if found := load_measurement(results.measurement(trial.trial_id, probe.probe_id)):
            yield probe, found


def deliver_measured(study: Study, trial: TrialConfig, tracker: Tracker, results: Results) -> bool:
    """Write what is measured of ``trial`` and its run does not show; whether there was anything.

    Raises KeyError where there is no run of the trial, and what ``UNREACHABLE`` lists.
    """
    stored = _stored(study, trial, results)
    written = [tracker.add(trial, found.finite_metrics(), _tags(probe, found)) for probe, found in stored]
    return any(written)


class _Mail:
    """Writes what was measured into the trials' runs.

    An outage of MLflow is told once and holds nothing up; what it refuses of one trial is no outage.
    """

    def __init__(self, sweep: StudySweep, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._sweep, self._tracker, self._say = sweep, tracker, say
        self._stopped = False

    def deliver(self, trial: TrialConfig) -> None:
        """Bring the trial's run up to date with all that is measured of it; nothing new, nothing written."""
        if self._stopped:
            return
        if not self._tracker.has_run(trial):
            self._stop("it has not got the training of all trials yet")
        for probe, measurement in _stored(self._sweep.study, trial, self._sweep.results):
            if not self._stopped:
                self._add(trial, probe, measurement)

    def _add(self, trial: TrialConfig, probe: Probe, measurement: Measurement) -> None:
        try:
            self._tracker.add(trial, measurement.finite_metrics(), _tags(probe, measurement))
        except UNREACHABLE as error:
            if is_passing(error):
                self._stop(first_line(error))
            else:
                self._say(f"trial {trial.trial_id}: MLflow refuses {type(probe).__name__} ({first_line(error)})")

    def _stop(self, cause: str) -> None:
        self._stopped = True
        self._say(f"MLflow does not take the probes ({cause}): make deliver {self._sweep.named} delivers them later")


def _tags(probe: Probe, measurement: Measurement) -> dict[str, str]:
    """Of which declaration ``probe/KIND`` is: when that is changed the new numbers go under the same names."""
    kind = next(iter(measurement.metrics)).split("/")[1]
    return {f"probe.{kind}": json.dumps({"probe_id": probe.probe_id, **probe.params()})}


Measurer = Callable[[Sequence[Job], Started], Generator[Done, None, object]]
"""Does jobs, and yields each once it is done."""


def _measurer(sweep: StudySweep, workers: int, say: Callable[[str], None]) -> Measurer:
    """On the nodes of a Ray that was joined: its head, where drivers run, may have neither cores nor GPUs for it."""
    if joined() is None:
        return lambda jobs, started: _measured(jobs, workers, started)
    from sweeps.cluster.probes import measured_on_nodes  # Ray: not even imported where all is measured

    return lambda jobs, started: measured_on_nodes(jobs, sweep.results, workers, started, say)


def _work_off(
    jobs: Sequence[Job], measurer: Measurer, mail: _Mail, progress: Progress, states: dict[str, State]
) -> None:
    """Do ``jobs`` and deliver them; ``states`` says of each trial how it stands."""
    for job in jobs:
        if not job.probes:
            mail.deliver(job.trial)
    due = [job for job in jobs if job.probes]
    with contextlib.closing(measurer(due, progress.started)) as measured:
        for job, problems in measured:
            trial_id = job.trial.trial_id
            states[trial_id] = "failed" if problems else "finished"
            for problem in problems:
                progress.note(f"trial {trial_id}: {problem}")
            progress.started(trial_id)  # a fast one may not have been seen at work
            progress.ended(trial_id, states[trial_id])
            mail.deliver(job.trial)


def _measured(jobs: Sequence[Job], workers: int, started: Started) -> Generator[Done, None, None]:
    """Each job once it is done. Those at work when a worker process is lost are tried again, each by itself."""
    left, losses = list(jobs), Counter[str]()
    while left:
        batch = left[:1] if losses[left[0].trial.trial_id] else left
        undone = yield from _in_one_pool(batch, min(len(batch), workers), started)
        losses.update(job.trial.trial_id for job in undone[:workers])
        left = [*undone, *left[len(batch) :]]
        while left and losses[left[0].trial.trial_id] == LOST_WORKER_TRIES:
            yield lost_worker(left.pop(0))


def _in_one_pool(jobs: Sequence[Job], workers: int, started: Started) -> Generator[Done, None, list[Job]]:
    """Each job once it is done. When a worker process is lost the rest are returned, those at work first."""
    with worker_pool(workers) as pool:
        with deaf_to_ctrl_c():
            futures = {pool.submit(measure_trial, job): job for job in jobs}
        waiting = dict(futures)
        while waiting:
            for job in list(waiting.values())[:workers]:
                started(job.trial.trial_id)
            for future in wait(waiting, SHOW_EVERY_SECONDS, FIRST_COMPLETED).done:
                job, error = waiting.pop(future), future.exception()
                if not isinstance(error, BrokenProcessPool):
                    yield job, [f"{type(error).__name__}: {error}"] if error else future.result()
    return [job for future, job in futures.items() if isinstance(future.exception(), BrokenProcessPool)]

"""Measuring the declared probes of the finished trials: what ``python -m sweeps probe`` does, and ``run`` at its end.

What was measured lies in one file a trial and probe, whole or not at all, and is never measured again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from sweeps.ledger import State
from sweeps.probe_worker import Job, end_with_driver, measure_trial
from sweeps.progress import Progress, duration
from sweeps.sweep import INTERRUPTED, Sweep
from sweeps.tracking import UNREACHABLE, Tracker, first_line, open_tracker
from trainer.config import TrialConfig
from trainer.machine import Machine
from trainer.measurement import Measurement, load_measurement

SHOW_EVERY_SECONDS = 0.5


def probe(sweep: Sweep) -> int:
    """The command; its exit code is returned."""
    if not sweep.study.probes:
        print(f"{sweep.study.name}: declares no probes: name some in its Study(..., probes=[...])")
        return 0
    return measure_probes(sweep, open_tracker(sweep.study, sweep.ledger, sweep.results))


def measure_probes(sweep: Sweep, tracker: Tracker) -> int:
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
    progress = Progress(f"{name} (probes)", len(finished), len(finished) - len(due))
    try:
        _work_off(jobs, sweep, _Mail(sweep, tracker, progress.note), progress, states)
    except KeyboardInterrupt:
        progress.note(f"Interrupted; what was measured is kept. To go on: make probe {sweep.named}")
        return INTERRUPTED
    finally:
        progress.close()
    done = sum(state == "finished" for state in states.values())
    took = f"measured, after {duration(time.monotonic() - started)}" if due else "already measured"
    print(f"{name}: probes of {done} of {len(finished)} trials {took}")
    return 0 if done == len(finished) else 1


def _job(sweep: Sweep, trial: TrialConfig) -> Job:
    """What is not measured yet of ``trial``, perhaps nothing."""
    probes = zip(sweep.study.probes, _stored(sweep, trial), strict=True)
    missing = tuple(probe for probe, stored in probes if stored is None)
    machine = Machine(data_dir=sweep.results.data, device=sweep.device, threads=1, code_dir=sweep.code_dir)
    return Job(trial, missing, machine, sweep.results)


def _stored(sweep: Sweep, trial: TrialConfig) -> list[Measurement | None]:
    """What was measured of ``trial``, in the order of the study's probes."""
    files = (sweep.results.measurement(trial.trial_id, probe.probe_id) for probe in sweep.study.probes)
    return [load_measurement(file) for file in files]


class _Mail:
    """Writes what was measured into the trials' runs. An outage of MLflow is told once and holds nothing up."""

    def __init__(self, sweep: Sweep, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._sweep, self._tracker, self._say = sweep, tracker, say
        self._stopped = False

    def deliver(self, trial: TrialConfig) -> None:
        """Bring the trial's run up to date with all that is measured of it; nothing new, nothing written."""
        if self._stopped:
            return
        try:
            if self._tracker.has_run(trial):
                for measurement in _stored(self._sweep, trial):
                    self._tracker.add(trial, measurement.finite_metrics() if measurement else {})
            else:
                self._stop("it has not got the training of all trials yet")
        except UNREACHABLE as error:
            self._stop(first_line(error))

    def _stop(self, cause: str) -> None:
        self._stopped = True
        self._say(f"MLflow does not take the probes ({cause}): make sweep {self._sweep.named} delivers them later")


def _work_off(jobs: Sequence[Job], sweep: Sweep, mail: _Mail, progress: Progress, states: dict[str, State]) -> None:
    """Do ``jobs`` and deliver them; ``states`` says of each trial how it stands."""
    for job in jobs:
        if not job.probes:
            mail.deliver(job.trial)
    due = [job for job in jobs if job.probes]
    try:
        with contextlib.closing(_measured(due, sweep, lambda running: progress.show(states | running))) as measured:
            for job, problems in measured:
                trial_id = job.trial.trial_id
                states[trial_id] = "failed" if problems else "finished"
                for problem in problems:
                    progress.note(f"trial {trial_id}: {problem}")
                mail.deliver(job.trial)
    except BrokenProcessPool:
        progress.note(f"A worker process was lost (out of memory?). To go on: make probe {sweep.named} JOBS=1")


def _measured(
    jobs: Sequence[Job], sweep: Sweep, show: Callable[[dict[str, State]], None]
) -> Generator[tuple[Job, list[str]], None, None]:
    """Each job once it is done, with what went wrong. show: called now and then with the trials that are running.

    Raises BrokenProcessPool, after all that is done, when a worker process was lost.
    """
    if not jobs:
        return
    workers, lost = min(len(jobs), sweep.jobs if sweep.device == "cpu" else 1), None
    with _pool(workers) as pool:
        with _deaf_to_ctrl_c():
            waiting = {pool.submit(measure_trial, job): job for job in jobs}
        while waiting:
            running = [job.trial.trial_id for job in waiting.values()][:workers]
            show(dict.fromkeys(running, "leased"))
            for future in wait(waiting, SHOW_EVERY_SECONDS, FIRST_COMPLETED).done:
                job, error = waiting.pop(future), future.exception()
                if error is None:
                    yield job, future.result()
                lost = lost or error
    if lost is not None:
        raise lost


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, which are ended at once when what is done with them is cut short."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=end_with_driver)
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Children started within never get SIGINT, which a terminal sends to all: they would print tracebacks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""The jobs of ours that a Ray elsewhere has: a table of them, and the end of one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from search_spaces.catalog import find_any, is_file
from sweeps.jobs.server import Job, JobServer
from sweeps.jobs.submit import STOP_SECONDS, at
from sweeps.table import aligned
from sweeps.view import duration
from trainer.declaration import ConfigError


def show_jobs(server: JobServer) -> None:
    """Print a line a job, the oldest first."""
    jobs = server.jobs()
    print("\n".join(_lines(jobs, time.time())) if jobs else f"No jobs at {server.address} yet: make submit sends one")


def _lines(jobs: Sequence[Job], now: float) -> Iterator[str]:
    rows = [("job", "study", "phase", "state", "started", "took", "why")]
    for job in jobs:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started))
        took = duration((job.ended or now) - job.started)
        rows.append((job.id, job.study, job.phase, job.state.lower(), started, took, job.failure))
    return aligned(rows)


def cancel(server: JobServer, reference: str | None, job_id: str | None) -> int:
    """End the job of this name, or the one of this study that is not over, and wait for that; the exit code.

    Raises ConfigError where there is none, or more than one.
    """
    job = _chosen(server, reference, job_id)
    if job.is_over:
        print(f"Job {job.id} is over already: {job.state.lower()}")
        return 0
    print(f"Job {job.id}: is asked to end; trials store what they have, which takes up to {STOP_SECONDS} s", flush=True)
    server.stop(job.id)
    ended = server.wait(job.id, STOP_SECONDS + 30)
    if ended is not None and not ended.is_over:
        print(f"Job {job.id} has not ended yet: make jobs{at(server.address)} tells once it has")
        return 1
    state = ended.state.lower() if ended else "gone"
    print(f"Job {job.id}: {state}; what was trained is kept, and make submit of the same study goes on")
    return 0


def _chosen(server: JobServer, reference: str | None, job_id: str | None) -> Job:
    jobs = server.jobs()
    if job_id is not None:
        found = [job for job in jobs if job.id == job_id]
        what, none = f"--job {job_id}", "there is no such job"
    elif reference is not None:
        name = find_any(reference).name if is_file(reference) else reference
        found = [job for job in jobs if job.study == name and not job.is_over]
        what, none = name, "no job of it goes on"
    else:
        raise ConfigError("which job? make cancel JOB=ID, or STUDY=NAME")
    if not found:
        raise ConfigError(f"{what}: {none} at {server.address}: make jobs{at(server.address)} lists all")
    if len(found) > 1:
        raise ConfigError(f"{what}: {', '.join(job.id for job in found)}: name one, make cancel JOB={found[0].id}")
    return found[0]

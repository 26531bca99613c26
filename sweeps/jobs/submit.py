"""Sending a study to a Ray elsewhere as a job, whose driver runs on Ray's head, and following it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from search_spaces.catalog import find_final
from search_spaces.search import Tuning
from search_spaces.study import Study
from sweeps.filters import ALL, Selection
from sweeps.jobs.package import OWN, Package, pack
from sweeps.jobs.server import DEFAULT_ADDRESS, DIGEST, PHASE, RESULTS, STUDY, Job, JobServer, UnansweredError
from sweeps.provenance import COMMIT_VARIABLE, provenance
from sweeps.sweep import ADDRESS_VARIABLE, INTERRUPTED
from trainer.declaration import ConfigError
from trainer.machine import (
    LEDGER_VARIABLE,
    OPTUNA_VARIABLE,
    RESULTS_VARIABLE,
    SUBMITTED_VARIABLE,
    TRACKING_VARIABLE,
)

OF_THE_CLUSTER = (LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE)
STOP_SECONDS = 30
"""What Ray gives a driver that it asks to end: more than the driver gives its trials and MLflow."""
STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be trained, as the user says. reference: what the user calls the study. phase: of a tuning.

    options: facts of the machine and budgets, for the driver. Raises ConfigError for what the driver would refuse.
    """

    reference: str
    declared: Study | Tuning
    phase: str | None = None
    selection: Selection = ALL
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.declared, Study):
            if self.phase is not None:
                raise ConfigError(f"--phase {self.phase}: {self.declared.name} is a study, not a search: leave it out")
            self.selection.of(self.declared)
        elif self.phase == "final":
            self.selection.of(find_final(self.reference))

    @property
    def command(self) -> str:
        """Of ``python -m sweeps``, by which the driver trains."""
        return "run" if isinstance(self.declared, Study) else self.phase or "search"

    def entrypoint(self, reference: str) -> str:
        """The driver, as a line for a shell: as ``make sweep``, with the data fetched before.

        reference: what the study is called there.
        """
        study, filters = shlex.quote(reference), self.selection.as_options()
        fetched = filters if self.command == "run" else ""
        train = " ".join([self.command, study, "--yes", *map(shlex.quote, self.options), filters]).rstrip()
        return (
            f"{f'python -m sweeps fetch {study} {fetched}'.rstrip()} || exit $?; "
            f"python -m sweeps {train}; code=$?; [ $code -le 1 ] || exit $code; "
            f"python -m analysis report {study} && python -m sweeps publish {study} && exit $code"
        )


@dataclass(frozen=True, slots=True)
class Sending:
    """An order with its package. results: the absolute path that the user names; None for what the head's names."""

    order: Order
    package: Package
    results: Path | None
    address: str

    @property
    def entrypoint(self) -> str:
        return self.order.entrypoint(self.package.reference)

    @property
    def named(self) -> str:
        """The variables by which make finds the study, its job and its results again, but for filters."""
        parts = [f"STUDY={shlex.quote(self.order.reference)}"]
        parts += [f"RESULTS={shlex.quote(str(self.results))}"] if self.results else []
        parts += ["PHASE=final"] if self.order.command == "final" else []
        return " ".join(parts) + at(self.address)

    @property
    def how_to_go_on(self) -> str:
        """The command, after which nothing else stands."""
        return f"make submit {self.named}{self.order.selection.as_make()}"

    @property
    def environment(self) -> dict[str, str]:
        """Of the driver and of all workers: nothing that is secret."""
        found = {
            COMMIT_VARIABLE: provenance()["commit"],
            SUBMITTED_VARIABLE: self.named,
            STOP_VARIABLE: str(STOP_SECONDS),
        }
        return found | ({RESULTS_VARIABLE: str(self.results)} if self.results else {})

    @property
    def metadata(self) -> dict[str, str]:
        """By which the job is known again."""
        told = {STUDY: self.order.declared.name, PHASE: self.order.command, DIGEST: self.package.digest}
        return told | {RESULTS: str(self.results or "")}

    def is_of(self, job: Job) -> bool:
        """Whether the job is of this study and phase, whatever its code and options."""
        return (job.study, job.phase) == (self.order.declared.name, self.order.command)

    def difference(self, job: Job) -> str:
        """What a job of this study does otherwise; empty where it is just this one."""
        if job.metadata.get(DIGEST) != self.package.digest:
            return "other code"
        same = job.entrypoint == self.entrypoint and job.metadata.get(RESULTS) == self.metadata[RESULTS]
        return "" if same else "other options"


def at(address: str) -> str:
    """The variable by which make finds this server, with a blank before it; empty where it would anyway."""
    return "" if address == DEFAULT_ADDRESS else f" {ADDRESS_VARIABLE}={shlex.quote(address)}"


def submit(order: Order, address: str, dry_run: bool = False) -> int:
    """Send the order, unless its job is there already, and print its log until its end; the exit code is the driver's.

    dry_run: say what would be sent, and send nothing. Raises ConfigError.
    """
    sending = Sending(order, pack(order.reference), _results(), address)
    with tempfile.TemporaryDirectory(prefix="amp-job-") as folder:
        sending.package.write(Path(folder, "code"))
        if sending.package.reference.startswith(f"{OWN}/"):
            _require_whole(sending, Path(folder))
        print("\n".join(_notes(sending)), end="\n" * any(_notes(sending)))
        if dry_run:
            print(
                "\n".join([*sending.package.lines(), f"{address} would run: {sending.entrypoint}", "Nothing is sent"])
            )
            return 0
        server = JobServer(address)
        job_id, sent = _sent(sending, server, Path(folder, "code"))
    try:
        print(f"Job {job_id} {sent} {address}: its log follows, and Ctrl-C leaves it running.", flush=True)
        print(f"All jobs: make jobs{at(address)}. To stop it: make cancel JOB={job_id}{at(address)}", flush=True)
        return _ended(sending, job_id, server.follow(job_id))
    except KeyboardInterrupt:
        print(f"\nJob {job_id} goes on. To follow it again: {sending.how_to_go_on}")
    except UnansweredError as error:
        print(
            f"{error}. Where Ray goes on, so does job {job_id}; one that has ended has lost it. The same command"
            f" follows it, or sends it again, to go on where it was: {sending.how_to_go_on}"
        )
    return INTERRUPTED


def _results() -> Path | None:
    """Only an absolute path means the same folder on all nodes. ``results`` is what make says by default."""
    named = os.environ.get(RESULTS_VARIABLE) or "results"
    if named != "results" and not Path(named).is_absolute():
        raise ConfigError(f"RESULTS={named}: must be an absolute path that all nodes of the Ray see")
    return None if named == "results" else Path(named)


def _notes(sending: Sending) -> Iterator[str]:
    if own := [name for name in OF_THE_CLUSTER if os.environ.get(name)]:
        yield f"{', '.join(own)}: not sent, the job uses the cluster's own"
    if sending.package.left_out:
        yield f"Links that are not followed: {', '.join(map(str, sending.package.left_out))}"


def _require_whole(sending: Sending, folder: Path) -> None:
    """Raise ConfigError where the study does not load from what is sent: it needs something from elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name not in (*OF_THE_CLUSTER, "PYTHONPATH")}
    command = [sys.executable, "-m", "sweeps", "status", sending.package.reference]
    env = kept | {RESULTS_VARIABLE: str(folder / "none")}
    done = subprocess.run(command, cwd=folder / "code", env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        cause = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no cause given"]
        raise ConfigError(
            f"{sending.order.reference}: does not load from what is sent, the .py files beside and beneath it:"
            f" {cause[0].removeprefix('error: ')}"
        )


def _sent(sending: Sending, server: JobServer, folder: Path) -> tuple[str, str]:
    """The job's name, and whether it was sent now. Raises ConfigError where one like it is in the way."""
    tries = 0
    while True:
        jobs = [job for job in server.jobs() if sending.is_of(job)]
        for job in jobs:
            if not job.is_over and (difference := sending.difference(job)):
                raise ConfigError(
                    f"{job.study}: job {job.id} has {difference} and is not over: wait for its end, or"
                    f" make cancel JOB={job.id}{at(server.address)}"
                )
            if not job.is_over:
                return job.id, "is there already, at"
        job_id = f"{sending.order.declared.name}-{sending.order.command}-{_next_number(jobs) + tries}"
        if server.send(job_id, sending.entrypoint, folder, sending.environment, sending.metadata):
            return job_id, "is sent to"
        tries += 1


def _next_number(jobs: Sequence[Job]) -> int:
    """Two clients at the same moment find the same one, and Ray takes one job of a name, whoever's it is."""
    numbers = [job.id.rpartition("-")[2] for job in jobs]
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)


def _ended(sending: Sending, job_id: str, job: Job | None) -> int:
    """Say what is not in the log; the exit code is returned."""
    if job is None:
        print(f"Ray does not know job {job_id} any more: its head was started anew", end="")
    elif job.state == "SUCCEEDED":
        return 0
    elif job.state == "STOPPED":
        print(f"Job {job_id} was stopped", end="")
    elif job.code is not None and 0 < job.code < 128:
        return job.code
    elif job.code != INTERRUPTED:
        print(f"The driver of job {job_id} died: {job.failure}", end="")
    print(f"; what was trained is kept. To go on: {sending.how_to_go_on}")
    return INTERRUPTED

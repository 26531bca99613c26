"""Ray's server for jobs, as a client sees it: the jobs of ours, their logs and their ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sweeps.cluster.ray_token import MODE_VARIABLE, PATH_VARIABLE, TOKEN_VARIABLE, default_path
from sweeps.data import printable
from sweeps.sweep import ADDRESS_VARIABLE
from trainer.declaration import ConfigError
from trainer.passwords import hide_passwords

SERVER_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray's own name for the address of its server for jobs; it counts before ``RAY_ADDRESS``."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STUDY, PHASE, DIGEST, RESULTS = "sweeps.study", "sweeps.phase", "sweeps.digest", "sweeps.results"
"""What the metadata of a job of ours tell."""
ANSWER_SECONDS = 10.0
SILENT_SECONDS = 30.0  # of a log, before it is asked whether its job is still there: a dead machine says nothing
LOST_SECONDS = 60.0  # of a server that does not answer; a head that is started anew takes half of them
LOUD = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env")


class UnansweredError(ConfigError):
    """Nothing answers any more, which may pass."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job of ours.

    state: as Ray calls it. started, ended: Unix seconds. code: the driver's exit code, where Ray tells. message: Ray's.
    """

    id: str
    state: str
    entrypoint: str
    metadata: Mapping[str, str]
    started: float
    ended: float | None
    code: int | None
    message: str

    @classmethod
    def of(cls, details: Any) -> Job:
        """Ray's ``JobDetails``, whose times are in milliseconds."""
        return cls(
            id=str(details.submission_id),
            state=str(details.status.value),
            entrypoint=str(details.entrypoint),
            metadata=details.metadata,
            started=(details.start_time or 0) / 1000,
            ended=details.end_time / 1000 if details.end_time else None,
            code=details.driver_exit_code,
            message=str(details.message or ""),
        )

    @property
    def study(self) -> str:
        return self.metadata[STUDY]

    @property
    def phase(self) -> str:
        return self.metadata[PHASE]

    @property
    def is_over(self) -> bool:
        return self.state in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def failure(self) -> str:
        """Why it failed, in one line; empty where it did not."""
        if self.state != "FAILED":
            return ""
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        if self.code is None:
            return printable(" ".join(lines))[:160]
        errors = [line for line in lines if line.startswith("error: ")]
        told = "some trials failed or diverged" if self.code == 1 else [*errors, "see its log"][0]
        return printable(f"exit code {self.code}: {told}")[:160]


def address(given: str | None) -> str:
    """Of the server for jobs: ``given``, else as the environment says, else where ``make cluster-up`` has it.

    Raises ConfigError for one of a Ray to join.
    """
    found = given or os.environ.get(SERVER_VARIABLE) or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if not re.fullmatch(r"https?://[^/?#@\s]+/*", found):
        raise ConfigError(
            f"{ADDRESS_VARIABLE} = {hide_passwords(found)}: jobs go to the page of Ray's head, http://HOST:8265;"
            " HOST:PORT and auto are of a Ray that make sweep joins"
        )
    return found.rstrip("/")


class JobServer:
    """The server for jobs at ``address``. All that is asked of it raises ConfigError where it does not answer so."""

    def __init__(self, address: str) -> None:
        self.address = address
        _require_ray(address)
        _use_token()
        os.environ[SERVER_VARIABLE] = address  # before what it is given Ray's client takes RAY_ADDRESS
        with self._answers():
            from ray.job_submission import JobSubmissionClient

            for name in LOUD:
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client = JobSubmissionClient(address)

    def jobs(self) -> list[Job]:
        """Those of ours, in the order in which they were sent."""
        with self._answers():
            found = self._client.list_jobs()
        ours = [Job.of(details) for details in found if details.submission_id and STUDY in (details.metadata or {})]
        return sorted(ours, key=lambda job: job.started)

    def find(self, job_id: str) -> Job | None:
        """None where Ray knows none of ours of this name."""
        return next((job for job in self.jobs() if job.id == job_id), None)

    def send(self, job_id: str, entrypoint: str, folder: Path, env: Mapping[str, str], told: Mapping[str, str]) -> bool:
        """Send a job with the files in ``folder``; False where another client was first with a job of this name."""
        try:
            with self._answers():
                self._client.submit_job(
                    submission_id=job_id,
                    entrypoint=entrypoint,
                    runtime_env={"working_dir": str(folder), "env_vars": dict(env)},
                    metadata=dict(told),
                )
        except ConfigError as error:
            if "already exists" in str(error.__cause__):
                return False
            raise
        return True

    def stop(self, job_id: str) -> None:
        """Ask for the job's end, and do not wait for it."""
        with self._answers():
            self._client.stop_job(job_id)

    def wait(self, job_id: str, seconds: float) -> Job | None:
        """The job once it is over, or as it is after so many seconds; None where Ray does not know it any more."""
        deadline = time.monotonic() + seconds
        while (job := self.find(job_id)) is not None and not job.is_over and time.monotonic() < deadline:
            time.sleep(0.5)
        return job

    def follow(self, job_id: str) -> Job | None:
        """Print the log of a job until it is over; None where Ray does not know the job any more.

        A server that does not answer is waited for.
        """
        printed, answered = 0, time.monotonic()
        while True:
            try:
                # Of a log that is not there Ray writes who has asked for it, token and all, into a log of its own.
                if self.find(job_id) is None:
                    return None
                printed = asyncio.run(self._tail(job_id, printed))
                job = self.find(job_id)
                if job is None or job.is_over:
                    return job
                answered = time.monotonic()
            except UnansweredError:
                if time.monotonic() - answered > LOST_SECONDS:
                    raise
            time.sleep(1)

    async def _tail(self, job_id: str, printed: int) -> int:
        """Print the log from its so manieth character on; up to which is returned, at its end or when it is silent."""
        seen = 0
        with contextlib.suppress(UnansweredError, StopAsyncIteration, TimeoutError), self._answers():
            log = cast(AsyncGenerator[str, None], self._client.tail_job_logs(job_id))  # Ray says less of it
            async with contextlib.aclosing(log) as chunks:
                while True:
                    chunk = await asyncio.wait_for(anext(chunks), SILENT_SECONDS)
                    print(chunk[max(0, printed - seen) :], end="", flush=True)
                    seen += len(chunk)
        return max(printed, seen)

    @contextlib.contextmanager
    def _answers(self) -> Iterator[None]:
        """One line for what Ray's client raises."""
        try:
            import aiohttp
            import requests
            from ray.exceptions import AuthenticationError
        except ImportError as error:
            raise ConfigError(f"no module {error.name}: Ray has no client for jobs: make submit installs it") from error
        try:
            yield
        except AuthenticationError as error:
            raise ConfigError(_token_line(self.address, str(error))) from error
        except (requests.ConnectionError, requests.Timeout, aiohttp.ClientError, ConnectionError) as error:
            raise UnansweredError(f"{self.address}: nothing answers there any more") from error
        except (RuntimeError, requests.RequestException, ValueError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ConfigError:
        """Of a traceback, which the server sends, the last line. A head that is just starting refuses for a while."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
        line = printable(f"{self.address}: {[type(error).__name__, *lines][-1].rstrip('.')[:400]}")
        passes = re.match(r"WebSocket|Request failed with status code 5", str(error))
        return UnansweredError(line) if passes else ConfigError(line)


def _require_ray(address: str) -> None:
    """Ray's client would wait for minutes, and raise whatever its parts raise."""
    shown = f"{ADDRESS_VARIABLE} = {address}"
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_SECONDS) as page:  # noqa: S310  http(s)
            json.load(page)["ray_version"]
    except urllib.error.HTTPError as error:
        asks_for_token = error.code in (401, 403) and "Basic" not in error.headers.get("WWW-Authenticate", "")
        if not asks_for_token:
            raise ConfigError(f"{shown}: no Ray answers there, but something else: {error}") from error
    except OSError as error:
        cause = getattr(error, "reason", error)
        raise ConfigError(
            f"{shown}: nothing answers there ({cause}): is Ray up (make ray-head, make cluster-up)?"
        ) from error
    except (ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise ConfigError(f"{shown}: no Ray answers there, but something else") from error


def _use_token() -> None:
    """Let Ray, which is to be imported after this, send the token that there is: by default it sends none."""
    known = any(os.environ.get(name) for name in (TOKEN_VARIABLE, PATH_VARIABLE))
    if known or default_path().is_file():
        os.environ.setdefault(MODE_VARIABLE, "token")


def _token_line(address: str, cause: str) -> str:
    if cause.startswith(PATH_VARIABLE):  # of a file that it cannot read
        return cause.partition(". ")[0]
    what = "another token" if cause.startswith("Authentication failed") else "its token"
    return (
        f"{address}: this Ray asks for {what}: {PATH_VARIABLE} names the file that holds it"
        f" (the head's ~/.ray/auth_token; of make cluster-up docker/secrets/ray_token), or {TOKEN_VARIABLE} is it"
    )

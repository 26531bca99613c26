"""A server that answers as Ray's server for jobs does, to the client of Ray itself; its jobs end as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

STARTED = 1_700_000_000_000


@dataclass
class FakeJobs:
    """What it knows and was told.

    log: of every job, in chunks; the first connections break after so many of them as ``cuts`` says. becomes: what a
    job is after its log was read; None where it goes on. followed: set then. status: of all answers, where it is not
    200; faults: of so many lists of jobs, asked for after that, 500. taken: jobs that another client sends at the last
    moment. refusal: of a job that is sent. tailed: jobs whose logs were asked for.
    """

    jobs: list[dict[str, Any]] = field(default_factory=list)
    log: Sequence[str] = ()
    cuts: list[int] = field(default_factory=list)
    becomes: dict[str, Any] | None = field(default_factory=lambda: {"status": "SUCCEEDED", "driver_exit_code": 0})
    status: int = 200
    faults: int = 0
    taken: list[dict[str, Any]] = field(default_factory=list)
    refusal: str = ""
    followed: threading.Event = field(default_factory=threading.Event)
    sent: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    tailed: list[str] = field(default_factory=list)
    packages: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    address: str = ""

    def add(self, job_id: str, state: str = "RUNNING", **other: Any) -> None:
        """A job of ours, of the study that its name begins with."""
        study, phase, _ = job_id.rsplit("-", 2)
        metadata = {"sweeps.study": study, "sweeps.phase": phase, "sweeps.digest": "0", "sweeps.results": ""}
        job = {"type": "SUBMISSION", "submission_id": job_id, "status": state, "entrypoint": "python -m sweeps run"}
        self.jobs.append({**job, "metadata": metadata, "start_time": STARTED + len(self.jobs), **other})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Whatever Ray's client asks."""
        self.bodies.append(await request.read() + str(dict(request.headers)).encode())
        if self.status != 200:
            return web.Response(status=self.status, text="Unauthorized")
        match request.method, request.path.strip("/").split("/")[1:]:
            case "GET", ["version"]:
                return web.json_response({"version": "4", "ray_version": "2.60.0"})
            case "GET", ["packages", *_]:
                return web.Response(status=404)
            case "PUT", ["packages", *_]:
                self.packages.append(await request.read())
                return web.Response()
            case "GET", ["jobs"] if self.followed.is_set() and self.faults:
                self.faults -= 1
                return web.Response(status=500, text="Traceback:\nRpcError: GCS is starting\n")
            case "GET", ["jobs"]:
                return web.json_response(self.jobs)
            case "POST", ["jobs"]:
                return self._accept(json.loads(await request.read()))
            case "POST", ["jobs", job_id, "stop"]:
                self.stopped.append(job_id)
                self._end(job_id, {"status": "STOPPED"})
                return web.json_response({"stopped": True})
            case "GET", ["jobs", job_id, "logs", "tail"]:
                return await self._tail(request, job_id)
        return web.Response(status=404)

    def _accept(self, job: dict[str, Any]) -> web.Response:
        self.jobs += self.taken
        self.taken = []
        if any(known["submission_id"] == job["submission_id"] for known in self.jobs):
            text = f"Traceback\nValueError: Job with submission_id {job['submission_id']} already exists.\n"
            return web.Response(status=500, text=text)
        if self.refusal:
            return web.Response(status=500, text=self.refusal)
        self.sent.append(job)
        details = {name: job[name] for name in ("submission_id", "entrypoint", "metadata")}
        self.jobs.append({"type": "SUBMISSION", "status": "PENDING", "start_time": STARTED + 60_000, **details})
        return web.json_response({"job_id": job["submission_id"], "submission_id": job["submission_id"]})

    async def _tail(self, request: web.Request, job_id: str) -> web.StreamResponse:
        self.tailed.append(job_id)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for number, chunk in enumerate(self.log):
            if number in self.cuts[:1]:
                del self.cuts[0]
                assert request.transport is not None
                request.transport.abort()
                return socket
            await socket.send_str(chunk)
        self.followed.set()
        while self.becomes is None and request.transport is not None:
            await asyncio.sleep(0.02)
        self._end(job_id, self.becomes or {})
        return socket

    def _end(self, job_id: str, outcome: dict[str, Any]) -> None:
        if outcome.get("status") == "GONE":
            self.jobs = []
        for job in self.jobs:
            if job["submission_id"] == job_id:
                job.update(outcome)

    def files(self) -> dict[str, bytes]:
        """Of the package that came last."""
        with zipfile.ZipFile(io.BytesIO(self.packages[-1])) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


@contextlib.contextmanager
def serving(fake: FakeJobs) -> Iterator[FakeJobs]:
    """On a free port of this machine, in a thread that ends with it."""
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=100 * 2**20)
        app.router.add_route("*", "/{page:.*}", fake.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()

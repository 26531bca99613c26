"""Checks of what listens on this machine: whether it asks whoever comes for a token or a password, by trying it.

What is asked changes nothing where it is answered: lists, counters, states.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.client import HTTPException
from typing import Literal, NamedTuple

from sweeps.cluster.ray_token import PATH_VARIABLE, TOKEN_VARIABLE, token_path
from sweeps.doctor.finding import Finding, failed, ok, warning
from sweeps.doctor.secrets import is_loopback

DASHBOARD = "Ray's dashboard"
"""Its server for jobs."""
NAMES = {
    r"/gcs_server ": "Ray's GCS",
    r"/raylet/raylet ": "Ray's raylet",
    r"/dashboard/dashboard\.py ": DASHBOARD,
    r"/dashboard/agent\.py |^ray::DashboardAgent": "Ray's node agent",
    r"/runtime_env/agent/main\.py |^ray::RuntimeEnvAgent": "Ray's runtime environment agent",
    r"/autoscaler/.*monitor\.py ": "Ray's monitor",
    r" ray\.util\.client\.server ": "Ray's client server",
    r"^ray::": "Ray's worker",
    r"\boptuna_dashboard\b|\bsweeps\.servers\.dashboard_server\b": "Optuna's pages",
    r"\bmlflow server\b|\bmlflow\.server\b": "MLflow",
    r" -m sweeps ": "a sweep",
}
"""By what is found in the command line; the first counts."""
PATHS = ("/api/jobs/", "/api/2.0/mlflow/experiments/search?max_results=1", "/api/studies", "/")
"""Of Ray's server for jobs, of MLflow, of Optuna's pages, and the front page of any."""
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/NumPendingTasks",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.rpc.ObjectManagerService/Pull",
)
"""A method of each of Ray's servers; with an empty request each is harmless."""
Answer = Literal["refuses", "metrics", "page", "open", "silent"]
"""page: of the dashboard, before it is given the token. silent: neither HTTP nor a method that we know of."""
ANSWER_SECONDS = 5
REFUSED = (401, 403)


class Listener(NamedTuple):
    """A socket that listens. name: of what it belongs to. host: as it is bound, ``0.0.0.0`` or ``::`` for all."""

    name: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def reached_at(self) -> str:
        """HOST:PORT from here."""
        host = self.host.removeprefix("::ffff:")
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  nothing is bound here
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def name_of(command: Sequence[str]) -> str | None:
    """What a command line is of, if it is ours, MLflow's, Optuna's or Ray's."""
    line = " ".join(command).strip() + " "
    return next((name for pattern, name in NAMES.items() if re.search(pattern, line)), None)


def listeners() -> list[Listener]:
    """What listens of this user's processes that ``name_of`` knows."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == os.getuid() and (name := name_of(process.cmdline())):
                found += [
                    Listener(name, here.laddr.ip, here.laddr.port)
                    for here in process.net_connections("tcp")
                    if here.status == psutil.CONN_LISTEN
                ]
    return found


def ask_http(address: str, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and beginning of the answer to a GET; 0 where nobody answers in HTTP. No proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://{address}{path}", headers=dict(headers or {}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as page:
            return int(page.status), page.read(500).decode(errors="replace")
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""
    except (OSError, HTTPException):
        return 0, ""


def ask_grpc(address: str, method: str, token: str | None = None) -> str:
    """The name of the status that answers an empty request: ``OK``, ``UNAUTHENTICATED``, ``UNIMPLEMENTED``, ..."""
    import grpc  # which Ray brings

    shown = None if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=ANSWER_SECONDS, metadata=shown)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def attempt(address: str, token: str | None = None) -> Answer:
    """What somebody gets from ``address`` who shows no token, or this one."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answers = [ask_http(address, path, headers) for path in PATHS[:1]]
    if answers[0][0] == 0:
        return of_calls([ask_grpc(address, method, token) for method in CALLS])
    return of_pages([*answers, *(ask_http(address, path, headers) for path in PATHS[1:])])


def of_pages(answers: Sequence[tuple[int, str]]) -> Answer:
    """answers: status and beginning, one for each of ``PATHS``."""
    if any(body.startswith("# HELP") for _, body in answers):
        return "metrics"
    *data, (front, _) = answers
    asks = any(status in REFUSED for status, _ in data)
    if any(status == 200 for status, _ in data) or not asks:
        return "open"
    return "page" if front == 200 else "refuses"


def of_calls(statuses: Iterable[str]) -> Answer:
    """statuses: one for each of ``CALLS``, of which a server has but its own."""
    known = {status for status in statuses if status not in ("UNIMPLEMENTED", "UNAVAILABLE")}
    if not known:
        return "silent"
    return "refuses" if known == {"UNAUTHENTICATED"} else "open"


def check_sockets() -> Iterator[Finding]:
    """Each that others can reach is tried without a token or password."""
    found = listeners()
    if not found:
        yield ok("sockets", "nothing of ours, of MLflow's or of Ray's listens")
        return
    here = [listener for listener in found if listener.is_loopback]
    if here:
        yield ok("sockets", f"reached from this machine alone: {_counted(here)}")
    elsewhere = [listener for listener in found if not listener.is_loopback]
    yield from of_listeners({listener: attempt(listener.reached_at) for listener in elsewhere})
    for dashboard in (listener for listener in found if listener.name == DASHBOARD):
        yield from of_token(dashboard.reached_at)


def of_token(address: str) -> Iterator[Finding]:
    """A finding where Ray's server for jobs there knows another token than the one that Ray takes here."""
    path = token_path()
    token = os.environ.get(TOKEN_VARIABLE) or (path.read_text(encoding="utf-8") if path.is_file() else "")
    status, _ = ask_http(address, PATHS[0], {"Authorization": f"Bearer {token.split(chr(10))[0].strip()}"})
    if status in REFUSED:
        have = "another token than the one here" if token else "a token, and there is none here"
        cure = f"{PATH_VARIABLE} names the file that holds it, or {TOKEN_VARIABLE} is it"
        yield warning("token", f"the Ray at {address} asks for {have}, so that make submit is refused: {cure}")


def of_listeners(answers: Mapping[Listener, Answer]) -> Iterator[Finding]:
    """Of sockets that others can reach, by what each answers to whoever comes."""
    by_answer: dict[Answer, list[Listener]] = {}
    for listener, answer in answers.items():
        by_answer.setdefault("refuses" if answer == "page" else answer, []).append(listener)
    if refusing := by_answer.get("refuses"):
        yield ok("sockets", f"others reach them, and without token or password are refused: {_counted(refusing)}")
    if metrics := by_answer.get("metrics"):
        cure = "whoever is on the network reads load and names of processes there: a firewall"
        yield warning("sockets", f"{_placed(metrics)}: metrics: {cure} (docs/security.md)")
    if silent := by_answer.get("silent"):
        yield warning("sockets", f"{_placed(silent)}: others reach it, and what it wants to be asked is not known here")
    if open_to_all := by_answer.get("open"):
        cure = "end it, then RAY_AUTH_MODE=token (make token) for Ray's, make server for MLflow's"
        yield failed("sockets", f"{_placed(open_to_all)}: answers whoever comes: {cure}")


def _counted(found: Iterable[Listener]) -> str:
    counts = Counter(listener.name for listener in found)
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in sorted(counts.items()))


def _placed(found: Iterable[Listener]) -> str:
    return ", ".join(f"{listener.name} at {listener.host}:{listener.port}" for listener in found)

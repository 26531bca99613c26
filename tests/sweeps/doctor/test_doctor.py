"""The doctor: what a machine is told that lacks something or lies open; with made-up input and with real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sql

from sweeps.cli import main
from sweeps.doctor import doctor
from sweeps.doctor import machine as check_machine
from sweeps.doctor import secrets as check_secrets
from sweeps.doctor import sockets as check_sockets
from sweeps.doctor import stores as check_stores
from sweeps.doctor.finding import Finding, failed, ok
from sweeps.doctor.machine import GIB, Gpu, Torch
from sweeps.doctor.sockets import Listener, attempt, name_of, of_calls, of_listeners, of_pages
from sweeps.doctor.stores import Clock
from sweeps.ledger import Ledger
from tests.sweeps.conftest import make_study
from trainer.config import Digits
from trainer.data.fetch import fetch
from trainer.machine import (
    CACHE_VARIABLE,
    LEDGER_VARIABLE,
    OPTUNA_VARIABLE,
    RESULTS_VARIABLE,
    TRACKING_VARIABLE,
    Results,
)
from trainer.passwords import hide_passwords

ROOT = Path(__file__).parents[3]


def verdicts(findings: Iterator[Finding]) -> list[str]:
    return [finding.verdict for finding in findings]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is set: an empty home, no token, no addresses; the folder of results is returned."""
    monkeypatch.setenv("HOME", str(tmp_path))
    names = (
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        LEDGER_VARIABLE,
        OPTUNA_VARIABLE,
        TRACKING_VARIABLE,
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "results"))
    return tmp_path / "results"


# The whole.


def test_a_bare_machine_is_well_and_stays_bare(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_sockets, "listeners", list)  # of this machine's there may be others'
    monkeypatch.setattr(check_secrets, "ray_folders", lambda _command: [])  # likewise
    monkeypatch.setattr(check_machine, "in_own_process", lambda _look: Torch("2.14.1", None, []))
    code = main(["doctor"])
    said = capsys.readouterr().out
    assert "FAILED" not in said
    assert code == 0
    assert "nothing of ours, of MLflow's or of Ray's listens" in said
    assert "trials train on CPUs alone" in said
    assert not bare.exists()
    assert not (bare.parent / ".ray").exists()


def test_what_cannot_be_looked_at_fails_and_the_rest_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    def breaks() -> Iterator[Finding]:
        raise RuntimeError("no\nsuch driver")

    found = list(doctor.examine({"GPU": breaks, "clock": lambda: iter([ok("clock", "it is noon")])}))
    assert [finding.line() for finding in found] == [
        "FAILED   GPU        could not be looked at: RuntimeError: no such driver",
        "ok       clock      it is noon",
    ]


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("warning", 0), ("FAILED", 1)])
def test_only_a_failure_makes_the_exit_code_one(
    verdict: Any, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [ok("a", "b"), Finding(verdict, "c", "d")]
    monkeypatch.setattr(doctor, "checks", lambda *_: {"a": lambda: iter(found)})
    assert doctor.doctor(Results(tmp_path), verify_data=False) == code


def test_no_line_shows_a_password() -> None:
    url = "postgresql+psycopg://sweeps:hunter2@db.example/ledger?sslmode=require&password=hunter3&sslpassword=hunter4"
    line = failed("ledger", f"{url}: no\x1b[2Jpasswords").line()
    assert "hunter" not in line
    assert "\x1b" not in line
    assert "db.example/ledger?sslmode=require&password=***" in line
    assert hide_passwords("http://lab.example/?password_reset=no") == "http://lab.example/?password_reset=no"


# Versions, cores, memory, disks.


def test_python_is_of_a_version_that_pyproject_names() -> None:
    (first, too_new) = check_machine.PYTHON
    declared = f'requires-python = ">={first[0]}.{first[1]},<{too_new[0]}.{too_new[1]}"'
    assert declared in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert check_machine.of_python((3, 10)).verdict == "FAILED"
    assert check_machine.of_python((3, 11)).verdict == "ok"
    assert check_machine.of_python((3, 14)).verdict == "FAILED"


def test_what_is_not_as_pinned_is_named() -> None:
    pins = check_machine.pinned("# a lock\ntorch==2.14.1\nray==2.60.0  # why\n\nnumpy==2.4.6\n")
    assert pins == {"torch": "2.14.1", "ray": "2.60.0", "numpy": "2.4.6"}
    assert check_machine.of_pins(pins, {"torch": "2.14.1+cpu", "numpy": "2.4.6"}).verdict == "ok"
    finding = check_machine.of_pins(pins, {"torch": "2.14.1", "ray": "2.61.0"})
    assert finding.verdict == "warning"
    assert "ray 2.61.0 (pinned 2.60.0)" in finding.said


def test_an_unsafe_version_fails() -> None:
    assert check_machine.of_unsafe({"ray": "2.53.0"}).verdict == "FAILED"
    assert check_machine.of_unsafe({"ray": "2.60.0"}).verdict == "ok"


@pytest.mark.parametrize(
    ("free", "verdict"), [(GIB - 1, "FAILED"), (GIB, "warning"), (5 * GIB - 1, "warning"), (5 * GIB, "ok")]
)
def test_room_on_a_disk(free: int, verdict: str) -> None:
    assert check_machine.of_disk("results", Path("/somewhere"), free).verdict == verdict


def test_a_nodes_own_folder_of_data_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert not any("data sets" in finding.said for finding in check_machine.check_disks(tmp_path))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "near/not there yet"))
    assert any("data sets in" in finding.said for finding in check_machine.check_disks(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_memory_shared_memory_and_descriptors() -> None:
    assert check_machine.of_memory(2 * GIB, 8 * GIB).verdict == "ok"
    assert check_machine.of_memory(2 * GIB - 1, 8 * GIB).verdict == "warning"
    assert check_machine.of_shared_memory(64 * 2**20).verdict == "warning"  # what Docker gives
    assert check_machine.of_shared_memory(GIB).verdict == "ok"
    assert [check_machine.of_descriptors(limit).verdict for limit in (256, 1024, -1)] == ["warning", "ok", "ok"]


def test_the_object_store_is_as_large_as_the_doctor_thinks() -> None:
    from sweeps.cluster.connection import OBJECT_STORE_BYTES

    assert check_machine.OBJECT_STORE_BYTES == OBJECT_STORE_BYTES


# GPUs: there is none here, so what torch would tell is made up.

CPU_BUILD, CUDA_BUILD = Torch("2.14.1+cpu", None, []), Torch("2.14.1+cu130", "13.0", [])


def test_no_gpu_is_well() -> None:
    assert verdicts(check_machine.of_gpus(CUDA_BUILD, [], "no NVIDIA driver")) == ["ok"]


@pytest.mark.parametrize(("torch", "cure"), [(CPU_BUILD, "install torch's CUDA build"), (CUDA_BUILD, "driver too old")])
def test_a_gpu_that_torch_does_not_see_is_a_warning(torch: Torch, cure: str) -> None:
    (finding,) = check_machine.of_gpus(torch, ["NVIDIA H100"], "driver 550")
    assert finding.verdict == "warning"
    assert "NVIDIA H100 is there" in finding.said
    assert cure in finding.said


def test_a_gpu_that_others_use_is_a_warning() -> None:
    seen = CUDA_BUILD._replace(gpus=[Gpu("A", 60 * GIB, 80 * GIB), Gpu("B", 10 * GIB, 80 * GIB)])
    assert verdicts(check_machine.of_gpus(seen, [], "")) == ["ok", "warning"]


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    """Of this machine, whatever it has."""
    before = "torch.cuda" in sys.modules
    findings = list(check_machine.check_gpus())
    assert ("torch.cuda" in sys.modules) == before
    assert version("torch").partition("+")[0] in findings[0].said


# Data sets.


def test_data_sets_that_are_here_are_verified_when_that_is_asked_for(tmp_path: Path) -> None:
    fetch(Digits(), tmp_path)
    (unread, absent) = check_machine.check_data(tmp_path, verify=False)
    assert "Digits in" in unread.said
    assert "Cifar10, Cifar100, Svhn, which make fetch" in absent.said
    (verified, _) = check_machine.check_data(tmp_path, verify=True)
    assert (verified.verdict, "digests are right" in verified.said) == ("ok", True)


def test_a_damaged_data_set_fails_and_is_left_as_it_is(tmp_path: Path) -> None:
    fetch(Digits(), tmp_path)
    (file, *_) = sorted(tmp_path.glob("digits-train*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    from trainer.data.load import _load_part

    _load_part.cache_clear()
    assert verdicts(check_machine.check_data(tmp_path, verify=True))[0] == "FAILED"
    assert file.read_bytes() == content


# Clocks.


@pytest.mark.parametrize(
    ("ahead", "unsure", "verdict"),
    [(0.3, 0.1, "ok"), (-2.4, 0.5, "ok"), (2.6, 0.5, "warning"), (-30.4, 0.5, "warning"), (-31, 0.5, "FAILED")],
)
def test_clocks_that_surely_differ(ahead: float, unsure: float, verdict: str) -> None:
    assert check_stores.of_clock("ledger", Clock(ahead, unsure)).verdict == verdict


def test_a_clock_is_read_in_the_middle_of_the_asking() -> None:
    clock = Clock.read(100.0, 103.0, 102.0, resolution=1.0)
    assert clock == Clock(ahead=2.5, unsure=1.5)


def test_a_clock_from_before_this_code_fails() -> None:
    assert check_stores.of_own_clock(0.0, time.time()).verdict == "FAILED"
    assert check_stores.of_own_clock(time.time(), time.time()).verdict == "ok"


# Sockets.

COMMAND_LINES = {
    "/x/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp": "Ray's GCS",
    "/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp": "Ray's raylet",
    "python /x/ray/dashboard/dashboard.py --host=127.0.0.1": "Ray's dashboard",
    "ray::DashboardAgent": "Ray's node agent",
    "ray::RuntimeEnvAgent": "Ray's runtime environment agent",
    "python -u /x/ray/autoscaler/_private/monitor.py --logs-dir=/tmp": "Ray's monitor",
    "python -m ray.util.client.server --port=10001": "Ray's client server",
    "ray::IDLE": "Ray's worker",
    "ray::train()": "Ray's worker",
    "python -m mlflow server --host 127.0.0.1": "MLflow",
    "/venv/bin/mlflow server": "MLflow",
    "python -m uvicorn --port 5000 mlflow.server.fastapi_app:app": "MLflow",
    "python -m sweeps.servers.dashboard_server 127.0.0.1 8080": "Optuna's pages",
    "/venv/bin/python -m sweeps run fig8-digits": "a sweep",
    "vim docs/mlflow.md": None,
    "postgres: checkpointer": None,
    "": None,
}


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_processes_are_known_by_their_command_line(line: str) -> None:
    assert name_of(line.split(" ")) == COMMAND_LINES[line]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([(401, ""), (401, ""), (401, ""), (200, "<html>")], "page"),
        ([(401, ""), (401, ""), (401, ""), (401, "")], "refuses"),
        ([(403, ""), (404, ""), (404, ""), (404, "")], "refuses"),
        ([(404, ""), (200, "{}"), (404, ""), (200, "<html>")], "open"),
        ([(200, "[]"), (404, ""), (404, ""), (404, "")], "open"),
        ([(404, ""), (404, ""), (200, "[]"), (302, "")], "open"),
        ([(404, ""), (404, ""), (404, ""), (200, "<html>")], "open"),
        ([(200, "# HELP a counter"), (200, "# HELP"), (200, "# HELP"), (200, "# HELP")], "metrics"),
        ([(404, ""), (500, ""), (404, ""), (404, "")], "open"),
    ],
)
def test_what_pages_answer(answers: list[tuple[int, str]], said: str) -> None:
    assert of_pages(answers) == said


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (["UNIMPLEMENTED", "UNAUTHENTICATED"], "refuses"),
        (["UNAUTHENTICATED", "OK"], "open"),
        (["UNIMPLEMENTED", "INVALID_ARGUMENT"], "open"),
        (["DEADLINE_EXCEEDED"], "open"),
        (["UNIMPLEMENTED", "UNIMPLEMENTED"], "silent"),
        (["UNAVAILABLE"], "silent"),
    ],
)
def test_what_calls_answer(statuses: list[str], said: str) -> None:
    assert of_calls(statuses) == said


class Pages(BaseHTTPRequestHandler):
    """Answers as ``answer`` of its server says, which gets the path and what stands for a password or token."""

    def do_GET(self) -> None:
        status, body = self.server.answer(self.path, self.headers.get("Authorization"))  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def pages(answer: Callable[[str, str | None], tuple[int, str]]) -> Iterator[str]:
    """A real server; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.answer = answer  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_pages_are_tried() -> None:
    with pages(
        lambda _path, shown: (401 if shown is None else 403 if shown != "Bearer right" else 200, "[]")
    ) as address:
        assert attempt(address) == "refuses"
        assert attempt(address, "wrong") == "refuses"
        assert attempt(address, "right") == "open"
    with pages(lambda _path, _shown: (200, "# HELP a counter")) as address:
        assert attempt(address) == "metrics"


def test_a_ray_that_knows_another_token_is_a_warning(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pages(lambda _path, shown: (200 if shown == "Bearer right" else 403, "[]")) as address:
        (none,) = check_sockets.of_token(address)
        file = bare.parent / ".ray/auth_token"
        file.parent.mkdir()
        file.write_text("right\n")
        assert list(check_sockets.of_token(address)) == []
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        (other,) = check_sockets.of_token(address)
    assert (none.verdict, other.verdict) == ("warning", "warning")
    assert "asks for a token, and there is none here" in none.said
    assert "asks for another token than the one here" in other.said
    assert "wrong" not in other.said
    with pages(lambda _path, _shown: (404, "")) as address:  # as a sweep's own, which has counters alone
        assert list(check_sockets.of_token(address)) == []


CallDetails = namedtuple("CallDetails", ["method", "invocation_metadata"])


class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Has one method, which a token opens."""

    def service(self, call: CallDetails) -> object:
        if call.method != "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo":
            return None
        return grpc.unary_unary_rpc_method_handler(self._answer)

    @staticmethod
    def _answer(_request: bytes, context: Any) -> bytes:
        if ("authorization", "Bearer right") not in [tuple(pair) for pair in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return b""


def test_calls_are_tried() -> None:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Methods()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        address = f"127.0.0.1:{port}"
        assert [attempt(address), attempt(address, "wrong"), attempt(address, "right")] == [
            "refuses",
            "refuses",
            "open",
        ]
    finally:
        server.stop(None).wait()


def test_what_listens_is_found_by_who_it_is() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    command = [sys.executable, "-c", code, "-m", "sweeps", "ui"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process, socket.create_server(("127.0.0.1", 0)) as other:  # type: ignore[call-overload]
        port, others = int(process.stdout.readline()), other.getsockname()[1]
        found = {listener.port: listener for listener in check_sockets.listeners()}
        process.communicate("\n")
    assert found[port] == Listener("a sweep", "127.0.0.1", port)
    assert others not in found  # pytest's


def test_where_a_socket_is_reached() -> None:
    assert Listener("MLflow", "::ffff:127.0.0.1", 5000).is_loopback
    assert not Listener("MLflow", "0.0.0.0", 5000).is_loopback
    assert not Listener("MLflow", "::", 5000).is_loopback
    assert Listener("MLflow", "::", 5000).reached_at == "127.0.0.1:5000"
    assert Listener("MLflow", "::ffff:192.0.2.2", 5000).reached_at == "192.0.2.2:5000"
    assert Listener("MLflow", "fe80::1", 5000).reached_at == "[fe80::1]:5000"


def test_what_answers_whoever_comes_fails() -> None:
    here, there = Listener("Ray's GCS", "::", 6379), Listener("MLflow", "0.0.0.0", 5000)
    metrics, odd = Listener("Ray's monitor", "0.0.0.0", 44217), Listener("a sweep", "::", 7000)
    (good,) = of_listeners({here: "refuses", there: "page"})
    assert (good.verdict, good.said.endswith("MLflow, Ray's GCS")) == ("ok", True)
    (bad,) = of_listeners({there: "open"})
    assert bad.verdict == "FAILED"
    assert "MLflow at 0.0.0.0:5000" in bad.said
    assert verdicts(of_listeners({metrics: "metrics", odd: "silent"})) == ["warning", "warning"]


# Databases and servers.


def test_databases_that_are_there_answer_and_are_not_changed(bare: Path, store: Path) -> None:
    bare.mkdir()
    ledger = Ledger(Results(bare).ledger_url)
    ledger.declare("toy", make_study().trials)
    ledger.close()
    os.link(store, bare / "mlflow.db")
    before = {path.name: path.read_bytes() for path in bare.iterdir()}
    found = {finding.about: finding for finding in check_stores.check_stores(Results(bare))}
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert "schema 1, 4 trials" in found["ledger"].said
    assert f"those of mlflow {version('mlflow')}" in found["MLflow"].said
    assert "not there yet" in found["Optuna"].said
    assert {path.name: path.read_bytes() for path in bare.iterdir()} == before


def database(path: Path, *statements: str) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:///{path}"


def test_an_sqlite_database_is_only_read(tmp_path: Path) -> None:
    def write(connection: sql.Connection) -> Finding:
        connection.execute(sql.text("CREATE TABLE one (two INTEGER)"))
        return ok("ledger", "written")

    (finding,) = check_stores.of_database("ledger", database(tmp_path / "ledger.db"), write)
    assert (finding.verdict, "readonly" in finding.said) == ("FAILED", True)


def test_a_ledger_of_another_schema_fails(bare: Path) -> None:
    bare.mkdir()
    database(
        bare / "ledger.db", "CREATE TABLE ledger_version (version INTEGER)", "INSERT INTO ledger_version VALUES (7)"
    )
    (finding, *_) = check_stores.check_stores(Results(bare))
    assert finding.verdict == "FAILED"
    assert "has schema 7, this code needs 1" in finding.said


def test_a_ledger_in_the_database_of_mlflow_fails(bare: Path) -> None:
    bare.mkdir()
    database(bare / "ledger.db", "CREATE TABLE alembic_version (version_num VARCHAR(32))")
    (finding, *_) = check_stores.check_stores(Results(bare))
    assert (finding.verdict, "a database of its own" in finding.said) == ("FAILED", True)


@pytest.mark.parametrize("name", ["mlflow", "optuna"])
def test_older_tables_fail_and_the_newest_do_not(bare: Path, name: str) -> None:
    bare.mkdir()
    table = "CREATE TABLE alembic_version (version_num VARCHAR(32))"
    (newest,) = check_stores.newest_tables(name)
    for revision, verdict in ("0123456789ab", "FAILED"), (newest, "ok"):
        (bare / f"{name}.db").unlink(missing_ok=True)
        database(bare / f"{name}.db", table, f"INSERT INTO alembic_version VALUES ('{revision}')")
        found = {finding.about.lower(): finding for finding in check_stores.check_stores(Results(bare))}
        assert found[name].verdict == verdict, found[name].said


def test_two_in_one_database_fail(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTUNA_VARIABLE, Results(bare).ledger_url)
    (finding, *_) = check_stores.check_stores(Results(bare))
    assert (finding.verdict, "name the same database" in finding.said) == ("FAILED", True)


def test_what_does_not_answer_fails_without_showing_the_password(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv(LEDGER_VARIABLE, f"postgresql+psycopg://sweeps:hunter2@127.0.0.1:{port}/ledger?password=hunter3")
    monkeypatch.setenv(TRACKING_VARIABLE, f"http://admin:hunter4@127.0.0.1:{port}")
    lines = [finding.line() for finding in check_stores.check_stores(Results(bare))]
    assert [line.split()[:2] for line in lines] == [["FAILED", "ledger"], ["ok", "Optuna"], ["FAILED", "MLflow"]]
    assert "hunter" not in "".join(lines)


def test_a_ledger_on_postgresql_has_a_clock(bare: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(ledger_url).close()
    monkeypatch.setenv(LEDGER_VARIABLE, ledger_url)
    found = [
        finding for finding in check_stores.check_stores(Results(bare)) if "ledger" in finding.about + finding.said
    ]
    clocks = [finding for finding in found if finding.about == "clock"]
    assert {finding.verdict for finding in found} == {"ok"}
    assert bool(clocks) == ledger_url.startswith("postgresql")


def answers_like_mlflow(told: str, lets_in: Callable[[str | None], bool]) -> Callable[..., tuple[int, str]]:
    def answer(path: str, shown: str | None) -> tuple[int, str]:
        if not lets_in(shown):
            return 401, ""  # its version too is for users alone
        return 200, told if path == "/version" else '{"experiments": []}'

    return answer


def test_a_server_of_mlflow_is_asked_with_and_without_the_password(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    right = answers_like_mlflow(version("mlflow"), lambda shown: bool(shown and shown.startswith("Basic ")))
    with pages(right) as address:
        monkeypatch.setenv(TRACKING_VARIABLE, f"http://{address}")
        found = list(check_stores.of_server(Results(bare)))
    assert [(finding.verdict, finding.about) for finding in found] == [
        ("ok", "MLflow"),
        ("ok", "clock"),
        ("ok", "MLflow"),
    ]
    with pages(answers_like_mlflow("3.16.0", bool)) as address:
        monkeypatch.setenv(TRACKING_VARIABLE, f"http://{address}")
        assert verdicts(check_stores.of_server(Results(bare))) == ["warning", "ok", "ok"]
    with pages(answers_like_mlflow("3.16.0", lambda _: False)) as address:
        monkeypatch.setenv(TRACKING_VARIABLE, f"http://{address}")
        (finding,) = check_stores.of_server(Results(bare))
    assert finding.verdict == "FAILED"
    assert "asks for a password: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD must be set" in finding.said


def test_a_server_that_asks_nobody_fails_unless_it_is_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with pages(answers_like_mlflow("", lambda _: True)) as address:
        assert verdicts(check_stores._closed(f"http://{address}")) == []
        monkeypatch.setattr(check_stores, "is_loopback", lambda _host: False)
        assert verdicts(check_stores._closed(f"http://{address}")) == ["FAILED"]
    with pages(answers_like_mlflow("", lambda _: False)) as address:
        assert verdicts(check_stores._closed(f"http://{address}")) == []

"""Server mode against the real server: what is refused, what is let in, and what lies open to others."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sweeps.cli import main
from sweeps.databases import BACKEND_VARIABLE, require_different, require_for_mlflow
from sweeps.deliver import deliver
from sweeps.ledger import Ledger
from sweeps.search.suggest import close_storage, open_storage
from sweeps.servers import server
from sweeps.servers.server import Address, serve, vault_of
from sweeps.sweep import with_pending
from sweeps.tracking.tracker import connect
from tests.sweeps.conftest import Desk, make_records, make_study
from tests.sweeps.servers.test_ui import free_port
from trainer.declaration import ConfigError
from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, RESULTS_VARIABLE, TRACKING_VARIABLE, Results

STUDY = make_study(seeds=[0])
RECORDS = make_records()
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
CREATE = "/api/2.0/mlflow/experiments/create"
HOSTILE = {  # what a careless environment could open
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "everyone-knows-this-one",
    LEDGER_VARIABLE: "sqlite:////nowhere/with-a-password.db",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs. printed: by it, until now."""

    results: Results
    port: int
    process: psutil.Process
    printed: Path

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        return vault_of(self.results).password.read_text().strip()

    def code(
        self, path: str, password: str | None = "", headers: Mapping[str, str] | None = None, body: object = None
    ) -> int:
        """The status of an answer. password: by default the right one."""
        found = dict(headers or {}) | {"Content-Type": "application/json"}
        if password is not None:
            given = f"admin:{password or self.password}".encode()
            found["Authorization"] = f"Basic {base64.b64encode(given).decode()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.uri}{path}", data, found)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    results, port, printed = Results(folder / "results"), free_port(), folder / "printed"
    command = [sys.executable, "-m", "sweeps", "server", "--port", str(port), "--name", "lab.example"]
    environment = {name: value for name, value in os.environ.items() if name != TRACKING_VARIABLE}
    with printed.open("w") as file:
        process = subprocess.Popen(
            command,
            env=environment | HOSTILE | {RESULTS_VARIABLE: str(results.root)},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = Served(results, port, psutil.Process(process.pid), printed)
    try:
        wait_until_up(found, process)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert "Traceback" not in printed.read_text()


def wait_until_up(found: Served, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while True:
        with contextlib.suppress(OSError):
            if found.code("/health", password=None) == 200:
                return
        assert process.poll() is None, found.printed.read_text()
        assert time.monotonic() < deadline, found.printed.read_text()
        time.sleep(0.2)


@pytest.mark.slow
def test_who_has_no_password_or_a_wrong_one_is_refused(served: Served) -> None:
    assert served.code(SEARCH, password=None) == 401
    assert served.code(SEARCH, password="not-the-password") == 401
    assert served.code(SEARCH, password="password1234") == 401
    assert served.code(SEARCH, password=HOSTILE["MLFLOW_AUTH_ADMIN_PASSWORD"]) == 401
    assert served.code("/", password=None) == 401
    assert served.code("/api/2.0/mlflow-artifacts/artifacts?path=", password=None) == 401
    assert served.code(SEARCH) == 200


@pytest.mark.slow
def test_only_its_own_names_are_answered(served: Served) -> None:
    for host in ("evil.example", f"evil.example:{served.port}", "lab.example.evil.example", "lab.example:1"):
        assert served.code(SEARCH, headers={"Host": host}) == 403, host
    for host in ("lab.example", f"lab.example:{served.port}", f"localhost:{served.port}"):
        assert served.code(SEARCH, headers={"Host": host}) == 200, host


@pytest.mark.slow
def test_pages_of_others_cannot_write(served: Served) -> None:
    for origin in ("http://evil.example", "https://lab.example.evil.example", "null"):
        answer = served.code(CREATE, headers={"Origin": origin}, body={"name": f"by {origin}"})
        assert answer == 403, origin
    assert served.code(CREATE, headers={"Origin": "https://lab.example"}, body={"name": "by its own page"}) == 200


@pytest.mark.slow
def test_a_sweep_delivers_with_the_password(served: Served, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, served.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", served.password)
    for trial in STUDY.trials:
        desk.settle(STUDY, trial, "finished")
        desk.save(trial, RECORDS)
    rows = with_pending(STUDY, desk.ledger.rows([trial.trial_id for trial in STUDY.trials]))
    assert deliver(STUDY, rows, desk.ledger, desk.results) == 0
    client = connect(desk.results)
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == len(STUDY.trials)
    (desk.results.root / "note.txt").write_text("through the server")
    client.log_artifact(runs[0].info.run_id, str(desk.results.root / "note.txt"))
    kept = [path.read_text() for path in served.results.artifacts.rglob("note.txt")]
    assert kept == ["through the server"]


@pytest.mark.slow
def test_without_the_password_nothing_is_delivered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, served.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-password")
    with pytest.raises(ConfigError) as error:
        connect(served.results)
    assert "\n" not in str(error.value)
    assert "not-the-password" not in str(error.value)


@pytest.mark.slow
def test_what_is_secret_is_its_owners(served: Served) -> None:
    folder = vault_of(served.results).folder
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(["admin-password", "basic_auth.db", "basic_auth.ini", "secret-key"], 0o600)
    assert folder.stat().st_mode & 0o777 == 0o700
    said = served.printed.read_text()
    assert "export MLFLOW_TRACKING_URI=https://lab.example\n" in said
    assert str(vault_of(served.results).password) in said
    secrets = [(folder / name).read_text().strip() for name in ("admin-password", "secret-key")]
    for process in (served.process, *served.process.children(recursive=True)):
        arguments = " ".join(process.cmdline())
        assert not any(secret in arguments or secret in said for secret in secrets)


@pytest.mark.slow
def test_what_would_open_it_is_off_whatever_the_environment_says(served: Served) -> None:
    environments = [
        process.environ()
        for process in served.process.children(recursive=True)
        if "uvicorn" in " ".join(process.cmdline())
    ]
    assert environments
    for found in environments:
        assert found["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
        assert found["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
        assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert found.get("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE") is None
        assert found.get(LEDGER_VARIABLE) is None


def refusal(results: Results, address: Address) -> str:
    with pytest.raises(ConfigError) as error:
        serve(results, address)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def never_started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have been run."""
    started: list[list[str]] = []
    monkeypatch.setattr(server, "run_until_ctrl_c", lambda command, environment, name: started.append(command))
    return started


@pytest.fixture
def results(tmp_path: Path, never_started: list[list[str]]) -> Results:
    return Results(tmp_path / "results")


def test_another_address_has_passwords_too(
    results: Results, never_started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(results, Address("0.0.0.0", free_port(), ["lab.example"]))
    [command] = never_started
    assert command[command.index("--app-name") + 1] == "basic-auth"
    assert "unless TLS is in front" in capsys.readouterr().out


def test_all_addresses_need_a_name(results: Results) -> None:
    with pytest.raises(ConfigError, match=r"NAMES=\.\.\."):
        Address("0.0.0.0", 5000)


@pytest.mark.parametrize("name", ["*", "lab.example,*", "lab example", "", "-"])
def test_a_name_is_no_pattern(name: str) -> None:
    with pytest.raises(ConfigError, match="is no host name"):
        Address("127.0.0.1", 5000, [name])


def test_a_password_of_ones_own_is_kept(results: Results) -> None:
    vault = vault_of(results)
    vault.folder.mkdir(parents=True)
    vault.password.write_text("my own % password\n")
    vault.password.chmod(0o600)
    serve(results, Address("127.0.0.1", free_port()))
    assert vault.password.read_text() == "my own % password\n"
    assert "admin_password = my own %% password\n" in vault.settings.read_text()


@pytest.mark.parametrize(
    ("password", "mode", "message"), [("short", 0o600, "12 characters"), ("x" * 12, 0o640, "chmod")]
)
def test_a_password_that_protects_nothing_is_refused(
    results: Results, never_started: list[list[str]], password: str, mode: int, message: str
) -> None:
    vault = vault_of(results)
    vault.folder.mkdir(parents=True)
    vault.password.write_text(password)
    vault.password.chmod(mode)
    assert message in refusal(results, Address("127.0.0.1", free_port()))
    assert never_started == []


@pytest.mark.slow
def test_a_password_that_is_not_the_present_one_is_refused(served: Served, never_started: list[list[str]]) -> None:
    vault, address = vault_of(served.results), Address("127.0.0.1", free_port())
    before = vault.password.read_text()
    serve(served.results, address)
    vault.password.write_text("some other password")
    try:
        assert "is not the password of 'admin' any more" in refusal(served.results, address)
    finally:
        vault.password.write_text(before)


@pytest.mark.parametrize("variable", [LEDGER_VARIABLE, OPTUNA_VARIABLE])
def test_a_database_of_somebody_else_is_refused(
    results: Results, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "postgresql+psycopg://sweeps:hunter2@localhost/lab")
    monkeypatch.setenv(BACKEND_VARIABLE, "postgresql://mlflow:hunter3@127.0.0.1:5432/lab?connect_timeout=3")
    message = refusal(results, Address("127.0.0.1", free_port()))
    assert variable in message
    assert BACKEND_VARIABLE in message
    assert "hunter" not in message


def test_different_databases_pass() -> None:
    require_different(
        {
            "A": "postgresql://u@db/one",
            "B": "postgresql://u@db/two",
            "C": "postgresql://u@db:5433/one",
            "D": "postgresql://u@other/one",
            "E": "sqlite:////tmp/one.db",
            "F": "sqlite:////tmp/two.db",
            "G": "http://127.0.0.1:5000",
            "H": "http://127.0.0.1:5000",
            "I": "postgresql://u@/one?host=/run/a",
            "J": "nonsense",
        }
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:////tmp/a/../one.db", "sqlite:////tmp/one.db"),
        ("postgresql+psycopg://a:x@db:5432/one", "postgresql://b@db/one"),
        ("postgresql://u@/one?host=/run/a", "postgresql+psycopg://v@/one?host=/run/a"),
    ],
)
def test_the_same_database_by_another_address_is_refused(one: str, other: str) -> None:
    with pytest.raises(ConfigError, match="A and B name the same database"):
        require_different({"A": one, "B": other})


@pytest.mark.parametrize("command", [["status", "fig8-digits"], ["plan", "fig8-digits"], ["run", "fig8-digits"]])
def test_no_command_opens_a_ledger_that_is_mlflows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path))
    monkeypatch.setenv(LEDGER_VARIABLE, f"sqlite:///{tmp_path}/mlflow.db")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "name the same database" in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_ledger_is_where_its_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path)
    (tmp_path / "ledger.db").touch()
    monkeypatch.setenv(LEDGER_VARIABLE, f"sqlite:///{tmp_path}/elsewhere.db")
    assert not results.has_ledger()
    (tmp_path / "elsewhere.db").touch()
    assert results.has_ledger()
    monkeypatch.setenv(LEDGER_VARIABLE, "postgresql+psycopg://u:hunter2@db/ledger")
    assert results.has_ledger()
    monkeypatch.setenv(LEDGER_VARIABLE, "")
    assert results.ledger_url == f"sqlite:///{tmp_path}/ledger.db"


def test_a_password_in_the_ledgers_address_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path))
    monkeypatch.setenv(LEDGER_VARIABLE, "postgresql+psycopg://sweeps:hunter2@127.0.0.1:9/ledger?connect_timeout=2")
    assert main(["deliver"]) == 2
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "127.0.0.1:9" in said


def test_ui_asks_nobody_for_a_password_and_stays_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--host", "0.0.0.0"]) == 2
    assert "make server HOST=0.0.0.0" in capsys.readouterr().err


def test_a_database_that_does_not_let_us_in_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"MLFLOW_BACKEND_STORE_URI: .*:\*\*\*@127\.0\.0\.1.*refused") as error:
        require_for_mlflow("postgresql+psycopg://mlflow:hunter2@127.0.0.1:1/mlflow")
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="MLFLOW_BACKEND_STORE_URI: nonsense"):
        require_for_mlflow("nonsense")


def test_the_database_of_another_is_refused_though_no_variable_names_it(ledger_url: str, tmp_path: Path) -> None:
    require_for_mlflow(ledger_url)
    Ledger(ledger_url).close()
    with pytest.raises(ConfigError, match="has the tables of the ledger: give each a database of its own"):
        require_for_mlflow(ledger_url)
    optuna = f"sqlite:///{tmp_path / 'optuna.db'}"
    close_storage(open_storage(optuna))
    with pytest.raises(ConfigError, match="has the tables of Optuna"):
        require_for_mlflow(optuna)

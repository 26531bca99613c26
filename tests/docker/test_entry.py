"""What the images would run, without Docker: the entry scripts start Ray and MLflow, which answer whom they should."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sql
from sqlalchemy.engine import URL

from tests.docker.parts import DOCKER, run, secrets_in
from tests.docker.servers import Service, autocommit, empty_server, free_ports, initialise, libpq, service, status

pytest.importorskip("aiohttp_cors", reason="Ray has no job server: pip install '.[cluster]'")

pytestmark = pytest.mark.slow

KNOWN = """
import json, os, ray

NAMES = "SWEEPS_LEDGER_URL", "SWEEPS_OPTUNA_URL", "MLFLOW_TRACKING_PASSWORD"


@ray.remote(num_cpus=1)
def of_a_worker():
    return [name for name in NAMES if name in os.environ], os.environ["SWEEPS_TEST_SERVICE"]


ray.init()
print("KNOWN", json.dumps([[name for name in NAMES if name in os.environ], *ray.get(of_a_worker.remote())]))
"""


def healthy(url: str) -> bool:
    return run("python", DOCKER / "entry/healthy.py", url).returncode == 0


@dataclass(frozen=True)
class Nodes:
    """A head and a worker. head_health, worker_health: what their containers' health checks ask."""

    head: Service
    worker: Service
    jobs: str
    head_health: str
    worker_health: str
    secrets: Path


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """With a short name, for Ray's sockets are in it: a socket's path has 107 bytes."""
    name = tempfile.mkdtemp(prefix="d-", dir="/tmp")
    yield Path(name)
    shutil.rmtree(name)


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[Nodes]:
    """The scripts are given ports that are free; a container has the usual ones to itself."""
    secrets = secrets_in(folder / "secrets")
    gcs, jobs, client, head_agent, worker_agent = free_ports(5)
    place = {"SWEEPS_SECRETS": str(secrets), "HOME": str(folder)}
    ports = [f"--port={gcs}", f"--dashboard-port={jobs}", f"--ray-client-server-port={client}"]
    own = ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}/ray", f"--dashboard-agent-listen-port={head_agent}"]
    with service("head.sh", *ports, *own, log=folder / "head", RAY_HEAD_HOST="localhost", **place) as head:
        head_health = f"http://127.0.0.1:{head_agent}/api/healthz"
        head.wait_until(lambda: status(head_health) == 200 and status(f"http://127.0.0.1:{jobs}/") == 200)
        more = ["--num-cpus=1", f"--dashboard-agent-listen-port={worker_agent}"]
        with service("worker.sh", *more, log=folder / "worker", RAY_HEAD=f"127.0.0.1:{gcs}", **place) as worker:
            worker_health = f"http://127.0.0.1:{worker_agent}/api/healthz"
            worker.wait_until(lambda: status(worker_health) == 200)
            yield Nodes(head, worker, f"http://127.0.0.1:{jobs}", head_health, worker_health, secrets)


def test_the_images_health_checks_pass_and_fail_elsewhere(nodes: Nodes) -> None:
    assert healthy(nodes.head_health)
    assert healthy(nodes.worker_health)
    (nowhere,) = free_ports(1)
    done = run("python", DOCKER / "entry/healthy.py", f"http://127.0.0.1:{nowhere}/")
    assert done.returncode == 1
    assert done.stderr.endswith("Connection refused>\n")
    assert not healthy(f"{nodes.jobs}/api/jobs/")  # it says 401


def test_jobs_are_for_those_who_have_the_token(nodes: Nodes) -> None:
    token = (nodes.secrets / "ray_token").read_text()
    url = f"{nodes.jobs}/api/jobs/"
    assert status(url) == 401
    assert status(url, Authorization="Bearer " + token[::-1]) == 403
    assert status(url, Authorization=f"Bearer {token}") == 200


def test_a_driver_knows_the_passwords_and_a_worker_does_not(nodes: Nodes, folder: Path) -> None:
    (folder / "job").mkdir()
    (folder / "job/known.py").write_text(KNOWN)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(nodes.secrets / "ray_token"), "HOME": str(folder)}
    submit = ["ray", "job", "submit", "--address", nodes.jobs, "--working-dir", str(folder / "job")]
    done = run(*submit, "--", "python", "known.py", **token)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("KNOWN ")]
    of_the_driver, of_a_worker, started_by = json.loads(line.removeprefix("KNOWN "))
    assert started_by == str(nodes.worker.log)  # the head has no CPU for trials
    assert of_the_driver == ["SWEEPS_LEDGER_URL", "SWEEPS_OPTUNA_URL", "MLFLOW_TRACKING_PASSWORD"]
    assert of_a_worker == []


def test_no_secret_is_in_a_process_list_or_a_log(nodes: Nodes) -> None:
    seen = nodes.head.arguments() + nodes.worker.arguments()
    assert "raylet" in seen
    logs = [nodes.head.log, nodes.worker.log, *_files(nodes.head.log.parent / "ray")]
    assert len(logs) > 20
    text = seen + "".join(file.read_text(errors="ignore") for file in logs)
    assert [file.name for file in nodes.secrets.iterdir() if file.read_text() in text] == []


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[URL]:
    with empty_server() as url:
        initialise(url, secrets_in(folder / "secrets"))
        yield url


@pytest.fixture(scope="module")
def mlflow(folder: Path, postgres: URL) -> Iterator[tuple[Service, str]]:
    """MLflow's server and its address, on two databases that init.sh has made."""
    (port,) = free_ports(1)
    text = (DOCKER / "mlflow.Dockerfile").read_text(encoding="utf-8")
    block = text[text.index("ENV HOME") : text.index("WORKDIR")]
    image = dict(word.split("=", 1) for word in block.replace("\\\n", " ").split()[1:])
    settings = image | {"MLFLOW_ARTIFACTS_DESTINATION": (folder / "artifacts").as_uri(), "HOME": str(folder)}
    settings |= libpq(postgres) | {"SWEEPS_SECRETS": str(folder / "secrets"), "TMPDIR": str(folder)}
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    with service("mlflow.sh", *listen, log=folder / "mlflow", **settings) as server:
        server.wait_until(lambda: status(f"http://127.0.0.1:{port}/health") == 200, seconds=180)
        yield server, f"http://127.0.0.1:{port}"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_mlflow_is_for_those_who_have_the_password(mlflow: tuple[Service, str], folder: Path) -> None:
    url = f"{mlflow[1]}/api/2.0/mlflow/experiments/get?experiment_id=0"
    right = basic("admin", (folder / "secrets/mlflow_admin_password").read_text())
    assert status(url) == 401
    assert status(url, Authorization=basic("admin", "password1234")) == 401
    assert status(url, Authorization=right) == 200
    assert status(url, Authorization=right, Host="evil.example") == 403
    assert healthy(f"{mlflow[1]}/health")


def test_mlflow_keeps_passwords_out_of_process_lists_and_logs(mlflow: tuple[Service, str], folder: Path) -> None:
    server, _ = mlflow
    seen = server.arguments() + server.log.read_text()
    assert "basic-auth" in seen
    assert [file.name for file in (folder / "secrets").iterdir() if file.read_text() in seen] == []


def test_artifacts_go_through_the_server_to_its_volume(mlflow: tuple[Service, str], folder: Path) -> None:
    """As the head writes them: with what driver.sh gives a client, and no access to the volume."""
    code = "import mlflow\nwith mlflow.start_run() as run:\n    mlflow.log_text('0.5', 'epsilon.txt')\n"
    check = "assert run.info.artifact_uri.startswith('mlflow-artifacts:'), run.info.artifact_uri"
    client = {"MLFLOW_TRACKING_URI": mlflow[1], "MLFLOW_TRACKING_USERNAME": "admin", "HOME": str(folder)}
    secrets = {"SWEEPS_SECRETS": str(folder / "secrets"), "PYTHONWARNINGS": "ignore"}
    done = run(DOCKER / "entry/driver.sh", "python", "-c", code + check, **client, **secrets)
    assert done.returncode == 0, done.stderr
    (stored,) = (folder / "artifacts").rglob("epsilon.txt")
    assert stored.read_text() == "0.5"


def test_tables_can_be_brought_up_to_date(mlflow: tuple[Service, str], folder: Path, postgres: URL) -> None:
    """They are already; that the address and the password are right is what can be seen of it."""
    place = libpq(postgres) | {"SWEEPS_SECRETS": str(folder / "secrets"), "HOME": str(folder)}
    done = run(DOCKER / "entry/upgrade.sh", **place)
    assert done.returncode == 0, done.stderr
    password = (folder / "secrets/mlflow_password").read_text()
    with autocommit(postgres.set(username="mlflow", password=password, database="mlflow")) as connection:
        assert connection.execute(sql.text("SELECT count(*) FROM alembic_version")).scalar() == 1

"""What the images would run, without Docker: the entry scripts start Ray and MLflow, which answer whom they should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql
from sqlalchemy.engine import URL

from tests.cluster.lab import HEAD, MLFLOW, Lab, basic
from tests.docker.parts import DOCKER, run
from tests.docker.servers import autocommit, free_ports, libpq, status

pytest.importorskip("aiohttp_cors", reason="Ray has no job server: pip install '.[cluster]'")

pytestmark = pytest.mark.cluster

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


@pytest.fixture(scope="module")
def lab(servers: Lab) -> Iterator[Lab]:
    """With a head and a worker."""
    servers.start_head()
    servers.start_worker("worker")
    yield servers
    servers.end_ray()


def test_the_images_health_checks_pass_and_fail_elsewhere(lab: Lab) -> None:
    assert healthy(lab.health(HEAD))
    assert healthy(lab.health("worker"))
    assert healthy(lab.health(MLFLOW))
    (nowhere,) = free_ports(1)
    done = run("python", DOCKER / "entry/healthy.py", f"http://127.0.0.1:{nowhere}/")
    assert done.returncode == 1
    assert done.stderr.endswith("Connection refused>\n")
    assert not healthy(f"{lab.jobs}/api/jobs/")  # it says 401


def test_jobs_are_for_those_who_have_the_token(lab: Lab) -> None:
    token = lab.secret("ray_token")
    url = f"{lab.jobs}/api/jobs/"
    assert status(url) == 401
    assert status(url, Authorization="Bearer " + token[::-1]) == 403
    assert status(url, Authorization=f"Bearer {token}") == 200


def test_a_driver_knows_the_passwords_and_a_worker_does_not(lab: Lab, folder: Path) -> None:
    (folder / "job").mkdir()
    (folder / "job/known.py").write_text(KNOWN)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(lab.secrets / "ray_token"), "HOME": str(folder)}
    submit = ["ray", "job", "submit", "--address", lab.jobs, "--working-dir", str(folder / "job")]
    done = run(*submit, "--", "python", "known.py", **token)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("KNOWN ")]
    of_the_driver, of_a_worker, started_by = json.loads(line.removeprefix("KNOWN "))
    assert started_by == str(lab.service("worker").log)  # the head has no CPU for trials
    assert of_the_driver == ["SWEEPS_LEDGER_URL", "SWEEPS_OPTUNA_URL", "MLFLOW_TRACKING_PASSWORD"]
    assert of_a_worker == []


def test_no_secret_is_in_a_process_list_or_a_log(lab: Lab) -> None:
    services = [lab.service(name) for name in (HEAD, "worker", MLFLOW)]
    seen = "".join(service.arguments() for service in services)
    assert "raylet" in seen
    assert "basic-auth" in seen
    logs = [*(service.log for service in services), *_files(lab.folder / "ray")]
    assert len(logs) > 20
    text = seen + "".join(file.read_text(errors="ignore") for file in logs)
    assert [file.name for file in lab.secrets.iterdir() if file.read_text() in text] == []


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def test_mlflow_is_for_those_who_have_the_password(lab: Lab) -> None:
    url = f"{lab.tracking_uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    right = basic("admin", lab.secret("mlflow_admin_password"))
    assert status(url) == 401
    assert status(url, Authorization=basic("admin", "password1234")) == 401
    assert status(url, Authorization=right) == 200
    assert status(url, Authorization=right, Host="evil.example") == 403


def test_artifacts_go_through_the_server_to_its_volume(servers: Lab, folder: Path) -> None:
    """As the head writes them: with what driver.sh gives a client, and no access to the volume."""
    code = "import mlflow\nwith mlflow.start_run() as run:\n    mlflow.log_text('0.5', 'epsilon.txt')\n"
    check = "assert run.info.artifact_uri.startswith('mlflow-artifacts:'), run.info.artifact_uri"
    client = {"MLFLOW_TRACKING_URI": servers.tracking_uri, "MLFLOW_TRACKING_USERNAME": "admin", "HOME": str(folder)}
    secrets = {"SWEEPS_SECRETS": str(servers.secrets), "PYTHONWARNINGS": "ignore"}
    done = run(DOCKER / "entry/driver.sh", "python", "-c", code + check, **client, **secrets)
    assert done.returncode == 0, done.stderr
    (stored,) = (folder / "artifacts").rglob("epsilon.txt")
    assert stored.read_text() == "0.5"


def test_tables_can_be_brought_up_to_date(servers: Lab, folder: Path, postgres: URL) -> None:
    """They are already; that the address and the password are right is what can be seen of it."""
    place = libpq(postgres) | {"SWEEPS_SECRETS": str(servers.secrets), "HOME": str(folder)}
    done = run(DOCKER / "entry/upgrade.sh", **place)
    assert done.returncode == 0, done.stderr
    password = servers.secret("mlflow_password")
    with autocommit(postgres.set(username="mlflow", password=password, database="mlflow")) as connection:
        assert connection.execute(sql.text("SELECT count(*) FROM alembic_version")).scalar() == 1

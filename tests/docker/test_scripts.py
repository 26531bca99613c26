"""The shell scripts: linted, and run for what can be run without Docker."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql
from sqlalchemy.engine import URL, make_url

from sweeps import provenance
from tests.docker.parts import (
    COMMANDS,
    DOCKER,
    ROOT,
    SCRIPTS,
    compose,
    lint,
    manifests,
    needs,
    pods,
    run,
    secret_names,
    secrets_in,
)
from tests.docker.servers import DATABASES, autocommit, empty_server, initialise
from trainer import machine

OF_OTHERS = {"PGHOST", "PGDATA", "HOME", "USER", "DO_NOT_TRACK", "MPLCONFIGDIR"}
"""Settings of libpq, of PostgreSQL's image, of the system and of libraries that ask for them in their own ways."""


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_shellcheck_finds_no_fault() -> None:
    assert len(SCRIPTS) == 8
    assert lint("shellcheck", "--external-sources", *SCRIPTS) == ""


def test_what_a_container_starts_can_be_executed() -> None:
    sourced = {"secrets.sh"}
    for script in SCRIPTS:
        expected = script.parent.name != "entry" or script.name not in sourced
        assert os.access(script, os.X_OK) == expected, script


def test_secrets_are_random_and_their_owners_alone(tmp_path: Path) -> None:
    folder = secrets_in(tmp_path / "secrets")
    made = contents(folder)
    assert set(made) == secret_names()
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in made.values())
    assert len(set(made.values())) == len(made)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_secrets_are_never_overwritten_and_what_lacks_is_made(tmp_path: Path) -> None:
    folder = secrets_in(tmp_path / "secrets")
    before = contents(folder)
    (folder / "ray_token").unlink()
    after = contents(secrets_in(folder))
    assert after.pop("ray_token") != before.pop("ray_token")
    assert after == before


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("")
    assert run(DOCKER / "secrets.sh", tmp_path / "secrets").returncode != 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_root_gives_the_secrets_to_whoever_runs_the_containers(tmp_path: Path) -> None:
    folder = secrets_in(tmp_path / "secrets", SWEEPS_UID="4321")
    assert {file.stat().st_uid for file in folder.iterdir()} == {4321}


@pytest.mark.parametrize(("script", "name"), [("worker.sh", "ray_token"), ("mlflow.sh", "mlflow_flask_key")])
def test_without_its_secret_nothing_starts(tmp_path: Path, script: str, name: str) -> None:
    folder = secrets_in(tmp_path / "secrets")
    (folder / name).write_text("")
    done = run(DOCKER / "entry" / script, SWEEPS_SECRETS=str(folder), RAY_HEAD="127.0.0.1:1", TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder / name}: missing, empty or not readable: docker/secrets.sh makes it")
    assert done.stderr.count("\n") == 1


def test_a_driver_is_told_the_passwords_and_its_arguments_are_not(tmp_path: Path) -> None:
    folder = secrets_in(tmp_path / "secrets")
    done = run(DOCKER / "entry/driver.sh", "sh", "-c", 'env; echo "$0 $@"', "a b", SWEEPS_SECRETS=str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "a b "
    told = dict(line.split("=", 1) for line in done.stdout.splitlines()[:-1])
    made = contents(folder)
    assert told["MLFLOW_TRACKING_PASSWORD"] == made["mlflow_admin_password"]
    assert told["RAY_AUTH_MODE"] == "token"
    assert told["RAY_AUTH_TOKEN_PATH"] == str(folder / "ray_token")
    for variable, name in ((machine.LEDGER_VARIABLE, "ledger"), (machine.OPTUNA_VARIABLE, "optuna")):
        url = make_url(told[variable])
        assert (url.username, url.password, url.host, url.database) == (name, made[f"{name}_password"], None, name)
    assert made["ray_token"] not in told.values()


def settings() -> Iterator[str]:
    """Every name of a setting that an image, the compose file or a manifest gives a process."""
    for text in ((DOCKER / name).read_text(encoding="utf-8") for name in ("Dockerfile", "mlflow.Dockerfile")):
        for block in re.findall(r"^ENV ((?:.*\\\n)*.*)$", text, re.MULTILINE):
            yield from re.findall(r"([A-Z_]+)=", block)
    for service in compose()["services"].values():
        yield from service["environment"]
    for _, pod in pods():
        for container in pod["spec"]["containers"]:
            yield from (variable["name"] for variable in container.get("env", []))


def readers() -> str:
    """The code that reads settings: ours, the scripts', MLflow's and Ray's."""
    packages = next(COMMANDS.parent.glob("lib/python*/site-packages"))
    places = [ROOT / "trainer", ROOT / "sweeps", DOCKER / "entry", packages / "ray/_private"]
    files = [file for place in places for file in place.rglob("*") if file.suffix in (".py", ".sh")]
    files += [packages / "mlflow/environment_variables.py", packages / "mlflow/utils/cli_args.py"]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_every_setting_is_one_that_somebody_reads() -> None:
    text, given = readers(), set(settings())
    assert {"RAY_HEAD", "SWEEPS_COMMIT", "MLFLOW_SERVER_ALLOWED_HOSTS", "SWEEPS_LEDGER_URL"} <= given
    ours = {name for name in given - OF_OTHERS if not name.startswith(("PIP_", "PYTHON", "POSTGRES_"))}
    within = {name for name in ours if any(f"$({name})" in str(document) for _, document in manifests())}
    assert {name for name in ours - within if not re.search(rf"\b{name}\b", text)} == set()
    assert provenance.COMMIT_VARIABLE in given


@pytest.fixture
def server() -> Iterator[URL]:
    """A PostgreSQL without databases of our names; those that a test makes there are removed."""
    with empty_server() as url:
        yield url


def test_each_database_is_its_owners_alone(tmp_path: Path, server: URL) -> None:
    secrets = secrets_in(tmp_path / "secrets")
    initialise(server, secrets)
    for owner in DATABASES:
        password = (secrets / f"{owner}_password").read_text()
        own = server.set(username=owner, password=password, database=owner)
        with autocommit(own) as connection:
            connection.execute(sql.text("CREATE TABLE alembic_version (number INTEGER)"))
        for other in DATABASES:
            if other != owner:
                with (
                    pytest.raises(sql.exc.OperationalError, match="permission denied for database"),
                    autocommit(own.set(database=other)),
                ):
                    pass


def test_databases_can_be_initialised_again_with_other_passwords(tmp_path: Path, server: URL) -> None:
    query = sql.text(
        "SELECT rolname, rolpassword, rolsuper FROM pg_authid WHERE rolname = ANY(:names) ORDER BY rolname"
    )
    found = []
    for folder in ("one", "two"):
        initialise(server, secrets_in(tmp_path / folder))
        with autocommit(server) as connection:
            found.append([tuple(row) for row in connection.execute(query, {"names": list(DATABASES)})])
    for before, after in zip(*found, strict=True):
        assert before[0] == after[0]
        assert before[1].startswith("SCRAM-SHA-256$")
        assert before[1] != after[1]
        assert (before[2], after[2]) == (False, False)
    assert len(found[0]) == len(DATABASES)


FAKE_DOCKER = """#!/bin/sh
[ "$2" != version ] || exit {version}
echo "$SWEEPS_UID $SWEEPS_COMMIT $*" >> "{log}"
ls docker/secrets >> "{log}"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What make needs of this folder, with a docker that writes down how it is called."""
    needs("make")
    shutil.copytree(DOCKER, tmp_path / "docker", ignore=shutil.ignore_patterns("secrets"))
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bin").mkdir()
    fake_docker(tmp_path, version=0)
    return tmp_path


def fake_docker(checkout: Path, version: int) -> None:
    command = checkout / "bin/docker"
    command.write_text(FAKE_DOCKER.format(version=version, log=checkout / "log"))
    command.chmod(0o755)


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{checkout / 'bin'}:/usr/bin:/bin"}
    return subprocess.run(
        ["make", *arguments], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_make_makes_secrets_before_it_starts_anything_and_nobody_is_root(checkout: Path) -> None:
    assert make(checkout, "cluster-up", "WORKERS=3", "TORCH=cuda").returncode == 0
    called, *seen = (checkout / "log").read_text().splitlines()
    uid, commit, *arguments = called.split()
    assert int(uid) == (os.getuid() or 1000)
    assert commit == "unknown"  # this copy has no git
    files = ["--file", "docker/compose.yaml", "--file", "docker/compose.cuda.yaml"]
    assert arguments == ["compose", *files, "up", "--detach", "--build", "--wait", "--scale", "worker=3"]
    assert set(seen) == secret_names()


@pytest.mark.parametrize(
    ("target", "expected"), [("cluster-down", ["down"]), ("cluster-logs", ["logs", "--follow", "--tail", "100"])]
)
def test_stopping_keeps_what_is_stored(checkout: Path, target: str, expected: list[str]) -> None:
    make(checkout, "cluster-up")
    (checkout / "log").unlink()
    assert make(checkout, target).returncode == 0
    called = (checkout / "log").read_text().splitlines()[0]
    assert called.split()[2:] == ["compose", "--file", "docker/compose.yaml", *expected]


@pytest.mark.parametrize("target", ["cluster-up", "cluster-down", "cluster-logs"])
def test_without_compose_there_is_one_line_and_nothing_is_made(checkout: Path, target: str) -> None:
    fake_docker(checkout, version=1)
    done = make(checkout, target)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "error: docker compose: no such command: install Docker Engine and its compose plugin"
    )
    assert not (checkout / "docker/secrets").exists()

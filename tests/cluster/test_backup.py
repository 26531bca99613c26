"""A backup of databases and folders, as docs/operations.md and docker/README.md have it, brings everything back."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster.lab import MLFLOW, Lab
from tests.docker.parts import needs
from tests.docker.servers import DATABASES, autocommit, initialise, libpq
from tests.faults.harness import (
    NETWORK_FILE,
    Workplace,
    assert_equals_undisturbed,
    study_file,
    undisturbed_numbers,
    workplace_in,
)

pytestmark = pytest.mark.cluster


def postgres(lab: Lab, command: str, *arguments: str) -> None:
    """A program of PostgreSQL's, as the superuser."""
    environment = os.environ | libpq(lab.postgres) | {"PGUSER": str(lab.postgres.username)}
    subprocess.run([command, *arguments], env=environment, check=True)


def lose(lab: Lab, place: Workplace) -> None:
    """The databases and the folder of results; the server has empty databases again, as in a new volume."""
    lab.kill(MLFLOW)
    with autocommit(lab.postgres) as connection:
        for name in DATABASES:
            connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')
    initialise(lab.postgres, lab.secrets)
    shutil.rmtree(place.results.root)


def test_all_comes_back(servers: Lab, tmp_path: Path) -> None:
    needs("pg_dump")
    needs("pg_restore")
    with workplace_in(tmp_path / "user", study_file(seeds=1, epochs=4, name="backup"), paced=NETWORK_FILE) as place:
        place.variables.update(servers.reader())
        with pytest.MonkeyPatch.context() as patch:
            for name, value in servers.reader().items():
                patch.setenv(name, value)
            undisturbed = undisturbed_numbers(place.study, place.folder)
            place.finish()
            for name in ("optuna", "ledger", "mlflow", "mlflow_auth"):
                postgres(servers, "pg_dump", "--format=custom", f"--file={tmp_path / name}.dump", name)
            assert place.start("backup", str(tmp_path / "backup.zip")).wait(timeout=60) == 0, place.printed
            lose(servers, place)
            for name in ("optuna", "ledger", "mlflow", "mlflow_auth"):
                safely = ("--clean", "--if-exists", "--exit-on-error")
                postgres(servers, "pg_restore", *safely, f"--dbname={name}", f"{tmp_path / name}.dump")
            assert place.start("restore", str(tmp_path / "backup.zip")).wait(timeout=60) == 0, place.printed
            servers.start_mlflow()
            assert "2 of 2 already finished" in place.finish()
            assert_equals_undisturbed(place, undisturbed)

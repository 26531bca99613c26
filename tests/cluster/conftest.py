"""One PostgreSQL and one MLflow for all tests on a cluster; a Ray for each file of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.cluster.lab import Lab
from tests.docker.parts import secrets_in
from tests.docker.servers import empty_server, initialise


@pytest.fixture(scope="package")
def folder() -> Iterator[Path]:
    """With a short name, for Ray's sockets are in it: a socket's path has 107 bytes."""
    name = tempfile.mkdtemp(prefix="d-", dir="/tmp")
    yield Path(name)
    shutil.rmtree(name)


@pytest.fixture(scope="package")
def secrets(folder: Path) -> Path:
    return secrets_in(folder / "secrets")


@pytest.fixture(scope="package")
def postgres(secrets: Path) -> Iterator[URL]:
    """With the databases that docker/postgres/init.sh makes."""
    with empty_server() as url:
        initialise(url, secrets)
        yield url


@pytest.fixture(scope="package")
def servers(folder: Path, postgres: URL) -> Iterator[Lab]:
    """A lab whose MLflow runs, and nothing else yet."""
    lab = Lab(folder, postgres)
    lab.start_mlflow()
    yield lab
    lab.end()

"""Tracking stores of each kind that is read: an SQLite file, a PostgreSQL that is given, a server of MLflow's own."""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sql
from mlflow.tracking import MlflowClient

from benchmarks.tracking import server
from sweeps.tracking.tracker import connect
from trainer.machine import TRACKING_SETTINGS, TRACKING_VARIABLE, Results

POSTGRES_VARIABLE = "SWEEPS_TEST_POSTGRES"
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Place:
    """A tracking store, which a module's tests share. database: that it keeps its rows in."""

    uri: str
    database: str
    client: MlflowClient

    def new_name(self) -> str:
        """Of an experiment or study that this store does not have yet."""
        return f"read-{next(_numbers)}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql", pytest.param("server", marks=pytest.mark.slow)])
def module_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where MLflow's client writes what a test then reads."""
    results = Results(tmp_path_factory.mktemp("place"))
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        for name in (TRACKING_VARIABLE, *TRACKING_SETTINGS):
            patch.setenv(name, "")  # so that it is noted and put back, even where it was not set
            patch.delenv(name)
        database = uri = f"sqlite:///{results.root / 'server.db'}"
        if request.param == "postgresql":
            database = uri = stack.enter_context(_new_database())
        if request.param == "server":
            uri = stack.enter_context(server(results))
        patch.setenv(TRACKING_VARIABLE, uri)
        yield Place(uri, database, connect(results))


@contextlib.contextmanager
def _new_database() -> Iterator[str]:
    """The address of an empty database on the PostgreSQL of the tests; it is removed in the end."""
    given = os.environ.get(POSTGRES_VARIABLE)
    if not given:
        pytest.skip(f"{POSTGRES_VARIABLE} is not set")
    url, name = sql.make_url(given), f"reading_{uuid.uuid4().hex}"
    engine = sql.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sql.NullPool)
    with engine.connect() as connection:
        connection.execute(sql.text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sql.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def place(module_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The store, which the environment names while the test lasts."""
    for name in TRACKING_SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv(TRACKING_VARIABLE, module_place.uri)
    return module_place


@pytest.fixture
def results(place: Place, tmp_path: Path) -> Results:
    """A folder of its own, over the store of ``place``."""
    return Results(tmp_path)

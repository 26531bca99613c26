"""Checks of what drivers write to: the databases of ledger, Optuna and MLflow, or its server, and their clocks."""

from __future__ import annotations

import base64
import importlib.util
import os
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import sqlalchemy as sql
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from sweeps.databases import require_own_databases
from sweeps.doctor.finding import Finding, failed, ok, warning
from sweeps.doctor.secrets import is_loopback
from sweeps.ledger import SCHEMA_VERSION
from trainer.declaration import ConfigError
from trainer.machine import Results

ANSWER_SECONDS = 5
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
SMALL_SECONDS, LARGE_SECONDS = 2.0, 30.0
"""How far two clocks may differ before times in MLflow look odd, and before something is wrong with one of them."""
MIGRATIONS = {"mlflow": "store/db_migrations", "optuna": "storages/_rdb/alembic"}
DAY = 24 * 3600.0
Look = Callable[[sql.Connection], Finding]


def check_stores(results: Results) -> Iterator[Finding]:
    """Whether each answers, is its own and of our version. Nothing is made or changed."""
    try:
        require_own_databases(results)
    except ConfigError as error:
        yield failed("stores", str(error))
    yield from of_database("ledger", results.ledger_url, of_ledger)
    yield from of_database("Optuna", results.optuna_url, lambda connection: of_migrated("Optuna", connection))
    if results.tracking_uri.startswith("http"):
        yield from of_server(results)
    else:
        yield from of_database("MLflow", results.tracking_uri, lambda connection: of_migrated("MLflow", connection))


def of_database(about: str, url: str, look: Look) -> Iterator[Finding]:
    """What ``look`` says of the database at ``url``, and of its clock. An SQLite file that is not there is not made."""
    try:
        engine = _engine(url)
        if engine is None:
            yield ok(about, f"{url}: not there yet")
            return
        try:
            with engine.connect() as connection:
                yield look(connection)
                if engine.dialect.name == "postgresql":
                    yield of_clock(about, database_clock(connection))
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError, ValueError, sqlite3.Error) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
        yield failed(about, f"{url}: {cause}")


def _engine(url: str) -> sql.Engine | None:
    """Of an SQLite file one that only reads; None where there is no such file."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sql.create_engine(url, connect_args={"connect_timeout": ANSWER_SECONDS}, poolclass=sql.NullPool)
    path = Path(parsed.database or "").resolve()
    if not path.is_file():
        return None
    only_read = f"file:{quote(str(path))}?mode=ro"
    return sql.create_engine("sqlite://", creator=lambda: sqlite3.connect(only_read, uri=True), poolclass=sql.NullPool)


def _where(connection: sql.Connection) -> str:
    """The database, without user and password."""
    if connection.dialect.name == "sqlite":
        return str(connection.exec_driver_sql("PRAGMA database_list").one()[2])
    url = connection.engine.url
    return f"{url.get_backend_name()} {url.database} at {url.host or url.query.get('host') or 'this machine'}"


def of_ledger(connection: sql.Connection) -> Finding:
    """Whether this code can work with it."""
    where, tables = _where(connection), sql.inspect(connection)
    if tables.has_table("alembic_version"):
        cure = "SWEEPS_LEDGER_URL must name a database of its own"
        return failed("ledger", f"{where}: has the tables of MLflow or Optuna: {cure}")
    if not tables.has_table("ledger_version"):
        return ok("ledger", f"{where}: answers, has no tables yet; the first make sweep makes them")
    found = connection.scalar(sql.text("SELECT version FROM ledger_version"))
    if found != SCHEMA_VERSION:
        return failed(
            "ledger", f"{where}: has schema {found}, this code needs {SCHEMA_VERSION}: use the code that made it"
        )
    count = connection.scalar(sql.text("SELECT count(*) FROM trials"))
    return ok("ledger", f"{where}: answers, schema {found}, {count} trials")


def of_migrated(about: str, connection: sql.Connection) -> Finding:
    """Of a database that the library named ``about`` keeps: whether it has the tables of the installed version."""
    from alembic.migration import MigrationContext  # which MLflow and Optuna bring

    where, package = _where(connection), about.lower()
    found, wanted = MigrationContext.configure(connection).get_current_heads(), newest_tables(package)
    if sql.inspect(connection).has_table("ledger_version"):
        return failed(about, f"{where}: has the ledger's tables: give each a database of its own")
    if not found:
        first = "make sweep" if about == "MLflow" else "make search"
        return ok(about, f"{where}: answers, has no tables yet; the first {first} makes them")
    if set(found) != set(wanted):
        cure = "docs/operations.md says how to upgrade" if about == "MLflow" else "optuna storage upgrade"
        said = (
            f"{where}: tables are of revision {', '.join(found)}, {package} {version(package)} has {', '.join(wanted)}"
        )
        return failed(about, f"{said}: {cure}, after a backup")
    return ok(about, f"{where}: answers, its tables are those of {package} {version(package)}")


def newest_tables(package: str) -> list[str]:
    """The revisions that the installed MLflow or Optuna would bring a database to."""
    from alembic.script import ScriptDirectory

    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return ScriptDirectory(f"{spec.submodule_search_locations[0]}/{MIGRATIONS[package]}").get_heads()


class Clock(NamedTuple):
    """Of another machine. ahead: seconds, of ours. unsure: seconds by which that may be wrong."""

    ahead: float
    unsure: float

    @classmethod
    def read(cls, before: float, theirs: float, after: float, resolution: float = 0.0) -> Clock:
        """They said ``theirs``, cut to multiples of ``resolution``, between ``before`` and ``after`` on our clock."""
        return cls(theirs + resolution / 2 - (before + after) / 2, (after - before + resolution) / 2)


def database_clock(connection: sql.Connection) -> Clock:
    """PostgreSQL's, by which leases lapse."""
    before = time.time()
    theirs = connection.scalar(sql.text("SELECT extract(epoch FROM clock_timestamp())"))
    return Clock.read(before, float(theirs or 0), time.time())


def of_clock(about: str, clock: Clock) -> Finding:
    """Whether it differs from ours by more than can come from asking."""
    surely = max(0.0, abs(clock.ahead) - clock.unsure)
    said = f"{about}'s is {abs(clock.ahead):.1f} s {'ahead of' if clock.ahead > 0 else 'behind'} this machine's"
    if surely > LARGE_SECONDS:
        return failed("clock", f"{said}: set both by NTP (chronyc makestep)")
    if surely > SMALL_SECONDS:
        return warning("clock", f"{said}: set both by NTP")
    return ok("clock", f"{about}'s and this machine's agree within {abs(clock.ahead) + clock.unsure:.1f} s")


def check_own_clock() -> Iterator[Finding]:
    """This machine's."""
    yield of_own_clock(time.time(), Path(__file__).stat().st_mtime)


def of_own_clock(now: float, written: float) -> Finding:
    """written: when this file came here, before which it cannot be now."""
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < written - DAY:
        return failed("clock", f"it is {shown} here, which is before this code came here: set it by NTP")
    return ok("clock", f"it is {shown} here")


def of_server(results: Results) -> Iterator[Finding]:
    """MLflow's: whether it lets us in, nobody else, is of our version, and has our time."""
    uri = results.tracking_uri.rstrip("/")
    try:
        before = time.time()
        told, headers = _get(f"{uri}/version", _credentials())
        after = time.time()
        yield _of_version(uri, told)
        if (date := headers["Date"]) is not None:
            theirs = parsedate_to_datetime(date).timestamp()
            yield of_clock("MLflow", Clock.read(before, theirs, after, resolution=1.0))
        yield _let_in(results)
        yield from _closed(uri)
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
        yield _let_in(results) if refused else failed("MLflow", f"{uri}: something else answers there ({error})")
    except (OSError, HTTPException, ValueError) as error:
        yield failed("MLflow", f"{uri}: nothing of MLflow's answers there ({error}): is make server up?")


def _credentials() -> dict[str, str]:
    """The header by which MLflow's client shows who it is; none where the environment has none."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    shown = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {shown}"} if user and password else {}


def _get(url: str, headers: Mapping[str, str] | None = None) -> tuple[str, HTTPMessage]:
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310  http(s), as its caller has seen
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as page:  # noqa: S310
        return page.read(1000).decode(errors="replace").strip(), page.headers


def _of_version(uri: str, told: str) -> Finding:
    if told != version("mlflow"):
        return warning("MLflow", f"{uri}: is MLflow {told[:40]}, here is {version('mlflow')}: install the same")
    return ok("MLflow", f"{uri}: answers, is MLflow {told}")


def _let_in(results: Results) -> Finding:
    from sweeps.tracking.tracker import connect  # MLflow: seconds

    try:
        connect(results)
    except ConfigError as error:
        return failed("MLflow", str(error))
    return ok("MLflow", "lets us in")


def _closed(uri: str) -> Iterator[Finding]:
    """A finding for a server that lets anybody in. From this machine alone, as make ui, that is meant."""
    try:
        _get(f"{uri}{SEARCH}")
    except urllib.error.HTTPError:
        return
    if not is_loopback(urlsplit(uri).hostname or ""):
        yield failed("MLflow", f"{uri}: asks nobody for a password: whoever reaches it changes results: make server")

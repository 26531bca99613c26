"""Whose database is whose: the ledger, MLflow and Optuna each have one to themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from trainer.declaration import ConfigError
from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE, Results
from trainer.passwords import hide_passwords

BACKEND_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
"""MLflow's own name for the database of its server. Clients know nothing of it."""
PORTS = {"postgresql": 5432}
LOCAL = {None: "127.0.0.1", "": "127.0.0.1", "localhost": "127.0.0.1", "::1": "127.0.0.1"}


def require_own_databases(results: Results) -> None:
    """Raise ConfigError, one line, where two of the ledger, MLflow and Optuna have been given the same database."""
    require_different(
        {
            LEDGER_VARIABLE: results.ledger_url,
            TRACKING_VARIABLE: results.tracking_uri,
            OPTUNA_VARIABLE: results.optuna_url,
        }
    )


def require_different(urls: Mapping[str, str]) -> None:
    """The same of the databases at ``urls``, by the variables that name them. What is no database's address passes."""
    seen: dict[tuple[object, ...], str] = {}
    for variable, url in urls.items():
        place = _place(url)
        if place is not None and (other := seen.setdefault(place, variable)) != variable:
            raise ConfigError(
                f"{other} and {variable} name the same database, {place[-1]}: MLflow and Optuna would each migrate the"
                " table alembic_version there: give each a database of its own"
            )


def require_for_mlflow(url: str) -> None:
    """Raise ConfigError, one line, for a database that does not let us in, or is the ledger's or Optuna's.

    MLflow's server would try for minutes, or put its tables beside the others. No SQLite file is made.
    """
    where = f"{BACKEND_VARIABLE}: {hide_passwords(url)}"
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            return
        engine = sql.create_engine(parsed, poolclass=sql.NullPool)
        with engine.connect() as connection:
            tables = set(sql.inspect(connection).get_table_names())
    except (SQLAlchemyError, ImportError, ValueError) as error:
        cause = " ".join(hide_passwords(str(getattr(error, "orig", None) or error)).split())
        raise ConfigError(f"{where}: {cause}") from error
    for whose, table in (("the ledger", "ledger_version"), ("Optuna", "study_directions")):
        if table in tables:
            raise ConfigError(f"{where}: has the tables of {whose}: give each a database of its own")


def _place(url: str) -> tuple[object, ...] | None:
    """What is the same for two addresses of one database, whatever the driver, the user and the options."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # whoever opens it says so
        return None
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        return kind, str(Path(parsed.database).resolve()) if parsed.database else url
    if kind not in PORTS:
        return None
    return kind, _host(parsed), parsed.port or PORTS[kind], parsed.database


def _host(url: URL) -> object:
    """A socket's folder may be given as an option."""
    host = url.host or url.query.get("host")
    return LOCAL.get(host, host) if host is None or isinstance(host, str) else host

"""Server mode: MLflow for other people and machines, behind passwords, over PostgreSQL or the results' SQLite file.

What keeps it closed does not hang on the caller's environment: MLflow's own variables are set here, or left out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import re
import secrets
import shlex
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sweeps.children import run_until_ctrl_c
from sweeps.databases import BACKEND_VARIABLE, require_different, require_for_mlflow
from sweeps.servers.ui import HOST, REGISTRY_VARIABLE, SETTINGS, require_free
from trainer.declaration import ConfigError
from trainer.files import write_atomically
from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE, Results
from trainer.passwords import hide_passwords

ADMIN = "admin"
LEAST_PASSWORD = 12  # MLflow takes no shorter one
PRIVATE = 0o600
KEPT = ("MLFLOW_SQLALCHEMYSTORE_",)
"""Of the caller's settings of MLflow those that are passed on: how many connections to the database, say."""
CLOSED = SETTINGS | {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
AUTHENTICATION = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
"""The cache spares a slow hash for each request. The one worker forgets a user when the password is changed."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens. names: by which clients call it, at that port or, through a proxy, at TLS's own."""

    host: str
    port: int
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in (self.host, *self.names):
            if not HOST_NAME.fullmatch(name):
                raise ConfigError(f"{name!r} is no host name or IPv4 address: --host lab.example.org, say")
        if self.is_any and not self.names:
            raise ConfigError(
                f"--host {self.host}: say by which names clients call this machine, --name lab.example.org (NAMES=...):"
                " requests for others are refused"
            )

    @property
    def is_any(self) -> bool:
        return self.host == "0.0.0.0"  # noqa: S104  # nothing is bound here

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    @property
    def known_as(self) -> list[str]:
        """All names under which it answers, the first of them for clients to use."""
        own = [] if self.is_any else [self.host]
        return list(dict.fromkeys([*self.names, *own, HOST, "localhost"]))

    @property
    def for_clients(self) -> str:
        """Where nobody but this machine gets through, whoever uses another name comes by a proxy."""
        name = self.known_as[0]
        return f"https://{name}" if self.is_loopback and self.names else f"http://{name}:{self.port}"

    @property
    def allowed_hosts(self) -> str:
        return ",".join(host for name in self.known_as for host in (name, f"{name}:{self.port}"))

    @property
    def allowed_origins(self) -> str:
        """Of pages that may write: MLflow's own."""
        names = self.known_as
        return ",".join(
            origin
            for name in names
            for origin in (f"http://{name}:{self.port}", f"https://{name}", f"https://{name}:{self.port}")
        )


@dataclass(frozen=True, slots=True)
class Vault:
    """The folder of what only the server's owner may read."""

    folder: Path

    @property
    def password(self) -> Path:
        """The file that holds the admin's password."""
        return self.folder / "admin-password"

    @property
    def users(self) -> Path:
        """MLflow's database of users."""
        return self.folder / "basic_auth.db"

    @property
    def settings(self) -> Path:
        return self.folder / "basic_auth.ini"

    def prepare(self) -> str:
        """Make what is not there yet, check what is; the key that signs cookies is returned. Raises ConfigError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        password = _secret(self.password)
        if len(password) < LEAST_PASSWORD or not password.isprintable():
            raise ConfigError(f"{self.password}: must be one line of {LEAST_PASSWORD} characters or more")
        self._require_current(password)
        values = {"database": f"sqlite:///{self.users}", "admin": ADMIN, "password": password}
        escaped = {name: value.replace("%", "%%") for name, value in values.items()}
        _write_private(self.settings, AUTHENTICATION.format_map(escaped))
        if not self.users.exists():
            _write_private(self.users, "")  # MLflow would make one that others can read
        return _secret(self.folder / "secret-key")

    def _require_current(self, password: str) -> None:
        """MLflow reads the file only when it makes the admin: later another password there would open nothing."""
        from werkzeug.security import check_password_hash

        if not self.users.exists():
            return
        with contextlib.closing(sqlite3.connect(self.users)) as database, contextlib.suppress(sqlite3.OperationalError):
            found = database.execute("SELECT password_hash FROM users WHERE username = ?", [ADMIN]).fetchone()
            if found is not None and not check_password_hash(found[0], password):
                raise ConfigError(
                    f"{self.password}: is not the password of {ADMIN!r} any more: write the present one into it, or"
                    f" remove {self.users} as well, to begin anew with this one and no other users"
                )


def _secret(path: Path) -> str:
    """What the file says; one that is not there is made. Raises ConfigError where others than its owner can read it."""
    if not path.exists():
        _write_private(path, f"{secrets.token_urlsafe(24)}\n")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others can read it: chmod 600 {shlex.quote(str(path))}")
    return path.read_text(encoding="utf-8").strip()


def _write_private(path: Path, text: str) -> None:
    def write(file: IO[bytes]) -> None:
        os.fchmod(file.fileno(), PRIVATE)
        file.write(text.encode())

    write_atomically(path, write)


def vault_of(results: Results) -> Vault:
    """Where these results' server keeps its secrets."""
    return Vault(results.root / "server")


def serve(results: Results, address: Address) -> None:
    """Run MLflow's server at ``address`` until Ctrl-C; whoever gives no user and password is refused.

    Raises ConfigError, one line, when what it needs is not installed or lies open to others, when its database is the
    ledger's or Optuna's, when the port is taken, and when the server ends by itself.
    """
    uri = os.environ.get(BACKEND_VARIABLE) or f"sqlite:///{results.root / 'mlflow.db'}"
    if importlib.util.find_spec("flask_wtf") is None:
        raise ConfigError("MLflow's authentication is not installed: make server installs it")
    own = {LEDGER_VARIABLE: results.ledger_url, OPTUNA_VARIABLE: results.optuna_url}
    require_different(own | {BACKEND_VARIABLE: uri})
    require_for_mlflow(uri)
    require_free(address.host, address.port, "make server PORT=5001")
    vault = vault_of(results)
    key = vault.prepare()
    print("\n".join(_greeting(uri, address, vault)), flush=True)
    run_until_ctrl_c(_command(address, results), _environment(uri, vault, key), "MLflow's server")


def _greeting(uri: str, address: Address, vault: Vault) -> list[str]:
    password = shlex.quote(str(vault.password))
    lines = [
        f"MLflow over {hide_passwords(uri)}, with passwords, until Ctrl-C. Clients set:",
        f"  export {TRACKING_VARIABLE}={address.for_clients}",
        f"  export MLFLOW_TRACKING_USERNAME={ADMIN}",
        f'  export MLFLOW_TRACKING_PASSWORD="$(cat {password})"',
    ]
    if not address.is_loopback:
        lines.append("Passwords cross the network in the clear unless TLS is in front: docs/operations.md says how")
    return lines


def _environment(uri: str, vault: Vault, key: str) -> dict[str, str]:
    """The database's address may hold a password: it is not in argv."""
    not_its_own = (LEDGER_VARIABLE, OPTUNA_VARIABLE)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in not_its_own and (not name.lstrip("_").startswith("MLFLOW_") or name.startswith(KEPT))
    }
    stores = {BACKEND_VARIABLE: uri, REGISTRY_VARIABLE: uri}
    secret = {"MLFLOW_AUTH_CONFIG_PATH": str(vault.settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": key}
    return kept | CLOSED | stores | secret


def _command(address: Address, results: Results) -> list[str]:
    server = ["server", "--host", address.host, "--port", str(address.port), "--workers", "1"]
    closed = ["--app-name", "basic-auth", "--allowed-hosts", address.allowed_hosts]
    closed += ["--cors-allowed-origins", address.allowed_origins]
    artifacts = ["--serve-artifacts", "--artifacts-destination", results.artifacts.as_uri()]
    return [sys.executable, "-m", "mlflow", *server, *closed, *artifacts, "--uvicorn-opts", "--log-level warning"]

"""Browsing: MLflow's own server over the results, for this machine alone."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from sweeps.children import run_until_ctrl_c
from sweeps.databases import BACKEND_VARIABLE
from sweeps.tracking.tracker import connect
from sweeps.tracking.views import best_link
from trainer.declaration import ConfigError
from trainer.machine import TRACKING_SETTINGS, Results
from trainer.passwords import hide_passwords

HOST = "127.0.0.1"  # MLflow asks nobody for a password
REGISTRY_VARIABLE = "MLFLOW_REGISTRY_STORE_URI"
SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    **TRACKING_SETTINGS,
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",  # of MLflow's own libraries, which its users cannot mend
}


def serve(results: Results, port: int) -> None:
    """Run MLflow's server on 127.0.0.1:``port``, over the results' SQLite file, until Ctrl-C.

    Raises ConfigError when there is nothing to show, when results live on another server, when the port is taken, and
    when the server ends by itself.
    """
    uri = results.tracking_uri
    if uri.startswith("http"):
        raise ConfigError(f"MLFLOW_TRACKING_URI: results are on a server: open {hide_passwords(uri)}")
    database = uri.removeprefix("sqlite:///")
    if uri.startswith("sqlite:") and not Path(database).is_file():
        raise ConfigError(f"{database}: no results yet: make sweep")
    require_free(HOST, port, "make ui PORT=5001")
    print(f"MLflow over {hide_passwords(uri)}, until Ctrl-C. The studies' runs:", flush=True)
    for experiment in connect(results).search_experiments(filter_string="name != 'Default'"):
        link = best_link(experiment.experiment_id, experiment.tags)
        print(f"  http://{HOST}:{port}/{link}  {experiment.name}", flush=True)
    run_until_ctrl_c(_command(results, port), _environment(uri), "MLflow's server")


def require_free(host: str, port: int, another: str) -> None:
    """Raise ConfigError for a port that is taken. another: a command with one that may not be."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"port {port} on {host}: {error.strerror}: choose another, {another}") from error


def _environment(uri: str) -> dict[str, str]:
    """The database's address may hold a password: it is not in argv."""
    settings = {name: os.environ.get(name, value) for name, value in SETTINGS.items()}
    return os.environ | settings | {BACKEND_VARIABLE: uri, REGISTRY_VARIABLE: uri}


def _command(results: Results, port: int) -> list[str]:
    server = ["server", "--host", HOST, "--port", str(port), "--workers", "1"]
    artifacts = ["--default-artifact-root", results.artifacts.as_uri()]
    return [sys.executable, "-m", "mlflow", *server, *artifacts, "--uvicorn-opts", "--log-level warning"]

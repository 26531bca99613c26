"""Browsing: MLflow's own server over the results, for this machine alone."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from sweeps.tracking import connect
from trainer.declaration import ConfigError
from trainer.machine import TRACKING_SETTINGS, Results, hide_passwords

HOST = "127.0.0.1"  # MLflow asks nobody for a password
SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    **TRACKING_SETTINGS,
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",  # of MLflow's own libraries, which its users cannot mend
}


def serve(results: Results, port: int) -> None:
    """Become MLflow's server on 127.0.0.1:``port``, over the results' SQLite file. Does not return.

    Raises ConfigError when there is nothing to show, when results live on another server, or when the port is taken.
    """
    uri = results.tracking_uri
    if uri.startswith("http"):
        raise ConfigError(f"MLFLOW_TRACKING_URI: results are on a server: open {hide_passwords(uri)}")
    database = uri.removeprefix("sqlite:///")
    if uri.startswith("sqlite:") and not Path(database).is_file():
        raise ConfigError(f"{database}: no results yet: make sweep")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"port {port} on {HOST}: {error.strerror}: choose another, make ui PORT=5001") from error
    print(f"MLflow over {hide_passwords(uri)}, until Ctrl-C. The studies' runs:", flush=True)
    for experiment in connect(results).search_experiments(filter_string="name != 'Default'"):
        print(f"  http://{HOST}:{port}/#/experiments/{experiment.experiment_id}/runs  {experiment.name}", flush=True)
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    arguments = [
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        uri,
        "--registry-store-uri",
        uri,
    ]
    arguments += ["--default-artifact-root", results.artifacts.as_uri(), "--uvicorn-opts", "--log-level warning"]
    os.execv(  # noqa: S606  no shell is what is wanted
        sys.executable, [sys.executable, "-m", "mlflow", *arguments]
    )

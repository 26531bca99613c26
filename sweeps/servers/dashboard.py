"""Browsing searches: Optuna's own pages over its database, for this machine alone."""

from __future__ import annotations

import importlib.util
import os
import sys

from sweeps.children import run_until_ctrl_c
from sweeps.search.commands import has_searches
from sweeps.servers.ui import HOST, require_free
from trainer.declaration import ConfigError
from trainer.machine import OPTUNA_VARIABLE, Results


def serve(results: Results, port: int) -> None:
    """Run optuna-dashboard on 127.0.0.1:``port`` until Ctrl-C.

    Raises ConfigError when it is not installed, when nothing was searched yet, when the port is taken, and when the
    server ends by itself.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise ConfigError("optuna-dashboard is not installed: make dashboard installs it")
    if not has_searches(results):
        raise ConfigError(f"{results.root}: no searches yet: make search")
    require_free(HOST, port, "make dashboard PORT=8081")
    print(f"Optuna's pages, until Ctrl-C: http://{HOST}:{port}", flush=True)
    command = [sys.executable, "-W", "ignore", "-m", "sweeps.servers.dashboard_server", HOST, str(port)]
    environment = os.environ | {OPTUNA_VARIABLE: results.optuna_url}  # which may hold a password: not in argv
    run_until_ctrl_c(command, environment, "Optuna's server")

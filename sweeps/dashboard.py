"""Browsing searches: Optuna's own pages over its database, for this machine alone."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sweeps.children import children_join, group_that_ends_with_us
from sweeps.searches import has_searches
from sweeps.ui import HOST, require_free
from trainer.declaration import ConfigError
from trainer.machine import OPTUNA_VARIABLE, Results

SERVER = f"""
import os, sys
from optuna.storages import RDBStorage
from optuna_dashboard import run_server
run_server(RDBStorage(os.environ['{OPTUNA_VARIABLE}']), host=sys.argv[1], port=int(sys.argv[2]))
"""


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
    command = [sys.executable, "-W", "ignore", "-c", SERVER, HOST, str(port)]
    environment = os.environ | {OPTUNA_VARIABLE: results.optuna_url}  # which may hold a password: not in argv
    # Not in our process group: on Ctrl-C it would print a traceback.
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as scratch:
        with group_that_ends_with_us(Path(scratch)) as group, children_join(group):
            code = subprocess.run(command, env=environment, check=False).returncode
        raise ConfigError(f"Optuna's server has ended by itself, with code {code}: what it printed says why")

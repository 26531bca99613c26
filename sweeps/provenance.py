"""Which code, versions and machine trained: tags beside a trial, never part of its identity."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

COMMIT_VARIABLE = "SWEEPS_COMMIT"
"""The commit where there is no git, as in an image."""


def provenance() -> dict[str, str]:
    """Tags ``commit`` (with ``-dirty`` for uncommitted changes), ``version.*``, ``host`` and ``cpu``."""
    commit = _git("rev-parse", "HEAD") or os.environ.get(COMMIT_VARIABLE) or "unknown"
    if _git("status", "--porcelain", "--untracked-files=no"):
        commit += "-dirty"
    versions = {f"version.{name}": version(name) for name in ("torch", "numpy")}
    versions["version.python"] = platform.python_version()
    return {"commit": commit, "host": platform.node(), "cpu": platform.machine(), **versions}


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    try:
        found = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()

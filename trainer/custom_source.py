"""The source of a user's own module, found without importing it: its digest is part of a trial's identity."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.declaration import ConfigError


def source_digest(module: str, folders: Sequence[Path | str] | None = None) -> str:
    """First 16 hex digits of SHA-256 over the source of ``module``; of a package, over all its .py files.

    Line endings do not count. folders: where to look; by default as import does. Raises ConfigError when there is no
    source.
    """
    content = hashlib.sha256()
    for file in _files(module, [str(folder) for folder in folders] if folders else ["", *sys.path]):
        content.update(file.name.encode() + b"\0" + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return content.hexdigest()[:16]


def _files(module: str, folders: list[str]) -> list[Path]:
    importlib.invalidate_caches()  # a file may be younger than the last look into its folder
    path: Sequence[str] = [folder or str(Path.cwd()) for folder in folders]
    for name in itertools.accumulate(module.split("."), "{}.{}".format):
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ConfigError(
                f"Custom.function: no source of module {module!r} beside the study's file or in the working directory"
            )
        origin, path = Path(spec.origin), spec.submodule_search_locations or []
    return sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]

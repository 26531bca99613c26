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


def search_path(first: Path | str | None = None) -> list[str]:
    """Where a network's module is looked for: in ``first``, in the working directory, then as import does.

    first: by default where ``sys.path`` starts, the folder of the study's file while that is read.
    """
    return [str(sys.path[0] if first is None else first) or str(Path.cwd()), str(Path.cwd()), *sys.path]


def source_digest(module: str, folders: Sequence[Path | str] | None = None) -> str:
    """First 16 hex digits of SHA-256 over the source of ``module``; of a package, over all its .py files.

    Names within the package count, line endings and the folder that holds it do not. folders: where to look; by default
    ``search_path()``. Raises ConfigError when there is no source.
    """
    origin = source_files(module, search_path() if folders is None else folders)[-1]
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    content = hashlib.sha256()
    for file in files:
        name = file.relative_to(origin.parent).as_posix()
        content.update(name.encode() + b"\0" + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return content.hexdigest()[:16]


def source_files(module: str, folders: Sequence[Path | str]) -> list[Path]:
    """The files that importing ``a.b.c`` from ``folders`` runs: of ``a``, of ``a.b`` and of ``a.b.c``.

    Raises ConfigError when there are none, or no source.
    """
    importlib.invalidate_caches()  # a file may be younger than the last look into its folder
    path, files = [str(folder) for folder in folders], []
    for name in itertools.accumulate(module.split("."), "{}.{}".format):
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            hint = " (each package on the way needs an __init__.py)" if "." in module else ""
            raise ConfigError(
                f"Custom.function: no source of module {module!r} beside the study's file or in the working"
                f" directory{hint}"
            )
        files.append(Path(spec.origin))
        path = list(spec.submodule_search_locations or [])
    return files

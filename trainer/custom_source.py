"""The source of a user's own module, found without importing it: its digest is part of a trial's identity."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import itertools
import sys
from collections.abc import Sequence
from modulefinder import ModuleFinder
from pathlib import Path

from trainer.declaration import ConfigError

OURS = ("trainer", "search_spaces", "sweeps", "analysis")
"""This project's packages: their changes are for ``trainer.config.REVISION`` to tell."""


def search_path(first: Path | str | None = None) -> list[str]:
    """Where a network's module is looked for: in ``first``, in the working directory, then as import does.

    first: by default where ``sys.path`` starts, the folder of the study's file while that is read.
    """
    return [str(sys.path[0] if first is None else first) or str(Path.cwd()), str(Path.cwd()), *sys.path]


def source_digest(module: str, folders: Sequence[Path | str] | None = None) -> str:
    """First 16 hex digits of SHA-256 over the source of ``module``, and over what it imports of the user's own.

    Of a package all .py files are read. Names within the package count, line endings and the folder that holds it do
    not. folders: where to look, the first two of them the user's; by default ``search_path()``. Raises ConfigError when
    there is no source.
    """
    path = search_path() if folders is None else folders
    origin = source_files(module, path)[-1]
    own = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    named = [(file.relative_to(origin.parent).as_posix(), file) for file in own]
    named += [(f"import {name}", file) for name, file in own_imports(module, path).items() if file not in own]
    content = hashlib.sha256()
    for name, file in named:
        content.update(name.encode() + b"\0" + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return content.hexdigest()[:16]


def own_imports(module: str, folders: Sequence[Path | str]) -> dict[str, Path]:
    """The modules that ``module`` imports, and these in turn, from the first two ``folders``, by name; itself left out.

    Found in the source, without running it: an import by a name that is put together at run time is not seen, nor one
    from a folder without an ``__init__.py``.
    """
    finder = ModuleFinder([str(folder) for folder in folders[:2]], excludes=list(OURS))
    try:
        finder.import_hook(module)
    except (ImportError, SyntaxError):  # it lies elsewhere, or its import will say what is wrong
        return {}
    found = {name: getattr(loaded, "__file__", None) for name, loaded in sorted(finder.modules.items())}
    return {name: Path(file) for name, file in found.items() if file is not None and name != module}


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

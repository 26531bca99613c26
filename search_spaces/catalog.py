"""Finding a study: a built-in one by name, a user's own by the path of its file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from pathlib import Path
from types import ModuleType

from search_spaces import studies
from search_spaces.study import Study
from trainer.declaration import ConfigError


def built_in() -> dict[str, Study]:
    """Every study of ``search_spaces.studies``, by name."""
    found: dict[str, Study] = {}
    for module in sorted(pkgutil.iter_modules(studies.__path__), key=lambda module: module.name):
        for study in importlib.import_module(f"{studies.__name__}.{module.name}").STUDIES:
            if found.setdefault(study.name, study) is not study:
                raise ConfigError(f"search_spaces/studies/{module.name}.py: a second study named {study.name!r}")
    return found


def find(reference: str) -> Study:
    """The built-in study of this name, or the STUDY of the Python file at this path.

    Raises ConfigError, one line, for a name nobody has (with the nearest ones) and for a file that does not give one.
    """
    if reference.endswith(".py") or "/" in reference:
        return _from_file(Path(reference))
    known = built_in()
    if reference not in known and (own := Path(f"{reference}.py")).is_file():
        raise ConfigError(f"no study named {reference!r}. Your own, by its file: {own}")
    if reference not in known:
        nearest = difflib.get_close_matches(reference, known, n=3, cutoff=0.4) or sorted(known)
        raise ConfigError(
            f"no study named {reference!r}. Nearest: {', '.join(nearest)}. Your own: a path to a .py file"
        )
    return known[reference]


def _from_file(path: Path) -> Study:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    study = getattr(_execute(path), "STUDY", None)
    if not isinstance(study, Study):
        raise ConfigError(f"{path}: must set STUDY = Study(...)")
    if study.name in built_in():
        raise ConfigError(f"{path}: Study.name = {study.name!r} is a built-in study's: choose another")
    return study


def _execute(path: Path) -> ModuleType:
    file = path.resolve()
    spec = importlib.util.spec_from_file_location(f"study_file_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look theirs up
    sys.path.insert(0, str(file.parent))  # a study may import what lies beside it, as a script may
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path}{_line_of(error, file)}: {_message(error)}") from error
    finally:
        sys.path.remove(str(file.parent))
    return module


def _line_of(error: BaseException, file: Path) -> str:
    """``:12`` for the line of ``file`` that raised, or that called what raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    return f":{lines[-1]}" if lines and lines[-1] else ""


def _message(error: BaseException) -> str:
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}"

"""Finding a study or a tuning: a built-in one by name, a user's own by the path of its file."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from pathlib import Path
from types import ModuleType

from search_spaces import studies
from search_spaces.choices import final_study, frozen_file, is_frozen
from search_spaces.search import Tuning
from search_spaces.study import Study
from trainer.declaration import ConfigError


def built_in() -> dict[str, Study]:
    """Every study of ``search_spaces.studies``, by name; after them the final ones of tunings that are frozen."""
    found = {declared.name: declared for declared in _declared() if isinstance(declared, Study)}
    for tuning in built_in_tunings().values():
        path = frozen_file(tuning, None)
        with contextlib.suppress(ConfigError):  # of a file that is none of ours: whoever asks for its study is told
            if is_frozen(tuning, path):  # else a search that was changed would stand in the way of all other studies
                found[tuning.final_name] = final_study(tuning, path)
    return found


def built_in_tunings() -> dict[str, Tuning]:
    """Every tuning of ``search_spaces.studies``, by name."""
    return {declared.name: declared for declared in _declared() if isinstance(declared, Tuning)}


def _declared() -> list[Study | Tuning]:
    found: dict[str, Study | Tuning] = {}
    for module in sorted(pkgutil.iter_modules(studies.__path__), key=lambda module: module.name):
        for declared in importlib.import_module(f"{studies.__name__}.{module.name}").STUDIES:
            if found.setdefault(declared.name, declared) is not declared:
                raise ConfigError(f"search_spaces/studies/{module.name}.py: a second study named {declared.name!r}")
    return list(found.values())


def is_file(reference: str) -> bool:
    """Whether the user means a file."""
    return reference.endswith(".py") or "/" in reference


def find_any(reference: str) -> Study | Tuning:
    """The built-in study or tuning of this name, or the STUDY of the Python file at this path.

    Raises ConfigError, one line, for a name nobody has (with the nearest ones) and for a file that does not give one.
    """
    if is_file(reference):
        return _from_file(Path(reference))
    tunings = built_in_tunings()
    if reference in tunings:
        return tunings[reference]
    for tuning in tunings.values():
        if reference == tuning.final_name:
            return final_study(tuning, frozen_file(tuning, None))
    known = built_in()
    if reference not in known and (own := Path(f"{reference}.py")).is_file():
        raise ConfigError(f"no study named {reference!r}. Your own, by its file: {own}")
    if reference not in known:
        names = [*known, *tunings]
        nearest = difflib.get_close_matches(reference, names, n=3, cutoff=0.4) or sorted(names)
        raise ConfigError(
            f"no study named {reference!r}. Nearest: {', '.join(nearest)}. Your own: a path to a .py file"
        )
    return known[reference]


def find(reference: str) -> Study:
    """The study of this name or file. Raises ConfigError as ``find_any``, and for a tuning."""
    found = find_any(reference)
    if isinstance(found, Tuning):
        raise ConfigError(
            f"{reference}: is a search, not a study: make search STUDY={reference}, then freeze, then final"
        )
    return found


def find_tuning(reference: str) -> Tuning:
    """The tuning of this name or file. Raises ConfigError as ``find_any``, and for a study."""
    found = find_any(reference)
    if isinstance(found, Study):
        known = ", ".join(built_in_tunings())
        raise ConfigError(f"{reference}: is a study, not a search: make sweep STUDY={reference}. Searches: {known}")
    return found


def frozen_of(reference: str) -> Path:
    """Where the choices of the tuning of this name or file are frozen."""
    return frozen_file(find_tuning(reference), Path(reference) if is_file(reference) else None)


def find_final(reference: str) -> Study:
    """The study that gives the verdict on a tuning. Raises ConfigError as ``find_tuning``, and before it is frozen."""
    return final_study(find_tuning(reference), frozen_of(reference))


def _from_file(path: Path) -> Study | Tuning:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    study = getattr(_execute(path), "STUDY", None)
    if not isinstance(study, Study | Tuning):
        raise ConfigError(f"{path}: must set STUDY = Study(...), or Tuning(...) for searches")
    taken = {declared.name for declared in _declared()}
    taken |= {tuning.final_name for tuning in built_in_tunings().values()}
    if study.name in taken:
        raise ConfigError(f"{path}: {type(study).__name__}.name = {study.name!r} is a built-in one's: choose another")
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

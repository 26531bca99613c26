"""A study's data: whether they are here, fetching them, and taking in a user's own images."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from trainer.config import Dataset, TrialConfig, TwoSpirals
from trainer.data.parts import not_there
from trainer.declaration import ConfigError


def require_data(trials: Iterable[TrialConfig], data_dir: Path, study: str) -> None:
    """Raise ConfigError for data that ``trials`` need and that are not in ``data_dir``, before they fail one by one.

    study: how make is told the study.
    """
    errors = [not_there(dataset, data_dir, study) for dataset in _datasets(trials)]
    _raise_together([error for error in errors if error])


def _raise_together(errors: Sequence[ConfigError]) -> None:
    """Raise all of ``errors`` as one, if there are any."""
    if errors:
        raise ConfigError("; ".join(map(str, errors)))


def _datasets(trials: Iterable[TrialConfig]) -> list[Dataset]:
    """Each one once, in order of appearance."""
    return list(dict.fromkeys(trial.dataset for trial in trials))


def fetch(trials: Iterable[TrialConfig], data_dir: Path) -> None:
    """Bring all data of ``trials`` into ``data_dir``, verified. Raises ConfigError, after all that can be brought."""
    errors = []
    for dataset in _datasets(trials):
        try:
            print(_brought(dataset, data_dir))
        except ConfigError as error:
            errors.append(error)
    _raise_together(errors)


def _brought(dataset: Dataset, data_dir: Path) -> str:
    """The line that says so."""
    from trainer.data.fetch import fetch as bring  # torch, which the other commands do not need

    name = type(dataset).__name__
    try:
        new = bring(dataset, data_dir)
    except OSError as error:
        raise ConfigError(f"{name}: {data_dir}: cannot write to it: {error.strerror or error}") from error
    if isinstance(dataset, TwoSpirals):
        return f"{name}: made anew by every trial, nothing to fetch"
    return f"{name}: {'now' if new else 'already'} in {data_dir}, verified"


def printable(text: str) -> str:
    """``text`` with escapes for what is no visible character or none that standard output can show."""
    plain = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    encoding = sys.stdout.encoding or "utf-8"
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def take_in(path: str, size: int | None, channels: int, data_dir: Path) -> None:
    """Read the images of the folder ``path`` into ``data_dir``, print the line that declares them.

    Raises ConfigError.
    """
    from trainer.data.image_folder import read_folder

    if not path:
        raise ConfigError("PATH is empty: name the folder of your images")
    found = read_folder(Path(path), size, channels)
    try:
        paths = found.store(data_dir)
    except OSError as error:
        raise ConfigError(f"{data_dir}: cannot write to it: {error.strerror or error}") from error
    counts = " and ".join(f"{len(part.labels)} {name}" for name, part in found.parts.items())
    shape = list(next(iter(found.parts.values())).images.shape[1:])
    names = printable(", ".join(found.classes))
    print(f"{counts.replace(' all', '')} images {shape} of {len(found.classes)} classes: {names}")
    files = ", ".join(file.name for file in paths)
    print(printable(f"stored as {files} in {data_dir}; a study declares them so:") + "\n")
    names = "Holdout, ImageFolder" if found.declaration.test else "ImageFolder"
    print(f"from trainer.config import {names}\n")
    print("dataset=" + repr(found.declaration).replace(", test=None", "").replace("'", '"'))

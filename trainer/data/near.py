"""Data sets on a node's own disk: copied there once from the folder that all nodes share, verified, then read there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from trainer.config import TrialConfig
from trainer.data.load import load_part
from trainer.data.parts import part_files
from trainer.declaration import ConfigError
from trainer.files import write_atomically
from trainer.machine import CACHE_VARIABLE

LOCK = ".lock"
WRITABLE_BY_OTHERS = 0o022


def nearest(trial: TrialConfig, shared: Path) -> tuple[Path, str | None]:
    """The folder to read the trial's data from: the node's own, where it names one, else ``shared``.

    What the trial needs is in it then, verified: copied from ``shared`` by whoever needs it first, and again where the
    copy is damaged. The second value is a note where ``shared`` is read although the node names a folder: on a full
    disk, say. That is no reason to fail a trial.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if not named or not part_files(trial.dataset, shared):
        return shared, None
    if not Path(named).is_absolute():
        return shared, f"{CACHE_VARIABLE} = {named}: must be an absolute path: data are read from {shared} instead"
    try:
        _require_ours(Path(named))
        for part in _parts(trial):
            _bring(trial, part, shared, Path(named))
    except OSError as error:
        return shared, f"{CACHE_VARIABLE} = {named}: {error.strerror or error}: data are read from {shared} instead"
    except ConfigError:  # of the shared files, which loading will name
        return shared, None
    return Path(named), None


def _parts(trial: TrialConfig) -> Iterator[Literal["train", "test"]]:
    """A search trial's test set is not even copied."""
    yield "train"
    if "test" in trial.evaluate:
        yield "test"


def _bring(trial: TrialConfig, part: Literal["train", "test"], shared: Path, cache: Path) -> None:
    """Raises OSError, and ConfigError when a fresh copy is not what is declared either."""
    if _is_there(trial, part, cache):
        return
    with _locked(cache / LOCK):
        if _is_there(trial, part, cache):  # another was first
            return
        files = part_files(trial.dataset, shared)
        source = files.get(part) or files["all"]
        if source.exists():  # else a package ships it, out of which loading fills the cache
            with source.open("rb") as file:
                write_atomically(cache / source.name, lambda copy: shutil.copyfileobj(file, copy))
        load_part(trial.dataset, part, cache)


def _is_there(trial: TrialConfig, part: Literal["train", "test"], cache: Path) -> bool:
    files = part_files(trial.dataset, cache)
    if not (files.get(part) or files["all"]).exists():
        return False
    try:
        load_part(trial.dataset, part, cache)  # verified once a process, which the trial then need not do again
    except ConfigError:
        return False
    return True


def _require_ours(cache: Path) -> None:
    """Make the folder. Raises OSError where somebody else could put what he likes in it: links, locks for ever."""
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = cache.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & WRITABLE_BY_OTHERS:
        raise PermissionError(errno.EPERM, "is not a folder of this user's alone")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this node at a time; the lock of one that is killed is free again."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""A whole results folder in one file, taken while sweeps run: what ``python -m sweeps backup`` and ``restore`` do."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sweeps.plan import size
from sweeps.transfer.archive import PRIVATE, Archive, Writer, open_archive, put, write_archive
from trainer.declaration import ConfigError
from trainer.files import TEMPORARY
from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE, Results
from trainer.passwords import hide_passwords

KIND = "results"
DATABASES = ("optuna.db", "ledger.db", "mlflow.db", "server/basic_auth.db")
"""In the order in which they are copied. What a later one, or the files after them, has more than an earlier one does
no harm: a setting that is told late, a run that is found again, a checkpoint that is gone on with. The other way round
the ledger would say finished where there are no records."""
LEFT_OUT = ("data", "drivers")
"""Folders of what ``make fetch`` brings again, and of what is there as long as a driver runs."""
PASSWORDS = "server"
"""The folder in which they are."""


def back_up(path: Path, results: Results) -> None:
    """Write all of the results but the data sets into an archive at ``path``, which only its owner may read.

    Raises ConfigError, one line, where there are no results, or ``path`` lies in their folder or is there already.
    """
    if not any(results.root.glob("*")):
        raise ConfigError(f"{results.root}: no results yet: make sweep")
    if path.resolve().is_relative_to(results.root):
        raise ConfigError(f"{path}: lies in the folder that is to be saved: name a place elsewhere")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        copies = _copy_databases(results, Path(scratch))
        write_archive(path, KIND, {"root": str(results.root)}, lambda writer: _fill(writer, copies, results))
    print(f"{results.root} is in {path}, {size(path.stat().st_size)}; only you can read it: it may hold passwords")
    print("\n".join(_elsewhere(results)))


def _copy_databases(results: Results, scratch: Path) -> dict[str, Path]:
    """Whole copies by SQLite's own means, whoever writes meanwhile."""
    copies: dict[str, Path] = {}
    for name in DATABASES:
        source = results.root / name
        if source.is_file():
            copies[name] = scratch / name.replace("/", "-")
            _copy_database(source, copies[name])
    return copies


def _copy_database(source: Path, copy: Path) -> None:
    opened = sqlite3.connect(source, timeout=30)
    with contextlib.closing(opened) as original, contextlib.closing(sqlite3.connect(copy)) as written:
        try:
            original.backup(written)
        except sqlite3.Error as error:
            raise ConfigError(f"{source}: cannot be copied: {error}") from error


def _fill(writer: Writer, copies: dict[str, Path], results: Results) -> None:
    """Databases last: a folder that was half restored knows of nothing."""
    for file in _files(results.root):
        with contextlib.suppress(FileNotFoundError):  # it is over and removed since
            writer.add_file(file.relative_to(results.root).as_posix(), file)
    for name, copy in copies.items():
        writer.add_file(name, copy)


def _files(root: Path) -> Iterator[Path]:
    beside = tuple(f"{name}{end}" for name in DATABASES for end in ("", "-wal", "-shm", "-journal"))
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root)
        left_out = name.parts[0] in LEFT_OUT or name.as_posix() in beside or TEMPORARY.fullmatch(file.name)
        if file.is_file() and not left_out:
            yield file


def _elsewhere(results: Results) -> Iterator[str]:
    """What is not in the folder and needs a backup of its own."""
    urls = {
        LEDGER_VARIABLE: results.ledger_url,
        OPTUNA_VARIABLE: results.optuna_url,
        TRACKING_VARIABLE: results.tracking_uri,
    }
    for variable, url in urls.items():
        if not url.startswith("sqlite:"):
            yield f"Not in it: {hide_passwords(url)} ({variable}); docs/operations.md says how, and in what order"
    yield "Not in it: data sets. make fetch brings downloads again; of your own images keep the folder, for make digest"


def restore(path: Path, results: Results) -> None:
    """Put what ``back_up`` wrote into the results folder, which is empty or not there yet.

    Raises ConfigError, one line, where it is not, and for an archive that is not whole or none of ours.
    """
    if results.root.exists() and any(results.root.iterdir()):
        raise ConfigError(f"{results.root}: is not empty: RESULTS=... names a folder that is, or is not there yet")
    with open_archive(path, KIND) as archive:
        for name in archive.names:
            _put(archive, name, results.root / name)
        print(f"{len(archive.names)} files of {path} are in {results.root}")
        if archive.about.get("root") != str(results.root) and "mlflow.db" in archive.names:
            print(
                "They were in another folder, where MLflow looks for artifacts: remove"
                f" {results.root / 'mlflow.db'}, then, of each study, make deliver STUDY=...{results.as_make} and"
                f" make report STUDY=...{results.as_make}"
            )


def _put(archive: Archive, name: str, path: Path) -> None:
    secret = Path(name).parts[0] == PASSWORDS
    if secret:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(file: IO[bytes]) -> None:
        if secret:
            os.fchmod(file.fileno(), PRIVATE)
        with archive.opened(name) as member:
            shutil.copyfileobj(member, file)

    put(path, write)

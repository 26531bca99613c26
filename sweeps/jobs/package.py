"""What of the code goes to a Ray elsewhere with a job: named by what is sent, not by what is left out."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from search_spaces.catalog import is_file
from search_spaces.choices import BUILT_IN
from trainer.custom_source import OURS
from trainer.declaration import ConfigError
from trainer.machine import Results

CODE = Path(__file__).resolve().parents[2]
OWN = "study"
"""The folder, beside our packages, of a user's own study and of what lies beside it."""
SUFFIXES = (".py", ".html", ".css", ".mplstyle")
"""Of the files in our packages that their code needs; besides, what is frozen."""
BESIDE = (*OURS, "tests", "benchmarks", "docker", "docs")
"""This repository's own folders: no part of a study that lies in its root."""
FOREIGN = ("site-packages", "node_modules", "__pycache__", "venv")
FOREIGN_MARKS = ("pyvenv.cfg", "conda-meta", "ledger.db")
"""What lies in virtual environments and in folders of results, whatever they are called."""
MOST_BYTES_OF_FILE = 2**20
MOST_BYTES = 50 * 2**20  # Ray takes twice as much
MOST_FILES = 2000


@dataclass(frozen=True)
class Package:
    """Files by the names by which they will lie in the job's working directory.

    reference: what the study is called there. left_out: symbolic links that are not followed.
    """

    reference: str
    files: Mapping[str, bytes]
    left_out: Sequence[Path] = ()

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over names and contents."""
        content = hashlib.sha256()
        for name, data in self.files.items():
            content.update(f"{name}\0{len(data)}\0".encode() + data)
        return content.hexdigest()[:16]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self.files.values()))

    def write(self, folder: Path) -> None:
        """Lay the files out in ``folder``."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def lines(self) -> Iterator[str]:
        """Sizes in bytes and names, then their sum."""
        for name, data in self.files.items():
            yield f"{len(data):10,}  {name}"
        yield f"{self.size:10,}  bytes in {len(self.files)} files, digest {self.digest}"


@dataclass(frozen=True, slots=True)
class _Tree:
    """A folder, without what is hidden, foreign or ``skipped``. left_out: grows by links that are not followed."""

    root: Path
    skipped: Sequence[Path] = ()
    left_out: list[Path] = field(default_factory=list)

    def files(self) -> Iterator[Path]:
        """Those beneath it, of whatever kind."""
        for place, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if self._enters(Path(place, name)))
            yield from (path for name in sorted(names) if self._takes(path := Path(place, name)))

    def _enters(self, folder: Path) -> bool:
        if folder.name.startswith(".") or folder.name in FOREIGN or folder in self.skipped:
            return False
        if folder.is_symlink():
            self.left_out.append(folder)
            return False
        return not any((folder / mark).exists() for mark in FOREIGN_MARKS)

    def _takes(self, path: Path) -> bool:
        if path.name.startswith(".") or not _is_code(path):
            return False
        if path.is_symlink() and not self._leads_to_one_of_ours(path):
            self.left_out.append(path)
            return False
        return path.is_file()

    def _leads_to_one_of_ours(self, link: Path) -> bool:
        target = link.resolve()
        if not target.is_file() or not target.is_relative_to(self.root):
            return False
        return not any(part.startswith(".") for part in target.relative_to(self.root).parts)


def _is_code(path: Path) -> bool:
    return path.suffix in SUFFIXES or (path.suffix == ".json" and path.parent.name == BUILT_IN.name)


def pack(reference: str, code: Path = CODE) -> Package:
    """Our packages from ``code`` and, where ``reference`` is a file of the user's own, what lies beside and beneath it.

    Raises ConfigError for what is too large or cannot be read.
    """
    files = {path.relative_to(code).as_posix(): path for name in OURS for path in _Tree(code / name).files()}
    own = Path(reference).resolve()
    if not is_file(reference):
        return Package(reference, _read(files))
    if any(own.is_relative_to(code / name) for name in OURS):
        return Package(own.relative_to(code).as_posix(), _read(files))
    tree = _Tree(own.parent, _not_the_studys(own.parent, code))
    for path in tree.files():
        if path.suffix in (".py", ".json"):
            files[f"{OWN}/{path.relative_to(own.parent).as_posix()}"] = path
        if len(files) > MOST_FILES:
            raise ConfigError(f"{own.parent}: more than {MOST_FILES} files: give the study a folder of its own")
    return Package(f"{OWN}/{own.name}", _read(files), tree.left_out)


def _not_the_studys(folder: Path, code: Path) -> list[Path]:
    """Of what lies beneath the study's ``folder``: this repository, which is sent anyway, and results."""
    ours = [code / name for name in BESIDE] if folder == code else [code]
    return [*ours, Results.here().root]


def _read(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Raises ConfigError."""
    try:
        sizes = {path: path.stat().st_size for path in files.values()}
        if max(sizes.values()) > MOST_BYTES_OF_FILE:
            raise ConfigError(_too_large(f"a file is larger than {_mib(MOST_BYTES_OF_FILE)}", sizes))
        if sum(sizes.values()) > MOST_BYTES:
            raise ConfigError(_too_large(f"more than {_mib(MOST_BYTES)} together", sizes))
        return {name: files[name].read_bytes() for name in sorted(files)}
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _too_large(what: str, sizes: Mapping[Path, int]) -> str:
    largest = heapq.nlargest(3, sizes, key=lambda path: sizes[path])
    names = ", ".join(f"{path} ({_mib(sizes[path])})" for path in largest)
    return f"the package of the job: {what}; the largest: {names}: data belong into RESULTS, not beside the study"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"

"""One file that holds others: plain data, each with its digest, written whole or not at all and read with suspicion.

It is a ZIP file without compression, so what it unpacks to is no larger than itself. A manifest says what it holds, of
what version, and the SHA-256 of every member. Nothing in it is unpickled, and a member's name never becomes a path
before it was checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from trainer.declaration import ConfigError
from trainer.files import write_atomically

VERSION = 1
MANIFEST = "manifest.json"
BLOCK = 1 << 20
PRIVATE = 0o600
NOT_A_ZIP = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error)
"""What zipfile raises where single bytes are others than were written: versions, flags and offsets among them."""


class Writer:
    """An archive that is being written."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.digests: dict[str, str] = {}

    def add(self, name: str, content: bytes) -> None:
        """Put a member in."""
        self.digests[name] = hashlib.sha256(content).hexdigest()
        self._archive.writestr(name, content)

    def add_file(self, name: str, path: Path) -> None:
        """Put a file in as it is when it is opened, which a rename meanwhile does not change. Raises OSError."""
        digest = hashlib.sha256()
        with path.open("rb") as source, self._archive.open(name, "w", force_zip64=True) as member:
            while block := source.read(BLOCK):
                digest.update(block)
                member.write(block)
        self.digests[name] = digest.hexdigest()


def put(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file to its place, whole or not at all. Raises ConfigError where the disk does not take it."""
    try:
        write_atomically(path, write)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}: mend that, then once more") from error


def write_archive(path: Path, kind: str, about: Mapping[str, Any], fill: Callable[[Writer], None]) -> None:
    """Let ``fill`` put members into a new archive at ``path``, which only its owner may read.

    kind: what sort of archive it is. about: what else its manifest is to say. Raises ConfigError where there is a file
    of that name, or the disk does not take it.
    """
    if path.exists():
        raise ConfigError(f"{path}: is there already: name another file, or remove it")
    try:
        write_atomically(path, lambda file: _write(file, kind, about, fill))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write(file: IO[bytes], kind: str, about: Mapping[str, Any], fill: Callable[[Writer], None]) -> None:
    os.fchmod(file.fileno(), PRIVATE)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        writer = Writer(archive)
        fill(writer)
        manifest = {"kind": kind, "version": VERSION, **about, "members": writer.digests}
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))


class Archive:
    """An archive whose manifest is whole. about: what that says. names: its members."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, about
        self._archive = archive
        self._digests: Mapping[str, str] = about["members"]

    @property
    def names(self) -> list[str]:
        return list(self._digests)

    def read(self, name: str) -> bytes:
        """A member's content. Raises ConfigError when it is not what the manifest says."""
        with self.opened(name) as member:
            return member.read()

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A member to be read in parts. Raises ConfigError when it turns out to be damaged."""
        try:
            with self._archive.open(name) as member:
                yield member
        except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
            raise self.damaged(name) from error

    def damaged(self, name: str) -> ConfigError:
        """The line for a member that is not what it should be."""
        return ConfigError(f"{self.path}: {name} is damaged, or not what was written: nothing of it is taken over")

    def check_digests(self) -> None:
        """Raise ConfigError for the first member that is not what the manifest says."""
        for name, expected in self._digests.items():
            with self.opened(name) as member:
                if hashlib.file_digest(member, "sha256").hexdigest() != expected:  # type: ignore[arg-type]
                    raise self.damaged(name)


@contextlib.contextmanager
def open_archive(path: Path, kind: str) -> Iterator[Archive]:
    """The archive at ``path``, every member of which is what was written.

    Raises ConfigError, one line, when there is none, when it is of another kind or a newer version, when it is
    damaged, and when a member's name leads out of a folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(zipfile.ZipFile(path))
            archive = Archive(path, opened, _manifest(path, opened, kind))
            archive.check_digests()
        except ConfigError:
            raise
        except NOT_A_ZIP as error:
            raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        yield archive


def _manifest(path: Path, archive: zipfile.ZipFile, kind: str) -> dict[str, Any]:
    names = archive.namelist()
    if MANIFEST not in names:
        raise ConfigError(f"{path}: has no manifest: it is cut off, or none of ours")
    for info in archive.infolist():
        _require_plain(path, info)
    try:
        about = json.loads(archive.read(MANIFEST))
        found, version, members = about["kind"], about["version"], about["members"]
        if not all(isinstance(digest, str) for digest in dict(members.items()).values()):
            raise ValueError("digests are text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: its manifest is damaged") from error
    if found != kind:
        raise ConfigError(f"{path}: is an archive of kind {found!r}, not {kind!r}: a backup is for restore")
    if version != VERSION:
        raise ConfigError(f"{path}: is of version {version!r}, this code reads {VERSION}: bring the code up to date")
    if sorted(names) != sorted([MANIFEST, *members]) or _has_file_as_folder(names):
        raise ConfigError(f"{path}: does not hold just what its manifest says: it is damaged, or not what was written")
    return dict(about)


def _has_file_as_folder(names: Iterable[str]) -> bool:
    """Whether one member would have to lie in another."""
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    return not folders.isdisjoint(names)


def _require_plain(path: Path, info: zipfile.ZipInfo) -> None:
    """A member that would be written elsewhere than below a folder, or would unpack to more than it takes here."""
    parts = PurePosixPath(info.filename).parts
    leads_out = ".." in parts or info.filename.startswith("/") or "\\" in info.filename
    if not parts or info.filename != "/".join(parts) or leads_out:
        raise ConfigError(f"{path}: member {info.filename!r} leads elsewhere: it is none of ours")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ConfigError(f"{path}: member {info.filename!r} is compressed: it is none of ours")

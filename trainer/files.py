"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

HOST = socket.gethostname().replace(".", "-")[:32]
"""Who writes: several machines may share a folder, and a process id says nothing on another one."""
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<pid>[0-9]+)\.[0-9a-f]{8}")
"""The name under which a file is written before it is renamed."""
STALE_SECONDS = 24 * 3600.0
"""Nobody takes as long for one file."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it into place.

    A reader, even after a kill at any moment, sees the old file or the new one. Raises OSError, which names ``path``
    when there is no room, and leaves nothing then. What writers of ``path`` that were killed have left beside it is
    removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(4)}")
    raw = _Raw(temporary, "xb")
    try:
        with io.BufferedWriter(raw) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if raw.failure is not None:
            raise OSError(raw.failure.errno, raw.failure.strerror, str(path)) from error
        raise
    _flush_folder(path.parent)


class _Raw(io.FileIO):
    """Remembers what a write failed of: torch makes an error of its own of it, which says nothing of the disk."""

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.failure = error
            raise


def _remove_stale(path: Path) -> None:
    with os.scandir(path.parent) as entries:
        for entry in entries:
            found = TEMPORARY.fullmatch(entry.name)
            if found and found["name"] == path.name:
                with contextlib.suppress(OSError):  # somebody else was first
                    dead = found["host"] == HOST and not is_alive(int(found["pid"]))
                    if dead or time.time() - entry.stat().st_mtime > STALE_SECONDS:
                        Path(entry.path).unlink()


def is_alive(pid: int) -> bool:
    """Whether this machine has a process of that number, whoever's it is."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flush_folder(folder: Path) -> None:
    """Without this a power cut can undo the rename."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Ray's token on plain machines: where Ray looks for it, and making the file that holds it.

Ray takes the first of ``RAY_AUTH_TOKEN``, the file at ``RAY_AUTH_TOKEN_PATH`` and ``~/.ray/auth_token``; of a file it
reads the first line, without the white space around it. One that it makes itself has mode 0644.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainer.declaration import ConfigError

MODE_VARIABLE = "RAY_AUTH_MODE"
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # noqa: S105  the name, not a token
PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"
OTHERS = 0o077
WRITABLE_BY_OTHERS = 0o022
PRIVATE_FOLDER = 0o700


def default_path() -> Path:
    """Where Ray looks last."""
    return Path.home() / ".ray" / "auth_token"


def token_path() -> Path:
    """The file that Ray would read, unless the token itself is in the environment."""
    return Path(os.environ.get(PATH_VARIABLE) or default_path())


def make_token() -> list[str]:
    """Make the file, unless it is there, or mend its mode; lines that say so and what to do elsewhere are returned.

    Raises ConfigError where Ray would not read that file, or where others could put another in its place.
    """
    if os.environ.get(TOKEN_VARIABLE):
        raise ConfigError(f"{TOKEN_VARIABLE} is set, and Ray takes the token from there: unset it first")
    path = token_path().absolute()
    _prepare(path.parent)
    try:
        done = "made now, mode 0600" if _write(path) else _mended(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: {PATH_VARIABLE} can name another place") from error
    return [f"Ray's token is in {path}: {done}", *_elsewhere(path)]


def _prepare(folder: Path) -> None:
    """Ray's own folder is made private; of another the mode is its owner's business."""
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        if folder == default_path().parent:
            folder.chmod(PRIVATE_FOLDER)
        mode = folder.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}: {PATH_VARIABLE} can name a file elsewhere") from error
    if mode & WRITABLE_BY_OTHERS:
        raise ConfigError(f"{folder}: others can write to it, and so put another token there: chmod go-w it")


def _write(path: Path) -> bool:
    """Make a token, whole or not at all; False where there is one, which stays."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".auth_token")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(name)
    return True


def _mended(path: Path) -> str:
    if not path.is_file() or path.is_symlink():
        raise ConfigError(f"{path}: is no plain file: remove it, or {PATH_VARIABLE} names another")
    if not path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip():
        raise ConfigError(f"{path}: its first line is empty, and Ray does not start: remove it, and make a new one")
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & OTHERS:
        return f"it was there, mode {mode:04o}, and stays"
    path.chmod(0o600)
    return (
        f"it was there and stays, but others could read it: its mode was {mode:04o}, now it is 0600. Where others use"
        " this machine remove it, make a new one and copy that"
    )


def _elsewhere(path: Path) -> Iterator[str]:
    """What is to be done on the other machines."""
    inside = path.is_relative_to(Path.home())
    there = path.relative_to(Path.home()) if inside else path
    folder, file = shlex.quote(str(there.parent)), shlex.quote(str(there))
    setting = f"{PATH_VARIABLE}={shlex.quote(str(path))} " if path != default_path() else ""
    yield "Every other machine of the cluster, and each from which jobs are sent, needs the same file:"
    yield f"  ssh HOST mkdir -p -m 700 {folder} && scp -p {shlex.quote(str(path))} HOST:{file}"
    yield "Then, on the head and on the others:"
    yield f"  {setting}make ray-head"
    yield f"  {setting}make ray-worker HEAD=HOST:6379"

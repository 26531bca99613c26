"""Checks of what must be kept from others: Ray's token, passwords in files and addresses, the results folder."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from sweeps.cluster.ray_token import (
    MODE_VARIABLE,
    OTHERS,
    PATH_VARIABLE,
    TOKEN_VARIABLE,
    WRITABLE_BY_OTHERS,
    token_path,
)
from sweeps.doctor.finding import Finding, failed, ok, warning
from sweeps.servers.server import vault_of
from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE, Results
from trainer.passwords import hide_passwords

CONTAINERS = Path(__file__).resolve().parents[2] / "docker" / "secrets"
ADDRESSES = (LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE)


def check_token() -> Iterator[Finding]:
    """Whether Ray asks for a token, and who else can read it."""
    yield of_mode(os.environ.get(MODE_VARIABLE))
    if os.environ.get(TOKEN_VARIABLE):
        yield ok("token", f"Ray takes it from {TOKEN_VARIABLE}")
        return
    path = token_path()
    if path.is_file():
        yield of_secret("token", path)
        yield from of_folder("token", path.absolute().parent)
    elif os.environ.get(PATH_VARIABLE):
        yield failed("token", f"{PATH_VARIABLE} = {path}: no such file, and Ray does not start: make token makes it")
    else:
        yield ok("token", "none here; sweeps on this machine alone make one each; for a cluster: make token")


def of_mode(mode: str | None) -> Finding:
    """mode: what the environment says. Ours is always ``token``; the one that ``ray start`` reads is this."""
    if mode is None:
        said = f"{MODE_VARIABLE} is not set: sweeps set it; before ray start of your own: export {MODE_VARIABLE}=token"
        return ok("token", said)
    if mode.lower() != "token":
        cure = f"export {MODE_VARIABLE}=token"
        return failed("token", f"{MODE_VARIABLE}={mode}: whoever reaches such a Ray runs code there: {cure}")
    return ok("token", f"{MODE_VARIABLE}=token")


def of_secret(about: str, path: Path) -> Finding:
    """A file that its owner alone may read."""
    mode, where = stat.S_IMODE(path.stat().st_mode), shlex.quote(str(path))
    if mode & OTHERS:
        return failed(about, f"{path}: others can read it (mode {mode:04o}): chmod 600 {where}, and make a new secret")
    return ok(about, f"{path}: for its owner alone")


def of_folder(about: str, folder: Path) -> Iterator[Finding]:
    """A finding for a folder in which others can put another file in a secret's place."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & WRITABLE_BY_OTHERS:
        cure = f"chmod go-w {shlex.quote(str(folder))}"
        yield failed(about, f"{folder}: others can write to it (mode {mode:04o}): {cure}")


def check_ray_folders() -> Iterator[Finding]:
    """Whether others can come into the folders of Rays that run, and change the code that these run."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, FileNotFoundError):  # ended just now, somebody else's, in a container
            if process.uids().effective == os.geteuid():
                for folder in ray_folders(process.cmdline()):
                    yield of_ray_folder(folder)


def ray_folders(command: Sequence[str]) -> list[Path]:
    """The folder of the raylet with this command line; none of other processes."""
    named = [word.partition("=")[2] for word in command if word.startswith("--temp_dir=")]
    return [Path(name) for name in named] if command and command[0].endswith("/raylet/raylet") else []


def of_ray_folder(folder: Path) -> Finding:
    """Ray itself opens it to all; it is kept from them by a folder above it."""
    closed = (one for one in (folder, *folder.parents) if not one.stat().st_mode & stat.S_IXOTH)
    if next(closed, None) is None:
        said = (
            f"{folder}: other users can change the code that this Ray runs: make ray-head and ray-worker keep them out"
        )
        return failed("Ray", f"{said}; until then chmod 700 {shlex.quote(str(folder))}")
    return ok("Ray", f"{folder}: for its owner alone")


def check_files(results: Path, containers: Path = CONTAINERS) -> Iterator[Finding]:
    """The secrets of server and containers, and who may write what is read again: results and databases."""
    vault = vault_of(Results(results))
    for folder in (vault.folder, containers):
        if folder.is_dir():
            yield from of_secrets(folder)
    yield from of_results(results)


def of_secrets(folder: Path) -> Iterator[Finding]:
    """All files of a folder of secrets."""
    found = [of_secret("secrets", path) for path in sorted(folder.iterdir()) if path.is_file()]
    wrong = [finding for finding in found if finding.verdict != "ok"]
    yield from wrong
    yield from of_folder("secrets", folder)
    if found and not wrong:
        yield ok("secrets", f"{folder}: {len(found)} files, for their owner alone")


def of_results(results: Path) -> Iterator[Finding]:
    """Whether all users of the machine can write what others' drivers will read."""
    if not results.is_dir():
        yield ok("results", f"{results}: not there yet")
        return
    looked_at = [path for path in (results, *sorted(results.iterdir())) if not path.is_symlink()]
    wrong = [path for path in looked_at if path.stat().st_mode & stat.S_IWOTH]
    if wrong:
        names = " ".join(shlex.quote(str(path)) for path in wrong)
        yield failed("results", f"everybody can write to {names}: chmod -R o-w {shlex.quote(str(results))}")
    else:
        yield ok("results", f"{results}: its owner and group alone can write to it")


def check_addresses(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether passwords stand in addresses, or would cross the network in the clear."""
    for name in ADDRESSES:
        address = environment.get(name, "")
        if hide_passwords(address) != address:
            place = "MLFLOW_TRACKING_PASSWORD" if name == TRACKING_VARIABLE else "~/.pgpass (mode 0600)"
            yield warning("secrets", f"{name} has a password in it; it is printed nowhere, but better it is in {place}")
    yield from of_tracking(environment.get(TRACKING_VARIABLE, ""))


def of_tracking(address: str) -> Iterator[Finding]:
    """A finding for a server of MLflow elsewhere, to which passwords go in the clear."""
    parts = urlsplit(address)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        cure = "use https (docs/operations.md), or a tunnel: ssh -L"
        yield warning("MLflow", f"{address}: passwords cross the network in the clear: {cure}")


def is_loopback(host: str) -> bool:
    """Whether only this machine answers there."""
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return host == "localhost"

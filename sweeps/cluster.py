"""The Ray that trials run on: one of our own on this machine, or one that the user has started and named.

Imported before anything else that imports Ray, which reads some of its settings, and how it authenticates, right then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sweeps.children import children_join, group_that_ends_with_us
from sweeps.sweep import ADDRESS_VARIABLE
from trainer.declaration import ConfigError
from trainer.files import is_alive

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_process_group_cleanup_enabled": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
"""Ray's settings: no table, no reports home, workers in the raylet's process group (it ends with us; theirs would not),
no files a trial, and time for a reused actor's last thread to end."""


def joined() -> str | None:
    """The address of the Ray to join; None for one of our own."""
    address = os.environ.get(ADDRESS_VARIABLE, "")
    return None if address in ("", "local") else address


os.environ.update(QUIET)
if joined():
    # It asks this often, a second or, where nothing answers, half a minute apart, and complains each time.
    os.environ.update({"RAY_NUM_REDIS_GET_RETRIES": "2"})
else:
    # A token in the environment keeps Ray from writing one to the home folder; without one its ports would be open.
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})

import ray  # noqa: E402

SHORT_FOLDER = "/tmp"  # noqa: S108  only folders that mkdtemp makes there are used
OBJECT_STORE_BYTES = 100 * 2**20
ANSWER_SECONDS = 5.0
CODE = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def ray_for(jobs: int, folder: Path) -> Iterator[None]:
    """Ray, quiet, for so many trials at a time. folder: for the files of one of our own.

    Raises ConfigError when the Ray to join cannot be joined.
    """
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    address = joined()
    with _our_own(folder, jobs) if address is None else _theirs(address):
        yield


def count(resource: str) -> int:
    """How many ``CPU`` or ``GPU`` the nodes that are alive have together."""
    return int(ray.cluster_resources().get(resource, 0))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _our_own(folder: Path, jobs: int) -> Iterator[None]:
    """Behind a token, and in a process group that ends with us."""
    with group_that_ends_with_us(folder) as group, _shut_down_in_the_end():
        with children_join(group):
            ray.init(
                address="local",
                num_cpus=jobs,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(folder),
            )
        yield


@contextlib.contextmanager
def _theirs(address: str) -> Iterator[None]:
    """Its daemons are not ours to end. Its workers find this code by its path, and end when we do."""
    _require_answer(address)
    settings = {name: value for name, value in QUIET.items() if name.startswith("TUNE_")}
    with _shut_down_in_the_end():
        try:
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": settings | {"PYTHONPATH": str(CODE)}},
            )
        except Exception as error:  # Ray raises whatever its parts raise: no such Ray, a wrong token, other versions
            cause = " ".join(str(error).split())
            token = "; is RAY_AUTH_TOKEN its token?" if isinstance(error, ConnectionError) else ""
            raise ConfigError(f"{ADDRESS_VARIABLE} = {address}: cannot join this Ray: {cause}{token}") from error
        yield


def _require_answer(address: str) -> None:
    """Ray itself would ask for minutes. ``auto`` names no address; Ray knows at once when there is no Ray here."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not port.isdecimal():
        raise ConfigError(f"{ADDRESS_VARIABLE} = {address}: must be HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{ADDRESS_VARIABLE} = {address}: nothing answers there ({error}): is Ray up?") from error


@contextlib.contextmanager
def _shut_down_in_the_end() -> Iterator[None]:
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for Ray's sockets, sessions and Tune's files, with a short name: a socket's path has 107 bytes."""
    short = Path(SHORT_FOLDER if Path(SHORT_FOLDER).is_dir() else tempfile.gettempdir())
    for old in short.glob("sweep-*-*"):
        with contextlib.suppress(OSError, ValueError):  # somebody else's folder, or one that goes away just now
            if not is_alive(int(old.name.split("-")[1])) and time.time() - old.stat().st_mtime > 60:
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"sweep-{os.getpid()}-", dir=short))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

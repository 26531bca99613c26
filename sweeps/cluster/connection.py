"""The Ray that trials run on: one of our own on this machine, or one that the user has started and named.

Imported before anything else that imports Ray, which reads some of its settings, and how it authenticates, right then.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sweeps.children import children_join, group_that_ends_with_us
from sweeps.cluster.job_code import CODE, code_travels
from sweeps.cluster.node import trials_at_once
from sweeps.cluster.packing import trials_that_share
from sweeps.sweep import ADDRESS_VARIABLE, joined
from trainer.declaration import ConfigError
from trainer.files import HOST, is_alive
from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE, Results

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

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""A trial has a core; what a node's environment says would count before what Ray says."""
OF_THE_DRIVER = (
    LEDGER_VARIABLE,
    OPTUNA_VARIABLE,
    TRACKING_VARIABLE,
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
)
"""What workers are not to know: addresses may hold passwords."""
TRIAL_SETTINGS = ONE_THREAD | dict.fromkeys(OF_THE_DRIVER, "")
"""Of a worker's environment. Empty, not unset: a worker beside the driver has its node's environment."""


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
STALE_SECONDS = 7 * 24 * 3600.0
"""A driver that lives touches its folder far more often."""


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


def room_of_theirs(device: str, gpus_per_trial: float | None) -> int:
    """For how many trials the nodes of the Ray to join have cores now, at least one. Raises ConfigError."""
    from sweeps.cluster.nodes import alive

    with ray_for(1, Path()):
        per_gpu = trials_that_share(gpus_per_trial) if gpus_per_trial else None
        return max(1, trials_at_once(alive(), device, per_gpu))


@contextlib.contextmanager
def _our_own(folder: Path, jobs: int) -> Iterator[None]:
    """Behind a token, and in a process group that ends with us."""
    with group_that_ends_with_us(folder) as group, _shut_down_in_the_end():
        with children_join(group), _environment_of_children(), _signals_kept():
            ray.init(
                address="local",
                num_cpus=jobs,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(folder / "ray"),  # Ray lets everybody into it, but nobody comes through ours
            )
        yield


@contextlib.contextmanager
def _environment_of_children() -> Iterator[None]:
    """What Ray's daemons, and with them all workers, have of this process's environment, while they are started."""
    before = {name: os.environ.pop(name, None) for name in (*ONE_THREAD, *OF_THE_DRIVER)}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name in ONE_THREAD:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextlib.contextmanager
def _theirs(address: str) -> Iterator[None]:
    """Its daemons are not ours to end. Its workers end when we do.

    They find this code by its path, which all nodes have, unless it goes along with our job.
    """
    _require_answer(address)
    settings = TRIAL_SETTINGS | {name: value for name, value in QUIET.items() if name.startswith("TUNE_")}
    if not code_travels():
        settings["PYTHONPATH"] = str(CODE)
    with _shut_down_in_the_end():
        try:
            with _signals_kept():
                ray.init(
                    address=address,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    runtime_env={"env_vars": settings},
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
    if not port.isdecimal() or "/" in address:
        jobs = ": a page for jobs is for make submit" if address.startswith("http") else ""
        raise ConfigError(f"{ADDRESS_VARIABLE} = {address}: must be HOST:PORT or auto{jobs}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{ADDRESS_VARIABLE} = {address}: nothing answers there ({error}): is Ray up?") from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts a handler of its own in place, by which a driver would end without its last words."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _shut_down_in_the_end() -> Iterator[None]:
    try:
        yield
    finally:
        _shut_down()


def _shut_down() -> None:
    """As ``ray.shutdown``, during which no thread of ours may let go of what Ray counts references to.

    Ray would end this process on the spot, without its last words ("The core worker has already been shutdown"). Tune
    leaves such references in cycles, which the collector comes upon in whatever thread it happens to run.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


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


@contextlib.contextmanager
def shared_folder(results: Results) -> Iterator[Path]:
    """A folder of this driver's in ``results``, which all nodes see. Its name is no other's: who sees it sees the same.

    For the files by which trials are stopped, and Tune's. Raises ConfigError.
    """
    try:
        results.drivers.mkdir(exist_ok=True)
        _remove_left(results.drivers)
        folder = results.drivers / f"{HOST}-{os.getpid()}-{secrets.token_hex(8)}"
        folder.mkdir()
    except OSError as error:
        raise ConfigError(f"RESULTS: cannot write to {results.drivers}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(folders: Path) -> None:
    """What killed drivers have left: of this machine, or of another long ago."""
    for old in folders.iterdir():
        with contextlib.suppress(OSError, ValueError):  # none of ours, or one that goes away just now
            host, pid, _ = old.name.rsplit("-", 2)
            age = time.time() - old.stat().st_mtime
            if age > STALE_SECONDS or (host == HOST and not is_alive(int(pid)) and age > 60):
                shutil.rmtree(old, ignore_errors=True)

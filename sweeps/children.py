"""Processes that end when we end, whatever the cause: Ray's in a group of their own, and those of pools.

When a driver dies Linux kills the processes that Ray started from it, but not what these have started: workers and
agents have to notice by themselves, and as long as they import their modules, half a minute under load, they do not.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from trainer.declaration import ConfigError

GUARD = """
trap '' HUP INT TERM
read -r _
kill -TERM 0
sleep 1
rm -rf -- "$1"
kill -KILL 0
"""
"""Waits for the end of its input, then ends its process group. It is deaf to what it sends before KILL."""


@contextlib.contextmanager
def group_that_ends_with_us(folder: Path) -> Iterator[int]:
    """A process group, empty but for its guard; on leaving, all that is in it is killed.

    Where we die before that, the guard does it and removes ``folder``: it reads from a pipe to which nobody else can
    write. A child that is just being started holds the pipe open as well, until it is in the group; and the number of
    the group cannot become another's while its guard lives.
    """
    command = ["/bin/sh", "-c", GUARD, "guard", str(folder)]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, process_group=0) as guard:
        try:
            yield guard.pid
        finally:
            os.killpg(guard.pid, signal.SIGKILL)


@contextlib.contextmanager
def children_join(group: int) -> Iterator[None]:
    """Start child processes in ``group``, not in ours, so that a signal to ours reaches them through us alone.

    Ctrl-C in a terminal and SIGTERM from a scheduler go to the whole group; Ray's daemons, which know no other way to
    be started, would be gone before the trials could save.
    """
    original = subprocess.Popen.__init__

    def start(self: subprocess.Popen[bytes], *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **{"process_group": group, **options})

    subprocess.Popen.__init__ = start  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = original  # type: ignore[method-assign]


def run_until_ctrl_c(command: Sequence[str], environment: Mapping[str, str], name: str) -> None:
    """Run a server, and whatever it starts, until Ctrl-C. Raises ConfigError when it ends by itself.

    Not in our process group: on Ctrl-C its processes would each print a traceback. name: what the refusal calls it.
    """
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as scratch:
        with group_that_ends_with_us(Path(scratch)) as group, children_join(group):
            code = subprocess.run(command, env=environment, check=False).returncode
        raise ConfigError(f"{name} has ended by itself, with code {code}: what it printed says why")


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with nothing of ours in their memory; ended at once when what is done with them is cut short.

    Jobs are to be submitted ``deaf_to_ctrl_c``, for that is when a process is started.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Children started within never get SIGINT, which a terminal sends to all: they would print tracebacks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A scheduler's SIGTERM would otherwise end this process on the spot, and leave its workers to find out."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with_parent() -> None:
    """Run in each of a pool: when we are killed, one that waits for its next job would do so for ever."""
    threading.Thread(target=_wait_for_parent, name="parent-watch", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""What a driver has started ends with the driver: with real processes, but without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sweeps.children import deaf_to_ctrl_c
from tests.sweeps.conftest import wait_for

DRIVER = """
import subprocess
import sys
from pathlib import Path

from sweeps.children import children_join, group_that_ends_with_us

DEAF = "trap '' HUP INT TERM; echo $$; sleep 1000"  # and its child, which inherits that, as well
with group_that_ends_with_us(Path(sys.argv[1])) as group, children_join(group):
    inside = subprocess.Popen(["/bin/sh", "-c", DEAF])
    outside = subprocess.Popen(["/bin/sh", "-c", DEAF], process_group=0)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the driver keeps for its children, under a name that a shell could take for more than one."""
    folder = tmp_path / "private folder"
    folder.mkdir()
    (folder / "socket").touch()
    return folder


@pytest.fixture
def driver(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that has a guard, a child in its group and one outside it; it ends when its input does."""
    command = [sys.executable, "-c", DRIVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()) as driver:
        assert driver.stdout is not None
        pids = {int(driver.stdout.readline()) for _ in range(2)}
        children = psutil.Process(driver.pid).children(recursive=True)
        assert pids < {child.pid for child in children}
        yield driver
        driver.kill()
        for child in children:
            if child.is_running():
                child.kill()


def split(driver: subprocess.Popen[bytes]) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The processes below the driver: the guard with those in its group, and those outside it, which lead their own."""
    *inside, outside = psutil.Process(driver.pid).children()
    assert len(inside) == 2, "the guard and one child"
    everything = [descendant for child in inside for descendant in (child, *child.children(recursive=True))]
    return everything, [outside, *outside.children(recursive=True)]


def is_gone(process: psutil.Process) -> bool:
    """A zombie is: what reaps it in a container may be slow, or nobody."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_killed_driver_takes_its_group_and_its_folder_along(driver: subprocess.Popen[bytes], folder: Path) -> None:
    inside, outside = split(driver)
    driver.kill()
    wait_for(lambda: all(map(is_gone, inside)))
    assert not folder.exists()
    assert not any(map(is_gone, outside))


def test_a_driver_that_leaves_takes_its_group_along_and_leaves_the_folder(
    driver: subprocess.Popen[bytes], folder: Path
) -> None:
    inside, outside = split(driver)
    assert driver.stdin is not None
    driver.stdin.close()
    assert driver.wait(timeout=10) == 0
    wait_for(lambda: all(map(is_gone, inside)))
    assert folder.exists(), "whoever leaves in peace removes it himself"
    assert not any(map(is_gone, outside))


POOL = """
import os
import sys
import time

from sweeps.children import deaf_to_ctrl_c, worker_pool

if __name__ == "__main__":
    with worker_pool(1) as pool:
        with deaf_to_ctrl_c():
            worker = pool.submit(os.getpid).result()
        if sys.argv[1] == "busy":
            pool.submit(time.sleep, 1000)
        try:
            print(worker, flush=True)
            time.sleep(1000)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise SystemExit from None
"""


@pytest.fixture(params=["idle", "busy"])
def pool_driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """One in a process group of its own, with a process in a pool that has nothing to do, or a long job."""
    (tmp_path / "driver.py").write_text(POOL)
    command, pipe = [sys.executable, str(tmp_path / "driver.py"), request.param], subprocess.PIPE
    with subprocess.Popen(
        command,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        start_new_session=True,
    ) as driver:
        yield driver
        driver.kill()


def children_with_a_worker(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    children = psutil.Process(driver.pid).children(recursive=True)
    assert worker in {child.pid for child in children}
    return children


def test_a_pool_ends_with_a_killed_driver(pool_driver: subprocess.Popen[str]) -> None:
    children = children_with_a_worker(pool_driver)
    pool_driver.kill()
    wait_for(lambda: all(map(is_gone, children)))


def test_ctrl_c_ends_a_pool_at_once_and_without_its_tracebacks(pool_driver: subprocess.Popen[str]) -> None:
    children = children_with_a_worker(pool_driver)
    os.killpg(pool_driver.pid, signal.SIGINT)
    said, _ = pool_driver.communicate(timeout=20)
    assert said == "interrupted\n"
    wait_for(lambda: all(map(is_gone, children)))


def test_workers_do_not_hear_ctrl_c() -> None:
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with deaf_to_ctrl_c():
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert child.stdout == "True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])

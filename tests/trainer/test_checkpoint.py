from __future__ import annotations

import errno
import os
import pickle
import re
import resource
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.declaration import ConfigError
from trainer.files import HOST, write_atomically
from trainer.records import EpochRecord

TRIAL, OTHER = "0123456789abcdef", "fedcba9876543210"
RECORDS = tuple(EpochRecord(epoch, 1_700_000_000_000 + epoch, {"val/nll": 1 / epoch, "lr": 0.1}) for epoch in (1, 2))


def checkpoint(**changes: Any) -> Checkpoint:
    state = {"model": {"weight": torch.arange(3) / 7}, "milestones": Counter({2: 1}), "rng": torch.get_rng_state()}
    return Checkpoint(**({"trial_id": TRIAL, "records": RECORDS, "state": state} | changes))


def saved(path: Path) -> bytes:
    checkpoint().save(path)
    return path.read_bytes()


@pytest.mark.parametrize("diverged", [None, "train/criterion is nan in epoch 3"])
def test_what_is_loaded_is_what_was_saved(path: Path, diverged: str | None) -> None:
    original = checkpoint(diverged=diverged)
    original.save(path)
    loaded = load_checkpoint(path, TRIAL)
    assert loaded is not None
    assert (loaded.trial_id, loaded.records, loaded.diverged) == (TRIAL, RECORDS, diverged)
    assert torch.equal(loaded.state["model"]["weight"], original.state["model"]["weight"])
    assert torch.equal(loaded.state["rng"], original.state["rng"])
    assert loaded.state["milestones"] == Counter({2: 1})


def test_a_file_that_is_not_there_is_no_checkpoint(path: Path) -> None:
    assert load_checkpoint(path, TRIAL) is None
    assert not path.parent.exists()


def test_another_trials_checkpoint_is_refused_and_kept(path: Path) -> None:
    before = saved(path)
    with pytest.raises(ConfigError, match=f"{path.name}: holds trial {TRIAL}, not {OTHER}"):
        load_checkpoint(path, OTHER)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0.0, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_no_checkpoint(path: Path, kept: float) -> None:
    whole = saved(path)
    path.write_bytes(whole[: int(kept * len(whole))])
    assert load_checkpoint(path, TRIAL) is None


@pytest.mark.parametrize("place", [0.2, 0.4, 0.6, 0.8])
def test_a_file_with_a_hole_is_no_checkpoint(path: Path, place: float) -> None:
    """As a disk leaves it that lost one of its blocks: of the right length, and torch would take it."""
    weight = torch.rand(10_000) + 1
    checkpoint(state={"model": {"weight": weight}}).save(path)
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 512] = bytes(512)
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["state"]["model"]["weight"], weight)
    assert load_checkpoint(path, TRIAL) is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage",
        b"hello world\n" * 50,
        b"<html>504 Gateway Time-out</html>",
        b"\0" * 5000,
        b"\x1f\x8b\x08\x00",
        b"a",  # an opcode that pops from an empty stack
        b"h\x05",  # one that fetches what was never stored
        b"X\x01\x00\x00\x00\xff.",  # text that is not UTF-8
        b"J\x01",  # a number cut short
        pickle.dumps({"trial_id": TRIAL}, protocol=2),
    ],
)
def test_garbage_is_no_checkpoint(path: Path, garbage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(garbage)
    assert load_checkpoint(path, TRIAL) is None


@settings(
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.binary(max_size=30))
def test_no_bytes_crash_the_loader(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "trial.pt"
    file.write_bytes(content)
    assert load_checkpoint(file, TRIAL) is None


@pytest.mark.parametrize(
    "contents",
    [
        None,
        [1, 2],
        torch.ones(3),
        {"trial_id": TRIAL},
        {"trial_id": TRIAL, "records": 3, "state": {}, "diverged": None},
        {"trial_id": TRIAL, "records": [{"epoch": 1}], "state": {}, "diverged": None},
    ],
    ids=repr,
)
def test_a_file_of_something_else_is_no_checkpoint(path: Path, contents: object) -> None:
    path.parent.mkdir()
    torch.save(contents, path)
    assert load_checkpoint(path, TRIAL) is None


def test_a_fault_of_the_machine_is_no_missing_checkpoint(path: Path) -> None:
    """The file is whole and holds delivered records: starting anew would overwrite them with other timestamps."""
    before = saved(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # too many open files
    try:
        with pytest.raises(OSError, match="open files"):
            load_checkpoint(path, TRIAL)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert path.read_bytes() == before


def test_a_folder_is_no_missing_checkpoint(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        load_checkpoint(path, TRIAL)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_nothing_in_a_file_is_executed(path: Path, tmp_path: Path) -> None:
    checkpoint(state={"model": Bomb(tmp_path / "executed")}).save(path)
    assert load_checkpoint(path, TRIAL) is None
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists(), "the bomb of this test does not work"


# ---- Atomic writes


def put(content: bytes) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        file.write(content)

    return write


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bad"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("existing", [b"old", None])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, existing: bytes | None, error: BaseException
) -> None:
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)

    def write(file: IO[bytes]) -> None:
        file.write(b"half of the new")
        file.flush()
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert names(tmp_path) == ([] if existing is None else ["file"])
    assert existing is None or path.read_bytes() == existing


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from trainer.files import write_atomically
def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), write)
"""


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False, timeout=60)
    (left,) = names(tmp_path)
    assert re.fullmatch(r"\.file\.pt\..*", left)
    write_atomically(path.with_name("file"), put(b"another"))
    assert left in names(tmp_path)
    write_atomically(path, put(b"new"))
    assert names(tmp_path) == ["file", "file.pt"]


@pytest.mark.parametrize(
    ("host", "pid", "hours", "stays"),
    [
        (HOST, os.getpid(), 0, True),
        (HOST, os.getppid(), 23, True),
        (HOST, os.getpid(), 25, False),
        (HOST, 10**30, 0, False),
        ("another-machine", 10**30, 23, True),
        ("another-machine", os.getpid(), 25, False),
    ],
    ids=["lives", "parent lives", "lives too long", "dead", "elsewhere", "elsewhere too long"],
)
def test_what_a_live_writer_writes_stays(tmp_path: Path, host: str, pid: int, hours: float, stays: bool) -> None:
    beside = tmp_path / f".file.{host}.{pid}.0123abcd"
    beside.touch()
    os.utime(beside, (time.time() - 3600 * hours,) * 2)
    write_atomically(tmp_path / "file", put(b"new"))
    assert beside.exists() == stays


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failure_at_the_end_of_a_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, put(b"new"))
    assert names(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_the_new_content_appears_at_once_and_after_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a" / "b" / "file", []
    write_atomically(path, put(b"old"))
    fsync = os.fsync

    def spy(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        synced.append(("folder" if is_folder else os.fstat(handle).st_size, path.read_bytes()))
        fsync(handle)

    def write(file: IO[bytes]) -> None:
        file.write(b"longer")
        assert path.read_bytes() == b"old"

    monkeypatch.setattr(os, "fsync", spy)
    write_atomically(path, write)
    assert synced == [(len(b"longer"), b"old"), ("folder", b"longer")]
    assert path.read_bytes() == b"longer"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("kilobytes", [0, 1, 4, 12, 39])
def test_a_file_that_finds_no_room_is_named_and_the_old_one_stays(path: Path, kilobytes: int) -> None:
    """Wherever in the file it happens. The kernel's own refusal: torch turns it into words about its archive."""
    before = saved(path)
    larger = checkpoint(state={"model": {"weight": torch.zeros(10_000)}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            larger.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]
    larger.save(path)
    assert load_checkpoint(path, TRIAL) is not None


def test_a_failed_save_leaves_the_old_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved(path)

    def fail(_: object, file: IO[bytes]) -> None:
        file.write(b"PK\x03\x04")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint(records=RECORDS[:1]).save(path)
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]

"""The files of stored parts: one copy of the data per machine, which nobody can change."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.config import Digits
from trainer.data.cache import read_part, write_part
from trainer.data.load import _load_part, load_part
from trainer.data.shipped import SHIPPED
from trainer.data.splits import Examples, digest
from trainer.declaration import ConfigError


@pytest.fixture
def examples() -> Examples:
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2000, 3, 32, 32), dtype=torch.uint8, generator=numbers)
    return Examples(images, torch.arange(2000) % 10)


@pytest.fixture
def file(tmp_path: Path, examples: Examples) -> Path:
    write_part(tmp_path / "part.pt", examples)
    return tmp_path / "part.pt"


def test_what_is_written_is_read(file: Path, examples: Examples) -> None:
    stored = read_part(file, "")
    assert torch.equal(stored.examples.images, examples.images)
    assert torch.equal(stored.examples.labels, examples.labels)
    assert stored.digest == digest(examples)
    assert file.stat().st_size < examples.images.numel() + 8 * 2000 + 10_000


def test_a_write_reaches_neither_the_file_nor_another_reader(file: Path, examples: Examples) -> None:
    before, other = file.read_bytes(), read_part(file, "").examples
    changed = read_part(file, "").examples
    changed.images.zero_()
    changed.labels.fill_(7)
    assert changed.images.sum() == 0
    assert digest(other) == digest(examples)
    assert file.read_bytes() == before
    assert digest(read_part(file, "").examples) == digest(examples)


READER = """
import sys
from pathlib import Path
from trainer.data.cache import read_part
from trainer.data.splits import digest
examples = read_part(Path(sys.argv[1]), "").examples
print(digest(examples), flush=True)
sys.stdin.read()
"""


@contextmanager
def reader(file: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has read all of ``file`` and goes on having it; it ends when its input is closed."""
    command = [sys.executable, "-c", READER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def kilobytes(pid: int, file: Path) -> dict[str, int]:
    """Of the mappings of ``file`` in the process: in memory (Rss), its share of that (Pss), and so on; summed."""
    found: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(file))
        elif inside and line.endswith(" kB"):
            name, value, _ = line.split()
            found[name.rstrip(":")] = found.get(name.rstrip(":"), 0) + int(value)
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says which pages are shared")
def test_processes_share_the_pages(file: Path, examples: Examples) -> None:
    size = file.stat().st_size // 1024
    with reader(file) as first, reader(file) as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline().strip() == digest(examples)
        for process in (first, second):
            found = kilobytes(process.pid, file)
            assert found["Rss"] > 0.95 * size
            assert found["Pss"] < 0.6 * size
            assert found["Private_Dirty"] == 0


def test_a_file_of_the_version_before_loads_as_it_is(tmp_path: Path) -> None:
    """It holds the tensors and nothing else."""
    for part, examples in zip(("train", "test"), SHIPPED[Digits](), strict=True):
        torch.save(examples._asdict(), tmp_path / f"digits-{part}-{Digits().digest}.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    _load_part.cache_clear()
    assert [len(load_part(Digits(), part, tmp_path)) for part in ("train", "test")] == [600, 1197]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    _load_part.cache_clear()


GOOD: dict[str, Any] = {"images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "labels": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    "contents",
    [
        GOOD | {"images": torch.zeros(2, 1, 2, 2)},
        GOOD | {"images": torch.zeros(2, 4, dtype=torch.uint8)},
        GOOD | {"images": "none"},
        GOOD | {"labels": torch.tensor([0, 1, 1])},
        GOOD | {"labels": torch.tensor([0.0, 1.0])},
        {"images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
        {"labels": torch.tensor([0, 1])},
        torch.zeros(3),
        [1, 2],
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, contents: Any) -> None:
    torch.save(contents, tmp_path / "part.pt")
    with pytest.raises(ConfigError) as caught:
        read_part(tmp_path / "part.pt", "delete it")
    assert str(caught.value) == f"{tmp_path / 'part.pt'} is damaged: delete it"


def test_a_file_that_may_not_be_read_is_not_called_damaged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(ConfigError, match=r"part\.pt cannot be read: Permission denied"):
        read_part(file, "delete it")

"""Data on a node's own disk: copied once, verified, made anew when damaged, and never what a trial fails of."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trainer.data.load
from tests.trainer.trials import search_trial, tiny
from trainer.config import Holdout, ImageFolder, TwoSpirals
from trainer.data import near
from trainer.data.cache import write_part
from trainer.data.fetch import fetch
from trainer.data.load import load, load_part
from trainer.data.near import LOCK, nearest
from trainer.data.parts import part_files
from trainer.data.shipped import digits
from trainer.data.splits import digest
from trainer.machine import CACHE_VARIABLE, Machine

TRIAL = tiny()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder that all nodes see, with the digits in it."""
    fetch(TRIAL.dataset, tmp_path / "shared")
    return tmp_path / "shared"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    """As in a process that has trained nothing yet."""
    trainer.data.load._load_part.cache_clear()
    yield
    trainer.data.load._load_part.cache_clear()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != LOCK}


def test_a_node_that_names_none_reads_the_shared_folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert nearest(TRIAL, shared) == (shared, None)


def test_the_first_trial_copies_and_the_next_need_the_shared_folder_no_more(shared: Path, cache: Path) -> None:
    assert nearest(TRIAL, shared) == (cache, None)
    assert contents(cache) == contents(shared)
    for file in shared.iterdir():
        file.unlink()
    trainer.data.load._load_part.cache_clear()
    assert nearest(TRIAL, shared) == (cache, None)


def test_a_search_trial_copies_no_test_images(shared: Path, cache: Path) -> None:
    nearest(search_trial(), shared)
    files = part_files(TRIAL.dataset, shared)
    assert list(contents(cache)) == [files["train"].name]


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_copy_is_made_anew(shared: Path, cache: Path, damage: bytes | None) -> None:
    """None: whole as a file, but of other images."""
    nearest(TRIAL, shared)
    file = part_files(TRIAL.dataset, cache)["train"]
    if damage is None:
        write_part(file, digits()[1])
    else:
        file.write_bytes(damage)
    trainer.data.load._load_part.cache_clear()
    assert nearest(TRIAL, shared) == (cache, None)
    assert contents(cache) == contents(shared)


def test_a_damaged_original_is_named_and_not_its_copy(shared: Path, cache: Path) -> None:
    file = part_files(TRIAL.dataset, shared)["train"]
    file.write_bytes(b"junk")
    assert nearest(TRIAL, shared) == (shared, None), "loading from there names the file"
    assert not part_files(TRIAL.dataset, cache)["test"].exists()


def test_what_a_package_ships_needs_no_shared_copy(tmp_path: Path, cache: Path) -> None:
    assert nearest(TRIAL, tmp_path / "nothing") == (cache, None)
    train, _ = digits()
    assert digest(load_part(TRIAL.dataset, "train", cache).stored) == digest(train)


def test_a_folder_of_images_is_one_file(tmp_path: Path, cache: Path, shared: Path) -> None:
    examples = digits()[0]
    dataset = ImageFolder(digest=digest(examples), classes=10, test=Holdout(fraction=0.2, seed=0))
    file = part_files(dataset, shared)["all"]
    write_part(file, examples)
    assert nearest(tiny(dataset=dataset), shared) == (cache, None)
    assert (cache / file.name).read_bytes() == file.read_bytes()


def test_points_are_made_and_nothing_is_copied(shared: Path, cache: Path) -> None:
    spirals = TwoSpirals(train_size=50)
    folder, note = nearest(tiny(dataset=spirals), shared)
    assert note is None
    assert folder == shared
    assert not cache.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_fails_no_trial(
    shared: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(near, "write_atomically", refuse)
    folder, note = nearest(TRIAL, shared)
    assert folder == shared
    assert note == f"{CACHE_VARIABLE} = {cache}: {os.strerror(number)}: data are read from {shared} instead"
    assert contents(cache) == {}


def others_may_write(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    cache.chmod(0o777)


def a_link(cache: Path) -> None:
    (cache.parent / "elsewhere").mkdir()
    cache.symlink_to(cache.parent / "elsewhere")


def somebody_elses(cache: Path) -> None:
    cache.mkdir()
    try:
        os.chown(cache, 65534, 65534)
    except PermissionError:
        pytest.skip("only root can give a folder away")


@pytest.mark.parametrize("prepare", [others_may_write, a_link, somebody_elses])
def test_a_folder_that_is_not_ours_alone_is_not_used(
    shared: Path, cache: Path, prepare: Callable[[Path], None]
) -> None:
    """Whoever can write to it could lay a link to a file of ours in the place of the lock, or keep that for ever."""
    prepare(cache)
    folder, note = nearest(TRIAL, shared)
    assert folder == shared
    assert str(cache) in str(note)
    assert "is not a folder of this user's alone: data are read from" in str(note)
    assert list(cache.iterdir()) == []


def test_a_lock_that_is_a_link_is_not_followed(shared: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    cache.mkdir(mode=0o700)
    (cache / LOCK).symlink_to(tmp_path / "victim")
    assert nearest(TRIAL, shared)[0] == shared
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_path_that_is_not_absolute_is_not_used(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "cache")
    folder, note = nearest(TRIAL, shared)
    assert folder == shared
    assert "cache: must be an absolute path" in str(note)


ONE_OF_MANY = """
import sys, time
from pathlib import Path
from tests.trainer.trials import tiny
from trainer.data import near

write, shared = near.write_atomically, Path(sys.argv[1])

def slowly(path, fill):
    with open(sys.argv[2], "a") as log:
        log.write(path.name + "\\n")
    time.sleep(0.5)
    write(path, fill)

near.write_atomically = slowly
print(*near.nearest(tiny(), shared))
"""


def test_processes_of_one_node_copy_it_once(shared: Path, cache: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ONE_OF_MANY, str(shared), str(tmp_path / "log")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0].split() for process in started] == [[str(cache), "None"]] * 3
    copied = (tmp_path / "log").read_text().splitlines()
    assert sorted(copied) == sorted(contents(shared))


def test_numbers_are_those_of_the_shared_folder(shared: Path, cache: Path) -> None:
    folder, _ = nearest(TRIAL, shared)
    near_by, far = (load(TRIAL, Machine(data_dir=place)) for place in (folder, shared))
    assert folder == cache
    assert digest(near_by.train.stored) == digest(far.train.stored)
    assert near_by.test is not None
    assert far.test is not None
    assert digest(near_by.test.stored) == digest(far.test.stored)

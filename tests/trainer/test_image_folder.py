"""A user's own images: read from folders, known by their digest, refused in one line."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import trainer.data.image_folder
import trainer.data.load
from tests.trainer.trials import tiny
from trainer.config import Holdout, ImageFolder, TrialConfig
from trainer.data.description import Description, description
from trainer.data.fetch import fetch
from trainer.data.image_folder import Folder, available_memory, read_folder
from trainer.data.load import load
from trainer.data.splits import Subset, digest, hold_out
from trainer.declaration import ConfigError
from trainer.machine import Machine

CLASSES = ("cat", "dog", "emu")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    trainer.data.load._load_part.cache_clear()
    yield
    trainer.data.load._load_part.cache_clear()


def pixels(seed: int, height: int = 6, width: int = 5) -> np.ndarray[Any, Any]:
    return np.random.RandomState(seed).randint(256, size=(height, width, 3), dtype="uint8")


def save(path: Path, seed: int, height: int = 6, width: int = 5, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, height, width)).save(path, **options)


def fill(folder: Path, each: int, first: int = 0, backwards: bool = False) -> Path:
    """Image number ``n`` of class ``label`` has the pixels of seed first + 100 · label + n."""
    order = [(label, number) for label in range(len(CLASSES)) for number in range(each)]
    for label, number in reversed(order) if backwards else order:
        save(folder / CLASSES[label] / f"{number:02}.png", first + 100 * label + number)
    return folder


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A folder with 4 training and 2 test images a class."""
    fill(tmp_path / "mine" / "train", 4)
    return fill(tmp_path / "mine" / "test", 2, first=50).parent


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return fill(tmp_path / "mine", 10)


def trial(declared: ImageFolder, **changes: Any) -> TrialConfig:
    base = tiny(dataset=declared, validation=None, evaluate="test")
    return dataclasses.replace(base, **changes)


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read(folder: Path, size: int | None = None, channels: int = 3) -> Folder:
    return read_folder(folder, size, channels)


# ---- What is read


def test_images_are_in_the_order_of_names_with_their_classes(split: Path) -> None:
    found = read(split)
    assert found.classes == list(CLASSES)
    for part, each, first in (("train", 4, 0), ("test", 2, 50)):
        images, labels = found.parts[part]  # type: ignore[index]
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert labels.tolist() == [label for label in range(3) for _ in range(each)]
        expected = [pixels(first + 100 * label + number) for label in range(3) for number in range(each)]
        np.testing.assert_array_equal(images.numpy(), np.stack(expected).transpose(0, 3, 1, 2))


def test_the_order_of_creation_and_hidden_files_are_nothing(tmp_path: Path, single: Path) -> None:
    other = fill(tmp_path / "other", 10, backwards=True)
    (other / ".DS_Store").write_text("x")
    (other / ".git").mkdir()
    (other / "cat" / "._00.png").write_text("x")
    assert read(other).declaration == read(single).declaration


def test_every_pixel_and_every_label_is_in_the_digest(single: Path) -> None:
    before = read(single).declaration.digest
    (single / "dog" / "00.png").rename(single / "cat" / "99.png")
    moved = read(single).declaration.digest
    changed = pixels(3)
    changed[5, 4, 2] ^= 1
    Image.fromarray(changed).save(single / "cat" / "03.png")
    assert len({before, moved, read(single).declaration.digest}) == 3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_other_kinds_become_colour(tmp_path: Path, mode: str) -> None:
    folder = fill(tmp_path / "mine", 2)
    stored = Image.fromarray(pixels(0)).convert(mode)
    path = folder / "cat" / f"00.{'tiff' if mode == 'CMYK' else 'png'}"
    (folder / "cat" / "00.png").unlink()
    stored.save(path)
    expected = np.asarray(stored.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(folder).parts["all"].images[0].numpy(), expected)


def test_grey_on_request(single: Path) -> None:
    images = read(single, channels=1).parts["all"].images
    assert images.shape == (30, 1, 6, 5)
    np.testing.assert_array_equal(images[0, 0].numpy(), np.asarray(Image.fromarray(pixels(0)).convert("L")))


def test_size_resizes_the_shorter_side_and_keeps_the_middle(tmp_path: Path) -> None:
    """A wide image with a ramp from left to right and a tall one from top to bottom: the ends of the ramp are cut."""
    ramp = np.linspace(0, 240, 24).astype("uint8")
    wide = np.repeat(np.tile(ramp, (12, 1))[:, :, None], 3, axis=2)
    for name, image in (("wide", wide), ("tall", wide.transpose(1, 0, 2))):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(image).save(tmp_path / "mine" / name / f"{number}.png")
    tall, cut = read(tmp_path / "mine", size=6).parts["all"].images[::2]
    assert cut.shape == (3, 6, 6)
    assert torch.equal(tall, cut.transpose(1, 2))
    assert cut[0, 3].tolist() == pytest.approx([67.5, 88.5, 109, 130, 151, 172], abs=3)
    assert cut.float().std(1).max() == 0


def test_size_is_antialiased(tmp_path: Path) -> None:
    """Stripes that are too fine for the small image become grey, not stripes of another width."""
    stripes = np.zeros((64, 64, 3), dtype="uint8")
    stripes[:, ::2] = 200
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(stripes).save(tmp_path / name / f"{number}.png")
    inner = read(tmp_path, size=8).parts["all"].images[:, :, :, 2:-2].float()
    assert inner.mean().item() == pytest.approx(100, abs=2)
    assert inner.std().item() < 3


def test_size_makes_images_of_many_sizes_one(tmp_path: Path) -> None:
    for place, (height, width) in enumerate([(9, 7), (5, 30), (4, 4), (3, 2)]):
        save(tmp_path / "ab"[place % 2] / f"{place}.png", place, height, width)
    assert read(tmp_path, size=4).parts["all"].images.shape == (4, 3, 4, 4)


# ---- From the folder to a trial


def test_a_split_folder_is_declared_stored_and_loaded(split: Path, fresh: Machine) -> None:
    found = read(split)
    declared = found.declaration
    train, test = found.parts["train"], found.parts["test"]
    assert declared == ImageFolder(digest=f"{digest(train)}:{digest(test)}", classes=3)
    stored = found.store(fresh.data_dir)
    assert [path.name for path in stored] == [f"imagefolder-{p}-{digest(found.parts[p])}.pt" for p in found.parts]
    data = load(trial(declared), fresh)
    assert (data.classes, data.scale.levels) == (3, 255)
    for subset, examples in ((data.train, train), (data.test, test)):
        assert_whole(subset, examples.images, examples.labels)


def assert_whole(subset: Subset | None, images: torch.Tensor, labels: torch.Tensor) -> None:
    assert subset is not None
    taken = subset.stored.take(subset.index)
    assert torch.equal(taken.images, images)
    assert torch.equal(taken.labels, labels)


def test_a_search_trial_opens_no_test_file(split: Path, fresh: Machine) -> None:
    found = read(split)
    found.store(fresh.data_dir)[1].write_bytes(b"not to be opened")
    searched = trial(found.declaration, validation=Holdout(fraction=0.25), evaluate="val")
    assert len(load(searched, fresh).train) == 9


def test_a_single_folder_is_split_as_declared(single: Path, fresh: Machine) -> None:
    found = read(single)
    declared = found.declaration
    assert declared == ImageFolder(digest=digest(found.parts["all"]), classes=3, test=Holdout(fraction=0.2, seed=0))
    found.store(fresh.data_dir)
    data = load(trial(declared, validation=Holdout(fraction=0.25), evaluate="val+test"), fresh)
    assert data.val is not None
    assert data.test is not None
    parts = (data.train, data.val, data.test)
    assert [len(part) for part in parts] == [18, 6, 6]
    assert sorted(place for part in parts for place in part.index.tolist()) == list(range(30))
    assert all(part.labels.bincount().tolist() == [len(part) // 3] * 3 for part in parts)
    assert data.train.stored is data.test.stored, "one copy"
    _, held_out = hold_out(found.parts["all"].labels, Holdout(fraction=0.2, seed=0))
    assert torch.equal(data.test.index, held_out)
    assert len(load(trial(declared, validation=Holdout(fraction=0.25), evaluate="val"), fresh).train) == 18


def test_another_share_or_seed_is_another_test_set(single: Path, fresh: Machine) -> None:
    found = read(single)
    found.store(fresh.data_dir)

    def test_set(**changes: Any) -> list[int]:
        declared = dataclasses.replace(found.declaration, test=Holdout(**{"fraction": 0.2, "seed": 0} | changes))
        subset = load(trial(declared), fresh).test
        assert subset is not None
        return subset.index.tolist()

    assert len(test_set(fraction=0.5)) == 15
    assert test_set(seed=1) != test_set()
    assert test_set() == test_set()


def test_a_class_must_be_left_to_train_on(split: Path, fresh: Machine) -> None:
    save(split / "train" / "fox" / "0.png", 1)
    save(split / "test" / "fox" / "0.png", 2)
    found = read(split)
    found.store(fresh.data_dir)
    assert len(load(trial(found.declaration), fresh).train) == 13
    # Of 13 images 10 are held out: three of each class of four, and the one that is left over
    searched = trial(found.declaration, validation=Holdout(fraction=10 / 13), evaluate="val")
    message = refusal(lambda: load(searched, fresh))
    assert message.startswith("ImageFolder: class 3 has no image among the 3 that are trained on: hold out less")


def test_a_declared_test_set_must_leave_every_class(tmp_path: Path, fresh: Machine) -> None:
    found = read(fill(tmp_path / "mine", 2))
    found.store(fresh.data_dir)
    assert load(trial(found.declaration), fresh).train.labels.bincount().tolist() == [1, 2, 2]
    declared = dataclasses.replace(found.declaration, test=Holdout(fraction=0.7))
    assert "class 0 has no image among the 2" in refusal(lambda: load(trial(declared), fresh))


def test_storing_again_changes_nothing_and_mends_what_is_damaged(split: Path, fresh: Machine) -> None:
    paths = read(split).store(fresh.data_dir)
    before = [(path.stat().st_mtime_ns, path.stat().st_ino) for path in paths]
    assert read(split).store(fresh.data_dir) == paths
    assert [(path.stat().st_mtime_ns, path.stat().st_ino) for path in paths] == before
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:-100])
    read(split).store(fresh.data_dir)
    assert paths[0].read_bytes() == content


def test_what_is_not_on_this_machine_is_asked_for(split: Path, fresh: Machine) -> None:
    declared = read(split).declaration
    for act in (lambda: load(trial(declared), fresh), lambda: fetch(declared, fresh.data_dir)):
        message = refusal(act)
        assert f"imagefolder-train-{declared.digest[:16]}.pt is not in {fresh.data_dir}" in message
        assert "run `make digest FOLDER=PATH` here" in message


def test_other_content_under_the_name_is_refused(split: Path, fresh: Machine) -> None:
    paths = read(split).store(fresh.data_dir)
    declared = read(split).declaration
    paths[0].write_bytes(paths[1].read_bytes())
    for act in (lambda: load(trial(declared), fresh), lambda: fetch(declared, fresh.data_dir)):
        message = refusal(act)
        assert f"the train part is {declared.digest[17:]}, declared is {declared.digest[:16]}" in message
        assert f"delete {paths[0]} and run `make digest FOLDER=PATH` again" in message


def test_the_declared_number_of_classes_is_verified(split: Path, fresh: Machine) -> None:
    found = read(split)
    found.store(fresh.data_dir)
    for wrong in (2, 4):
        declared = dataclasses.replace(found.declaration, classes=wrong)
        message = refusal(lambda declared=declared: load(trial(declared), fresh))  # type: ignore[misc]
        assert message == f"ImageFolder.classes = {wrong}: must be 3, as these images have"


# ---- What is refused


def deep(folder: Path) -> None:
    Image.fromarray(np.full((6, 5), 40_000, dtype="uint16")).save(folder / "cat" / "00.png")


def truncated(folder: Path) -> None:
    save(folder / "cat" / "00.png", 0, 60, 50)
    for path in folder.glob("*/*.png"):
        save(path, 0, 60, 50)
    path = folder / "cat" / "00.png"
    path.write_bytes(path.read_bytes()[:3000])


def nested(folder: Path) -> None:
    save(folder / "dog" / "young" / "0.png", 0)


def stray(folder: Path) -> None:
    save(folder / "stray.png", 0)


def no_image(folder: Path) -> None:
    (folder / "dog" / "notes.txt").write_text("good dogs")


def empty_class(folder: Path) -> None:
    (folder / "fox").mkdir()
    (folder / "fox" / ".keep").touch()


def one_class(folder: Path) -> None:
    for name in ("cat", "dog"):
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()


def another_size(folder: Path) -> None:
    save(folder / "dog" / "03.png", 0, height=3, width=9)


def first_of_another_size(folder: Path) -> None:
    save(folder / "cat" / "00.png", 0, height=4, width=9)


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "cat" / "pipe.png")


def link_to_nothing(folder: Path) -> None:
    (folder / "cat" / "link.png").symlink_to(folder / "none.png")


def single_image(folder: Path) -> None:
    save(folder / "fox" / "00.png", 0)


def training_part_alone(folder: Path) -> None:
    within(folder, "train")


def only_the_test_part(folder: Path) -> None:
    within(folder, "test")


def capitals(folder: Path) -> None:
    for part in ("Test", "Train"):
        shutil.copytree(folder / "cat", folder / part / "cat")


def within(folder: Path, part: str) -> None:
    """Move all classes into a new folder ``part``."""
    classes = list(folder.iterdir())
    (folder / part).mkdir()
    for path in classes:
        path.rename(folder / part / path.name)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (deep, r"cat/00\.png: more than 8 bits a pixel"),
        (truncated, r"cat/00\.png: cannot be decoded \(.*truncated"),
        (nested, "dog/young: a folder within a class, 'dog'"),
        (stray, r"stray\.png: not in the folder of a class"),
        (no_image, r"dog/notes\.txt: not an image"),
        (empty_class, "fox: no image in it"),
        (one_class, "mine: folders of 1 classes: must be of 2 or more"),
        (
            another_size,
            r"sizes, 5 × 6 pixels \(.*cat/00\.png\) and 9 × 3 \(.*dog/03\.png\): --size 3 \(of make: SIZE=3\) gives",
        ),
        (
            first_of_another_size,
            r"sizes, 9 × 4 pixels \(.*cat/00\.png\) and 5 × 6 \(.*cat/01\.png\): --size 4 \(of make: SIZE=4\) gives",
        ),
        (pipe, r"cat/pipe\.png: not a file: move it away"),
        (link_to_nothing, r"cat/link\.png: not a file"),
        (single_image, "mine/fox: 1 image in it: a class needs at least 2, so that one is left to train on"),
        (training_part_alone, "mine/test: is missing beside train: make it, or put"),
        (only_the_test_part, "mine/train: is missing beside test"),
        (capitals, "mine/Test: train and test must be written in lower case"),
    ],
)
def test_what_cannot_be_a_data_set_is_refused_by_name(
    single: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    spoil(single)
    assert re.search(expected, refusal(lambda: read(single)))


def test_folders_that_are_not_there_or_empty(tmp_path: Path) -> None:
    assert refusal(lambda: read(tmp_path / "none")) == f"{tmp_path / 'none'}: no such folder"
    assert "folders of 0 classes" in refusal(lambda: read(tmp_path))
    (tmp_path / "mine.zip").touch()
    assert refusal(lambda: read(tmp_path / "mine.zip")) == f"{tmp_path / 'mine.zip'}: is a file: name the folder"


def test_a_class_may_be_called_train(single: Path) -> None:
    (single / "emu").rename(single / "train")
    assert read(single).classes == ["cat", "dog", "train"]


@pytest.mark.parametrize("act", [(Path, "iterdir"), (Image, "open")])
def test_what_may_not_be_read_is_not_called_damaged(
    single: Path, monkeypatch: pytest.MonkeyPatch, act: tuple[Any, str]
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(*act, refuse)
    assert re.match(rf"{single}\S*: no permission to read it: give yourself that", refusal(lambda: read(single)))


def test_large_images_are_read_without_a_warning(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert len(read(single).parts["all"].labels) == 30


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_both_parts_have_the_same_classes(split: Path, part: str, other: str) -> None:
    save(split / part / "fox" / "0.png", 0)
    assert f"class 'fox' is in {part} alone" in refusal(lambda: read(split))


def test_nothing_beside_train_and_test_is_passed_over(split: Path) -> None:
    (split / "val").mkdir()
    assert f"{split / 'val'}: beside train and test nothing is read" in refusal(lambda: read(split))


def test_too_many_images_for_the_memory_are_refused_before_any_is_decoded(
    split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 18 * 3 * 6 * 5
    assert read_folder(split, None, 3, memory=lambda: needed).classes == list(CLASSES)
    monkeypatch.setattr(trainer.data.image_folder, "_decode", lambda *_: pytest.fail("decoded"))
    message = refusal(lambda: read_folder(split, None, 3, memory=lambda: needed - 1))
    assert "18 images [3, 6, 5] take 0.0 GB of memory" in message
    assert "--size" in message
    with pytest.raises(pytest.fail.Exception):
        read_folder(split, None, 1, memory=lambda: needed // 3)


def test_available_memory_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page, total = 4096, 10**6
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": page, "SC_PHYS_PAGES": total}.get)
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(trainer.data.image_folder, "MEMINFO", meminfo)
    assert available_memory() == page * total
    meminfo.write_text("MemTotal:  900 kB\nMemFree:   100 kB\nMemAvailable:    512 kB\n")
    assert available_memory() == 512 * 1024
    meminfo.write_text("MemTotal:  900 kB\n")
    assert available_memory() == page * total


@pytest.mark.parametrize(("limit", "used", "free"), [("1000000", 400_000, 650_000), ("max", 400_000, 512 * 1024**2)])
def test_a_container_s_limit_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, used: int, free: int
) -> None:
    monkeypatch.setattr(trainer.data.image_folder, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(trainer.data.image_folder, "CONTROL_GROUP", tmp_path)
    (tmp_path / "meminfo").write_text(f"MemAvailable:    {512 * 1024} kB\n")
    assert available_memory() == 512 * 1024**2
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text("anon 350000\ninactive_file 50000\n")
    assert available_memory() == free


def test_how_they_were_read_stands_beside_them(split: Path, fresh: Machine) -> None:
    found = read(split)
    train, test = found.store(fresh.data_dir)
    channels = found.parts["train"].images.shape[1]
    counts = [len(part.labels) for part in found.parts.values()]
    assert [description(path) for path in (train, test)] == [Description(n, None, channels) for n in counts]
    before = train.with_suffix(".json").stat().st_mtime_ns
    found.store(fresh.data_dir)
    assert train.with_suffix(".json").stat().st_mtime_ns == before
    small = read_folder(split, size=4, channels=1)
    grey, _ = small.store(fresh.data_dir)
    assert description(grey) == Description(counts[0], 4, 1)
    for text in (
        "",
        "[]",
        '{"images": "many", "size": 4, "channels": 1}',
        '{"images": 3}',
        '{"images": 0, "size": 4, "channels": 1}',
    ):
        train.with_suffix(".json").write_text(text)
        assert description(train) is None
    train.with_suffix(".json").unlink()
    assert description(train) is None

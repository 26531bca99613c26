"""CIFAR-10, CIFAR-100 and SVHN, read from small files in the formats that they are published in."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import io
import pickle
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.io
import torch
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

import trainer.data.fetch
import trainer.data.load
from tests.trainer.trials import search_trial, tiny
from trainer.config import Cifar10, Cifar100, Svhn, TrialConfig
from trainer.data.downloads import archives
from trainer.data.fetch import fetch
from trainer.data.load import load, load_part
from trainer.data.parts import Downloaded
from trainer.declaration import ConfigError
from trainer.machine import Machine

NOWHERE = "http://127.0.0.1:9/"
SIZES = {"train": 10, "test": 3}


class Published(NamedTuple):
    """A small set as it is published. images: uint8 [n, channels, height, width]; labels: as the loader must give."""

    dataset: Downloaded
    files: dict[str, bytes]
    images: dict[str, np.ndarray[Any, Any]]
    labels: dict[str, list[int]]


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    trainer.data.load._load_part.cache_clear()
    yield
    trainer.data.load._load_part.cache_clear()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def pixels() -> dict[str, np.ndarray[Any, Any]]:
    numbers = np.random.RandomState(0)
    return {part: numbers.randint(256, size=(size, 3, 32, 32), dtype="uint8") for part, size in SIZES.items()}


def archive(folder: str, files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, inside in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(inside)
            tar.addfile(member, io.BytesIO(inside))
    return content.getvalue()


def cifar_file(images: np.ndarray[Any, Any], **labels: list[int]) -> bytes:
    """A row an image: 1,024 levels of red, row by row, then green, then blue."""
    rows = images.reshape(len(images), 3072)
    names = [f"image_{place}.png" for place in range(len(images))]
    return pickle.dumps({"data": rows, "filenames": names, "batch_label": "a batch", **labels}, protocol=2)


def tables(monkeypatch: pytest.MonkeyPatch, kind: type[CIFAR10], files: dict[str, bytes], whole: bytes) -> None:
    """Put the MD5s of the small files in place of the published ones."""
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(kind, table, [[name, md5(files[name])] for name, _ in getattr(kind, table)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files[kind.meta["filename"]])})
    monkeypatch.setattr(kind, "tgz_md5", md5(whole))
    monkeypatch.setattr(kind, "url", NOWHERE + kind.filename)


def cifar10(monkeypatch: pytest.MonkeyPatch) -> Published:
    images, labels = pixels(), {"train": [3, 1, 4, 1, 5, 9, 2, 6, 0, 8], "test": [7, 0, 2]}
    files = {
        f"data_batch_{number + 1}": cifar_file(
            images["train"][2 * number :][:2], labels=labels["train"][2 * number :][:2]
        )
        for number in range(5)
    }
    files["test_batch"] = cifar_file(images["test"], labels=labels["test"])
    files["batches.meta"] = pickle.dumps(
        {"label_names": [f"class {n}" for n in range(10)], "num_vis": 3072}, protocol=2
    )
    whole = archive("cifar-10-batches-py", files)
    tables(monkeypatch, CIFAR10, files, whole)
    return Published(Cifar10(digest=f"md5:{md5(whole)}"), {"cifar-10-python.tar.gz": whole}, images, labels)


def cifar100(monkeypatch: pytest.MonkeyPatch) -> Published:
    images, labels = pixels(), {"train": [99, 0, 17, 50, 17, 23, 42, 64, 80, 31], "test": [5, 99, 0]}
    files = {
        part: cifar_file(images[part], fine_labels=labels[part], coarse_labels=[1] * SIZES[part]) for part in SIZES
    }
    names = {"fine_label_names": [f"class {n}" for n in range(100)], "coarse_label_names": ["superclass"] * 20}
    files["meta"] = pickle.dumps(names, protocol=2)
    whole = archive("cifar-100-python", files)
    tables(monkeypatch, CIFAR100, files, whole)
    return Published(Cifar100(digest=f"md5:{md5(whole)}"), {"cifar-100-python.tar.gz": whole}, images, labels)


def svhn(monkeypatch: pytest.MonkeyPatch) -> Published:
    """MATLAB's file: X [row, column, channel, image], y [image, 1], where the digit 0 has the label 10."""
    images, labels = pixels(), {"train": [1, 0, 9, 5, 0, 2, 3, 4, 6, 7], "test": [0, 8, 1]}
    files, split_list = {}, dict(SVHN.split_list)
    for part in SIZES:
        content, name = io.BytesIO(), f"{part}_32x32.mat"
        y = np.array([[label or 10] for label in labels[part]], dtype="uint8")
        scipy.io.savemat(content, {"X": images[part].transpose(2, 3, 1, 0), "y": y})
        files[name] = content.getvalue()
        split_list[part] = [NOWHERE + name, name, md5(files[name])]
    monkeypatch.setattr(SVHN, "split_list", split_list)
    return Published(Svhn(digest="md5:" + ":".join(map(md5, files.values()))), files, images, labels)


@pytest.fixture(params=[cifar10, cifar100, svhn], ids=lambda make: make.__name__)
def published(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Published:
    made: Published = request.param(monkeypatch)
    return made


def by_hand(published: Published, data_dir: Path) -> None:
    data_dir.mkdir(exist_ok=True)
    for name, content in published.files.items():
        (data_dir / name).write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_stored(published: Published, data_dir: Path) -> None:
    """Pixel by pixel."""
    for part in ("train", "test"):
        found = load_part(published.dataset, part, data_dir)
        assert found.stored.images.dtype == torch.uint8
        np.testing.assert_array_equal(found.stored.images.numpy(), published.images[part])
        assert found.labels.tolist() == published.labels[part]
        assert found.index.tolist() == list(range(SIZES[part]))


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dataset", [Cifar10(), Cifar100(), Svhn()])
def test_declared_digests_are_those_that_torchvision_verifies(dataset: Downloaded) -> None:
    expected = {
        Cifar10: [CIFAR10.tgz_md5],
        Cifar100: [CIFAR100.tgz_md5],
        Svhn: [SVHN.split_list[part][2] for part in ("train", "test")],
    }[type(dataset)]
    assert dataset.digest == "md5:" + ":".join(expected)
    assert [archive.md5 for archive in archives(dataset)] == expected


def test_archives_put_there_by_hand_are_read(published: Published, data_dir: Path) -> None:
    by_hand(published, data_dir)
    assert fetch(published.dataset, data_dir)
    assert_stored(published, data_dir)
    kind = type(published.dataset).__name__.lower()
    parts = [f"{kind}-{part}-{published.dataset.digest}.pt" for part in SIZES]
    assert names(data_dir) == sorted([*published.files, *parts]), "what was unpacked is gone"


def test_what_is_there_is_not_read_again(published: Published, data_dir: Path) -> None:
    by_hand(published, data_dir)
    fetch(published.dataset, data_dir)
    for name in published.files:
        (data_dir / name).unlink()
    before = {path: path.stat().st_mtime_ns for path in data_dir.iterdir()}
    trainer.data.load._load_part.cache_clear()
    assert not fetch(published.dataset, data_dir)
    assert_stored(published, data_dir)
    assert {path: path.stat().st_mtime_ns for path in data_dir.iterdir()} == before


def test_a_trial_trains_on_what_was_fetched(published: Published, data_dir: Path) -> None:
    by_hand(published, data_dir)
    fetch(published.dataset, data_dir)
    data = load(tiny(dataset=published.dataset, validation=None, evaluate="test"), Machine(data_dir=data_dir))
    assert data.classes == (100 if isinstance(published.dataset, Cifar100) else 10)
    assert data.scale.levels == 255
    assert data.scale.mean.flatten().tolist() == pytest.approx(published.images["train"].mean((0, 2, 3)).tolist())


def test_a_trial_says_how_to_get_what_is_not_there(published: Published, data_dir: Path) -> None:
    by_hand(published, data_dir)  # archives alone are no data set yet: a trial neither downloads nor unpacks
    name = type(published.dataset).__name__
    message = refusal(lambda: load(search_trial_of(published), Machine(data_dir=data_dir)))
    assert message == f"{name}: not in {data_dir}: fetch it once with `make fetch STUDY=...`"
    assert names(data_dir) == sorted(published.files)


def search_trial_of(published: Published) -> TrialConfig:
    return dataclasses.replace(search_trial(), dataset=published.dataset)


def test_without_a_network_it_says_what_to_do_by_hand(published: Published, data_dir: Path) -> None:
    message = refusal(lambda: fetch(published.dataset, data_dir))
    for part in (type(published.dataset).__name__, "refused", str(data_dir)):
        assert part in message
    for file, content in published.files.items():
        assert f"{file} ({NOWHERE}{file}, MD5 {md5(content)})" in message
    assert "instead of" not in message
    assert names(data_dir) == []


def test_a_damaged_archive_is_not_read(published: Published, data_dir: Path) -> None:
    by_hand(published, data_dir)
    damaged = data_dir / list(published.files)[-1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    message = refusal(lambda: fetch(published.dataset, data_dir))
    assert f"put {damaged.name}" in message
    assert f"instead of the {damaged.name} there now" in message
    assert names(data_dir) == sorted(published.files)


def test_an_archive_that_is_not_what_is_inside_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cifar10(monkeypatch)
    by_hand(made, data_dir)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", "0" * 32]])
    assert "cifar-10-python.tar.gz" in refusal(lambda: fetch(made.dataset, data_dir))
    assert names(data_dir) == ["cifar-10-python.tar.gz"]


def test_another_digest_than_the_published_one_is_refused(data_dir: Path) -> None:
    message = refusal(lambda: fetch(Cifar10(digest="md5:0"), data_dir))
    assert message.startswith("Cifar10.digest = 'md5:0': must be 'md5:c58f30108f718f92721af3b95e74349a'")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_damaged_part_is_refused_by_trials_and_mended_by_fetching(
    published: Published, data_dir: Path, part: str
) -> None:
    by_hand(published, data_dir)
    fetch(published.dataset, data_dir)
    trainer.data.load._load_part.cache_clear()
    (path,) = data_dir.glob(f"*-{part}-md5*.pt")
    contents = torch.load(path, weights_only=True)
    contents["images"][1, 2, 3, 4] ^= 1
    torch.save(contents, path)
    message = refusal(lambda: load_part(published.dataset, part, data_dir))  # type: ignore[arg-type]
    assert f"the {part} part is" in message
    assert f"delete {path} and fetch it again with `make fetch STUDY=...`" in message
    assert fetch(published.dataset, data_dir)
    assert_stored(published, data_dir)


# ---- Downloading, from a server of this process


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; of a name in ``cut`` only half, though it announces the whole."""

    files: dict[str, bytes]
    cut: set[str]
    asked: list[str]

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        content = self.files[name]
        self.asked.append(name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.cut else content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(published: Published, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    class Handler(Server):
        files, cut, asked = published.files, set(), []

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=functools.partial(running.serve_forever, poll_interval=0.01))
    thread.start()
    here = f"http://127.0.0.1:{running.server_port}/"
    for kind in (CIFAR10, CIFAR100):
        monkeypatch.setattr(kind, "url", here + kind.filename)
    there = {part: [re.sub(".*/", here, url), *rest] for part, (url, *rest) in SVHN.split_list.items()}
    monkeypatch.setattr(SVHN, "split_list", there)
    yield Handler
    running.shutdown()
    thread.join()
    running.server_close()


def test_what_is_not_there_is_downloaded(published: Published, data_dir: Path, server: type[Server]) -> None:
    assert fetch(published.dataset, data_dir)
    assert_stored(published, data_dir)
    assert {*server.asked} == {*published.files}, "SVHN's extra images are never asked for"


def test_an_interrupted_download_is_not_taken_for_whole(
    published: Published, data_dir: Path, server: type[Server]
) -> None:
    last = list(published.files)[-1]
    server.cut.add(last)
    message = refusal(lambda: fetch(published.dataset, data_dir))
    assert f"put {last}" in message
    assert not list(data_dir.glob("*.pt"))
    server.cut.clear()
    server.asked.clear()
    assert fetch(published.dataset, data_dir)
    assert_stored(published, data_dir)
    assert {*server.asked} == {last}, "what had come whole is not asked for again"

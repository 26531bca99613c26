"""An archive is read with suspicion: whatever is wrong with it is said in one line, by no other error."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.transfer import archive as archive_module
from sweeps.transfer.archive import MANIFEST, Writer, open_archive, write_archive
from trainer.declaration import ConfigError

MEMBERS = {"trials.jsonl": b'{"trial": 1}\n', "checkpoints/0123.pt": bytes(range(256)) * 4, "empty": b""}
MANIFEST_KEYS = ("kind", "version", "members", "study")
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "whole.zip"

    def fill(writer: Writer) -> None:
        for name, content in MEMBERS.items():
            writer.add(name, content)

    write_archive(path, "study", {"study": "toy"}, fill)
    return path


def read(path: Path) -> dict[str, bytes]:
    with open_archive(path, "study") as archive:
        return {name: archive.read(name) for name in archive.names}


def read_or_refused(path: Path) -> None:
    """What is read is what was written, or a part that says that it is all; else a line says why it is not read."""
    refusal, found = "", dict[str, bytes]()
    try:
        found = read(path)
    except ConfigError as error:
        refusal = str(error)
    assert found.items() <= MEMBERS.items()
    assert not refusal or (refusal.startswith(f"{path}: ") and len(refusal.splitlines()) == 1)


def with_manifest(whole: Path, manifest: bytes, members: dict[str, bytes] = MEMBERS) -> Path:
    path = whole.with_name("forged.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(MANIFEST, manifest)
    return path


def manifest_of(whole: Path) -> dict[str, Any]:
    with zipfile.ZipFile(whole) as archive:
        found: dict[str, Any] = json.loads(archive.read(MANIFEST))
        return found


def test_it_comes_back(whole: Path) -> None:
    assert read(whole) == MEMBERS


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_other_bytes(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    index = st.integers(1, 500).map(lambda back: len(content) - back)  # the list of members is at the end
    for place in data.draw(st.lists(index | st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.none() | st.integers(0, len(content)))
    path = whole.with_name("changed.zip")
    path.write_bytes(content[:end])
    read_or_refused(path)


@pytest.mark.parametrize("version", [63, 123])
def test_a_zip_of_a_later_kind(whole: Path, version: int) -> None:
    """Of the field that says what is needed to unpack a member, in the list of members."""
    content = bytearray(whole.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = version
    path = whole.with_name("later.zip")
    path.write_bytes(content)
    if version > 63:
        with pytest.raises(ConfigError, match=r"later\.zip: cannot be read: zip file version 12\.3"):
            read(path)
    else:
        assert read(path) == MEMBERS


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(MANIFEST_KEYS), junk=JUNK)
def test_other_values_in_the_manifest(whole: Path, key: str, junk: Any) -> None:
    read_or_refused(with_manifest(whole, json.dumps(manifest_of(whole) | {key: junk}).encode()))


@settings(max_examples=100, deadline=None)
@given(junk=JUNK.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20) | st.just(b"[" * 100_000))
def test_another_manifest(whole: Path, junk: bytes) -> None:
    path = with_manifest(whole, junk)
    with pytest.raises(ConfigError, match="its manifest is damaged"):
        read(path)


def nested(members: dict[str, bytes]) -> None:
    members["empty/inside"] = b""


def through_a_backslash(members: dict[str, bytes]) -> None:
    members["..\\evil"] = b""


def nameless(members: dict[str, bytes]) -> None:
    members["."] = b""


@pytest.mark.parametrize(
    ("change", "message"),
    [(nested, "does not hold just what"), (through_a_backslash, "leads elsewhere"), (nameless, "leads elsewhere")],
)
def test_members_that_find_no_place(whole: Path, change: Callable[[dict[str, bytes]], None], message: str) -> None:
    members, manifest = dict(MEMBERS), manifest_of(whole)
    change(members)
    manifest["members"] = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    path = with_manifest(whole, json.dumps(manifest).encode(), members)
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_what_goes_wrong_with_its_content_is_not_put_down_to_it(whole: Path) -> None:
    """A disk that is full has nothing to do with the archive that is read."""
    with pytest.raises(OSError, match="No space left"), open_archive(whole, "study"):
        raise OSError(28, "No space left on device")


def test_a_file_that_cannot_be_put_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(ConfigError, match=r"a\.pt: cannot be written: File exists"):
        archive_module.put(tmp_path / "checkpoints/a.pt", lambda file: None)

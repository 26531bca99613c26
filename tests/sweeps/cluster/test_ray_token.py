"""Ray's token on plain machines: made once, for its owner alone, where Ray itself looks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.cli import main
from sweeps.cluster.ray_token import PATH_VARIABLE, TOKEN_VARIABLE, make_token
from trainer.declaration import ConfigError

ASK_RAY = """
import json, os, sys
from ray._raylet import AuthenticationTokenLoader

found = []
for settings in json.loads(sys.argv[1]):
    os.environ.update(settings)
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        found.append(loader.get_token_for_http_header()["authorization"])
    except Exception as error:
        found.append(str(error).partition(".")[0])
print(json.dumps(found))
"""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_token_is_made_for_its_owner_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token"]) == 0
    path = home / ".ray/auth_token"
    said, token = capsys.readouterr().out, path.read_text()
    assert len(token) == 64
    assert int(token, 16) > 0
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert os.listdir(path.parent) == ["auth_token"]
    assert str(path) in said
    assert "scp -p" in said
    assert token not in said


def test_a_lax_umask_opens_nothing(home: Path) -> None:
    before = os.umask(0)
    try:
        make_token()
    finally:
        os.umask(before)
    assert (mode(home / ".ray/auth_token"), mode(home / ".ray")) == (0o600, 0o700)


def test_one_that_is_there_stays(home: Path) -> None:
    make_token()
    path = home / ".ray/auth_token"
    token = path.read_text()
    assert "it was there" in make_token()[0]
    assert path.read_text() == token


def test_no_two_are_the_same(home: Path) -> None:
    make_token()
    first = (home / ".ray/auth_token").read_text()
    (home / ".ray/auth_token").unlink()
    make_token()
    assert (home / ".ray/auth_token").read_text() != first


def test_the_mode_of_one_that_ray_made_is_mended(home: Path) -> None:
    path = home / ".ray/auth_token"
    path.parent.mkdir(mode=0o755)
    path.write_text("f" * 64)
    path.chmod(0o644)
    said = make_token()[0]
    assert "0644" in said
    assert "make a new one" in said
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert path.read_text() == "f" * 64


def test_another_place_is_named_on_the_other_machines_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "secret folder/token"
    monkeypatch.setenv(PATH_VARIABLE, str(path))
    said = make_token()
    assert mode(path) == 0o600
    assert not (home / ".ray").exists()
    assert f"RAY_AUTH_TOKEN_PATH='{path}' make ray-head" in "\n".join(said)
    assert "'secret folder'" in "\n".join(said)


def test_a_folder_that_others_can_write_to_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv(PATH_VARIABLE, str(folder / "token"))
    with pytest.raises(ConfigError, match="others can write to it"):
        make_token()
    assert os.listdir(folder) == []
    assert mode(folder) == 0o777


@pytest.mark.parametrize("content", ["", "\n", " \nabc"])
def test_an_empty_one_is_refused(home: Path, content: str) -> None:
    path = home / ".ray/auth_token"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match="first line is empty"):
        make_token()
    assert path.read_text() == content


def test_a_link_is_not_followed(home: Path) -> None:
    (home / "elsewhere").write_text("f" * 64)
    (home / "elsewhere").chmod(0o644)
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").symlink_to(home / "elsewhere")
    with pytest.raises(ConfigError, match="no plain file"):
        make_token()
    assert mode(home / "elsewhere") == 0o644


def test_a_token_in_the_environment_would_come_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "hunter2")
    with pytest.raises(ConfigError, match="unset it") as raised:
        make_token()
    assert "hunter2" not in str(raised.value)
    assert not (home / ".ray").exists()


def test_a_folder_that_cannot_be_made_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".ray").write_text("a file")
    assert main(["token"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ray_reads_what_is_made_and_looks_where_we_look(home: Path) -> None:
    """The installed Ray is asked, for this is its doing: which place counts first, and what of a file is the token."""
    make_token()
    (home / "other").write_text("  other token \nnot read\n")
    (home / "empty").write_text("")
    default = (home / ".ray/auth_token").read_text()
    nothing = {TOKEN_VARIABLE: "", PATH_VARIABLE: ""}
    settings = [
        nothing,
        nothing | {PATH_VARIABLE: str(home / "other")},
        nothing | {PATH_VARIABLE: str(home / "other"), TOKEN_VARIABLE: "from the environment"},
        nothing | {PATH_VARIABLE: str(home / "empty")},
        nothing | {PATH_VARIABLE: str(home / "absent")},
    ]
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-W", "ignore", "-c", ASK_RAY, json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    *read, empty, absent = json.loads(done.stdout)
    assert read == [f"Bearer {default}", "Bearer other token", "Bearer from the environment"]
    assert empty.startswith("RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty")
    assert absent.startswith("RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty")

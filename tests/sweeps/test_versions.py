"""Versions that are known to be unsafe: refused before a socket is opened, in one line, without importing them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from sweeps import cli, versions
from sweeps.cli import main
from sweeps.versions import FLOORS, Floor, installed, refuse_unsafe, unsafe
from trainer.declaration import ConfigError

ROOT = Path(__file__).parents[2]
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "run": ("fig8-digits",),
    "search": ("tune-table1-small",),
    "final": ("tune-table1-small",),
    "submit": ("fig8-digits",),
    "server": (),
    "ui": (),
    "dashboard": (),
    "token": (),
}


@pytest.mark.parametrize(
    ("found", "is_safe"),
    [
        ("3.17.1", False),
        ("3.17.2rc1", False),
        ("3.9.0", False),
        ("3.17.2", True),
        ("3.17.10", True),
        ("4.0", True),
        ("not-a-version", False),
    ],
)
def test_what_is_below_its_floor_is_unsafe(found: str, is_safe: bool) -> None:
    said = list(unsafe({"mlflow": found}))
    assert (said == []) == is_safe
    assert all(f"mlflow {found}" in line and "3.17.2" in line and "CVE-2026-53995" in line for line in said)


def test_a_build_for_one_kind_of_gpu_is_of_its_version() -> None:
    assert list(unsafe({"torch": "2.10.0+cpu"})) == []
    assert len(list(unsafe({"torch": "2.9.1+cu130"}))) == 1


def test_what_is_not_installed_is_not_unsafe() -> None:
    assert installed(["no-such-package-here", "packaging"]).keys() == {"packaging"}
    assert list(unsafe({})) == []


def test_what_is_installed_here_is_safe() -> None:
    refuse_unsafe()
    assert installed(floor.package for floor in FLOORS).keys() == {"mlflow", "ray", "torch"}


def test_what_pyproject_allows_is_safe() -> None:
    """No installation that pip accepts is refused afterwards."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {Requirement(text).name: Requirement(text).specifier for text in project["dependencies"]}
    for floor in FLOORS:
        (least,) = [Version(part.version) for part in declared[floor.package] if part.operator == ">="]
        assert least >= Version(floor.version), floor.package


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_open_sockets_refuse_them(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(versions, "installed", lambda packages: dict.fromkeys(packages, "1.0"))
    assert main([command, *COMMANDS[command]]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: mlflow 1.0: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_those_are_all_that_are_refused() -> None:
    """So a command that comes to listen is put there, and here."""
    assert {command.__name__.strip("_") for command in cli.LISTENING} == set(COMMANDS)


def test_other_commands_work_with_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(versions, "installed", lambda packages: dict.fromkeys(packages, "1.0"))
    assert main(["list"]) == 0
    assert "fig8-digits" in capsys.readouterr().out


def test_several_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda packages: dict.fromkeys(packages, "1.0"))
    with pytest.raises(ConfigError, match=r"mlflow 1\.0: .*; ray 1\.0: .*; torch 1\.0: [^\n]*$"):
        refuse_unsafe()


def test_each_floor_names_its_source() -> None:
    assert all(isinstance(floor, Floor) and floor.source.startswith("CVE-") for floor in FLOORS)


def test_looking_imports_none_of_them() -> None:
    code = "import sys; from sweeps.versions import refuse_unsafe; refuse_unsafe(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"mlflow", "ray", "torch"} & set(done.stdout.split())

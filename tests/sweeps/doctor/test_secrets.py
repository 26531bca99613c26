"""The doctor on what must be kept from others: modes of files and folders, passwords in addresses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from sweeps.cluster.ray_token import PATH_VARIABLE, TOKEN_VARIABLE, make_token
from sweeps.doctor import secrets
from sweeps.doctor.finding import Finding
from sweeps.doctor.secrets import (
    check_addresses,
    check_files,
    check_token,
    is_loopback,
    of_mode,
    of_ray_folder,
    of_results,
    of_tracking,
    ray_folders,
)
from sweeps.servers.server import vault_of
from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE, Results


def failures(findings: Iterable[Finding]) -> list[str]:
    found = list(findings)
    assert found
    return [finding.said for finding in found if finding.verdict == "FAILED"]


def test_a_token_that_we_made_is_well(home: Path) -> None:
    make_token()
    assert failures(check_token()) == []


def test_one_that_ray_made_fails(home: Path) -> None:
    make_token()
    (home / ".ray/auth_token").chmod(0o644)
    (said,) = failures(check_token())
    assert "mode 0644" in said
    assert "chmod 600" in said


def test_a_folder_in_which_others_can_replace_it_fails(home: Path) -> None:
    make_token()
    (home / ".ray").chmod(0o770)
    (said,) = failures(check_token())
    assert "others can write to it (mode 0770)" in said


def test_no_token_is_well_unless_one_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures(check_token()) == []
    monkeypatch.setenv(PATH_VARIABLE, str(home / "absent"))
    (said,) = failures(check_token())
    assert "no such file" in said


def test_one_in_the_environment_is_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "hunter2")
    findings = list(check_token())
    assert failures(findings) == []
    assert "hunter2" not in str(findings)


@pytest.mark.parametrize(("mode", "verdict"), [(None, "ok"), ("token", "ok"), ("TOKEN", "ok"), ("disabled", "FAILED")])
def test_a_ray_without_token_fails(mode: str | None, verdict: str) -> None:
    assert of_mode(mode).verdict == verdict


def test_secrets_of_server_and_containers(tmp_path: Path) -> None:
    results, containers = tmp_path / "results", tmp_path / "secrets"
    results.mkdir()
    vault_of(Results(results)).prepare()
    containers.mkdir(mode=0o700)
    (containers / "ray_token").touch(mode=0o600)
    assert failures(check_files(results, containers)) == []
    vault_of(Results(results)).password.chmod(0o640)
    (containers / "ray_token").chmod(0o604)
    (of_server, of_containers) = failures(check_files(results, containers))
    assert "admin-password: others can read it (mode 0640)" in of_server
    assert "ray_token: others can read it (mode 0604)" in of_containers


RAYLET = ["/venv/ray/core/src/ray/raylet/raylet", "--resource_dir=/x", "--temp_dir=/tmp/ours/ray", "--x=--temp_dir=/y"]


def test_the_folder_of_a_ray_is_read_off_its_raylet() -> None:
    assert ray_folders(RAYLET) == [Path("/tmp/ours/ray")]
    assert ray_folders(["python", *RAYLET]) == []
    assert ray_folders([]) == []


def test_a_ray_that_has_gone_meanwhile_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or that lies in a container, whose processes are seen from here and whose files are not."""
    monkeypatch.setattr(secrets, "ray_folders", lambda _command: [tmp_path / "gone" / "ray"])
    assert list(secrets.check_ray_folders()) == []


@pytest.mark.parametrize("closed", [True, False])
def test_a_ray_whose_code_others_can_change_fails(closed: bool) -> None:
    """Ray opens its folder to all: what keeps others out is one above it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o700 if closed else 0o755)
        folder = Path(place) / "ray"
        folder.mkdir()
        folder.chmod(0o777)
        finding = of_ray_folder(folder)
    assert finding.verdict == ("ok" if closed else "FAILED")
    assert closed or f"chmod 700 {folder}" in finding.said


@pytest.mark.parametrize("name", ["", "ledger.db", "checkpoints"])
def test_what_everybody_can_write_fails(tmp_path: Path, name: str) -> None:
    results = tmp_path / "results"
    (results / "checkpoints").mkdir(parents=True)
    (results / "ledger.db").touch()
    assert failures(of_results(results)) == []
    (results / name).chmod(0o777)
    (said,) = failures(of_results(results))
    assert f"everybody can write to {results / name}: chmod" in said


def test_results_that_are_not_there_are_well(tmp_path: Path) -> None:
    assert failures(of_results(tmp_path / "absent")) == []


@pytest.mark.parametrize("name", [LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE])
@pytest.mark.parametrize("place", ["postgresql://u:hunter2@db/x", "postgresql://u@db/x?password=hunter2"])
def test_a_password_in_an_address_is_a_warning_and_not_shown(name: str, place: str) -> None:
    (finding,) = check_addresses({name: place})
    assert finding.verdict == "warning"
    assert finding.said.startswith(f"{name} has a password in it")
    assert "hunter2" not in finding.said
    assert list(check_addresses({name: "postgresql://u@db/x?sslmode=require"})) == []


@pytest.mark.parametrize(
    ("address", "is_told"),
    [
        ("http://lab.example:5000", True),
        ("http://192.0.2.7:5000", True),
        ("https://lab.example", False),
        ("http://127.0.0.1:5000", False),
        ("http://localhost:5000", False),
        ("http://[::1]:5000", False),
        ("sqlite:////x/mlflow.db", False),
        ("", False),
    ],
)
def test_passwords_that_cross_the_network_in_the_clear(address: str, is_told: bool) -> None:
    assert [finding.verdict for finding in of_tracking(address)] == (["warning"] if is_told else [])


def test_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1", "lab.example", ""]))

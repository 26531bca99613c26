"""What the tests of ``docker/`` read and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
IMAGES = (DOCKER / "Dockerfile", DOCKER / "mlflow.Dockerfile")
SCRIPTS = sorted(DOCKER.rglob("*.sh"))
COMMANDS = Path(sys.executable).parent
"""Where the environment's own commands are, by their bare names in the images."""


def lint(name: str, *arguments: str | Path) -> str:
    """What a tool of the test environment prints of files that it finds fault with; empty when it finds none."""
    command = COMMANDS / name
    if not command.exists():
        pytest.skip(f"{name} is not installed: pip install '.[test]'")
    found = subprocess.run(
        [command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return "" if found.returncode == 0 else found.stdout + found.stderr or f"exit code {found.returncode}"


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    """A compose file, its anchors resolved and its merges done, its variables as they stand."""
    return dict(yaml.safe_load((DOCKER / name).read_text(encoding="utf-8")))


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of Kubernetes with the name of its file."""
    for file in sorted((DOCKER / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            yield file.name, document


def manifest(kind: str, name: str) -> dict[str, Any]:
    """The object of this kind and name."""
    (found,) = [m for _, m in manifests() if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """All pod templates, with a name to tell them apart."""
    for file, document in manifests():
        spec = document["spec"]
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield file, spec["template"]
        if document["kind"] in ("RayCluster", "RayJob"):
            ray = spec.get("rayClusterSpec", spec)
            yield f"{file} head", ray["headGroupSpec"]["template"]
            yield from ((f"{file} {group['groupName']}", group["template"]) for group in ray["workerGroupSpecs"])


def locked() -> dict[str, str]:
    """Names in requirements.lock, in lower case, and their versions."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return dict(line.lower().split("==") for line in lines if "==" in line)


def secret_names() -> set[str]:
    """The secrets that docker/secrets.sh makes."""
    (names,) = re.findall(r"^for name in ([^;]+);", (DOCKER / "secrets.sh").read_text(encoding="utf-8"), re.MULTILINE)
    return set(names.replace("\\", " ").split())


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment alone, and PATH."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": f"{COMMANDS}:/usr/local/bin:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def needs(command: str) -> None:
    """Skip a test where this machine lacks a command."""
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not on this machine")


def secrets_in(folder: Path, **environment: str) -> Path:
    """The folder, with what docker/secrets.sh makes there."""
    done = run(DOCKER / "secrets.sh", folder, **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder

"""The Dockerfiles, which nothing builds here: linted, and held to what they promise."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.parts import DOCKER, IMAGES, ROOT, lint, locked

IMAGE = {file.name: file.read_text(encoding="utf-8") for file in IMAGES}
TOGETHER = re.compile(r"\\\n")


def instructions(name: str) -> list[list[str]]:
    """Instruction and the rest of each line of the last stage; continued lines are one."""
    lines = TOGETHER.sub(" ", IMAGE[name]).splitlines()
    split = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    last = max(place for place, words in enumerate(split) if words[0] == "FROM")
    return split[last:]


def of_kind(name: str, kind: str) -> list[str]:
    return [words[1] for words in instructions(name) if words[0] == kind]


def requirements(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DOCKER / "requirements.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


def test_hadolint_finds_no_fault() -> None:
    assert lint("hadolint", "--failure-threshold", "style", *IMAGES) == ""


def test_hadolint_would_find_one(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install mlflow\n")
    assert "DL3006" in lint("hadolint", tmp_path / "Dockerfile")


@pytest.mark.parametrize("name", IMAGE)
def test_an_image_runs_as_a_number_that_is_not_root(name: str) -> None:
    assert "ARG UID=1000\n" in IMAGE[name]
    assert of_kind(name, "USER") == ["${UID}:${UID}"]


@pytest.mark.parametrize("name", IMAGE)
def test_an_image_says_how_it_is_and_of_which_commit(name: str) -> None:
    (check,) = of_kind(name, "HEALTHCHECK")
    assert "docker/entry/healthy.py" in check
    (label,) = of_kind(name, "LABEL")
    assert 'org.opencontainers.image.revision="${COMMIT}"' in label


@pytest.mark.parametrize("name", IMAGE)
def test_code_is_in_the_last_layers_and_all_of_it(name: str) -> None:
    kinds = [words[0] for words in instructions(name)]
    assert "RUN" not in kinds[kinds.index("COPY") :]
    copied = {words.split()[0] for words in of_kind(name, "COPY")}
    packages = {"trainer", "search_spaces", "sweeps", "analysis"} if name == "Dockerfile" else set()
    assert copied == packages | {"docker/entry"}


def test_the_builder_is_sent_what_is_copied_and_no_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {word for text in IMAGE.values() for line in text.splitlines() for word in copied_words(line)}
    assert sent == copied
    assert next(line for line in lines if not line.startswith("#")) == "*"


def copied_words(line: str) -> list[str]:
    return line.split()[1:-1] if line.startswith("COPY ") else []


@pytest.mark.parametrize("name", IMAGE)
def test_nothing_secret_is_an_argument_or_a_setting(name: str) -> None:
    names = re.findall(r"(\w+)=", " ".join([*of_kind(name, "ENV"), *of_kind(name, "ARG")]))
    assert len(names) > 5
    assert [word for word in names if re.search(r"PASSWORD|SECRET|CREDENTIAL|_KEY$|TOKEN$", word)] == []


def test_both_images_stand_on_a_python_that_the_project_knows() -> None:
    assert {re.findall(r"^ARG PYTHON=(.+)$", text, re.MULTILINE)[0] for text in IMAGE.values()} == {
        "3.11-slim-bookworm"
    }
    assert set(re.findall(r"^FROM (\S+)", "\n".join(IMAGE.values()), re.MULTILINE)) == {"python:${PYTHON}"}
    assert 'requires-python = ">=3.11' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_installation_is_held_to_the_lock() -> None:
    installed = [run for name in IMAGE for run in of_kind(name, "RUN") if "pip install" in run]
    assert len(installed) == 3
    for run in installed:
        assert "--no-deps --requirement /tmp/torch.txt" in run or "--constraint /tmp/requirements.lock" in run


def test_torch_comes_from_the_lock_with_what_cuda_needs() -> None:
    cpu, cuda = (
        dict(line.split("==") for line in requirements("torch", build).stdout.split()) for build in ("cpu", "cuda")
    )
    assert set(cpu) == {"torch", "torchvision"}
    others = {name for name in cuda if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert set(cuda) == set(cpu) | others
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "cuda-toolkit", "triton"} <= others
    lock = locked()
    assert cpu | cuda == {name: lock[name] for name in cuda}


def test_what_is_declared_is_installed_and_pinned() -> None:
    done = requirements("project", "cluster", "server")
    names = {re.split(r"[\[><=~! ]", line)[0] for line in done.stdout.split("\n") if line}
    assert {"torch", "ray", "mlflow", "psycopg", "mlxtend"} <= names
    lock = {name.replace("_", "-") for name in locked()}
    assert {name for name in names if name.lower().replace("_", "-") not in lock} == set()
    assert requirements("server").stdout.split() == ["mlflow[auth]", "psycopg[binary]>=3"]


@pytest.mark.parametrize("arguments", [("torch", "rocm"), ("nonesuch",)])
def test_a_build_or_group_that_there_is_not_ends_the_build(arguments: tuple[str, ...]) -> None:
    done = requirements(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {arguments[-1]!r}: must be cpu or cuda after torch, else groups of pyproject.toml\n"


def test_the_layers_below_the_code_do_not_depend_on_other_settings(tmp_path: Path) -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace("line-length = 120", "line-length = 100")
    (tmp_path / "pyproject.toml").write_text(settings)
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    assert requirements("project", folder=tmp_path).stdout == requirements("project").stdout

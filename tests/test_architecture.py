"""The arrow ``trainer <- search_spaces <- {sweeps | analysis}`` and the other rules that no single test file guards."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("trainer", "search_spaces", "sweeps", "analysis")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TORCH = {"torch", "torchvision"}

FORBIDDEN = {
    "trainer": {"ray", "mlflow", "optuna", "pandas", "search_spaces", "sweeps", "analysis"},
    "search_spaces": {"ray", "mlflow", "optuna", "sweeps", "analysis", *TORCH},
    "sweeps": {"analysis"},
    "analysis": {"ray", "sweeps", *TORCH},
}
"""What no module of a package imports, wherever in the module."""


def module_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


@cache
def imports_of(file: Path) -> frozenset[str]:
    """All modules that a file names in import statements, inside functions too; ``a.b`` for ``from a import b``."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(name for node in ast.walk(tree) for name in imported_by(node))


def imported_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: a relative import"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield str(node.module)


def offences(file: Path, forbidden: set[str]) -> list[str]:
    return sorted(name for name in imports_of(file) if name.split(".")[0] in forbidden)


def files_of(package: str) -> list[Path]:
    return [file for file in FILES if file.parts[0] == package]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_along_the_arrow(package: str) -> None:
    files = files_of(package)
    assert files
    found = {str(file): offences(file, FORBIDDEN[package]) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_the_rule_sees_imports_of_every_kind(tmp_path: Path) -> None:
    inner = "def f():\n    import mlflow\nclass A:\n    from sweeps import cli\n"
    (tmp_path / "bad.py").write_text("import ray.tune as t\nfrom torch import nn\n" + inner)
    assert offences(tmp_path / "bad.py", {"ray", "mlflow"}) == ["mlflow", "ray.tune"]
    assert offences(tmp_path / "bad.py", {"torch", "sweeps"}) == ["sweeps", "sweeps.cli", "torch", "torch.nn"]


def test_search_spaces_takes_declarations_from_the_trainer_and_nothing_else() -> None:
    allowed = {"trainer.config", "trainer.declaration", "trainer.probe_config"}
    for file in files_of("search_spaces"):
        taken = {".".join(name.split(".")[:2]) for name in imports_of(file) if name.startswith("trainer")}
        assert taken - {"trainer"} <= allowed, file


def with_torch() -> set[str]:
    """The project's modules that lead to torch, directly or through others."""
    modules = {module_of(file): imports_of(file) for file in FILES}
    found = {name for name, imports in modules.items() if any(other.split(".")[0] in TORCH for other in imports)}
    while more := {name for name, imports in modules.items() if name not in found and imports & found}:
        found |= more
    return found


def test_analysis_takes_nothing_that_leads_to_torch() -> None:
    heavy = with_torch()
    assert {"trainer.loop", "trainer.checkpoint", "sweeps.tracking.delivery"} <= heavy
    assert not {"trainer.config", "trainer.machine", "search_spaces.catalog"} & heavy
    for file in files_of("analysis"):
        assert not imports_of(file) & heavy, file


def room_of(module: str) -> str:
    """The part of ``sweeps`` that a module belongs to: a folder, or a file beside the folders."""
    return ".".join(module.split(".")[:2])


def test_the_rooms_of_sweeps_import_one_way() -> None:
    modules = {module_of(file) for file in files_of("sweeps")}
    taken: dict[str, set[str]] = {}
    for file in files_of("sweeps"):
        room = room_of(module_of(file))
        taken.setdefault(room, set()).update({room_of(name) for name in imports_of(file) & modules} - {room})
    order = tuple(TopologicalSorter(taken).static_order())  # raises CycleError, which names the circle
    assert order.index("sweeps.ledger") < order.index("sweeps.tracking") < order.index("sweeps.cli")


def test_init_files_are_empty() -> None:
    for file in FILES:
        if file.name == "__init__.py":
            assert (ROOT / file).read_bytes() == b"", file


def test_every_folder_of_code_is_a_package_that_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {".".join(file.parent.parts) for file in FILES}
    assert all((ROOT / file.parent / "__init__.py").is_file() for file in FILES)
    assert sorted(settings["tool"]["setuptools"]["packages"]) == sorted(folders)


def loaded_after(modules: list[str]) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded once it has imported ``modules``."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_analysis_leaves_torch_and_ray_out() -> None:
    modules = [module_of(file) for file in files_of("analysis") if file.stem != "__main__"]
    assert not loaded_after(modules) & {"ray", "sweeps", *TORCH}


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    assert not loaded_after(["sweeps.cli"]) & {"ray", "mlflow", "optuna", "pandas", *TORCH}


def test_declarations_need_none_of_the_heavy_libraries() -> None:
    modules = [module_of(file) for file in files_of("search_spaces") if file.stem != "__main__"]
    loaded = loaded_after([*modules, "trainer.config", "trainer.machine", "trainer.records"])
    assert not loaded & {"ray", "mlflow", "optuna", "pandas", *TORCH}


def committed() -> list[Path]:
    """What git has or would take: neither ignored files nor, where there is no git, anything."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        pytest.skip("not a git repository")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    prefix = Path(sys.prefix)
    places = (ROOT, ROOT.parent / "shared", prefix.parent if prefix.name == ".venv" else prefix, Path.home())
    names = "|".join(re.escape(str(place)) for place in places if len(place.parts) > 2)  # /usr would be everybody's
    pattern = re.compile(rf"(?<![\w.])({names})(?![\w-])")
    found: dict[str, str] = {}
    for path in committed():
        inside = path.relative_to(ROOT)
        match = pattern.search(path.read_text(encoding="utf-8", errors="ignore"))
        if match and inside.parts[0] != "docker":  # an image has paths of its own, which may be where this runs
            found[str(inside)] = match[0]
    assert found == {}


def test_the_project_is_tested_and_not_a_package_of_the_same_name() -> None:
    """The registry has foreign packages named ``trainer`` and the like."""
    for package in PACKAGES:
        file = importlib.import_module(package).__file__
        assert file is not None
        assert Path(file).parent == ROOT / package

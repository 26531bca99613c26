"""Nothing is unpickled or run that a stranger could have written: a walk over the syntax of all our code.

Ray's own channel, behind its token, is the exception; pools of our own processes pass objects through pipes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("trainer", "search_spaces", "sweeps", "analysis", "docker")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
UNPICKLE = {"read_pickle", "to_pickle", "read_hdf", "PickleType", "unsafe_load", "full_load", "load_pickle"}
"""Of pandas, SQLAlchemy, yaml and others, by whatever name their modules are imported."""
RUN_TEXT = {"eval", "exec"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
"""What may be called with this setting alone."""


def offences(tree: ast.AST) -> Iterator[str]:
    """What in a file unpickles, runs text or starts a shell."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (f"line {node.lineno}: import of {name}" for name in _modules(node) if name in MODULES)
        if isinstance(node, ast.Attribute) and node.attr in UNPICKLE:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {text}" for text in _of_call(node))


def _modules(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    names = [str(node.module)] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    yield from (name.split(".")[0] for name in names)


def _of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    settings = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    if called in SAFE:
        name, value = SAFE[called]
        if settings.get(name) is not value:
            yield f"{called} without {name}={value}"
    if called in {"yaml.load", "yaml.load_all"} or called in RUN_TEXT or called in SHELLS:
        yield called
    if settings.get("shell", False) is not False:
        yield f"{called} with a shell"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_code_of_ours_unpickles_or_runs_text(folder: str) -> None:
    files = [file for file in FILES if file.is_relative_to(ROOT / folder)]
    assert files
    found = {str(file.relative_to(ROOT)): list(offences(ast.parse(file.read_text(encoding="utf-8")))) for file in files}
    assert {file: texts for file, texts in found.items() if texts} == {}


def test_what_is_loaded_is_seen() -> None:
    """The rule is about something: checkpoints, data and measurements are loaded, and it sees how."""
    calls = [
        ast.unparse(node.func)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert calls.count("torch.load") >= 2
    assert calls.count("np.load") >= 1


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "def f():\n    from dill import loads",
        "import joblib.numpy_pickle as j",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=choice)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "pd.read_pickle(path)",
        "eval(text)",
        "exec(text)",
        "os.system('rm')",
        "subprocess.run(command, shell=True)",
        "subprocess.Popen(command, shell=wanted)",
        "sql.Column('x', sql.PickleType)",
    ],
)
def test_the_rule_sees(bad: str) -> None:
    assert len(list(offences(ast.parse(bad)))) == 1


@pytest.mark.parametrize(
    "good",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "subprocess.run([command], shell=False)",
        "model.eval()",
        "import json",
    ],
)
def test_the_rule_lets_pass(good: str) -> None:
    assert list(offences(ast.parse(good))) == []

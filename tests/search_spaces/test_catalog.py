"""Finding studies: the built-in ones and a user's own file."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search_spaces import studies
from search_spaces.catalog import built_in, built_in_tunings, find, find_any, find_final, find_tuning, frozen_of
from search_spaces.choices import Choice, Frozen
from trainer.declaration import ConfigError

GOOD = """
from search_spaces.recipes import digits_mlp
from search_spaces.study import Study
from trainer.config import Amp

STUDY = Study(name="mine", question="?", trials=tuple(digits_mlp(Amp(epsilon=e), 0) for e in (0.1, 0.2)))
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a user's study file and gives its path."""

    def write(text: str) -> Path:
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        return tmp_path / "mine.py"

    return write


@pytest.fixture(autouse=True)
def modules_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's modules, here named ``my_...``, do not stay for the next test, compiled or not; sys.path is put back."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = list(sys.path)
    yield
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]
    assert sys.path == path


def refusal(reference: str | Path) -> str:
    with pytest.raises(ConfigError) as error:
        find(str(reference))
    message = str(error.value)
    assert "\n" not in message
    return message


def test_every_module_of_studies_gives_some_and_each_name_is_one_study() -> None:
    files = [path.stem for path in Path(studies.__path__[0]).glob("*.py") if path.stem != "__init__"]
    modules = [importlib.import_module(f"{studies.__name__}.{name}") for name in files]
    assert all(module.STUDIES for module in modules)
    declared = [study for module in modules for study in module.STUDIES]
    found: dict[str, object] = {**built_in(), **built_in_tunings()}
    final = {tuning.final_name for tuning in built_in_tunings().values()}
    assert {name: id(study) for name, study in found.items() if name not in final} == {
        study.name: id(study) for study in declared
    }
    assert len({study.name for study in declared}) == len(declared)


def test_a_study_is_found_by_its_name() -> None:
    for name, study in built_in().items():
        assert find(name) == study
        assert study.name == name


def test_a_tuning_is_found_by_its_name_and_is_no_study() -> None:
    tuning = built_in_tunings()["tune-table1-small"]
    assert find_any(tuning.name) is find_tuning(tuning.name) is tuning
    assert refusal(tuning.name) == (
        "tune-table1-small: is a search, not a study: make search STUDY=tune-table1-small, then freeze, then final"
    )
    with pytest.raises(ConfigError, match=r"^fig8: is a study, not a search: make sweep STUDY=fig8"):
        find_tuning("fig8")


TUNING = """
from search_spaces import recipes
from search_spaces.search import Search, Tuning
from search_spaces.spaces import full_space
from trainer.config import Erm
base = recipes.digits_mlp(Erm(), 0)
STUDY = Tuning(name="mine", question="?", searches=[Search(name="erm", base=base, space=full_space(Erm()), settings=3)])
"""


def test_a_tuning_of_a_users_file_is_frozen_beside_it(write: Write) -> None:
    path = write(TUNING)
    assert find_tuning(str(path)).name == "mine"
    assert frozen_of(str(path)) == path.parent / "frozen" / "mine.json"
    assert "is a search, not a study" in refusal(path)
    with pytest.raises(ConfigError, match=r"^mine: nothing is frozen yet: make search, then make freeze$"):
        find_final(str(path))
    assert "is a built-in one's" in refusal(write(TUNING.replace('"mine"', '"fig8"')))


@pytest.mark.parametrize("text", ["no JSON", '{"tuning": "t", "date": "d", "commit": "c", "choices": {}}'])
def test_choices_that_do_not_fit_stand_in_the_way_of_their_own_study_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """As after a change of a space: the searches are others then, and all other studies are what they were."""
    monkeypatch.setattr("search_spaces.choices.BUILT_IN", tmp_path)
    (tmp_path / "tune-table1-small.json").write_text(text)
    assert "tune-table1-small-final" not in built_in()
    assert find("fig8-digits").name == "fig8-digits"
    assert "tune-table1-small.json: " in refusal("tune-table1-small-final")


def test_the_final_study_of_a_built_in_tuning_is_a_study_once_it_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search_spaces.choices.BUILT_IN", tmp_path)
    tuning = built_in_tunings()["tune-table1-small"]
    assert tuning.final_name not in built_in()
    assert "nothing is frozen yet" in refusal(tuning.final_name)
    choices = {search.name: Choice(search.digest, 0, 0.5, search.first, 3, 0, 0, 1.0) for search in tuning.searches}
    Frozen(tuning.name, "2026-11-24", "abc", choices).write(frozen_of(tuning.name))
    assert find(tuning.final_name) == built_in()[tuning.final_name] == find_final(tuning.name)
    assert {trial.phase for trial in find(tuning.final_name).trials} == {"final"}


def test_a_second_study_of_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from search_spaces.studies import fig8

    twin = type(fig8.STUDIES[0])(name="fig8-digits", question="?", trials=fig8.STUDIES[0].trials)
    monkeypatch.setattr(fig8, "STUDIES", (*fig8.STUDIES, twin))
    with pytest.raises(ConfigError, match=r"fig8\.py: a second study named 'fig8-digits'"):
        built_in()


@pytest.mark.parametrize("typo", ["fig8-digit", "fig8digits", "fig-digits"])
def test_an_unknown_name_names_the_nearest(typo: str) -> None:
    message = refusal(typo)
    assert repr(typo) in message
    assert re.search(r"Nearest: fig8-digits\b", message)


def test_a_name_that_lacks_its_ending_is_shown_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD)
    monkeypatch.chdir(path.parent)
    message = refusal(path.stem)
    assert message == f"no study named {path.stem!r}. Your own, by its file: {path.name}"
    path.unlink()
    assert "Nearest" in refusal(path.stem)


def test_a_name_near_to_none_names_them_all() -> None:
    message = refusal("zzz")
    assert all(name in message for name in built_in())


def test_a_users_file(write: Write) -> None:
    study = find(str(write(GOOD)))
    assert (study.name, len(study.trials)) == ("mine", 2)


def test_a_users_file_by_a_relative_path(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD)
    monkeypatch.chdir(path.parent)
    assert find("mine.py").name == find("./mine.py").name == "mine"


def test_a_users_file_is_read_anew_each_time(write: Write) -> None:
    find(str(write(GOOD)))
    assert find(str(write(GOOD.replace("mine", "other")))).name == "other"


def test_a_users_file_may_import_what_lies_beside_it(write: Write, tmp_path: Path) -> None:
    (tmp_path / "my_radii.py").write_text("RADII = (0.1, 0.2, 0.3)\n")
    path = write("from my_radii import RADII\n" + GOOD.replace("(0.1, 0.2)", "RADII"))
    assert len(find(str(path)).trials) == 3


def test_a_users_file_may_declare_dataclasses(write: Write) -> None:
    lines = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Axis:\n    e: float\n"
    )
    assert find(str(write(lines + GOOD))).name == "mine"


@pytest.mark.parametrize("reference", ["nowhere.py", "folder/nowhere", "nowhere/fig8.py"])
def test_a_missing_file(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(reference) == f"{reference}: no such file"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: no such file"


@pytest.mark.parametrize("text", ["", "STUDIES = ()", "STUDY = 'fig8'", GOOD + "STUDY = (STUDY,)"])
def test_a_file_without_a_study(write: Write, text: str) -> None:
    path = write(text)
    assert refusal(path) == f"{path}: must set STUDY = Study(...), or Tuning(...) for searches"


def test_a_built_in_name_is_refused(write: Write) -> None:
    path = write(GOOD.replace("mine", "fig8-digits"))
    message = refusal(path)
    assert message.startswith(f"{path}: Study.name = 'fig8-digits'")


BROKEN = {
    "syntax error": ("x = 1\n\ny = (\n", 3, "SyntaxError: '(' was never closed"),
    "exception": ("x = 1\ny = x / 0\n", 2, "ZeroDivisionError: division by zero"),
    "exception in a function": ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError: division by zero"),
    "missing module": ("\nimport no_such_module\n", 2, "ModuleNotFoundError: No module named 'no_such_module'"),
    "declaration": ("\nfrom trainer.config import Amp\n\nAmp(epsilon=-1)\n", 4, "Amp.epsilon = -1.0: must be > 0"),
    "several lines": ("raise ValueError('one\\ntwo')\n", 1, "ValueError: one two"),
}


@pytest.mark.parametrize(("text", "line", "reason"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_what_is_wrong_in_a_file_is_told_with_its_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, line: int, reason: str, relative: bool
) -> None:
    path = write(text)
    monkeypatch.chdir(path.parent)
    reference = path.name if relative else path
    assert refusal(reference).startswith(f"{reference}:{line}: {reason}")


@pytest.mark.parametrize(("text", "reason"), [("x = (", "SyntaxError"), ("1 / 0", "ZeroDivisionError")])
def test_what_is_wrong_in_a_module_beside_it_is_not_laid_to_the_file(
    write: Write, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "my_helper.py").write_text(f"\n\n\n{text}\n")
    path = write("import my_helper\n")
    message = refusal(path)
    assert reason in message
    assert f"{path}:4" not in message
    assert f"{path}:1:" in message or "my_helper.py:4" in message


def test_bytes_that_are_no_text_have_no_line_none(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(b"x = 1\n\0\n")
    message = refusal(tmp_path / "mine.py")
    assert message.startswith(str(tmp_path / "mine.py"))
    assert "None" not in message

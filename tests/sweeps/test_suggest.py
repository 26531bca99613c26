"""Optuna asked and told: the same suggestions however often a search is interrupted, and none lost."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from search_spaces import recipes
from search_spaces.search import LogUniform, OneOf, Search, Setting
from search_spaces.spaces import full_space
from sweeps.suggest import Suggestion, Suggestions
from trainer.config import Amp
from trainer.declaration import ConfigError

BASE = recipes.digits_mlp(Amp(epsilon=0.2), seed=0)
SEARCH = Search(name="amp", base=BASE, space=full_space(BASE.method), settings=14)


@contextmanager
def suggestions(folder: Path, search: Search = SEARCH) -> Iterator[Suggestions]:
    opened = Suggestions(search, f"sqlite:///{folder / 'optuna.db'}")
    try:
        yield opened
    finally:
        opened.close()


def value(setting: Setting) -> float:
    """Lowest at ε = 1, η = 0.1."""
    best = {"method.epsilon": 1.0, "lr": 0.1}
    return sum(math.log(setting[name] / best[name]) ** 2 for name in best if name in setting)


def search_on(found: Suggestions, settings: int) -> None:
    for _ in range(settings):
        asked = found.ask()
        found.tell(asked.number, value(asked.setting))


def undisturbed(folder: Path, search: Search = SEARCH) -> list[Suggestion]:
    folder.mkdir()
    with suggestions(folder, search) as found:
        search_on(found, search.settings)
        return found.closed()


def test_the_first_setting_is_the_base_s_and_all_are_of_the_space(tmp_path: Path) -> None:
    found = undisturbed(tmp_path / "one")
    assert [one.number for one in found] == list(range(14))
    assert found[0].setting == SEARCH.first
    for one in found:
        assert all(one.setting[name] in distribution for name, distribution in SEARCH.space.items())
        SEARCH.trials(one.setting)
    assert len({tuple(one.setting.values()) for one in found}) == 14


def test_tpe_learns(tmp_path: Path) -> None:
    found = undisturbed(tmp_path / "one", replace(SEARCH, settings=40))
    first, last = (sum(one.value or 0.0 for one in part) for part in (found[:10], found[-10:]))
    assert last < first / 2


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_an_interrupted_search_goes_on_with_the_same_suggestions(
    tmp_path: Path, sampler: Literal["tpe", "random"]
) -> None:
    search = replace(SEARCH, sampler=sampler)
    whole = undisturbed(tmp_path / "whole", search)
    for done in (3, 0, 9):
        with suggestions(tmp_path, search) as found:
            search_on(found, done)
    with suggestions(tmp_path, search) as found:
        asked = found.ask()
    with suggestions(tmp_path, search) as found:
        (left,) = found.open()
        assert left == asked
        found.tell(left.number, value(left.setting))
        search_on(found, 1)
        assert found.closed() == whole


def test_seeds_of_the_sampler_differ(tmp_path: Path) -> None:
    one, other = undisturbed(tmp_path / "one"), undisturbed(tmp_path / "two", replace(SEARCH, sampler_seed=1))
    assert one[0].setting == other[0].setting
    assert all(a.setting != b.setting for a, b in zip(one[1:], other[1:], strict=True))


KILLED = """
import os, signal, sys
from tests.sweeps.test_suggest import SEARCH, suggestions, value
from pathlib import Path
with suggestions(Path(sys.argv[1])) as found:
    for left in found.open():
        found.tell(left.number, value(left.setting))
    for _ in range(3):
        asked = found.ask()
        found.tell(asked.number, value(asked.setting))
    found.ask()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_none_and_doubles_none(tmp_path: Path) -> None:
    whole = undisturbed(tmp_path / "whole")
    for _ in range(3):
        killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=os.environ | {"PYTHONPATH": os.getcwd()})
        assert killed.returncode == -signal.SIGKILL
    with suggestions(tmp_path) as found:
        (left,) = found.open()
        found.tell(left.number, value(left.setting))
        search_on(found, 14 - len(found.closed()))
        assert found.closed() == whole


def test_what_diverged_is_a_failure_and_no_number(tmp_path: Path) -> None:
    with suggestions(tmp_path) as found:
        bad, good = found.ask(), found.ask()
        found.tell(bad.number, None)
        found.tell(good.number, 3.0)
        assert [(one.value, one.failed) for one in found.closed()] == [(None, True), (3.0, False)]
        assert found.best() == Suggestion(good.number, good.setting, 3.0)


def test_the_first_answer_stands(tmp_path: Path) -> None:
    """Two drivers may see the end of one setting."""
    with suggestions(tmp_path) as found, suggestions(tmp_path) as other:
        asked = found.ask()
        found.tell(asked.number, 1.0)
        other.tell(asked.number, 2.0)
        assert [one.value for one in found.closed()] == [1.0]


def test_two_drivers_ask_for_different_settings(tmp_path: Path) -> None:
    with suggestions(tmp_path) as found, suggestions(tmp_path) as other:
        asked = [one.ask() for one in (found, other, found, other)]
        assert len({tuple(one.setting.values()) for one in asked}) == 4
        assert [one.number for one in found.open()] == [0, 1, 2, 3]


def test_a_changed_search_starts_anew_and_a_larger_budget_does_not(tmp_path: Path) -> None:
    with suggestions(tmp_path) as found:
        search_on(found, 2)
    with suggestions(tmp_path, replace(SEARCH, settings=100)) as found:
        assert len(found.closed()) == 2
    with suggestions(tmp_path, replace(SEARCH, metric="val/error")) as found:
        assert found.closed() == []
        assert found.best() is None


def test_a_grid_is_tried_whole(tmp_path: Path) -> None:
    space = {"method.epsilon": OneOf(values=(0.1, 0.2, 0.5)), "method.inner_steps": OneOf(values=(1, 2))}
    found = undisturbed(tmp_path / "one", replace(SEARCH, space=space, sampler="grid", settings=6))
    tried = {(one.setting["method.epsilon"], one.setting["method.inner_steps"]) for one in found}
    assert tried == {(epsilon, steps) for epsilon in (0.1, 0.2, 0.5) for steps in (1, 2)}


def test_what_is_no_database_of_optuna_s(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("hello, this is no database at all")
    with pytest.raises(ConfigError, match=r"^Optuna's database: ") as caught:
        Suggestions(SEARCH, f"sqlite:///{tmp_path / 'optuna.db'}")
    assert "\n" not in str(caught.value)


def test_a_space_of_one_number(tmp_path: Path) -> None:
    with suggestions(tmp_path, replace(SEARCH, space={"lr": LogUniform(low=0.01, high=1.0)})) as found:
        search_on(found, 3)
        assert [list(one.setting) for one in found.closed()] == [["lr"]] * 3

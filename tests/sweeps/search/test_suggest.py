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
from sweeps.search.suggest import Suggestion, Suggestions, close_storage, open_storage
from trainer.config import Amp
from trainer.declaration import ConfigError

BASE = recipes.digits_mlp(Amp(epsilon=0.2), seed=0)
SEARCH = Search(name="amp", base=BASE, space=full_space(BASE.method), settings=14)


@contextmanager
def suggestions(folder: Path, search: Search = SEARCH) -> Iterator[Suggestions]:
    storage = open_storage(f"sqlite:///{folder / 'optuna.db'}")
    try:
        yield Suggestions(search, storage)
    finally:
        close_storage(storage)


def asked_of(found: Suggestions) -> Suggestion:
    asked = found.ask()
    assert asked is not None
    return asked


def tell(found: Suggestions, one: Suggestion, *values: float) -> None:
    found.tell(one.number, values or (value(one.setting),), ["id"], 1.5)


def value(setting: Setting) -> float:
    """Lowest at ε = 1, η = 0.1."""
    best = {"method.epsilon": 1.0, "lr": 0.1}
    return sum(math.log(setting[name] / best[name]) ** 2 for name in best if name in setting)


def search_on(found: Suggestions, settings: int) -> None:
    for _ in range(settings):
        tell(found, asked_of(found))


def undisturbed(folder: Path, search: Search = SEARCH) -> list[Suggestion]:
    folder.mkdir()
    with suggestions(folder, search) as found:
        search_on(found, search.settings)
        return found.all()


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
        asked = asked_of(found)
    with suggestions(tmp_path, search) as found:
        (left,) = found.open()
        assert left == asked
        tell(found, left)
        search_on(found, 1)
        assert found.all() == whole


def test_seeds_of_the_sampler_differ(tmp_path: Path) -> None:
    one, other = undisturbed(tmp_path / "one"), undisturbed(tmp_path / "two", replace(SEARCH, sampler_seed=1))
    assert one[0].setting == other[0].setting
    assert all(a.setting != b.setting for a, b in zip(one[1:], other[1:], strict=True))


KILLED = """
import os, signal, sys
from tests.sweeps.search.test_suggest import search_on, suggestions, tell
from pathlib import Path
with suggestions(Path(sys.argv[1])) as found:
    for left in found.open():
        tell(found, left)
    search_on(found, 3)
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
        tell(found, left)
        search_on(found, 14 - len(found.all()))
        assert found.all() == whole


def test_what_diverged_is_a_failure_and_no_number(tmp_path: Path) -> None:
    with suggestions(tmp_path) as found:
        bad, good = asked_of(found), asked_of(found)
        found.tell(bad.number, (), ["id"], 1.0, cause="the loss is NaN")
        tell(found, good, 3.0, 5.0)
        assert [(one.outcome, one.value) for one in found.all()] == [("failed", None), ("told", 4.0)]
        assert found.best() == Suggestion(good.number, good.setting, "told", 4.0, 1.5)


def test_a_failure_does_not_count_as_a_huge_number(tmp_path: Path) -> None:
    """With a number for it TPE would suggest otherwise: another setting would be among the bad ones."""
    suggested = []
    for name, values in (("failed", ()), ("huge", (1e9,))):
        (tmp_path / name).mkdir()
        with suggestions(tmp_path / name, replace(SEARCH, settings=30)) as found:
            search_on(found, 15)
            found.tell(asked_of(found).number, values, ["id"], 1.0)
            suggested.append(asked_of(found).setting)
    assert suggested[0] != suggested[1]


def test_the_first_answer_stands(tmp_path: Path) -> None:
    """Two drivers may see the end of one setting."""
    with suggestions(tmp_path) as found, suggestions(tmp_path) as other:
        asked = asked_of(found)
        tell(found, asked, 1.0)
        tell(other, asked, 2.0)
        other.prune(asked.number, (), [], 0.0)
        assert [(one.outcome, one.value) for one in found.all()] == [("told", 1.0)]


def test_two_drivers_ask_for_different_settings(tmp_path: Path) -> None:
    with suggestions(tmp_path) as found, suggestions(tmp_path) as other:
        asked = [asked_of(one) for one in (found, other, found, other)]
        assert len({tuple(one.setting.values()) for one in asked}) == 4
        assert [one.number for one in found.open()] == [0, 1, 2, 3]


def test_a_suggestion_is_stored_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between two parameters would leave half a setting, and another one after the resume."""
    whole = undisturbed(tmp_path / "whole")
    with suggestions(tmp_path) as found:
        search_on(found, 3)
        written = 0

        def stop(*_: object, **__: object) -> None:
            nonlocal written
            written += 1
            if written == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(found._storage, "_set_trial_param_without_commit", stop)
            with pytest.raises(KeyboardInterrupt):
                found.ask()
    with suggestions(tmp_path) as found:
        assert found.open() == []
        search_on(found, 11)
        assert found.all() == whole


def test_no_more_than_the_budget(tmp_path: Path) -> None:
    with suggestions(tmp_path, replace(SEARCH, settings=3)) as found:
        search_on(found, 3)
        assert found.ask() is None
    with suggestions(tmp_path, replace(SEARCH, settings=2)) as found:
        assert len(found.all()) == 2
        assert found.ask() is None


def test_time_adds_up(tmp_path: Path) -> None:
    with suggestions(tmp_path) as found, suggestions(tmp_path) as other:
        assert found.searched_seconds == 0.0
        found.add_seconds(1.5)
        other.add_seconds(2.0)
        assert found.searched_seconds == 3.5


def test_the_median_of_what_was_tried_prunes_after_a_third_of_the_epochs(tmp_path: Path) -> None:
    search = replace(SEARCH, pruner="median")
    with suggestions(tmp_path, search) as found:
        for level in range(5):
            asked = asked_of(found)
            assert not any(found.should_prune(asked.number, epoch, level + 1.0) for epoch in range(1, 41))
            tell(found, asked, level + 1.0)
        bad, good = asked_of(found), asked_of(found)
        stops = [epoch for epoch in range(1, 41) if found.should_prune(bad.number, epoch, 3.5)]
        assert stops[0] == math.ceil(40 / 3)
        assert not any(found.should_prune(good.number, epoch, 2.5) for epoch in range(1, 41))
        found.prune(bad.number, (), ["id"], 1.0)
        assert [one.outcome for one in found.all()] == ["told"] * 5 + ["pruned", "open"]
    with suggestions(tmp_path, search) as found:  # what was stored is known again, and may be told again
        assert not any(found.should_prune(good.number, epoch, 2.5) for epoch in range(1, 41))


def test_wilcoxon_prunes_what_is_worse_on_the_same_seeds(tmp_path: Path) -> None:
    search, values = replace(SEARCH, pruner="wilcoxon", seeds=8), [1.0 + 0.1 * (seed % 3) for seed in range(8)]
    with suggestions(tmp_path, search) as found:
        best = asked_of(found)
        assert not any(found.should_prune(best.number, seed, value) for seed, value in enumerate(values))
        tell(found, best, *values)
        worse, better = asked_of(found), asked_of(found)
        told = [found.should_prune(worse.number, seed, 1.1 * value) for seed, value in enumerate(values[:5])]
        assert told == [False, False, False, True, True]
        assert not any(found.should_prune(better.number, seed, 0.9 * value) for seed, value in enumerate(values))


def test_a_changed_search_starts_anew_and_a_larger_budget_does_not(tmp_path: Path) -> None:
    with suggestions(tmp_path) as found:
        search_on(found, 2)
    with suggestions(tmp_path, replace(SEARCH, settings=100)) as found:
        assert len(found.all()) == 2
    with suggestions(tmp_path, replace(SEARCH, metric="val/error")) as found:
        assert found.all() == []
        assert found.best() is None


def test_a_grid_is_tried_whole(tmp_path: Path) -> None:
    space = {"method.epsilon": OneOf(values=(0.1, 0.2, 0.5)), "method.inner_steps": OneOf(values=(1, 2))}
    found = undisturbed(tmp_path / "one", replace(SEARCH, space=space, sampler="grid", settings=6))
    tried = {(one.setting["method.epsilon"], one.setting["method.inner_steps"]) for one in found}
    assert tried == {(epsilon, steps) for epsilon in (0.1, 0.2, 0.5) for steps in (1, 2)}


def test_what_is_no_database_of_optuna_s(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("hello, this is no database at all")
    with pytest.raises(ConfigError, match=r"^Optuna's database sqlite:////.*/optuna\.db: ") as caught:
        open_storage(f"sqlite:///{tmp_path / 'optuna.db'}")
    assert "\n" not in str(caught.value)


def test_a_space_of_one_number(tmp_path: Path) -> None:
    with suggestions(tmp_path, replace(SEARCH, space={"lr": LogUniform(low=0.01, high=1.0)})) as found:
        search_on(found, 3)
        assert [list(one.setting) for one in found.all()] == [["lr"]] * 3

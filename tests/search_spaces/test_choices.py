"""What a search has chosen, as a file: whole, never overwritten, and only for the searches that chose it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces import recipes
from search_spaces.choices import Choice, Frozen, chosen, final_study, is_frozen, read_frozen
from search_spaces.search import Search, Tuning
from search_spaces.spaces import full_space
from trainer.config import Amp
from trainer.declaration import ConfigError

BASE = recipes.digits_mlp(Amp(epsilon=0.2), 0)
SEARCH = Search(name="amp", base=BASE, space=full_space(BASE.method), settings=5)
TUNING = Tuning(name="mine", question="?", searches=[SEARCH], final_seeds=range(2))
SETTING = {**SEARCH.first, "method.epsilon": 0.1 + 0.2, "method.inner_steps": 2}
FROZEN = Frozen(
    "mine", "2026-11-24T12:00:00+00:00", "abc", {"amp": Choice(SEARCH.digest, 3, 0.25, SETTING, 4, 1, 0, 9.5)}
)


def test_what_is_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "frozen" / "mine.json"
    FROZEN.write(path)
    assert read_frozen(path) == FROZEN
    assert chosen(TUNING, path) == {"amp": SETTING}
    assert is_frozen(TUNING, path)
    assert final_study(TUNING, path).trials == TUNING.final_study({"amp": SETTING}).trials


def test_what_is_frozen_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    FROZEN.write(path)
    with pytest.raises(
        ConfigError, match=r"mine\.json: other choices are frozen already; to choose anew, remove the file$"
    ):
        replace(FROZEN, date="later").write(path)
    assert read_frozen(path) == FROZEN


def test_a_search_that_changed_since_has_chosen_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    FROZEN.write(path)
    changed = replace(TUNING, searches=[replace(SEARCH, metric="val/error")])
    with pytest.raises(ConfigError, match=r"the search amp has changed since 2026-11-24T12:00:00\+00:00: search again"):
        chosen(changed, path)
    assert not is_frozen(changed, path)
    with pytest.raises(ConfigError, match="the search other is new since"):
        chosen(replace(TUNING, searches=[replace(SEARCH, name="other")]), path)
    assert chosen(replace(TUNING, searches=[replace(SEARCH, settings=50)]), path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"choices": {"amp": {}}}', '{"choices": 1}', "\x00"])
def test_a_file_that_is_none_of_ours(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.json: is no file that make freeze has written") as caught:
        read_frozen(path)
    assert "\n" not in str(caught.value)


def test_nothing_is_frozen_yet(tmp_path: Path) -> None:
    assert read_frozen(tmp_path / "mine.json") is None

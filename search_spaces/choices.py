"""What a search has chosen, written down before the test set is read: a file to be reviewed like code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search_spaces.search import Setting, Tuning
from search_spaces.study import Study
from trainer.declaration import ConfigError

BUILT_IN = Path(__file__).parent / "frozen"
"""Of the tunings in ``search_spaces.studies``; that of a user's own file lies in ``frozen`` beside it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The setting that a search chose: of those tried the one with the lowest ``value`` of its metric.

    digest: the search's. number: of the setting; 0 is the base's own, which is tried first. tried: how many settings
    gave a number; failed: how many none (they diverged, say); pruned: how many were given up early. train_seconds: of
    all their trials.
    """

    digest: str
    number: int
    value: float
    setting: Setting
    tried: int
    failed: int
    pruned: int
    train_seconds: float


@dataclass(frozen=True, slots=True)
class Frozen:
    """The choices of a tuning, by the names of its searches. date: UTC, ISO 8601. commit: of the code."""

    tuning: str
    date: str
    commit: str
    choices: Mapping[str, Choice]

    def write(self, path: Path) -> None:
        """Into a new file: what is frozen stays. Raises ConfigError where one is, or where none can be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")
        except FileExistsError as error:
            raise ConfigError(f"{path}: other choices are frozen already; to choose anew, remove the file") from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def read_frozen(path: Path) -> Frozen | None:
    """None where nothing is frozen yet. Raises ConfigError for a file that ``Frozen.write`` has not written."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        choices = {name: Choice(**choice) for name, choice in found.pop("choices").items()}
        return Frozen(**found, choices=choices)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: is no file that make freeze has written: {error}") from error


def frozen_file(tuning: Tuning, own: Path | None) -> Path:
    """Where the choices of ``tuning`` are written. own: the user's file that declares it, None for a built-in one."""
    return (own.resolve().parent / "frozen" if own else BUILT_IN) / f"{tuning.name}.json"


def final_study(tuning: Tuning, path: Path) -> Study:
    """The study that gives the verdict. Raises ConfigError where ``path`` has no choices of just these searches."""
    return tuning.final_study(chosen(tuning, path))


def is_frozen(tuning: Tuning, path: Path) -> bool:
    """Whether ``path`` has choices of just these searches. Raises ConfigError for a file that is none of ours."""
    frozen = read_frozen(path)
    digests = {name: choice.digest for name, choice in frozen.choices.items()} if frozen else {}
    return all(digests.get(search.name) == search.digest for search in tuning.searches)


def chosen(tuning: Tuning, path: Path) -> dict[str, Setting]:
    """The frozen setting of each search. Raises ConfigError likewise."""
    frozen = read_frozen(path)
    if frozen is None:
        raise ConfigError(f"{tuning.name}: nothing is frozen yet: make search, then make freeze")
    for search in tuning.searches:
        choice = frozen.choices.get(search.name)
        if choice is None or choice.digest != search.digest:
            what = "is new" if choice is None else "has changed"
            raise ConfigError(
                f"{path}: the search {search.name} {what} since {frozen.date}: search again, remove the file, freeze"
            )
    return {search.name: frozen.choices[search.name].setting for search in tuning.searches}

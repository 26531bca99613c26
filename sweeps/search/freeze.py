"""Freezing: what the searches of a tuning have chosen goes into a file, before anything reads the test set."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path

from search_spaces.choices import Choice, Frozen, read_frozen
from search_spaces.search import Setting, setting_text
from sweeps.provenance import provenance
from sweeps.search.searching import Hunt, SearchSweep
from sweeps.table import aligned
from trainer.declaration import ConfigError


def freeze(sweep: SearchSweep, path: Path) -> Frozen:
    """Write the best setting of each search into ``path``; where just these are in it, it stays as it is.

    Raises ConfigError where a search has budget left, or other settings are frozen.
    """
    if not sweep.is_over:
        left = [hunt.search.name for hunt in sweep.hunts if not hunt.is_over]
        raise ConfigError(
            f"{sweep.name}: {sweep.counts()}: all methods get the same budget, which these have not spent:"
            f" {', '.join(left)}: make search {sweep.named}"
        )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    choices = {hunt.search.name: _choice(hunt) for hunt in sweep.hunts}
    before = read_frozen(path)
    if before is not None and _settings(before.choices) == _settings(choices):
        return before
    frozen = Frozen(sweep.name, now, provenance()["commit"], choices)
    frozen.write(path)
    return frozen


def _settings(choices: Mapping[str, Choice]) -> dict[str, tuple[str, Setting]]:
    return {name: (choice.digest, choice.setting) for name, choice in choices.items()}


def frozen_lines(frozen: Frozen, path: Path, named: str) -> Iterator[str]:
    """What was chosen, a line a search, and what comes next. named: the variables by which make finds the tuning."""
    rows = [("", "of", "number", "value", "setting")]
    for name, choice in frozen.choices.items():
        setting = setting_text(choice.setting) or "nothing to choose"
        rows.append((name, str(choice.tried), f"#{choice.number}", f"{choice.value:.4f}", setting))
    yield from aligned(rows)
    yield f"Frozen on {frozen.date} in {shown(path)}: look at it and commit it. Then: make final {named}"


def shown(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _choice(hunt: Hunt) -> Choice:
    best = hunt.suggestions.best()
    if best is None or best.value is None:
        raise ConfigError(f"{hunt.search.name}: no setting gave a number: there is nothing to choose")
    outcomes = [one.outcome for one in hunt.settings.values()]
    return Choice(
        digest=hunt.search.digest,
        number=best.number,
        value=best.value,
        setting=best.setting,
        tried=outcomes.count("told"),
        failed=outcomes.count("failed"),
        pruned=outcomes.count("pruned"),
        train_seconds=sum(one.train_seconds for one in hunt.settings.values()),
    )

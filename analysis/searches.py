"""Optuna's database read: what became of every setting of a search, within its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.choices import Choice, Frozen
from search_spaces.search import Distribution, LogUniform, OneOf, Search, Tuning
from search_spaces.study import KINDS, varying_params
from trainer.declaration import ConfigError, Scalar
from trainer.machine import Results
from trainer.passwords import hide_passwords

STATES = {
    TrialState.COMPLETE: "told",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "open",
}
FEWEST_FOR_IMPORTANCE = 10
"""Settings told: a forest grown on fewer says nothing of two parameters and more."""


@dataclass(frozen=True, slots=True)
class Searched:
    """A search and what became of its settings so far.

    settings: a row a setting, in order of ``number``. Columns: ``search``, ``number``; ``state``: told, failed, pruned
    or open; ``value``, NaN unless told; ``values``, a list, a seed each; ``train_seconds``, of all its trials;
    ``trial_ids``, a list; ``cause``; every parameter of the space under its own name.
    frozen: the frozen choice; None where there is none, or where it is that of a search with another digest.
    """

    search: Search
    settings: pd.DataFrame
    frozen: Choice | None

    @property
    def method(self) -> str:
        return type(self.search.base.method).__name__

    @property
    def told(self) -> pd.DataFrame:
        """The settings that have a value."""
        return self.settings[self.settings["state"] == "told"]

    def count(self, state: str) -> int:
        return int((self.settings["state"] == state).sum())

    @property
    def done(self) -> int:
        """How many settings are over, whatever came of them."""
        return len(self.settings) - self.count("open")

    @property
    def first_value(self) -> float:
        """Of the base's own setting; NaN where it has none."""
        first = self.told[self.told["number"] == 0]
        return float(first["value"].iloc[0]) if len(first) else np.nan

    @property
    def best(self) -> int | None:
        """Number of the setting with the lowest value, of several the first; None before any is known."""
        told = self.told
        return None if told.empty else int(told["number"].iloc[int(told["value"].argmin())])

    @property
    def chosen(self) -> int | None:
        """Number of the frozen setting; before anything is frozen, of the best one so far."""
        return self.frozen.number if self.frozen else self.best


def read_searches(tuning: Tuning, results: Results, frozen: Frozen | None = None) -> list[Searched]:
    """Every search of ``tuning``, in declared order. One that has not begun has no settings.

    Makes no database. Raises ConfigError, one line, where there is one that cannot be read.
    """
    trials = _trials(tuning.searches, results.optuna_url)
    choices = frozen.choices if frozen else {}
    return [
        Searched(search, _frame(search, trials[search.name]), _same(choices.get(search.name), search))
        for search in tuning.searches
    ]


def _same(choice: Choice | None, search: Search) -> Choice | None:
    return choice if choice is not None and choice.digest == search.digest else None


def _trials(searches: Sequence[Search], url: str) -> dict[str, list[FrozenTrial]]:
    """Those within the budget, by the name of the search."""
    found: dict[str, list[FrozenTrial]] = {search.name: [] for search in searches}
    file = url.removeprefix("sqlite:///")
    if file != url and not Path(file).is_file():
        return found
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        storage = RDBStorage(url, skip_table_creation=True)
        try:
            begun = set(optuna.get_all_study_names(storage))
            for search in searches:
                if search.key in begun:
                    study = optuna.load_study(study_name=search.key, storage=storage)
                    found[search.name] = [t for t in study.get_trials(deepcopy=False) if t.number < search.budget]
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, ImportError, ValueError) as error:
        cause = " ".join(hide_passwords(str(error.__cause__ or error)).split())
        raise ConfigError(f"Optuna's database {hide_passwords(url)} cannot be read: {cause}") from error
    return found


def _frame(search: Search, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    names = ["search", "number", "state", "value", "values", "train_seconds", "trial_ids", "cause", *search.space]
    return pd.DataFrame([_row(search, trial) for trial in trials], columns=names)


def _row(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "search": search.name,
        "number": trial.number,
        "state": STATES[trial.state],
        "value": trial.value if trial.state == TrialState.COMPLETE else np.nan,
        "values": trial.user_attrs.get("values", []),
        "train_seconds": float(trial.user_attrs.get("train_seconds", 0.0)),
        "trial_ids": trial.user_attrs.get("trial_ids", []),
        "cause": trial.user_attrs.get("cause") or None,
        **trial.params,
    }


def has_importance(found: Searched) -> bool:
    """Whether there is something to choose and enough settings have a value, not all the same."""
    told = found.told["value"]
    return bool(found.search.space) and len(told) >= FEWEST_FOR_IMPORTANCE and told.nunique() > 1


def importance(found: Searched) -> pd.Series[float] | None:
    """The share of the variance of the settings' ranks that each parameter explains by itself, by its name.

    Optuna's fANOVA, seeded. Of ranks, for a few settings that went wrong would be all of the values' variance;
    parameters that are drawn on a log scale count on it. None where ``has_importance`` says so.
    """
    told, space = found.told, found.search.space
    if not has_importance(found):
        return None
    study = optuna.create_study(direction="minimize")
    distributions = {name: _flat(one) for name, one in space.items()}
    for rank, (_, row) in zip(told["value"].rank(), told.iterrows(), strict=True):
        params = {name: _flattened(one, row[name]) for name, one in space.items()}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=rank))
    return pd.Series(FanovaImportanceEvaluator(seed=0).evaluate(study), dtype=float).reindex(list(space))


def _flat(declared: Distribution) -> BaseDistribution:
    if isinstance(declared, OneOf):
        return CategoricalDistribution(declared.values)
    return FloatDistribution(_flattened(declared, declared.low), _flattened(declared, declared.high))


def _flattened(declared: Distribution, value: float) -> float:
    """On the scale on which every part of the range is as likely as another."""
    if isinstance(declared, OneOf):
        return min(declared.values, key=lambda one: abs(one - value))  # a column with gaps made 2 into 2.0
    return float(np.log10(value)) if isinstance(declared, LogUniform) else float(value)


def blocks(searches: Sequence[Search]) -> dict[str, list[Search]]:
    """The searches whose methods can be compared, by a title: those of one data set, network and augmentation."""
    params: dict[str, dict[str, Scalar]] = {}
    members: dict[str, list[Search]] = {}
    for search in searches:
        own = {name: value for name, value in search.base_params.items() if name.partition(".")[0] in KINDS[1:]}
        params[repr(own)] = own
        members.setdefault(repr(own), []).append(search)
    varying = [name for name in varying_params(params.values()) if name != "dataset"]
    return {_title(params[key], varying): block for key, block in members.items()}


def _title(params: dict[str, Scalar], varying: Sequence[str]) -> str:
    return " ".join([str(params["dataset"]), *(f"{name}={params[name]}" for name in varying if name in params)])


def row_names(block: Sequence[Search]) -> dict[str, str]:
    """What a reader calls each search of a block, by its name: its method, or where two have one, its own name."""
    methods = [type(search.base.method).__name__ for search in block]
    return {
        search.name: method if methods.count(method) == 1 else search.name
        for search, method in zip(block, methods, strict=True)
    }

"""What to try next: Optuna, asked and told, with its studies in a database of their own.

A search may be killed at any moment and gone on with. What it suggests does not hang on that: a suggestion is drawn in
memory by a sampler made for it, from the search's seed, the number of the setting and the stored history alone, and
then stored in one transaction.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner, MedianPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.search import Distribution, LogUniform, OneOf, Search, Setting
from trainer.declaration import ConfigError
from trainer.passwords import hide_passwords

Outcome = Literal["open", "told", "failed", "pruned"]
OUTCOMES: dict[TrialState, Outcome] = {
    TrialState.RUNNING: "open",
    TrialState.COMPLETE: "told",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
}
WILCOXON_P = 0.1
"""Optuna's default; four pairs can reach it, three cannot."""
WARM_UP = 1 / 3
"""Of a trial's epochs, in which ``median`` prunes nothing: early losses say little before the learning rate falls."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A setting to try. number: Optuna's, from 0 on, which is the search's first setting.

    outcome: ``open`` until it is told about; ``failed`` where it gave no number: it diverged, say. value: the metric.
    train_seconds: of all its trials.
    """

    number: int
    setting: Setting
    outcome: Outcome = "open"
    value: float | None = None
    train_seconds: float = 0.0


def open_storage(url: str) -> RDBStorage:
    """Optuna's database at ``url``, which is made where it is not there.

    Raises ConfigError, one line, when it cannot be opened. Tried a few times: two that make it at once can trip.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    waiting = {"connect_args": {"timeout": 30.0}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for patience in (0.2, 0.5, None):
        try:
            return RDBStorage(url, engine_kwargs=waiting)
        except (
            SQLAlchemyError,
            RuntimeError,
            ImportError,
            ValueError,
        ) as error:
            if patience is None:  # RuntimeError: of another version of Optuna; ValueError: a port that is none
                cause = " ".join(hide_passwords(str(getattr(error, "orig", None) or error)).split())
                raise ConfigError(f"Optuna's database {hide_passwords(url)}: {cause}") from error
        time.sleep(patience)
    raise AssertionError("the last of the tries returns or raises")


def close_storage(storage: RDBStorage) -> None:
    """Give its connections back."""
    storage.remove_session()
    storage.engine.dispose()


class Suggestions:
    """The settings of one search in a database of Optuna's. May be shared by several drivers.

    A search with another ``digest`` is another study there, whatever its name; one with a larger budget goes on. Of one
    with a smaller budget only the first settings are seen.
    """

    def __init__(self, search: Search, storage: RDBStorage) -> None:
        self.search = search
        self._storage = storage
        self._distributions = {name: _distribution(one) for name, one in search.space.items()}
        self._study = optuna.create_study(
            study_name=search.key, storage=storage, direction="minimize", load_if_exists=True
        )
        self._study.set_user_attr("metric", search.metric)
        self._pruner = _pruner(search)

    def ask(self) -> Suggestion | None:
        """A new setting; None where the budget is spent. It is open until it is told about, whoever asked for it.

        Two that ask at the same moment would be given the same setting: the caller sees to it that they do not.
        """
        history = self._stored()
        number = len(history)
        if number >= self.search.budget:
            return None
        new = optuna.create_trial(
            state=TrialState.RUNNING, params=dict(self._setting(number, history)), distributions=self._distributions
        )
        new.datetime_start = datetime.datetime.now()  # noqa: DTZ005  # as Optuna's own, which its pages show
        self._storage.create_new_trial(self._study._study_id, new)
        return self.all()[number]

    def _setting(self, number: int, history: Sequence[FrozenTrial]) -> Setting:
        if number == 0:
            return self.search.first
        if self.search.sampler == "grid":
            rest = [setting for setting in self.search.grid if setting != self.search.first]
            return rest[number - 1]
        asked = optuna.create_study(direction="minimize", sampler=self._sampler(number))
        asked.add_trials(list(history))
        return dict(asked.ask(self._distributions).params)

    def all(self) -> list[Suggestion]:
        """Within the budget, in order."""
        return [_suggestion(trial) for trial in self._stored()[: self.search.budget]]

    def open(self) -> list[Suggestion]:
        """Those that were asked for and not told about, in order: a dead driver's among them."""
        return [one for one in self.all() if one.outcome == "open"]

    def tell(
        self, number: int, values: Sequence[float], trial_ids: Sequence[str], train_seconds: float, cause: str = ""
    ) -> None:
        """What came of a setting: a value for each seed, of which the mean counts; none where it gave no number.

        The first answer stands: two drivers may see the end of one setting.
        """
        kept = {"values": list(values), "trial_ids": list(trial_ids), "train_seconds": train_seconds}
        state = TrialState.COMPLETE if values else TrialState.FAIL
        mean = [sum(values) / len(values)] if values else None
        self._end(number, state, mean, kept if values else kept | {"cause": cause[-2000:]})

    def prune(self, number: int, values: Sequence[float], trial_ids: Sequence[str], train_seconds: float) -> None:
        """Give the setting up. values: of the seeds that were trained."""
        kept = {"values": list(values), "trial_ids": list(trial_ids), "train_seconds": train_seconds}
        self._end(number, TrialState.PRUNED, None, kept)

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None, kept: dict[str, object]) -> None:
        trial = self._stored()[number]
        if trial.state.is_finished():
            return
        try:
            for name, value in kept.items():
                self._storage.set_trial_user_attr(trial._trial_id, name, value)
            self._storage.set_trial_state_values(trial._trial_id, state, values)
        except optuna.exceptions.UpdateFinishedTrialError:  # another driver was faster
            return

    def should_prune(self, number: int, step: int, value: float) -> bool:
        """Whether to give the setting up: at ``step``, a number of epochs or of seeds, its metric was ``value``."""
        if self._pruner is None or (trial := self._stored()[number]).state.is_finished():
            return False
        if step not in trial.intermediate_values:
            self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
            trial = self._stored()[number]
        return self._pruner.prune(self._study, trial)

    def best(self) -> Suggestion | None:
        """The lowest value, of several the first; None before any is known."""
        known = [one for one in self.all() if one.value is not None]
        return min(known, key=lambda one: (one.value, one.number), default=None)

    @property
    def searched_seconds(self) -> float:
        """For how long drivers have been at it."""
        return float(self._study.user_attrs.get("searched_seconds", 0.0))

    def add_seconds(self, seconds: float) -> None:
        """A driver was at it for so long."""
        self._study.set_user_attr("searched_seconds", self.searched_seconds + seconds)

    def _stored(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _sampler(self, number: int) -> BaseSampler:
        seed = _seed(self.search.sampler_seed, number)
        # constant_liar: settings that are being tried count as bad ones, or those asked for beside them would be alike.
        return TPESampler(seed=seed, constant_liar=True) if self.search.sampler == "tpe" else RandomSampler(seed)


def _pruner(search: Search) -> BasePruner | None:
    if search.pruner == "wilcoxon":
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            return WilcoxonPruner(p_threshold=WILCOXON_P)
    if search.pruner == "median":
        return MedianPruner(n_warmup_steps=math.ceil(search.base.epochs * WARM_UP))
    return None


def _seed(sampler_seed: int, number: int) -> int:
    """Unrelated from number to number: neighbouring seeds of a generator need not be."""
    return int.from_bytes(hashlib.sha256(f"{sampler_seed} {number}".encode()).digest()[:4])


def _distribution(declared: Distribution) -> BaseDistribution:
    if isinstance(declared, OneOf):
        return CategoricalDistribution(declared.values)
    return FloatDistribution(declared.low, declared.high, log=isinstance(declared, LogUniform))


def _suggestion(trial: FrozenTrial) -> Suggestion:
    value = trial.value if trial.state == TrialState.COMPLETE else None
    seconds = float(trial.user_attrs.get("train_seconds", 0.0))
    return Suggestion(trial.number, dict(trial.params), OUTCOMES[trial.state], value, seconds)

"""What to try next: Optuna, asked and told, with its studies in a database of their own.

A search may be killed at any moment and gone on with. What it suggests does not hang on that: the sampler is made anew
for each question, from the search's seed and the number of the setting, and knows nothing but the stored history.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.search import Distribution, LogUniform, OneOf, Search, Setting
from trainer.declaration import ConfigError


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A setting to try. number: Optuna's, from 0 on, which is the search's first setting.

    value: the metric, once it is told; None before, and for a setting that gave none (``failed``): it diverged, say.
    """

    number: int
    setting: Setting
    value: float | None = None
    failed: bool = False


class Suggestions:
    """The settings of one search, at a database URL that Optuna has for itself. May be shared by several drivers.

    A search with another ``digest`` is another study there, whatever its name; one with a larger budget goes on.
    Raises ConfigError, one line, when the database cannot be opened.
    """

    def __init__(self, search: Search, url: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search = search
        self._distributions = {name: _distribution(one) for name, one in search.space.items()}
        try:
            self._storage = optuna.storages.RDBStorage(url)
            self._study = optuna.create_study(
                study_name=f"{search.name} {search.digest}",
                storage=self._storage,
                direction="minimize",
                load_if_exists=True,
            )
        except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: made by another version of Optuna
            raise ConfigError(f"Optuna's database: {' '.join(str(error).split())}") from error
        self._study.set_user_attr("metric", search.metric)
        for setting in [search.first, *(search.grid if search.sampler == "grid" else [])]:
            self._study.enqueue_trial(dict(setting), skip_if_exists=True)

    def close(self) -> None:
        """Give the connections back."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def ask(self) -> Suggestion:
        """A new setting. It is open until it is told about, also when whoever asked is gone."""
        asked = sum(trial.state != TrialState.WAITING for trial in self._trials())
        self._study.sampler = self._sampler(asked)
        trial = self._study.ask(self._distributions)
        return Suggestion(trial.number, dict(trial.params))

    def open(self) -> list[Suggestion]:
        """Those that were asked for and not told about, in order: a dead driver's among them."""
        return [_suggestion(trial) for trial in self._trials() if trial.state == TrialState.RUNNING]

    def closed(self) -> list[Suggestion]:
        """Those that were told about, in order."""
        return [_suggestion(trial) for trial in self._trials() if trial.state.is_finished()]

    def tell(self, number: int, value: float | None) -> None:
        """What came of a setting; None for one that gave no number. The first answer stands."""
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        self._study.tell(number, value, state=state, skip_if_finished=True)

    def best(self) -> Suggestion | None:
        """The lowest value, of several the first; None before any is known."""
        known = [one for one in self.closed() if one.value is not None]
        return min(known, key=lambda one: (one.value, one.number), default=None)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _sampler(self, number: int) -> BaseSampler:
        seed = _seed(self._search.sampler_seed, number)
        return TPESampler(seed=seed) if self._search.sampler == "tpe" else RandomSampler(seed)


def _seed(sampler_seed: int, number: int) -> int:
    """Unrelated from number to number: neighbouring seeds of a generator need not be."""
    return int.from_bytes(hashlib.sha256(f"{sampler_seed} {number}".encode()).digest()[:4])


def _distribution(declared: Distribution) -> BaseDistribution:
    if isinstance(declared, OneOf):
        return CategoricalDistribution(declared.values)
    return FloatDistribution(declared.low, declared.high, log=isinstance(declared, LogUniform))


def _suggestion(trial: FrozenTrial) -> Suggestion:
    return Suggestion(trial.number, dict(trial.params), trial.value, trial.state == TrialState.FAIL)

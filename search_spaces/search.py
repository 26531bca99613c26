"""A search: which settings of one method are tried on one data set, by what measure, and how many of them."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from search_spaces.study import Study
from trainer.config import Holdout, TrialConfig, identity
from trainer.declaration import ConfigError, Declaration, Scalar, flatten

Setting = Mapping[str, int | float]
"""A value for each name of a space."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Uniform(Declaration):
    """All numbers from ``low`` to ``high``, each as likely as another."""

    low: float
    high: float

    def check(self) -> None:
        self.require(self.low < self.high, "low", f"< high = {self.high!r}")

    @property
    def ends(self) -> tuple[float, ...]:
        return self.low, self.high

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class LogUniform(Uniform):
    """All numbers from ``low`` to ``high``, each order of magnitude as likely as another."""

    def check(self) -> None:
        self.require(0 < self.low < self.high, "low", f"> 0 and < high = {self.high!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOf(Declaration):
    """A few numbers, in no order that a sampler could use."""

    values: tuple[int | float, ...]

    def check(self) -> None:
        self.require(len(set(self.values)) == len(self.values) >= 1, "values", "one or more numbers, all different")

    @property
    def ends(self) -> tuple[float, ...]:
        return self.values

    def __contains__(self, value: float) -> bool:
        return value in self.values


Distribution = Uniform | LogUniform | OneOf
Space = Mapping[str, Distribution]
"""By the names that parameters have everywhere: ``method.epsilon``, ``lr``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """Settings of one method on one data set, tried on validation images: the test set is never read.

    base: the trial whose parameters ``space`` varies. Its own values are the first setting; its seed, its validation
        split and what it evaluates are replaced.
    metric: what is minimised, at the last epoch; over several seeds its mean.
    settings: the budget, a number of settings. hours: of wall time, after which none is begun; None for no such limit.
    seeds: each setting is trained with the seeds 0, 1, ..., seed k on the k-th stratified split; the same for all.
    fraction: of the training images, held out for validation; 10% in the paper (§5).
    sampler: Optuna's TPE, at random, or the ``grid`` of a space that has ``OneOf`` only. sampler_seed: its own seed.
    pruner: Optuna's, gives a setting up before all of it is trained. ``wilcoxon`` asks after each seed whether the
        setting is worse than the best one on the same seeds, which are then trained one after the other; ``median``,
        with one seed a setting, asks at 20 epochs or more whether it is worse than half of the settings were there.
    """

    name: str
    base: TrialConfig
    space: Space
    settings: int
    metric: Literal["val/nll", "val/error"] = "val/nll"
    hours: float | None = None
    seeds: int = 1
    fraction: float = 0.1
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    sampler_seed: int = 0
    pruner: Literal["none", "wilcoxon", "median"] = "none"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", str(self.name)):
            raise ConfigError(f"Search.name = {self.name!r}: must be lower-case letters, digits and '-', at most 64")
        object.__setattr__(self, "space", dict(sorted(self.space.items())))
        self._require(self.metric in ("val/nll", "val/error"), "metric", "'val/nll' or 'val/error'")
        self._require(self.sampler in ("tpe", "random", "grid"), "sampler", "'tpe', 'random' or 'grid'")
        for field in ("settings", "seeds"):
            self._require(_is_count(getattr(self, field)), field, "a whole number >= 1")
        self._require(self.hours is None or self.hours > 0, "hours", "> 0, or None for no limit")
        self._require(self.pruner in ("none", "wilcoxon", "median"), "pruner", "'none', 'wilcoxon' or 'median'")
        few = "'none' with fewer than 5 seeds: the test tells nothing from less than 4 of them"
        self._require(self.pruner != "wilcoxon" or self.seeds >= 5, "pruner", few)
        self._require(self.pruner != "median" or self.seeds == 1, "pruner", "'wilcoxon' or 'none' with several seeds")
        listed = self._is_listed
        self._require(self.sampler != "grid" or listed, "sampler", "'tpe' or 'random' unless all of the space is OneOf")
        self._check_space()
        if self.sampler == "grid":
            size = len(self.grid)
            self._require(self.settings <= size, "settings", f"<= {size}, the size of the grid")

    def _require(self, holds: bool, field: str, expected: str) -> None:
        if not holds:
            raise ConfigError(f"Search.{field} = {getattr(self, field)!r} of {self.name!r}: must be {expected}")

    def _check_space(self) -> None:
        params = self.base.params()
        for name, distribution in self.space.items():
            where = f"Search.space[{name!r}] of {self.name!r}"
            if not isinstance(distribution, Distribution):
                raise ConfigError(f"{where} = {distribution!r}: must be LogUniform, Uniform or OneOf")
            own = params.get(name)
            if not isinstance(own, int | float):
                numbers = [key for key, value in params.items() if isinstance(value, int | float)]
                nearest = ", ".join(difflib.get_close_matches(name, numbers, cutoff=0.4) or numbers)
                raise ConfigError(f"{where}: the base has no such number: {nearest}")
            if name == "revision" or name.partition(".")[0] in ("seed", "validation"):
                raise ConfigError(f"{where}: is not for a search to choose")
            if isinstance(own, int) and not isinstance(distribution, OneOf):
                raise ConfigError(f"{where} = {distribution!r}: must be OneOf: {name} is a whole number")
            if own not in distribution:
                raise ConfigError(f"{where} = {distribution!r}: must hold the base's {own!r}, which is tried first")
            for end in distribution.ends:  # what a field cannot be is said now, not in the middle of the search
                self.trials({name: end})

    @property
    def _is_listed(self) -> bool:
        return all(isinstance(distribution, OneOf) for distribution in self.space.values())

    @property
    def budget(self) -> int:
        """How many settings are tried: ``settings``, or fewer where the space has no more."""
        return min(self.settings, len(self.grid)) if self._is_listed else self.settings

    @property
    def grid(self) -> list[Setting]:
        """Every combination of a space that has ``OneOf`` only, the last name's values changing fastest."""
        listed = [one.values for one in self.space.values() if isinstance(one, OneOf)]
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*listed)]

    @property
    def first(self) -> Setting:
        """The base's own values: the paper's, say, which no search may miss."""
        return self.setting_of(self.base)

    def setting_of(self, trial: TrialConfig) -> dict[str, int | float]:
        """What the trial has for each name of the space."""
        params = trial.params()
        return {name: value for name in self.space if isinstance(value := params[name], int | float)}

    def typical_trials(self) -> list[TrialConfig]:
        """A trial for each combination of the values that are listed in the space: what it costs may hang on them."""
        listed = {name: one.values for name, one in self.space.items() if isinstance(one, OneOf)}
        settings = (dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values()))
        return [self.trials(setting)[0] for setting in settings]

    def trials(self, setting: Setting) -> tuple[TrialConfig, ...]:
        """The trials of ``setting``, one a seed. Names of the space that it leaves out are the base's."""
        return tuple(
            replace(
                self._with(setting),
                seed=seed,
                validation=Holdout(fraction=self.fraction, seed=seed),
                evaluate="val",
            )
            for seed in range(self.seeds)
        )

    def final_trials(self, setting: Setting, seeds: Sequence[int]) -> tuple[TrialConfig, ...]:
        """``setting`` trained on all training images and measured on the test set, one trial a seed."""
        return tuple(replace(self._with(setting), seed=seed, validation=None, evaluate="test") for seed in seeds)

    def _with(self, setting: Setting) -> TrialConfig:
        return TrialConfig.from_params({**self.base.params(), **setting})

    @property
    def key(self) -> str:
        """By which the search is known where its settings are stored: another ``digest`` is another search."""
        return f"{self.name} {self.digest}"

    @property
    def base_params(self) -> dict[str, Scalar]:
        """The base's parameters, without those that a search replaces."""
        replaced = ("seed", "validation", "evaluate")
        return {name: value for name, value in self.base.params().items() if name.partition(".")[0] not in replaced}

    @property
    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over all that the search's outcome depends on; its budget is left out.

        So a search goes on when its budget is raised.
        """
        params: dict[str, Scalar] = {f"base.{name}": value for name, value in self.base_params.items()}
        for name, distribution in self.space.items():
            params |= {f"space.{name}": type(distribution).__name__, **flatten(distribution, f"space.{name}.")}
        others = ("metric", "seeds", "fraction", "sampler", "sampler_seed", "pruner")
        params |= {name: getattr(self, name) for name in others}
        return identity(params)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """Searches that are compared afterwards: every one has the same budget, the same seeds and the same measure.

    final_seeds: with which each one's chosen setting, and its first one, which is untuned, are trained again on all
        training images, and then measured on the test set.
    """

    name: str
    question: str
    searches: Sequence[Search]
    final_seeds: Sequence[int] = range(10)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,57}", str(self.name)):  # and -final
            raise ConfigError(f"Tuning.name = {self.name!r}: must be lower-case letters, digits and '-', at most 58")
        object.__setattr__(self, "searches", tuple(self.searches))
        object.__setattr__(self, "final_seeds", tuple(self.final_seeds))
        if not self.searches:
            raise ConfigError(f"Tuning.searches of {self.name!r}: must be one Search or more")
        names = [search.name for search in self.searches]
        if len(set(names)) < len(names):
            raise ConfigError(f"Tuning.searches of {self.name!r}: two have one name: {', '.join(names)}")
        if len({search.digest for search in self.searches}) < len(names):
            raise ConfigError(f"Tuning.searches of {self.name!r}: two are the same but for their names: declare one")
        for field in ("settings", "hours", "seeds", "fraction", "metric", "sampler", "pruner"):
            found = {getattr(search, field) for search in self.searches}
            if len(found) > 1:
                differing = ", ".join(sorted(map(repr, found)))
                raise ConfigError(
                    f"Tuning.searches of {self.name!r}: {field} differs ({differing}): must be one for all"
                )

    @property
    def final_name(self) -> str:
        """Of the study that gives the verdict."""
        return f"{self.name}-final"

    def final_study(self, chosen: Mapping[str, Setting]) -> Study:
        """The study that gives the verdict. chosen: the setting of each search, by its name."""
        declared = (
            trial
            for search in self.searches
            for setting in (search.first, chosen[search.name])
            for trial in search.final_trials(setting, self.final_seeds)
        )
        trials = {trial.trial_id: trial for trial in declared}  # the first setting may be the chosen one
        return Study(name=self.final_name, question=self.question, trials=tuple(trials.values()))


def setting_text(setting: Setting) -> str:
    """``epsilon=0.5 lr=0.0312``, three digits of each; empty where there is nothing to set."""
    return " ".join(f"{name.removeprefix('method.')}={value:.3g}" for name, value in setting.items())


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

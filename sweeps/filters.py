"""Filters: a part of a study's declared trials, by their parameters and by the number of seeds."""

from __future__ import annotations

import dataclasses
import json
import shlex
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.study import Study
from trainer.config import Augment, ClipGradients, Dataset, Holdout, Method, Model, Normalization, TrialConfig
from trainer.declaration import ConfigError

NOTHING = object()
"""The value of a parameter that a trial does not have."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What ``--only`` and ``--seeds`` ask for; by default all.

    only: ``field=value`` each; of one field any of its values, of several fields all must hold. seeds: the first so
    many of each cell.
    """

    only: tuple[str, ...] = ()
    seeds: int | None = None

    def of(self, study: Study) -> Study:
        """``study`` with the chosen trials alone. Raises ConfigError for a field or value that none has."""
        if self == ALL:
            return study
        wanted = self._wanted(study.trials)
        chosen = [trial for trial in study.trials if all(_matches(trial, *item) for item in wanted.items())]
        if not chosen:
            raise ConfigError(f"{self.as_options()}: no trial of {study.name} has all of these")
        return _first_seeds(dataclasses.replace(study, trials=chosen), self.seeds)

    def _wanted(self, trials: Sequence[TrialConfig]) -> dict[str, list[str]]:
        wanted: dict[str, list[str]] = {}
        for item in self.only:
            field, equals, text = (part.strip() for part in item.partition("="))
            if not equals:
                raise ConfigError(f"--only {item}: must be field=value, as in --only method=Amp")
            _require_known(trials, field, text)
            wanted.setdefault(field, []).append(text)
        return wanted

    def as_options(self) -> str:
        """As on the command line."""
        seeds = [] if self.seeds is None else [f"--seeds {self.seeds}"]
        return " ".join([*(f"--only {shlex.quote(item)}" for item in self.only), *seeds])

    def as_make(self) -> str:
        """As variables of make, with a blank before each."""
        only = f" ONLY={shlex.quote(' '.join(self.only))}" if self.only else ""
        return only + (f" SEEDS={self.seeds}" if self.seeds is not None else "")


ALL = Selection()


def _first_seeds(study: Study, seeds: int | None) -> Study:
    kept = {trial.trial_id for cell in study.cells() for trial in cell.trials[:seeds]}
    return dataclasses.replace(study, trials=[trial for trial in study.trials if trial.trial_id in kept])


def _matches(trial: TrialConfig, field: str, texts: Sequence[str]) -> bool:
    value = _value(trial, field)
    return any(_means(text, value) for text in texts)


def _require_known(trials: Sequence[TrialConfig], field: str, text: str) -> None:
    values = {_shown(value): value for trial in trials if (value := _value(trial, field)) is not NOTHING}
    if not values:
        names = dict.fromkeys(name for trial in trials for name in trial.params())
        raise ConfigError(f"--only {field}={text}: no trial has a parameter {field!r}: there are {', '.join(names)}")
    if not any(_means(text, value) for value in values.values()):
        raise ConfigError(f"--only {field}={text}: no trial has this value: there are {', '.join(values)}")


def _value(trial: TrialConfig, field: str) -> Any:
    """Of the parameter, also where a trial's parameters leave it out because it has its default."""
    params = trial.params()
    if field in params:
        return params[field]
    found: Any = trial
    for name in field.split("."):
        found = getattr(found, name, NOTHING)
    plain = found is None or isinstance(found, str | int | float)
    return found if plain else NOTHING


def _means(text: str, value: Any) -> bool:
    """Whether ``text`` is one of the ways to write ``value``: 0.5 is 0.50, [15,22] is [15, 22]."""
    if value is NOTHING:
        return False
    if text == _shown(value):
        return True
    try:
        meant = json.loads(text)
    except ValueError:
        return False
    return not isinstance(value, str) and not isinstance(meant, bool) and bool(meant == value)


def _shown(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list) else str(value)


def refuse_hyper_parameters(options: Sequence[str]) -> None:
    """Raise ConfigError when one of the options that argparse does not know names a hyper-parameter."""
    names = set(_fields())
    for option in options:
        name = option.partition("=")[0].removeprefix("--").replace("-", "_")
        if option.startswith("--") and name.rpartition(".")[2] in names:
            raise ConfigError(
                f"{option.partition('=')[0]}: hyper-parameters are part of a trial's identity, other values make other"
                f" trials: change them in the study's file. For some of its trials: --only FIELD=VALUE, --seeds N"
                " (of make: ONLY=FIELD=VALUE, SEEDS=N)"
            )


def _fields() -> Iterator[str]:
    """The names of all fields of a trial and of its parts, and what people call some of them."""
    yield from ("learning_rate", "eps")
    for declaration in (TrialConfig, Augment, ClipGradients, Holdout, Normalization):
        yield from (field.name for field in dataclasses.fields(declaration))
    for union in (Method, Model, Dataset):
        for declaration in typing.get_args(union):
            yield from (field.name for field in dataclasses.fields(declaration))

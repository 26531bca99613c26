"""A tuning small enough to make up all of its numbers, as a user's own file, and Optuna's database of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from search_spaces.catalog import find_tuning
from search_spaces.choices import Choice, Frozen
from search_spaces.search import LogUniform, OneOf, Search, Setting, Tuning
from trainer.machine import Results

TEXT = """
from search_spaces import recipes
from search_spaces.search import LogUniform, OneOf, Search, Tuning
from trainer.config import Amp, Erm, Rmp

LR = {"lr": LogUniform(low=0.005, high=0.5)}
AMP = {"method.epsilon": LogUniform(low=0.01, high=1.0), "method.inner_lr": LogUniform(low=0.1, high=10.0)}
STUDY = Tuning(
    name="made-up",
    question="Is the report [right]?",
    searches=[
        Search(name=name, base=base, space=space, settings=12, seeds=2)
        for name, base, space in (
            ("digits-erm", recipes.digits_mlp(Erm(), 0), LR),
            ("digits-amp", recipes.digits_mlp(Amp(epsilon=0.1), 0), {**LR, **AMP}),
            ("mnist5k-rmp", recipes.mnist5k_mlp(Rmp(epsilon=0.1), 0), {"batch_size": OneOf(values=(20, 50, 100))}),
        )
    ],
    final_seeds=range(3),
)
"""
Told = Sequence[float] | TrialState
"""A value for each seed, or the state of a setting that has none."""


def write_tuning(folder: Path) -> tuple[Tuning, str]:
    """The tuning, and the path of its file in ``folder``, by which its user finds it."""
    file = folder / "own.py"
    file.write_text(TEXT, encoding="utf-8")
    return find_tuning(str(file)), str(file)


def fill(results: Results, search: Search, settings: Sequence[tuple[Setting, Told]]) -> None:
    """Settings of ``search`` in Optuna's database, numbered from 0 on, as the driver leaves them."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storage = RDBStorage(results.optuna_url)
    name = f"{search.name} {search.digest}"
    study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
    distributions = {name: _distribution(one) for name, one in search.space.items()}
    for setting, told in settings:
        study.add_trial(_trial(search, setting, told, distributions))
    storage.remove_session()
    storage.engine.dispose()


def _trial(
    search: Search, setting: Setting, told: Told, distributions: Mapping[str, BaseDistribution]
) -> optuna.trial.FrozenTrial:
    if told == TrialState.RUNNING:
        return optuna.create_trial(state=told, params=dict(setting), distributions=dict(distributions))
    values = [] if isinstance(told, TrialState) else list(told)
    attrs = {"values": values, "train_seconds": 30.0, "trial_ids": [t.trial_id for t in search.trials(setting)]}
    return optuna.create_trial(
        state=told if isinstance(told, TrialState) else TrialState.COMPLETE,
        value=sum(values) / len(values) if values else None,
        params=dict(setting),
        distributions=dict(distributions),
        user_attrs=attrs | ({"cause": "loss is nan"} if told == TrialState.FAIL else {}),
    )


def _distribution(declared: object) -> BaseDistribution:
    if isinstance(declared, OneOf):
        return CategoricalDistribution(declared.values)
    assert isinstance(declared, LogUniform)
    return FloatDistribution(declared.low, declared.high, log=True)


def frozen_with(tuning: Tuning, chosen: Mapping[str, tuple[int, float, Setting]], date: str) -> Frozen:
    """The choices of ``tuning``: of each search a number, its value and its setting."""
    digests = {search.name: search.digest for search in tuning.searches}
    choices = {name: Choice(digests[name], *choice, 12, 0, 0, 360.0) for name, choice in _flat(chosen).items()}
    return Frozen(tuning.name, date, "abc1234", choices)


def _flat(chosen: Mapping[str, tuple[int, float, Setting]]) -> dict[str, tuple[int, float, Setting]]:
    return {name: (number, value, dict(setting)) for name, (number, value, setting) in chosen.items()}

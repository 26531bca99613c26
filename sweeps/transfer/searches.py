"""What a search has tried, as plain data, and how that is taken over by another database of Optuna's."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from sweeps.ledger import Ledger

SEARCHED_SECONDS = "searched_seconds"


def dump_search(key: str, storage: RDBStorage) -> dict[str, Any]:
    """All settings of the search that Optuna knows by ``key``, which is there."""
    study = optuna.load_study(study_name=key, storage=storage)
    return {"key": key, "attrs": study.user_attrs, "settings": [_dump(trial) for trial in study.get_trials()]}


def _dump(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "state": trial.state.name,
        "params": trial.params,
        "distributions": {name: distribution_to_json(one) for name, one in trial.distributions.items()},
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "attrs": trial.user_attrs,
        "intermediate": {str(step): value for step, value in trial.intermediate_values.items()},
        "start": _text(trial.datetime_start),
        "complete": _text(trial.datetime_complete),
    }


def _text(moment: datetime.datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def load_settings(dumped: Mapping[str, Any]) -> list[FrozenTrial]:
    """The settings of a search that was dumped. Raises KeyError, TypeError or ValueError for what is none."""
    return [_load(one) for one in dumped["settings"]]


def _load(one: Mapping[str, Any]) -> FrozenTrial:
    trial = optuna.create_trial(
        state=TrialState[one["state"]],
        value=one["value"],
        params=dict(one["params"]),
        distributions={name: json_to_distribution(text) for name, text in one["distributions"].items()},
        user_attrs=dict(one["attrs"]),
        intermediate_values={int(step): float(value) for step, value in one["intermediate"].items()},
    )
    trial.datetime_start, trial.datetime_complete = _moment(one["start"]), _moment(one["complete"])
    return trial


def _moment(text: str | None) -> datetime.datetime | None:
    return None if text is None else datetime.datetime.fromisoformat(text)


def merge_search(
    key: str, attrs: Mapping[str, Any], settings: Sequence[FrozenTrial], storage: RDBStorage, ledger: Ledger, owner: str
) -> bool:
    """Add to the search here what it lacks of ``settings``; again it changes nothing.

    False, and no change, where the two have gone different ways: a suggestion follows from all before it, and a search
    has one history.
    """
    study = optuna.create_study(study_name=key, storage=storage, direction="minimize", load_if_exists=True)
    if not all(_agree(here, there) for here, there in zip(study.get_trials(), settings, strict=False)):
        return False
    for number, setting in enumerate(settings):
        with ledger.alone(key, owner):  # as whoever asks for a setting is
            if not _merge_one(study, number, setting, storage):
                return False
    for name, value in _newer(study.user_attrs, attrs).items():
        study.set_user_attr(name, value)
    return True


def _newer(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes to be set. Of hours searched the larger number holds: the smaller one is part of it."""
    new = {name: value for name, value in there.items() if name not in here}
    if there.get(SEARCHED_SECONDS, 0.0) > here.get(SEARCHED_SECONDS, 0.0):
        new[SEARCHED_SECONDS] = there[SEARCHED_SECONDS]
    return new


def _agree(here: FrozenTrial, there: FrozenTrial) -> bool:
    if here.params != there.params:
        return False
    both_over = here.state.is_finished() and there.state.is_finished()
    return not both_over or (here.state, here.values) == (there.state, there.values)


def _merge_one(study: optuna.Study, number: int, setting: FrozenTrial, storage: RDBStorage) -> bool:
    known = study.get_trials(deepcopy=False)
    if number >= len(known):
        storage.create_new_trial(study._study_id, setting)
        return True
    here = known[number]
    if not here.state.is_finished() and setting.state.is_finished():
        with contextlib.suppress(UpdateFinishedTrialError):  # a driver here has just told the same
            _tell(here._trial_id, setting, storage)
    return _agree(here, setting)


def _tell(trial_id: int, setting: FrozenTrial, storage: RDBStorage) -> None:
    for name, value in setting.user_attrs.items():
        storage.set_trial_user_attr(trial_id, name, value)
    for step, reached in setting.intermediate_values.items():
        storage.set_trial_intermediate_value(trial_id, step, reached)
    storage.set_trial_state_values(trial_id, setting.state, setting.values)

"""How an experiment in MLflow is laid out: which runs its trials' runs are put under, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from search_spaces.study import Cell, Study
from sweeps.ledger import State
from trainer.config import TrialConfig
from trainer.declaration import Scalar

ENDED: frozenset[State] = frozenset({"finished", "diverged", "failed"})
States = Mapping[str, State]
SEARCH = "search "
"""What the keys of searches' runs begin with."""


@dataclass(frozen=True, slots=True)
class Group:
    """A run that trials' runs are put under. key: its name in the ledger. params, tags: what it shows."""

    key: str
    name: str
    params: Mapping[str, Scalar]
    tags: Mapping[str, str]


class Outline(Protocol):
    """Of one experiment. Trials may come to it while a sweep goes on, groups may not."""

    @property
    def name(self) -> str:
        """Of the experiment."""

    @property
    def question(self) -> str:
        """That it answers."""

    @property
    def trials(self) -> Sequence[TrialConfig]:
        """All that are known of."""

    @property
    def groups(self) -> Sequence[Group]:
        """All of them."""

    def group(self, trial_id: str) -> Group:
        """That the trial's run is put under."""

    def label(self, trial: TrialConfig) -> str:
        """What tells the trial from the others of its group with the same seed; empty where nothing does."""

    def run_name(self, trial: TrialConfig) -> str:
        """Of the trial's run."""

    def tags(self, trial: TrialConfig) -> Mapping[str, str]:
        """Of the trial's run, beside its group's."""

    def is_over(self, group: Group, states: States) -> bool:
        """Whether no trial of the group is to be trained any more."""


@dataclass(frozen=True)
class StudyOutline:
    """Of a study: a group a cell."""

    study: Study

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def question(self) -> str:
        return self.study.question

    @property
    def trials(self) -> Sequence[TrialConfig]:
        return self.study.trials

    @cached_property
    def _by_key(self) -> Mapping[str, Cell]:
        return {cell.cell_id: cell for cell in self.study.cells()}

    @cached_property
    def _cells(self) -> Mapping[str, tuple[str, Cell]]:
        return {trial.trial_id: (key, cell) for key, cell in self._by_key.items() for trial in cell.trials}

    @cached_property
    def _groups(self) -> Mapping[str, Group]:
        return {key: _cell_group(self.study, key, cell) for key, cell in self._by_key.items()}

    @property
    def groups(self) -> Sequence[Group]:
        return list(self._groups.values())

    def group(self, trial_id: str) -> Group:
        return self._groups[self._cells[trial_id][0]]

    def label(self, trial: TrialConfig) -> str:
        return ""

    def run_name(self, trial: TrialConfig) -> str:
        return f"{self._cells[trial.trial_id][1].label} seed={trial.seed}"

    def tags(self, trial: TrialConfig) -> Mapping[str, str]:
        return {}

    def is_over(self, group: Group, states: States) -> bool:
        return all(states[trial.trial_id] in ENDED for trial in self._by_key[group.key].trials)


def _cell_group(study: Study, key: str, cell: Cell) -> Group:
    tags = {"kind": "cell", "study": study.name, **kind_tags(cell.params)}
    return Group(key, cell.label, cell.params, tags)


def kind_tags(params: Mapping[str, Scalar]) -> dict[str, str]:
    """What runs of all kinds are told apart by first."""
    return {name: str(params[name]) for name in ("method", "dataset", "model")}

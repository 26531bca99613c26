"""How an experiment in MLflow is laid out: which runs its trials' runs are put under, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from search_spaces.study import KINDS, Cell, Study
from sweeps.ledger import State
from sweeps.tracking.views import View, study_views
from trainer.config import TrialConfig
from trainer.declaration import Scalar

ENDED: frozenset[State] = frozenset({"finished", "diverged", "failed"})
States = Mapping[str, State]
SEARCH = "search "
"""What the keys of searches' runs begin with."""
RUN_COLOUR = "mlflow.runColor"
COLOURS = {
    "Erm": "#404040",
    "Dropout": "#E69F00",
    "LabelSmoothing": "#56B4E9",
    "Flooding": "#009E73",
    "MixUp": "#CC79A7",
    "AdversarialTraining": "#D55E00",
    "Rmp": "#8C6D31",
    "Amp": "#1f5fa8",
    "Sam": "#7A4FA3",
}
"""Of methods, as in the figures: Okabe and Ito's, which colour-blind readers tell apart, and three beside them."""

_OF_TRIALS = (
    "In a trial's run each metric has a step an epoch; `final/*` repeats the last epoch, for tables; `probe/*` was"
    " measured afterwards.",
    "`error` and `ece` are fractions between 0 and 1; `nll` is in nats an image. `test/criterion` is the method's own"
    " training criterion on the test set.",
    "A run is FAILED when its trial failed or diverged: its tag `cause` says why, and its numbers enter no mean.",
)
STUDY_GUIDE = (
    "A *cell* is all trials that differ in nothing but the seed: a parent run, with a run for each trial below it.",
    "Of a cell's metrics `mean`, `sd` and the 95% Student-t interval from `low` to `high` are over its `n` finished"
    " seeds at the last epoch. `difference/*` is to ERM, in pairs of one seed.",
    *_OF_TRIALS,
    "A trial that another study trained is a copy, with the tag `copy_of`: final numbers are here, curves are there.",
)
SEARCH_GUIDE = (
    "A *search* tries settings of one method on one data set: a parent run, with a run for each trial below it. Trials"
    " of one setting differ in seed and split, and have one number in the tag `setting`.",
    "`search/best/value` is the best setting's mean of what is minimised, always on validation images;"
    " `search/first/value` is that of the first setting, which is untuned.",
    *_OF_TRIALS,
)


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

    def views(self, metrics: Iterable[str]) -> Sequence[View]:
        """Saved views of the experiment, the first one first. metrics: that its groups' runs have."""

    @property
    def guide(self) -> Sequence[str]:
        """How to read the experiment, a line of Markdown each."""


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
        return f"{short_label(self._cells[trial.trial_id][1].label)} seed={trial.seed}"

    def tags(self, trial: TrialConfig) -> Mapping[str, str]:
        return {}

    def is_over(self, group: Group, states: States) -> bool:
        return all(states[trial.trial_id] in ENDED for trial in self._by_key[group.key].trials)

    def views(self, metrics: Iterable[str]) -> Sequence[View]:
        return study_views(self.study, metrics)

    @property
    def guide(self) -> Sequence[str]:
        return STUDY_GUIDE


def _cell_group(study: Study, key: str, cell: Cell) -> Group:
    tags = {"kind": "cell", "study": study.name, **kind_tags(cell.params)}
    return Group(key, short_label(cell.label), cell.params, tags)


def short_label(label: str) -> str:
    """A cell's label for a narrow column: of data set, network and augmentation the value says what it is of."""
    prefixes = tuple(f"{kind}=" for kind in KINDS)
    words = [word.partition("=")[2] if word.startswith(prefixes) else word for word in label.split(" ")]
    return " ".join(words)


def kind_tags(params: Mapping[str, Scalar]) -> dict[str, str]:
    """What runs of all kinds are told apart by first."""
    names = {name: str(params[name]) for name in ("method", "dataset", "model")}
    return names | {RUN_COLOUR: COLOURS[names["method"]]}

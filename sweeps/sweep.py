"""What the user asked for: trials to train, and the machine's side of it."""

from __future__ import annotations

import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search_spaces.study import Study
from sweeps.cost.eta import Work
from sweeps.filters import ALL, Selection
from sweeps.hardware import hardware
from sweeps.ledger import Ledger, LedgerRow
from sweeps.tracking.outline import Outline
from trainer.config import TrialConfig
from trainer.machine import SUBMITTED_VARIABLE, Results
from trainer.records import EpochRecord

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray's own name for the address of a Ray to join; ``--address`` sets it."""
INTERRUPTED = 130  # the exit code of a shell's Ctrl-C


def joined() -> str | None:
    """The address of the Ray to join; None for one of our own."""
    address = os.environ.get(ADDRESS_VARIABLE, "")
    return None if address in ("", "local") else address


def looked_up(device: str) -> str | None:
    """The hardware whose measured times say what a run will take: this machine's; any, where a Ray's nodes train."""
    return None if joined() else hardware(device)


def code_folder(reference: str) -> Path:
    """Where the modules of the study that a user calls so lie: beside its file, as for a script."""
    own = Path(reference)
    return own.resolve().parent if own.suffix == ".py" else Path.cwd()


def with_pending(study: Study | Outline, rows: Mapping[str, LedgerRow]) -> dict[str, LedgerRow]:
    """The study's trials; what no ledger has is pending."""
    ids = [trial.trial_id for trial in study.trials]
    return {id_: rows.get(id_) or LedgerRow(id_, "", study.name, "pending", None, None, None) for id_ in ids}


@dataclass(frozen=True, slots=True)
class Added:
    """A trial that came to a sweep while it went on.

    label: what it is called. place: what it was expected as. work: what it is expected to take.
    """

    trial: TrialConfig
    label: str
    place: str
    work: Work


@dataclass(frozen=True, slots=True)
class Growth:
    """What has changed in what a sweep trains. dropped: trials, or places of some, that will not be trained."""

    added: Sequence[Added] = ()
    dropped: Sequence[str] = ()


class Sweep(ABC):
    """One call of ``run`` or ``search``.

    reference: what the user called it. jobs: trials at a time. device: cpu or cuda.
    gpus_per_trial: a share of a GPU for each; None for as many trials on a GPU as fit into its memory.
    """

    reference: str
    results: Results
    ledger: Ledger
    jobs: int
    device: str
    gpus_per_trial: float | None
    command: str
    """The make target that goes on with it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the study, or tuning, whose trials these are."""

    @property
    @abstractmethod
    def trials(self) -> Mapping[str, TrialConfig]:
        """All that are known of, by id."""

    @abstractmethod
    def wanted(self) -> Sequence[str]:
        """Ids of those to be trained, in the order in which they are started."""

    def rows(self) -> dict[str, LedgerRow]:
        """The wanted trials as the ledger has them now."""
        return self.ledger.rows(self.wanted())

    @property
    @abstractmethod
    def shown(self) -> Study | Outline:
        """What MLflow shows of it."""

    @abstractmethod
    def shown_rows(self) -> dict[str, LedgerRow]:
        """All trials that MLflow shows as the ledger has them now."""

    def grow(self) -> Growth:
        """Look whether other trials are to be trained now."""
        return Growth()

    def gives_up(self, trial_id: str, records: Sequence[EpochRecord]) -> bool:
        """Whether a trial that is running is not wanted any more, now that it has come to these further records."""
        return False

    @property
    def code_dir(self) -> Path:
        """Where a study's own modules lie."""
        return code_folder(self.reference)

    @property
    def how_to_go_on(self) -> str:
        """What an interrupted run says last."""
        command = "submit" if os.environ.get(SUBMITTED_VARIABLE) else self.command
        return f"Interrupted; what was trained is kept. To go on: make {command} {self.named}"

    @property
    def named(self) -> str:
        """The variables by which make finds this study, these results and these trials again."""
        if submitted := os.environ.get(SUBMITTED_VARIABLE):
            return submitted
        return f"STUDY={shlex.quote(self.reference)}{self.results.as_make}"


@dataclass(frozen=True)
class StudySweep(Sweep):
    """Of a study. declared: the whole study. selection: which of its trials this call is about."""

    declared: Study
    reference: str
    results: Results
    ledger: Ledger
    jobs: int
    device: str
    selection: Selection = ALL
    gpus_per_trial: float | None = None
    command: str = "sweep"

    @cached_property
    def study(self) -> Study:
        """The study with the selected trials alone."""
        return self.selection.of(self.declared)

    @property
    def name(self) -> str:
        return self.declared.name

    @cached_property
    def trials(self) -> Mapping[str, TrialConfig]:
        return {trial.trial_id: trial for trial in self.study.trials}

    @cached_property
    def trial_ids(self) -> list[str]:
        """In the order in which they are started."""
        return list(self.trials)

    def wanted(self) -> Sequence[str]:
        return self.trial_ids

    @property
    def shown(self) -> Study:
        return self.declared

    def shown_rows(self) -> dict[str, LedgerRow]:
        return self.ledger.rows([trial.trial_id for trial in self.declared.trials])

    @property
    def named(self) -> str:
        return super().named + self.selection.as_make()

"""What the user asked for: a study and the machine's side of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search_spaces.study import Study
from sweeps.filters import ALL, Selection
from sweeps.ledger import Ledger, LedgerRow
from trainer.machine import Results

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray's own name for the address of a Ray to join; ``--address`` sets it."""
INTERRUPTED = 130  # the exit code of a shell's Ctrl-C


def code_folder(reference: str) -> Path:
    """Where the modules of the study that a user calls so lie: beside its file, as for a script."""
    own = Path(reference)
    return own.resolve().parent if own.suffix == ".py" else Path.cwd()


def with_pending(study: Study, rows: Mapping[str, LedgerRow]) -> dict[str, LedgerRow]:
    """The study's trials; what no ledger has is pending."""
    ids = [trial.trial_id for trial in study.trials]
    return {id_: rows.get(id_) or LedgerRow(id_, "", study.name, "pending", None, None, None) for id_ in ids}


@dataclass(frozen=True)
class Sweep:
    """One call of ``run``. reference: what the user called the study. jobs: trials at a time. device: cpu or cuda.

    declared: the whole study. selection: which of its trials this call is about. gpus_per_trial: a share of a GPU for
    each; None for as many trials on a GPU as fit into its memory.
    """

    declared: Study
    reference: str
    results: Results
    ledger: Ledger
    jobs: int
    device: str
    selection: Selection = ALL
    gpus_per_trial: float | None = None

    @cached_property
    def study(self) -> Study:
        """The study with the selected trials alone."""
        return self.selection.of(self.declared)

    @cached_property
    def trial_ids(self) -> list[str]:
        return [trial.trial_id for trial in self.study.trials]

    def rows(self) -> dict[str, LedgerRow]:
        """The selected trials as the ledger has them now."""
        return self.ledger.rows(self.trial_ids)

    def declared_rows(self) -> dict[str, LedgerRow]:
        """All trials of the study as the ledger has them now."""
        return self.ledger.rows([trial.trial_id for trial in self.declared.trials])

    @property
    def code_dir(self) -> Path:
        """Where a study's own modules lie."""
        return code_folder(self.reference)

    @property
    def how_to_go_on(self) -> str:
        """What an interrupted run says last."""
        return f"Interrupted; what was trained is kept. To go on: make sweep {self.named}"

    @property
    def named(self) -> str:
        """The variables by which make finds this study, these results and these trials again."""
        elsewhere = self.results.root != Path("results").resolve()
        results = f" RESULTS={shlex.quote(str(self.results.root))}" if elsewhere else ""
        return f"STUDY={shlex.quote(self.reference)}{results}{self.selection.as_make()}"

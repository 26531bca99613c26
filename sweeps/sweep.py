"""What the user asked for: a study and the machine's side of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search_spaces.study import Study
from sweeps.ledger import Ledger, LedgerRow
from trainer.machine import Results

INTERRUPTED = 130  # the exit code of a shell's Ctrl-C


@dataclass(frozen=True)
class Sweep:
    """One call of ``run``. reference: what the user called the study. jobs: trials at a time. device: cpu or cuda."""

    study: Study
    reference: str
    results: Results
    ledger: Ledger
    jobs: int
    device: str

    @cached_property
    def trial_ids(self) -> list[str]:
        return [trial.trial_id for trial in self.study.trials]

    def rows(self) -> dict[str, LedgerRow]:
        """The study's trials as the ledger has them now."""
        return self.ledger.rows(self.trial_ids)

    @property
    def code_dir(self) -> Path:
        """Where a study's own modules lie: beside its file, as for a script."""
        own = Path(self.reference)
        return own.resolve().parent if own.suffix == ".py" else Path.cwd()

    @property
    def how_to_go_on(self) -> str:
        """What an interrupted run says last."""
        return f"Interrupted; what was trained is kept. To go on: make sweep {self.named}"

    @property
    def named(self) -> str:
        """The variables by which make finds this study and these results again."""
        elsewhere = self.results.root != Path("results").resolve()
        return f"STUDY={self.reference}" + (f" RESULTS={shlex.quote(str(self.results.root))}" if elsewhere else "")

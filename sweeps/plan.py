"""What a study still needs, before it is paid for: trials, time, disk, and what difference its seeds can show."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search_spaces.study import Study
from sweeps.cluster.packing import trials_that_share
from sweeps.cost.estimate import SHARE_OF_PEAK, Estimate, Known, Source, kind, wall_seconds
from sweeps.cost.own import Own, has_own, own_costs
from sweeps.hardware import at_a_time, matmul_peak
from sweeps.ledger import OVER, Ledger, LedgerRow, State
from sweeps.sweep import joined, looked_up
from sweeps.table import aligned, short_labels
from trainer.config import TrialConfig
from trainer.machine import Results

HOUR, DAY, YEAR = 3600, 86_400, 365 * 86_400
STATES: tuple[State, ...] = ("finished", "diverged", "failed", "leased")


@dataclass(frozen=True)
class Plan:
    """A study as it stands. estimates: of the trials that a run would train, failed ones included, by id.

    jobs: trials at a time. peak: FLOP/s that were measured, where some estimates needed it. free_bytes: on the disk of
    the results. reasons: why some times are not known.
    """

    study: Study
    rows: Mapping[str, LedgerRow]
    estimates: Mapping[str, Estimate]
    jobs: int
    device: str
    peak: float | None
    free_bytes: int
    reasons: tuple[str, ...] = ()

    @cached_property
    def seconds(self) -> list[float]:
        """Of each trial to train whose time is known."""
        return [found.seconds for found in self.estimates.values() if found.seconds is not None]

    @property
    def device_hours(self) -> float:
        """Of all trials to train whose time is known: one device, a core or a GPU, at work for an hour."""
        return sum(self.seconds) / HOUR

    @property
    def unknown(self) -> int:
        """Trials to train whose time is not known."""
        return len(self.estimates) - len(self.seconds)

    @property
    def needed_bytes(self) -> float:
        """For the checkpoints of all trials to train, where their size is known."""
        return sum(found.checkpoint_bytes or 0 for found in self.estimates.values())

    def counts(self) -> str:
        """One line: cells, trials, and the states they are in."""
        count = Counter(row.state for row in self.rows.values())
        states = [f"{count[state]} {state}" for state in STATES if state != "leased"]
        others = [f"{count['leased']} running elsewhere", f"{len(self.estimates)} to train"]
        return f"{len(self.study.cells())} cells, {len(self.study.trials)} trials: {', '.join(states + others)}"

    def time(self) -> str:
        """In a few words, such as ``about 3 min of training (measured here)``; Ray's start and reports come on top."""
        if not self.seconds:
            return "not known before a trial of its kind is finished here"
        wall = about(wall_seconds(self.seconds, self.jobs))
        part = f" for {len(self.seconds)} of {len(self.estimates)} trials, the others not known" if self.unknown else ""
        return f"about {wall} of training{part} ({self.basis()})"

    def basis(self) -> str:
        """Where the times are from."""
        sources = dict.fromkeys(found.source for found in self.estimates.values())
        return "; ".join(self._explained(source) for source in sources if source != "unknown")

    def _explained(self, source: Source) -> str:
        if source == "FLOPs":
            peak = f"{self.peak / 1e9:,.0f} GFLOP/s" if self.peak else "unknown"
            share = f"an assumed {SHARE_OF_PEAK:.0%} of the measured peak"
            return f"from FLOPs at {share}, {peak}; a narrow network may take several times that"
        if source == "scaled":
            return "measured here with another method, times the passes through the network"
        return "measured here with this network, data and number of passes"

    def hours(self) -> str:
        """The whole work, such as ``3.4 core-hours``; of what is not known only that."""
        unit = f"{'GPU' if self.device == 'cuda' else 'core'}-hours"
        if self.unknown:
            return f"at least {_digits(self.device_hours)} {unit}" if self.seconds else f"{unit} not known"
        return f"{_digits(self.device_hours) if self.device_hours >= 0.1 else 'less than 0.1'} {unit}"

    def disk(self) -> str:
        """What checkpoints will take, and what there is."""
        unknown = sum(found.checkpoint_bytes is None for found in self.estimates.values())
        free = f"{size(self.free_bytes)} are free" + (": too little" if self.needed_bytes > self.free_bytes else "")
        if unknown == len(self.estimates):
            return f"not known for checkpoints; {free}"
        rest = f", those of {unknown} not known" if unknown else ""
        return f"about {size(self.needed_bytes)} for checkpoints{rest}; {free}"


def make_plan(
    study: Study,
    rows: Mapping[str, LedgerRow],
    known: Ledger | None,
    jobs: int,
    device: str,
    gpus_per_trial: float | None = None,
    code_dir: Path | None = None,
) -> Plan:
    """Plan ``study`` for this machine. known: where measured times are looked up, if there is a ledger yet.

    gpus_per_trial: without it a GPU for each trial is planned, though more may turn out to fit on one. code_dir: where
    the modules of ``Custom`` networks are, by default the working directory.
    """
    to_train = [trial for trial in study.trials if rows[trial.trial_id].state not in OVER | {"leased"}]
    kinds = list(dict.fromkeys(map(kind, to_train)))
    found = known.measured_kinds(kinds, looked_up(device)) if known and kinds else []
    unmeasured = set(kinds) - {one.kind for one in found}
    peak = matmul_peak(device) if unmeasured else None
    own, reasons = _own(to_train, unmeasured, code_dir or Path.cwd())
    measured = Known(found, peak, own)
    estimates = {trial.trial_id: measured.estimate(trial) for trial in to_train}
    free = shutil.disk_usage(_existing(Results.here().root)).free
    at_once = jobs if joined() else at_a_time(jobs, device, trials_that_share(gpus_per_trial or 1))
    return Plan(study, rows, estimates, at_once, device, peak, free, reasons)


def _own(trials: Iterable[TrialConfig], kinds: Set[str], code_dir: Path) -> tuple[dict[str, Own], tuple[str, ...]]:
    """What is seen of users' own images and networks, by kind, and why nothing is; at once where there are none.

    kinds: those of ``trials`` that are looked at.
    """
    own = {alike: trial for trial in trials if has_own(trial) and (alike := kind(trial)) in kinds}
    looked_at = own_costs(own, Results.here().data, code_dir) if own else {}
    reasons = dict.fromkeys(seen for seen in looked_at.values() if isinstance(seen, str))
    return {alike: seen for alike, seen in looked_at.items() if isinstance(seen, Own)}, tuple(reasons)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def lines(plan: Plan) -> Iterator[str]:
    """The plan as ``python -m sweeps plan`` prints it."""
    yield f"{plan.study.name}: {plan.study.question}"
    yield ""
    yield from aligned([("", "seeds", *_STATE_COLUMNS, "a trial", "from"), *_cell_rows(plan)])
    yield from summary(plan)


def summary(plan: Plan) -> Iterator[str]:
    """What it comes to, after an empty line."""
    yield ""
    yield plan.counts()
    if plan.estimates:
        at_once = f"{plan.jobs} at a time" if plan.jobs > 1 else "one at a time"
        yield f"Time: {plan.time()}, {at_once}; {plan.hours()}"
        yield f"Disk: {plan.disk()}"
    for reason in plan.reasons:
        yield f"Not known: {reason}"


_STATE_COLUMNS = ("finished", "diverged", "failed", "running")


def _cell_rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    cells = plan.study.cells()
    for cell, label in zip(cells, short_labels([cell.params for cell in cells]), strict=True):
        ids = [trial.trial_id for trial in cell.trials]
        count = Counter(plan.rows[trial_id].state for trial_id in ids)
        left = next((plan.estimates[trial_id] for trial_id in ids if trial_id in plan.estimates), None)
        time = ("", "") if left is None else (about(left.seconds) if left.seconds else "?", left.source)
        yield (label, str(len(ids)), *(str(count[state] or "–") for state in STATES), *time)


def about(seconds: float) -> str:
    """An estimate, two digits of it: ``0.4 s``, ``45 s``, ``3.2 min``, ``17 h``, ``5.5 years``."""
    for unit, name, limit in ((1, "s", 60), (60, "min", HOUR), (HOUR, "h", 2 * DAY), (DAY, "days", YEAR)):
        if seconds < limit:
            return f"{_digits(seconds / unit)} {name}"
    return f"{_digits(seconds / YEAR)} years"


def size(count: float) -> str:
    """``0 B``, ``64 kB``, ``3.1 MB``, ``43 GB``."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{_digits(count / unit)} {name}"
    return f"{count:.0f} B"


def _digits(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.{0 if value >= 9.95 else 1 if value >= 0.995 else 2}f}"

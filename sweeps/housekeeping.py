"""Making room and starting over: what ``python -m sweeps gc`` and ``forget`` do."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.search import Tuning
from search_spaces.study import Study
from sweeps.ledger import LEASE_SECONDS, OVER, Ledger, LedgerRow
from trainer.declaration import ConfigError
from trainer.files import TEMPORARY
from trainer.machine import Results
from trainer.measurement import load_measurement

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LEFTOVER_SECONDS = 3600.0
"""What is written takes seconds; older than this nobody is at it any more."""
FORGETTING = "forget:"
"""How the owner of a lease is named that is there to have a trial forgotten."""


def collect_garbage(declared: Iterable[Study | Tuning], ledger: Ledger, results: Results, dry_run: bool) -> None:
    """Take the state out of the checkpoints of trials that are over, and remove what killed processes left.

    A checkpoint keeps its records: they are the truth about the trial, delivered or not. Weights that a probe of one of
    ``declared`` is still to be measured of stay, and so do those that another study has: it may have probes.
    """
    verb = "would free" if dry_run else "freed"
    known = {one.name: one for one in declared}
    probed = set(_to_be_probed((one for one in known.values() if isinstance(one, Study)), results))
    unknown = set().union(*(keys for name, keys in ledger.shown_by().items() if name not in known))
    for name, rows in ledger.studies().items():
        over = [row for row in rows if row.state in OVER]
        kept = _kept(over, probed, unknown if name in known else {row.trial_id for row in over})
        freed = [_lighten(row, results, dry_run) for row in over if row.trial_id not in kept]
        number = sum(size > 0 for size in freed)
        parts = [f"{name}: {verb} {_megabytes(sum(freed))} of {number} trials"]
        parts += [f"{count} {why}" for why, count in Counter(kept.values()).items()]
        print("; ".join(parts))
    _remove_leftovers(results, verb, dry_run)


def _kept(over: Sequence[LedgerRow], probed: set[str], unknown: set[str]) -> dict[str, str]:
    """Why the weights of a trial stay, by id. Of one that diverged nobody needs them."""
    kept: dict[str, str] = {}
    for row in over:
        if row.state == "finished" and row.trial_id in probed:
            kept[row.trial_id] = "keep their weights for a study's probes that are not measured yet"
        elif row.state == "finished" and row.trial_id in unknown:
            kept[row.trial_id] = (
                "keep their weights, for a file of yours has them and may declare probes: make gc STUDY=FILE.py"
            )
    return kept


def _to_be_probed(studies: Iterable[Study], results: Results) -> Iterator[str]:
    for study in studies:
        for trial in study.trials:
            files = (results.measurement(trial.trial_id, probe.probe_id) for probe in study.probes)
            if any(load_measurement(file) is None for file in files):
                yield trial.trial_id


def _lighten(row: LedgerRow, results: Results, dry_run: bool) -> int:
    """Leave a checkpoint its records alone; the bytes that this frees are returned."""
    from trainer.checkpoint import load_checkpoint

    path = results.checkpoint(row.trial_id)
    before, stored = _size(path), load_checkpoint(path, row.trial_id)
    if stored is None or not stored.state:
        return 0
    light = dataclasses.replace(stored, state={})
    if not dry_run:
        light.save(path)
        return before - _size(path)
    with tempfile.TemporaryDirectory() as folder:
        light.save(Path(folder) / path.name)
        return before - _size(Path(folder) / path.name)


def _remove_leftovers(results: Results, verb: str, dry_run: bool) -> None:
    left = list(_leftovers(results))
    if left:
        print(f"temporary files of killed processes: {verb} {_megabytes(sum(map(_size, left)))} in {len(left)} files")
    for file in left if not dry_run else ():
        file.unlink(missing_ok=True)


def _leftovers(results: Results) -> Iterator[Path]:
    for folder in (results.checkpoint("any").parent, results.data, results.root / "probes"):
        for file in folder.rglob(".*"):
            with contextlib.suppress(FileNotFoundError):  # renamed just now
                if TEMPORARY.fullmatch(file.name) and time.time() - file.stat().st_mtime > LEFTOVER_SECONDS:
                    yield file


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def forget(row: LedgerRow, ledger: Ledger, results: Results) -> None:
    """Remove a trial from the ledger, its measurements and checkpoint, and mark its MLflow runs as deleted.

    Each thing goes before what it was made from, so that a kill at any moment leaves a trial of which all that is
    still there is true, and which the next run finishes: from its checkpoint, or anew. Forgotten again it is gone.
    Raises ConfigError for a trial that is running, and when MLflow does not answer.
    """
    from sweeps.tracking.tracker import UNREACHABLE, connect, refusal

    client, owner = connect(results), f"{FORGETTING}{os.getpid()}:{secrets.token_hex(4)}"
    if not ledger.take(row.trial_id, owner):
        raise ConfigError(f"trial {row.trial_id} {_held_by(row)}")
    try:
        had = [line for run in _copies_first(row, ledger) for line in _delete_run(client, run)]
    except UNREACHABLE as error:
        raise refusal(results, "stopped; the trial is not finished any more, forget it again", error) from error
    had += [*_remove_measurements(row.trial_id, results), *_remove_checkpoint(row.trial_id, results)]
    if not ledger.forget(row.trial_id, owner):
        raise ConfigError(f"trial {row.trial_id} was not forgotten: that took too long; forget it again")
    print(f"trial {row.trial_id}, {row.state} in {row.study}, is forgotten: {', '.join(had) or 'it had left nothing'}")
    print("The next run of a study that declares it trains it from its first epoch")


def _held_by(row: LedgerRow) -> str:
    """What is to be done about whoever has a lease on the trial."""
    if row.owner and row.owner.startswith(FORGETTING):
        return f"is being forgotten ({row.owner}); if that was killed, forget it again in {LEASE_SECONDS:.0f} seconds"
    return f"is running: stop the driver that trains it ({row.owner}) first"


def _copies_first(row: LedgerRow, ledger: Ledger) -> list[str]:
    """Ids of the trial's MLflow runs: a copy is of the run of the study that trained it, which comes last."""
    original = ledger.run_ids(row.study).get(row.trial_id)
    return sorted(ledger.runs_of(row.trial_id), key=lambda run: run == original)


def _remove_measurements(trial_id: str, results: Results) -> list[str]:
    """What there was, in words."""
    folder = results.measurement(trial_id, "any").parent
    if not folder.is_dir():
        return []
    number = len(list(folder.glob("*.npz")))
    shutil.rmtree(folder)
    return [f"{number} measurements"]


def _remove_checkpoint(trial_id: str, results: Results) -> list[str]:
    """What there was, in words."""
    try:
        results.checkpoint(trial_id).unlink()
    except FileNotFoundError:
        return []
    return ["its checkpoint"]


def _delete_run(client: MlflowClient, run_id: str) -> list[str]:
    """Mark a run as deleted, which it may be already, or unknown in this store."""
    from mlflow.exceptions import MlflowException

    try:
        if client.get_run(run_id).info.lifecycle_stage != "active":
            return []
        client.delete_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []
    return [f"its MLflow run (mlflow runs restore --run-id {run_id} brings it back)"]

"""Moving a study between ledgers: what ``python -m sweeps export`` and ``import`` do.

What is moved is what the truth is: the ledger's rows, the checkpoints with their records, what probes measured and what
searches tried. MLflow is filled from these by ``deliver``.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from search_spaces.catalog import find_any, find_final, frozen_of, is_file
from search_spaces.choices import is_frozen
from search_spaces.search import Tuning
from search_spaces.study import Study
from sweeps.data import printable
from sweeps.ledger import OVER, Failure, Ledger, LedgerRow, Measured, State
from sweeps.transfer.archive import MANIFEST, Archive, Writer, open_archive, put, write_archive
from trainer.checkpoint import Checkpoint, load_checkpoint, read_checkpoint
from trainer.config import TrialConfig, canonical_json, identity
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.measurement import load_measurement, read_measurement
from trainer.records import EpochRecord

KIND = "study"
TRIALS = "trials.jsonl"
SEARCHES = "searches.jsonl"
CHECKPOINT = re.compile(r"checkpoints/(?P<trial>[0-9a-f]{16})\.pt")
MEASUREMENT = re.compile(r"probes/(?P<trial>[0-9a-f]{16})/(?P<probe>[0-9a-f]{16})\.npz")
STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
MOVED_STATES: tuple[State, ...] = ("pending", "finished", "diverged", "failed")
TIMES = {"epoch_seconds"}
"""Of a trial's numbers those that are different each time it is trained."""

NOT_OURS = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What reading raises where something else was written than we write: ConfigError, too, is a ValueError."""

Fate = Literal["taken over", "known here", "running here", "refused"]


@dataclass(frozen=True, slots=True)
class Moved:
    """A trial of an archive. probes: ids of those of which a measurement comes along."""

    row: LedgerRow
    measured: Measured | None
    has_checkpoint: bool
    probes: tuple[str, ...]


def export_study(reference: str, path: Path, ledger: Ledger, results: Results) -> None:
    """Write all that is known of the study or tuning called so into an archive at ``path``, and say what that is.

    Raises ConfigError, one line, for what cannot be found, where nothing was declared yet, or for a file that is there.
    """
    declared = find_any(reference)
    trials, searches = _content(declared, reference, ledger, results)
    rows = ledger.rows([trial.trial_id for trial in trials])
    if not rows:
        raise ConfigError(f"{declared.name}: the ledger has no trial of it: make sweep or make search comes first")
    lost = [row.trial_id for row in rows.values() if row.state == "finished" and _stored(row.trial_id, results) is None]
    moved = [row for row in rows.values() if row.trial_id not in lost]
    measured = ledger.measured([row.trial_id for row in moved])
    about = {"study": declared.name, "own_file": is_file(reference), "searched": isinstance(declared, Tuning)}
    write_archive(path, KIND, about, lambda writer: _fill(writer, moved, measured, searches, results))
    print("\n".join(_exported(declared, path, moved, lost, is_file(reference))))


def _content(
    declared: Study | Tuning, reference: str, ledger: Ledger, results: Results
) -> tuple[Sequence[TrialConfig], list[dict[str, Any]]]:
    """All trials, those that another study trains among them, and what searches tried."""
    if isinstance(declared, Study):
        return declared.trials, []
    from sweeps.search.commands import has_searches, opened
    from sweeps.search.suggest import close_storage, open_storage
    from sweeps.transfer.searches import dump_search

    if not has_searches(results):
        raise ConfigError(f"{declared.name}: nothing was searched yet: make search comes first")
    with opened(declared, reference, results, ledger) as sweep:
        trials = dict(sweep.trials)
    storage = open_storage(results.optuna_url)
    searches = [dump_search(search.key, storage) for search in declared.searches]
    close_storage(storage)
    if is_frozen(declared, frozen_of(reference)):
        trials |= {trial.trial_id: trial for trial in find_final(reference).trials}
    return list(trials.values()), searches


def _stored(trial_id: str, results: Results) -> Checkpoint | None:
    return load_checkpoint(results.checkpoint(trial_id), trial_id)


def _fill(
    writer: Writer,
    rows: Sequence[LedgerRow],
    measured: Mapping[str, Measured],
    searches: Iterable[Mapping[str, Any]],
    results: Results,
) -> None:
    for row in rows:
        if _stored(row.trial_id, results) is not None:
            writer.add_file(f"checkpoints/{row.trial_id}.pt", results.checkpoint(row.trial_id))
        for file in sorted(results.measurement(row.trial_id, "any").parent.glob("*.npz")):
            if load_measurement(file) is not None:
                writer.add_file(f"probes/{row.trial_id}/{file.name}", file)
    writer.add(TRIALS, _lines(_plain(row, measured.get(row.trial_id)) for row in rows))
    writer.add(SEARCHES, _lines(searches))


def _lines(plain: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(one)}\n" for one in plain).encode()


def _plain(row: LedgerRow, measured: Measured | None) -> dict[str, Any]:
    """A lease is of this ledger: elsewhere its trial is one that nobody has begun."""
    return {
        "trial_id": row.trial_id,
        "params": json.loads(row.params),
        "study": row.study,
        "state": "pending" if row.state == "leased" else row.state,
        "cause": row.cause,
        "failure": row.failure,
        "measured": None if measured is None else asdict(measured),
    }


def _exported(
    declared: Study | Tuning, path: Path, rows: Sequence[LedgerRow], lost: Sequence[str], own: bool
) -> Iterator[str]:
    counts = Counter(row.state for row in rows)
    running = f"; {counts['leased']} that are running here are pending there" if counts["leased"] else ""
    states = ", ".join(f"{counts[state]} {state}" for state in (*MOVED_STATES, "leased") if counts[state])
    yield f"{declared.name}: {len(rows)} trials in {path}: {states}{running}"
    for trial_id in lost:
        yield f"trial {trial_id} is left out: it is finished, but its records are lost"
    if own:
        yield "Your study's own file, and what it imports, are not in it: copy them as well"
    if isinstance(declared, Tuning):
        yield "What was frozen is a file beside the study, not in it: it moves with the code"


def import_study(path: Path, ledger: Ledger, results: Results) -> int:
    """Take over what ``export_study`` wrote into ``path``: files first, then what was searched, the ledger last.

    So a kill at any moment leaves nothing that is not true, and the same command again comes to the same end; after
    that it changes nothing. 1 where something was refused, for it is known here with other numbers.
    Raises ConfigError, one line, for an archive that is not whole, not of this version, or none of ours.
    """
    with open_archive(path, KIND) as archive:
        moved, searches = _read_trials(archive), _read_searches(archive)
        for one in moved:
            _check_files(one, archive)
        here = ledger.rows([one.row.trial_id for one in moved])
        fates = {one.row.trial_id: _take_in(one, here.get(one.row.trial_id), archive, results) for one in moved}
        refused = _merge_searches(searches, ledger, results)
        wanted = [(one.row, one.measured) for one in moved if fates[one.row.trial_id] == "taken over"]
        admitted = ledger.admit(wanted)
        fates |= {row.trial_id: "running here" for row, _ in wanted if row.trial_id not in admitted}
        print("\n".join([*_imported(archive.about, fates, results), f"Checkpoints are in {results.root}", *refused]))
    return 1 if refused or "refused" in fates.values() else 0


def _read_trials(archive: Archive) -> list[Moved]:
    checkpoints, probes = _files(archive)
    _require_named(archive)
    try:
        rows = [_row(plain) for plain in _read_lines(archive, TRIALS)]
    except NOT_OURS as error:
        raise archive.damaged(TRIALS) from error
    ids = [row.trial_id for row, _ in rows]
    if len(set(ids)) < len(ids) or not (checkpoints | probes.keys()) <= set(ids):
        raise archive.damaged(TRIALS)
    if any(row.state == "finished" and row.trial_id not in checkpoints for row, _ in rows):
        raise archive.damaged(TRIALS)  # it would be finished without a record
    return [
        Moved(row, measured, row.trial_id in checkpoints, tuple(probes.get(row.trial_id, ()))) for row, measured in rows
    ]


def _require_named(archive: Archive) -> None:
    """The name is printed."""
    if STUDY_NAME.fullmatch(str(archive.about.get("study"))) is None:
        raise archive.damaged(MANIFEST)


def _files(archive: Archive) -> tuple[set[str], dict[str, list[str]]]:
    """Of which trials there are checkpoints, and measurements of which probes. Raises ConfigError for other members."""
    checkpoints: set[str] = set()
    probes: dict[str, list[str]] = {}
    for name in archive.names:
        if found := CHECKPOINT.fullmatch(name):
            checkpoints.add(found["trial"])
        elif found := MEASUREMENT.fullmatch(name):
            probes.setdefault(found["trial"], []).append(found["probe"])
        elif name not in (TRIALS, SEARCHES):
            raise ConfigError(f"{archive.path}: member {name!r} has no place in a study: it is none of ours")
    return checkpoints, probes


def _read_lines(archive: Archive, name: str) -> list[Any]:
    return [json.loads(line) for line in archive.read(name).decode().splitlines()]


def _row(plain: Mapping[str, Any]) -> tuple[LedgerRow, Measured | None]:
    """Raises one of ``NOT_OURS`` for what cannot have been written by us."""
    params, study, state = plain["params"], plain["study"], plain["state"]
    cause, failure, measured = plain["cause"], plain["failure"], plain["measured"]
    _require(identity(params) == plain["trial_id"])
    _require(STUDY_NAME.fullmatch(study) is not None and state in MOVED_STATES)
    _require(cause is None or isinstance(cause, str))
    _require(failure is None or failure in get_args(Failure))
    row = LedgerRow(plain["trial_id"], canonical_json(params), study, state, None, None, cause, failure)
    return row, None if measured is None else _measured(measured)


def _measured(plain: Mapping[str, Any]) -> Measured:
    for name, value in plain.items():
        _require(isinstance(value, str if name in ("kind", "hardware") else int | float | None))
    return Measured(**plain)


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("not what we write")


def _take_in(moved: Moved, here: LedgerRow | None, archive: Archive, results: Results) -> Fate:
    """Put the trial's files in place where they say more than what is here; what becomes of its row is returned."""
    trial_id, state = moved.row.trial_id, moved.row.state
    if here is not None and here.state == "leased":
        return "running here"
    incoming, stored = _checkpoint(moved, archive), _stored(trial_id, results)
    stands = here is not None and here.state in OVER
    if here is not None and stands and state in OVER and (here.state != state or _differ(stored, incoming)):
        return "refused"
    if incoming is not None and _is_better(incoming, stored, state in OVER, stands):
        _put(archive.read(f"checkpoints/{trial_id}.pt"), results.checkpoint(trial_id))
    _take_in_probes(moved, archive, results)
    return "known here" if here is not None and _weight(here.state) >= _weight(state) else "taken over"


def _put(content: bytes, path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(content)

    put(path, write)


def _weight(state: State) -> int:
    return 2 if state in OVER else int(state == "failed")


def _checkpoint(moved: Moved, archive: Archive) -> Checkpoint | None:
    if not moved.has_checkpoint:
        return None
    name = f"checkpoints/{moved.row.trial_id}.pt"
    found = read_checkpoint(archive.read(name), f"{archive.path}: {name}", moved.row.trial_id)
    if found is None or (moved.row.state == "finished" and not found.records):
        raise archive.damaged(name)
    return found


def _differ(stored: Checkpoint | None, incoming: Checkpoint | None) -> bool:
    """Whether two trainings of one trial came to other numbers; not where the records of one are lost."""
    return stored is not None and incoming is not None and _numbers(stored.records) != _numbers(incoming.records)


def _numbers(records: Iterable[EpochRecord]) -> list[tuple[int, str]]:
    """Without timestamps and times; as text, in which NaN equals itself."""
    named = ((one.epoch, sorted(one.metrics.items())) for one in records)
    return [(epoch, repr([(name, value) for name, value in numbers if name not in TIMES])) for epoch, numbers in named]


def _is_better(incoming: Checkpoint, stored: Checkpoint | None, over: bool, stands: bool) -> bool:
    """Whether the file here is to be replaced: never that of an outcome that stands, if it can be read."""
    if stored is None:
        return over or not stands
    if stands:
        return False
    if over:  # it is the outcome's, to the timestamps
        return (incoming.records, incoming.diverged) != (stored.records, stored.diverged)
    return len(incoming.records) > len(stored.records)


def _check_files(moved: Moved, archive: Archive) -> None:
    """Raises ConfigError for one that is not of this trial, or cannot be read; before anything is changed."""
    _checkpoint(moved, archive)
    for probe in moved.probes:
        name = f"probes/{moved.row.trial_id}/{probe}.npz"
        if read_measurement(archive.read(name)) is None:
            raise archive.damaged(name)


def _take_in_probes(moved: Moved, archive: Archive, results: Results) -> None:
    for probe in moved.probes:
        path = results.measurement(moved.row.trial_id, probe)
        if load_measurement(path) is None:
            _put(archive.read(f"probes/{moved.row.trial_id}/{probe}.npz"), path)


def _read_searches(archive: Archive) -> list[dict[str, Any]]:
    """Raises ConfigError for what is no search."""
    if not archive.read(SEARCHES):
        return []
    from sweeps.transfer.searches import load_settings  # Optuna, which studies do not need

    try:
        found = _read_lines(archive, SEARCHES)
        return [dict(one) | {"settings": load_settings(one)} for one in found if _require_search(one)]
    except NOT_OURS as error:
        raise archive.damaged(SEARCHES) from error


def _require_search(one: Mapping[str, Any]) -> bool:
    _require(isinstance(one["key"], str) and isinstance(one["attrs"], dict))
    return True


def _merge_searches(searches: Sequence[Mapping[str, Any]], ledger: Ledger, results: Results) -> list[str]:
    """A line for each search that has gone another way here."""
    if not searches:
        return []
    from sweeps.search.suggest import close_storage, open_storage
    from sweeps.transfer.searches import merge_search

    storage, owner = open_storage(results.optuna_url), f"import:{secrets.token_hex(4)}"
    try:
        merged = {
            one["key"]: merge_search(one["key"], one["attrs"], one["settings"], storage, ledger, owner)
            for one in searches
        }
    finally:
        close_storage(storage)
    gone_another_way = [key for key, ok in merged.items() if not ok]
    return [f"search {printable(key)} has tried other settings here: it stays as it is" for key in gone_another_way]


def _imported(about: Mapping[str, Any], fates: Mapping[str, Fate], results: Results) -> Iterator[str]:
    counts = Counter(fates.values())
    parts = [f"{counts[fate]} {fate}" for fate in get_args(Fate) if counts[fate]]
    name = str(about["study"])
    yield f"{name}: {len(fates)} trials: {', '.join(parts)}"
    for trial_id, fate in fates.items():
        if fate == "refused":
            yield f"trial {trial_id} came to another outcome, or other numbers, here: it stays as it is"
    if counts["running here"]:
        yield "What is running here was left alone: import again once it is over"
    command = "search, or freeze," if about.get("searched") else "sweep"
    called = ("FILE.py" if about.get("own_file") else name) + results.as_make
    yield f"To go on: make {command} STUDY={called}; to show it in MLflow: make deliver STUDY={called}"

"""Histories kept in Parquet, so that a second look at a study does not read all its points again.

Kept is what cannot change any more without showing it: of runs that are over, as long as their state, their end and
the last value of each metric are what they were. A run that is trained anew is another run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.store import Store, StoredRun, frame_of, joined
from trainer.machine import Results
from trainer.passwords import hide_passwords

VERSION = 1
"""Of the files; those of another one are written anew."""
ABOUT = b"histories"
"""The key of what a file says of itself."""
OVER = ("FINISHED", "FAILED")


def cached_histories(store: Store, runs: Sequence[StoredRun], results: Results, name: str) -> pd.DataFrame:
    """``store.histories(runs)``, of which only what is not kept is read.

    name: of the file, for these runs of this store. A file that is damaged is no error, nor is a folder that cannot be
    written.
    """
    path = _path(results, name)
    kept_prints, kept = _read(path)
    prints = {run.run_id: _print(run) for run in runs}
    usable = {run_id for run_id, found in prints.items() if kept_prints.get(run_id) == found}
    fresh = store.histories([run for run in runs if run.run_id not in usable])
    used = kept if usable == kept_prints.keys() else _only(kept, usable)
    whole = joined([used, fresh])
    over = {run.run_id: prints[run.run_id] for run in runs if run.status in OVER}
    if over != kept_prints:
        _write(path, over, _only(whole, over))
    return whole


def _only(points: pd.DataFrame, run_ids: Container[str]) -> pd.DataFrame:
    """The points of these runs; of others not even the names are left."""
    names = points["run_id"].cat.categories
    wanted = np.array([name in run_ids for name in names], dtype=bool)
    if wanted.all():
        return points
    found = points[wanted[points["run_id"].cat.codes]]
    return found.assign(run_id=found["run_id"].cat.remove_unused_categories())


def _path(results: Results, name: str) -> Path:
    store = hashlib.sha256(hide_passwords(results.tracking_uri).encode()).hexdigest()[:16]
    return results.root / "cache" / "histories" / f"{store}-{name}.parquet"


def _print(run: StoredRun) -> str:
    said = repr((run.status, run.ended, sorted(run.last.items())))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _read(path: Path) -> tuple[dict[str, str], pd.DataFrame]:
    """The prints of the runs that are kept, and their points; nothing unless it is to the bit what was written."""
    with contextlib.suppress(OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[ABOUT])
        points = table.to_pandas()
        if about == _about(about["runs"], points):
            return about["runs"], points
    return {}, frame_of([])


def _about(prints: dict[str, str], points: pd.DataFrame) -> dict[str, Any]:
    """What a file says of itself. Parquet alone takes many a changed byte for another number."""
    said = hashlib.sha256(json.dumps([VERSION, prints, list(points.columns)]).encode())
    for column in points:
        values = points[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            said.update(json.dumps(list(values.cat.categories)).encode())
            values = values.cat.codes
        said.update(np.ascontiguousarray(values.to_numpy()).data)
    return {"runs": prints, "digest": said.hexdigest()}


def _write(path: Path, prints: dict[str, str], points: pd.DataFrame) -> None:
    """Whole or not at all."""
    table = pa.Table.from_pandas(points, preserve_index=False)
    about = json.dumps(_about(prints, points)).encode()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            try:
                pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), ABOUT: about}), file)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

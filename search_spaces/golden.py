"""A study as text in which a change of any hyper-parameter shows: the golden files under tests/golden.

``python -m search_spaces.golden FOLDER`` writes one file a built-in study.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from search_spaces.catalog import built_in
from search_spaces.study import Study
from trainer.declaration import Scalar


def golden(study: Study) -> str:
    """What all cells share, once; a line a cell with the rest and its seeds; a line a probe; a digest of the ids."""
    cells = study.cells()
    shared = _shared([cell.params for cell in cells])
    lines = [f"study {study.name}", "", *(f"{key} = {value}" for key, value in sorted(shared.items())), ""]
    for cell in cells:
        own = _words({key: value for key, value in cell.params.items() if key not in shared})
        lines.append(f"{own or 'the one cell'}  seeds {_ranges(cell.seeds)}")
    lines += ["", *(f"probe {_words(probe.params())}" for probe in study.probes)] if study.probes else []
    ids = "".join(sorted(trial.trial_id for trial in study.trials))
    digest = hashlib.sha256(ids.encode()).hexdigest()[:16]
    return "\n".join([*lines, "", f"{len(study.trials)} trials, digest {digest}", ""])


def _words(params: Mapping[str, Scalar]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(params.items()))


def _shared(cells: Sequence[Mapping[str, Scalar]]) -> dict[str, Scalar]:
    first, *others = cells
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def _ranges(seeds: Sequence[int]) -> str:
    """``0-4, 7`` for 0, 1, 2, 3, 4, 7."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and runs[-1][-1] == seed - 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def main(folder: Path) -> None:
    """Write the golden file of every built-in study into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, study in built_in().items():
        (folder / f"{name}.txt").write_text(golden(study), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

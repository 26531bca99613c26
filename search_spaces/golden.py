"""A study or tuning as text in which a change of any hyper-parameter shows: the golden files under tests/golden.

``python -m search_spaces.golden FOLDER`` writes one file for each that is built in.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from search_spaces.catalog import built_in, built_in_tunings
from search_spaces.search import Distribution, Search, Tuning
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


def golden_tuning(tuning: Tuning) -> str:
    """What all bases share, once; for each search its base's rest, its space and its digest, which leaves none out."""
    searches = tuning.searches
    shared = _shared([search.base_params for search in searches])
    shared |= {name: getattr(searches[0], name) for name in BUDGET}
    lines = [f"tuning {tuning.name}", "", *(f"{key} = {value}" for key, value in sorted(shared.items()))]
    for search in searches:
        lines += ["", *_search_lines(search, shared)]
    return "\n".join([*lines, "", f"final seeds {_ranges(tuning.final_seeds)}", ""])


BUDGET = ("settings", "hours", "seeds", "fraction", "metric", "sampler", "pruner")
"""Fields that are the same in all searches of a tuning."""


def _search_lines(search: Search, shared: Mapping[str, Scalar]) -> Iterator[str]:
    own = {key: value for key, value in search.base_params.items() if key not in shared}
    yield f"search {search.name}, digest {search.digest}"
    yield f"  base {_words(own)}"
    for name, distribution in search.space.items():
        yield f"  {name} in {_distribution(distribution)}"


def _distribution(distribution: Distribution) -> str:
    return f"{type(distribution).__name__} {', '.join(f'{end:g}' for end in distribution.ends)}"


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
    """Write the golden file of every built-in study and tuning into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, study in built_in().items():
        (folder / f"{name}.txt").write_text(golden(study), encoding="utf-8")
    for name, tuning in built_in_tunings().items():
        (folder / f"{name}.txt").write_text(golden_tuning(tuning), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The golden study: real runs, made once by ``python -m tests.golden_study`` and kept, of which reports are compared.

Some of it went wrong, as in real studies: a cell diverged, a seed is missing, and two commits trained it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_spaces import recipes
from search_spaces.study import Study
from sweeps.ledger import Ledger, State
from sweeps.tracking.tracker import Delivery, Tracker, connect
from trainer.config import Amp, Erm, LabelSmoothing, SmallCnn, TrialConfig
from trainer.loop import Diverged, train
from trainer.machine import Machine, Results
from trainer.records import EpochRecord

FILE = Path(__file__).parent / "golden" / "runs.json"
SEEDS = range(4)
METHODS = (Erm(), LabelSmoothing(smoothing=0.2), Amp(epsilon=0.1), Amp(epsilon=0.5), Amp(epsilon=1e12, inner_lr=1e12))
MISSING = Amp(epsilon=0.5), 3
"""Method and seed that were never trained with the convolutional network."""
COMMITS = ("1" * 40, "2" * 40)
TAGS = {"host": "golden", "cpu": "x86_64", "version.torch": "2.14.1", "version.numpy": "2.4.6"}


def declared() -> Study:
    """Two networks, five methods, four seeds."""
    return Study(
        name="golden",
        question="Does the report of these very runs say the same as ever?",
        trials=[trial for seed in SEEDS for method in METHODS for trial in _trials(method, seed)],
    )


def _trials(method: Any, seed: int) -> Iterator[TrialConfig]:
    plain = replace(recipes.digits_mlp(method, seed), epochs=6, lr_milestones=(4,))
    yield plain
    yield replace(plain, model=SmallCnn(width=4))


def _is_missing(trial: TrialConfig) -> bool:
    return (trial.method, trial.seed) == MISSING and isinstance(trial.model, SmallCnn)


def _trained(trial: TrialConfig) -> dict[str, Any]:
    records: list[EpochRecord] = []
    state, cause = "finished", None
    try:
        for record in train(trial, Machine(data_dir=Results.here().data, threads=1)):
            records.append(record)
    except Diverged as error:
        state, cause = "diverged", str(error)
    rows = [{"epoch": one.epoch, "timestamp": one.timestamp, "metrics": dict(one.metrics)} for one in records]
    return {"trial_id": trial.trial_id, "state": state, "cause": cause, "records": rows}


def stored() -> dict[str, Delivery]:
    """What became of each trial, by its id; nothing of the one that is missing."""
    trials = {trial.trial_id: trial for trial in declared().trials}
    runs = json.loads(FILE.read_text(encoding="utf-8"))
    return {run["trial_id"]: _delivery(trials[run["trial_id"]], run) for run in runs}


def _delivery(trial: TrialConfig, run: Mapping[str, Any]) -> Delivery:
    state: State = run["state"]
    return Delivery(trial, state, [EpochRecord(**record) for record in run["records"]], run["cause"])


def deliver(results: Results) -> None:
    """Write them into the MLflow of ``results``, seeds 0 and 1 as trained by one commit, the others by another."""
    study = declared()
    ledger = Ledger(results.ledger_url)
    ledger.declare(study.name, study.trials)
    deliveries = stored().values()
    for place, commit in enumerate(COMMITS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sweeps.tracking.tracker.provenance", lambda commit=commit: {"commit": commit, **TAGS})
            tracker = Tracker(connect(results), study, ledger, results)
            tracker.prepare()
            for delivery in deliveries:
                if delivery.trial.seed // 2 == place:
                    tracker.write(delivery)
    ledger.close()


def main() -> None:
    """Train the study anew."""
    runs = [_trained(trial) for trial in declared().trials if not _is_missing(trial)]
    FILE.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()

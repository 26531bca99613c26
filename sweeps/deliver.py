"""Bringing MLflow up to date without training: what ``python -m sweeps deliver`` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from search_spaces.study import Study
from sweeps.ledger import Ledger, LedgerRow
from sweeps.probe import deliver_measured
from sweeps.sweep import with_pending
from sweeps.tracking.delivery import deliver_missing, lost
from sweeps.tracking.outline import SEARCH, Outline
from sweeps.tracking.tracker import UNREACHABLE, Tracker, open_tracker, refusal
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results


def deliver(study: Study, rows: dict[str, LedgerRow], ledger: Ledger, results: Results, whole: bool = True) -> int:
    """Write into MLflow what it lacks of ``study``, its probes' numbers included, and say so; 1 when records are lost.

    whole: whether these are all trials of the study; only then its cells can be said to be over.
    Raises ConfigError, one line, when the tracking store does not answer; what it has taken by then stays.
    """
    return deliver_trained(
        study, rows, ledger, results, whole, lambda tracker: _deliver_probes(study, rows, tracker, results)
    )


def deliver_trained(
    shown: Study | Outline,
    rows: dict[str, LedgerRow],
    ledger: Ledger,
    results: Results,
    whole: bool = True,
    more: Callable[[Tracker], int] = lambda _: 0,
) -> int:
    """The same of a study or a tuning, and what ``more`` delivers of the probes of so many trials."""
    tracker = open_tracker(shown, ledger, results)
    try:
        made = deliver_missing(shown, rows, tracker, results)
        if whole:
            tracker.finish({trial_id: row.state for trial_id, row in rows.items()})
        probed = more(tracker)
    except UNREACHABLE as error:
        raise refusal(results, "stopped", error) from error
    counts = {"trials": len(made.written), "trials' probes": probed}
    done = " and ".join(f"{number} {what}" for what, number in counts.items() if number)
    print(f"{shown.name}: {f'{done} delivered' if done else 'all that was trained is in MLflow already'}")
    for trial_id in made.gone:
        print(lost(trial_id, results))
    return 1 if made.gone else 0


def _deliver_probes(study: Study, rows: Mapping[str, LedgerRow], tracker: Tracker, results: Results) -> int:
    """Of how many trials something was lacking."""
    finished = [trial for trial in study.trials if rows[trial.trial_id].state == "finished" and tracker.has_run(trial)]
    return sum(deliver_measured(study, trial, tracker, results) for trial in finished)


def deliver_all(known: Mapping[str, Study], ledger: Ledger, results: Results) -> int:
    """The same of every study that has trained anything. known: the studies that can be found by name.

    Of a study in a user's own file the ledger knows the trials, which are delivered; its cells and its probes wait for
    the file. Of a tuning all waits for ``deliver`` with its name.
    """
    codes = [0]
    for name, own in ledger.studies().items():
        if all(row.state == "pending" for row in own) and not ledger.run_ids(name):
            continue
        if any(key.startswith(SEARCH) for key in ledger.run_ids(name)):
            print(f"{name}: a search: make deliver STUDY=... with its name, or its file")
        elif name in known:
            ids = [trial.trial_id for trial in known[name].trials]
            codes.append(deliver(known[name], with_pending(known[name], ledger.rows(ids)), ledger, results))
        else:
            codes.append(_deliver_own(name, own, ledger, results))
    if len(codes) == 1:
        print("Nothing was trained yet")
    return max(codes)


def _deliver_own(name: str, rows: Sequence[LedgerRow], ledger: Ledger, results: Results) -> int:
    try:
        trials = [TrialConfig.from_params(json.loads(row.params)) for row in rows]
    except ConfigError as error:
        print(f"{name}: left out: {error}")
        return 1
    study = Study(name=name, question="A study of one's own", trials=trials)
    return deliver(study, {row.trial_id: row for row in rows}, ledger, results, whole=False)

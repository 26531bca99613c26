"""Training what a study, or a tuning, still lacks: what ``python -m sweeps run`` and ``search`` do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from sweeps.cost.estimate import Known, kind
from sweeps.cost.eta import expected_work
from sweeps.ledger import OVER, State
from sweeps.probe import measure_probes
from sweeps.progress import Progress
from sweeps.search.cost import expected_of_one, searches
from sweeps.search.searching import SearchSweep
from sweeps.sweep import INTERRUPTED, StudySweep, Sweep, looked_up
from sweeps.tracking.delivery import Courier, deliver_missing, lost
from sweeps.tracking.tracker import UNREACHABLE, Tracker, first_line, open_tracker
from sweeps.view import duration
from trainer.config import TrialConfig

DELIVERY_PATIENCE_SECONDS = 60.0
SHORT_PATIENCE_SECONDS = 5.0
"""When the run breaks off: its end, and why, is not held up any longer for what can be delivered later."""
PENDING: State = "pending"


def run(sweep: StudySweep, expected: str = "", peak: float | None = None) -> int:
    """Train what is left, deliver what is due, measure the declared probes; the exit code is returned.

    expected: how long it is thought to take, for the first line. peak: the plan's, for the same estimates.
    """
    tracker = open_tracker(sweep.declared, sweep.ledger, sweep.results)
    code = _finish_training(sweep, tracker, expected, peak)
    if code != INTERRUPTED and sweep.study.probes:
        code = max(code, measure_probes(sweep, tracker))
    return code


def _finish_training(sweep: StudySweep, tracker: Tracker, expected: str, peak: float | None) -> int:
    sweep.ledger.retry_failed(sweep.trial_ids)
    name, total, started = sweep.study.name, len(sweep.trial_ids), time.monotonic()
    over = sum(row.state in OVER for row in sweep.rows().values())
    if over == total:
        print(f"{name}: {_finished(sweep)} of {total} already finished")
        _bring_up_to_date(sweep, tracker)
        return _verdict(sweep, complete=True)
    cells, rest = len(sweep.study.cells()), f"{sweep.jobs} at a time" + (f", {expected}" if expected else "")
    print(f"{name}: {cells} cells, {total} trials, {over} finished before; {rest}")
    work = expected_work(sweep.study.trials, _known(sweep, sweep.study.trials, peak))
    progress = Progress(sweep.study, work, _states(sweep), sweep.jobs, ask=lambda: _states(sweep))
    complete = _train(sweep, tracker, progress)
    print(f"{name}: {_finished(sweep)} of {total} finished, after {duration(time.monotonic() - started)}")
    return _verdict(sweep, complete)


def _finished(sweep: StudySweep) -> int:
    return sum(row.state == "finished" for row in sweep.rows().values())


def _train(sweep: Sweep, tracker: Tracker, progress: Progress) -> bool:
    """Train what is left and bring MLflow up to date; whether it came to its end is returned."""
    from sweeps.launch import Launch, run_to_the_end  # Ray: not started, not even imported, when nothing is left

    courier, patience = Courier(tracker, warn=progress.note), SHORT_PATIENCE_SECONDS
    try:
        complete = run_to_the_end(Launch(sweep, courier, progress))
        patience = DELIVERY_PATIENCE_SECONDS
    finally:
        progress.close()
        undelivered = courier.close(patience)
    if undelivered:
        print(f"{undelivered} trials are not in MLflow yet: the same command delivers them once it answers")
    else:
        _bring_up_to_date(sweep, tracker)
    return complete


def _states(sweep: Sweep) -> dict[str, State]:
    return {trial_id: row.state for trial_id, row in sweep.rows().items()}


def _known(sweep: Sweep, trials: Iterable[TrialConfig], peak: float | None) -> Known:
    kinds = list(dict.fromkeys(map(kind, trials)))
    return Known(sweep.ledger.measured_kinds(kinds, looked_up(sweep.device)), peak)


def _bring_up_to_date(sweep: Sweep, tracker: Tracker) -> None:
    try:
        rows = sweep.shown_rows()
        for trial_id in deliver_missing(sweep.shown, rows, tracker, sweep.results).gone:
            print(lost(trial_id, sweep.results))
        tracker.finish({trial_id: row.state for trial_id, row in rows.items()})
    except UNREACHABLE as error:
        print(f"MLflow is not up to date ({first_line(error)}): the same command goes on once it answers")


def search(sweep: SearchSweep, expected: str = "", peak: float | None = None) -> int:
    """Try settings until the budget is spent, deliver what is due; the exit code is returned.

    expected, peak: as of ``run``.
    """
    tracker, started = open_tracker(sweep.shown, sweep.ledger, sweep.results), time.monotonic()
    typical = [trial for search in sweep.tuning.searches for trial in search.typical_trials()]
    sweep.known = _known(sweep, typical, peak)
    sweep.ledger.retry_failed(sweep.wanted())
    if sweep.is_over:
        print(f"{sweep.name}: {sweep.counts()} already")
        _bring_up_to_date(sweep, tracker)
        return _search_verdict(sweep, complete=True)
    rest = f"{sweep.jobs} at a time" + (f", {expected}" if expected else "")
    print(f"{sweep.name}: {searches(len(sweep.hunts))}, {sweep.counts()} before; {rest}")
    sweep.grow()
    complete = _train(sweep, tracker, _search_progress(sweep))
    print(f"{sweep.name}: {sweep.counts()}, after {duration(time.monotonic() - started)}")
    return _search_verdict(sweep, complete)


def _search_progress(sweep: SearchSweep) -> Progress:
    open_ids, rows, labels = set(sweep.wanted()), sweep.shown_rows(), sweep.labels()
    known = {id_: trial for id_, trial in sweep.trials.items() if id_ in open_ids or rows[id_].state in OVER}
    places = dict(sweep.places())
    work = places | {trial_id: expected_of_one([trial], sweep.known) for trial_id, trial in known.items()}
    states = dict.fromkeys(places, PENDING) | {trial_id: rows[trial_id].state for trial_id in known}
    return Progress(sweep.shown, work, states, sweep.jobs, labels=labels, ask=lambda: _states(sweep))


def _search_verdict(sweep: SearchSweep, complete: bool) -> int:
    failed = sum(row.state == "failed" for row in sweep.rows().values())
    if failed:
        print(f"{failed} trials failed, and their settings wait; why: make status {sweep.named}")
    if out_of_time := sweep.out_of_time():
        print(f"The hours of {', '.join(out_of_time)} are spent: with more of them the search goes on")
    if not complete:
        print(sweep.how_to_go_on)
        return INTERRUPTED
    return 1 if failed else 0


def _verdict(sweep: StudySweep, complete: bool) -> int:
    count = Counter(row.state for row in sweep.rows().values())
    if count["failed"] + count["diverged"]:
        print(f"{count['failed']} failed, {count['diverged']} diverged; why: make status {sweep.named}")
    if not complete:
        print(sweep.how_to_go_on)
        return INTERRUPTED
    return 1 if count["failed"] + count["diverged"] else 0

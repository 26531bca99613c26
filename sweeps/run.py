"""Making the set of finished trials equal to the study: what ``python -m sweeps run`` does."""

from __future__ import annotations

import time
from collections import Counter

from sweeps.delivery import Courier, deliver_missing, lost
from sweeps.estimate import Known, kind
from sweeps.eta import Work, expected_work
from sweeps.hardware import hardware
from sweeps.ledger import OVER, State
from sweeps.probe import measure_probes
from sweeps.progress import Progress
from sweeps.sweep import INTERRUPTED, StudySweep
from sweeps.tracking import UNREACHABLE, Tracker, first_line, open_tracker
from sweeps.view import duration

DELIVERY_PATIENCE_SECONDS = 60.0
SHORT_PATIENCE_SECONDS = 5.0
"""When the run breaks off: its end, and why, is not held up any longer for what can be delivered later."""


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
    complete, undelivered = _train(sweep, tracker, peak)
    if undelivered:
        print(f"{undelivered} trials are not in MLflow yet: the same command delivers them once it answers")
    else:
        _bring_up_to_date(sweep, tracker)
    print(f"{name}: {_finished(sweep)} of {total} finished, after {duration(time.monotonic() - started)}")
    return _verdict(sweep, complete)


def _finished(sweep: StudySweep) -> int:
    return sum(row.state == "finished" for row in sweep.rows().values())


def _train(sweep: StudySweep, tracker: Tracker, peak: float | None) -> tuple[bool, int]:
    """Returns whether it came to its end, and how many outcomes MLflow would not take."""
    from sweeps.launch import Launch, run_to_the_end  # Ray: not started, not even imported, when nothing is left

    work = _expected_work(sweep, peak)
    progress = Progress(sweep.study, work, _states(sweep), sweep.jobs, ask=lambda: _states(sweep))
    courier, patience = Courier(tracker, warn=progress.note), SHORT_PATIENCE_SECONDS
    try:
        complete = run_to_the_end(Launch(sweep, courier, progress))
        patience = DELIVERY_PATIENCE_SECONDS
    finally:
        progress.close()
        undelivered = courier.close(patience)
    return complete, undelivered


def _states(sweep: StudySweep) -> dict[str, State]:
    return {trial_id: row.state for trial_id, row in sweep.rows().items()}


def _expected_work(sweep: StudySweep, peak: float | None) -> dict[str, Work]:
    kinds = list(dict.fromkeys(map(kind, sweep.study.trials)))
    found = sweep.ledger.measured_kinds(kinds, hardware(sweep.device))
    return expected_work(sweep.study.trials, Known(found, peak))


def _bring_up_to_date(sweep: StudySweep, tracker: Tracker) -> None:
    try:
        rows = sweep.declared_rows()
        for trial_id in deliver_missing(sweep.declared, rows, tracker, sweep.results).gone:
            print(lost(trial_id, sweep.results))
        tracker.finish({trial_id: row.state for trial_id, row in rows.items()})
    except UNREACHABLE as error:
        print(f"MLflow is not up to date ({first_line(error)}): the same command goes on once it answers")


def _verdict(sweep: StudySweep, complete: bool) -> int:
    count = Counter(row.state for row in sweep.rows().values())
    if count["failed"] + count["diverged"]:
        print(f"{count['failed']} failed, {count['diverged']} diverged; why: make status {sweep.named}")
    if not complete:
        print(sweep.how_to_go_on)
        return INTERRUPTED
    return 1 if count["failed"] + count["diverged"] else 0

"""A tuning as the command line sees it: opened, planned, looked at, delivered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from search_spaces.catalog import find_final, frozen_of
from search_spaces.choices import is_frozen
from search_spaces.search import Tuning
from sweeps.hardware import cores
from sweeps.ledger import Ledger
from sweeps.search.cost import SearchPlan, nothing_tried, search_plan, searches
from sweeps.search.searching import SearchSweep
from sweeps.status import failure_lines, status_lines
from sweeps.sweep import code_folder, with_pending
from trainer.machine import Results


@contextlib.contextmanager
def opened(
    tuning: Tuning,
    reference: str,
    results: Results,
    ledger: Ledger,
    jobs: int | None = None,
    device: str = "cpu",
    gpus_per_trial: float | None = None,
) -> Iterator[SearchSweep]:
    """Its sweep, whose database is closed at the end. Raises ConfigError, one line, where it cannot be opened."""
    sweep = SearchSweep(tuning, reference, results, ledger, jobs or cores(), device, gpus_per_trial)
    try:
        yield sweep
    finally:
        sweep.close()


def plan_of_sweep(sweep: SearchSweep) -> SearchPlan:
    """What it will still take on this machine."""
    parts = (sweep.ledger, sweep.jobs, sweep.device, sweep.gpus_per_trial, sweep.code_dir)
    return search_plan(sweep.tuning, sweep.standings(), *parts)


def plan_of(tuning: Tuning, reference: str, jobs: int, device: str, gpus_per_trial: float | None) -> SearchPlan:
    """The same, without making a database where there is none."""
    results = Results.here()
    if not (results.has_ledger() and has_searches(results)):
        ledger = Ledger(results.ledger_url) if results.has_ledger() else None
        parts = (ledger, jobs, device, gpus_per_trial, code_folder(reference))
        return search_plan(tuning, nothing_tried(tuning), *parts)
    with opened(tuning, reference, results, Ledger(results.ledger_url), jobs, device, gpus_per_trial) as sweep:
        return plan_of_sweep(sweep)


def has_searches(results: Results) -> bool:
    """Whether there is a database of Optuna's yet."""
    file = results.optuna_url.removeprefix("sqlite:///")
    return file == results.optuna_url or Path(file).is_file()


def status(tuning: Tuning, reference: str) -> int:
    """Print how far search and, once it is frozen, final study are, and why trials failed; the exit code."""
    results = Results.here()
    if not (results.has_ledger() and has_searches(results)):
        print(f"{tuning.name}: {searches(len(tuning.searches))}, nothing tried yet")
        return 0
    with opened(tuning, reference, results, Ledger(results.ledger_url)) as sweep:
        lines = [f"{tuning.name}: {searches(len(tuning.searches))}, {sweep.counts()}"]
        lines += failure_lines(sweep.shown, sweep.shown_rows(), reference, results)
        if is_frozen(tuning, frozen_of(reference)):
            final = find_final(reference)
            rows = with_pending(final, sweep.ledger.rows([trial.trial_id for trial in final.trials]))
            lines += ["", *status_lines(final, rows, reference, results)]
    print("\n".join(lines))
    return 0


def deliver(tuning: Tuning, reference: str, ledger: Ledger, results: Results) -> int:
    """Write into MLflow what it lacks of the search and, once it is frozen, of the final study.

    The exit code is returned. Raises ConfigError as for a study.
    """
    from sweeps.deliver import deliver_trained

    with opened(tuning, reference, results, ledger) as sweep:
        code = deliver_trained(sweep.shown, sweep.shown_rows(), ledger, results)
    if is_frozen(tuning, frozen_of(reference)):
        final = find_final(reference)
        rows = with_pending(final, ledger.rows([trial.trial_id for trial in final.trials]))
        code = max(code, deliver_trained(final, rows, ledger, results))
    return code


def publish_searched(tuning: Tuning, reference: str, results: Results, ledger: Ledger) -> bool:
    """Publish the report of the searches and, once there is one, of the final study; False when MLflow has them."""
    from sweeps.tracking.publish import publish

    with opened(tuning, reference, results, ledger) as sweep:
        published = publish(sweep.shown, results, ledger)
    has_report = (results.report(tuning.final_name) / "report.md").is_file()
    if has_report and is_frozen(tuning, frozen_of(reference)):  # it may be of choices that were taken back
        published |= publish(find_final(reference), results, ledger)
    return published

"""What a search will take, before it is known what it will try."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from search_spaces.search import Tuning
from search_spaces.study import Study
from sweeps.cost.estimate import Estimate, Known
from sweeps.cost.eta import Work, expected_work
from sweeps.ledger import Ledger
from sweeps.plan import Plan, about, make_plan, summary
from sweeps.search.suggest import Outcome
from sweeps.sweep import with_pending
from sweeps.table import aligned
from trainer.config import TrialConfig


def expected_of_one(trials: Sequence[TrialConfig], known: Known) -> Work:
    """Of one trial, of which it is only known that it is like one of ``trials``."""
    found = list(expected_work(trials, known).values())
    return replace(found[0], epoch_seconds=statistics.fmean(work.epoch_seconds for work in found))


def searches(count: int) -> str:
    """In words."""
    return f"{count} search{'es' * (count != 1)}"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far one search is. left: trials that it will still train, if nothing is given up."""

    name: str
    budget: int
    outcomes: dict[Outcome, int]
    left: int
    typical: Sequence[TrialConfig]


@dataclass(frozen=True)
class SearchPlan(Plan):
    """Of a tuning, whose name and question ``study`` has. estimates: of trials to come, by search and number."""

    standings: Sequence[Standing] = ()

    def counts(self) -> str:
        settings = sum(standing.budget for standing in self.standings)
        tried = sum(sum(one.outcomes.values()) - one.outcomes["open"] for one in self.standings)
        all_of_it = f"{searches(len(self.standings))}, {settings} settings"
        return f"{all_of_it}: {tried} tried, {len(self.estimates)} trials to train"

    def lines(self) -> Iterator[str]:
        """As ``python -m sweeps plan`` prints it."""
        yield f"{self.study.name}: {self.study.question}"
        yield ""
        yield from aligned([("", "settings", "tried", "failed", "pruned", "open", "a trial", "from"), *self._rows()])
        yield from summary(self)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for one in self.standings:
            estimate = self.estimates.get(f"{one.name} 0")
            time = (
                ("", "")
                if estimate is None
                else (about(estimate.seconds) if estimate.seconds else "?", estimate.source)
            )
            counts = (one.outcomes[outcome] for outcome in OUTCOMES)
            yield (one.name, str(one.budget), *(str(count or "–") for count in counts), *time)


OUTCOMES: tuple[Outcome, ...] = ("told", "failed", "pruned", "open")


def nothing_tried(tuning: Tuning) -> list[Standing]:
    """Of a tuning for which there is no database yet."""
    return [
        Standing(
            search.name,
            search.budget,
            dict.fromkeys(OUTCOMES, 0),
            search.budget * search.seeds,
            search.typical_trials(),
        )
        for search in tuning.searches
    ]


def search_plan(
    tuning: Tuning,
    standings: Sequence[Standing],
    known: Ledger | None,
    jobs: int,
    device: str,
    gpus_per_trial: float | None,
    code_dir: Path,
) -> SearchPlan:
    """Plan what is left of ``tuning`` for this machine; the parameters are those of ``make_plan``."""
    typical = {trial.trial_id: trial for one in standings if one.left for trial in one.typical}
    study = Study(
        name=tuning.name,
        question=tuning.question,
        trials=list(typical.values()) or [trial for one in standings for trial in one.typical][:1],
    )
    rows = with_pending(study, {})
    plan = make_plan(study, rows, known, jobs, device, gpus_per_trial, code_dir)
    estimates = {
        f"{one.name} {number}": _mean([plan.estimates[trial.trial_id] for trial in one.typical])
        for one in standings
        for number in range(one.left)
    }
    return SearchPlan(
        study, rows, estimates, plan.jobs, device, plan.peak, plan.free_bytes, plan.reasons, standings=standings
    )


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Of a trial that is as likely to be like one as like another."""
    seconds = [one.seconds for one in estimates if one.seconds is not None]
    mean = statistics.fmean(seconds) if len(seconds) == len(estimates) else None
    return Estimate(mean, estimates[0].source, estimates[0].checkpoint_bytes)

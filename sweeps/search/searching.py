"""Searching: settings are asked for, trained and told about until each search of a tuning has spent its budget.

What is open, told and failed is in Optuna's database, what is trained in the ledger: a killed search goes on from both.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from search_spaces.search import Search, Tuning, setting_text
from sweeps.cost.estimate import Known
from sweeps.cost.eta import Work
from sweeps.ledger import Ledger, LedgerRow, Measured
from sweeps.search.cost import OUTCOMES, Standing, expected_of_one
from sweeps.search.suggest import Suggestion, Suggestions, close_storage, open_storage
from sweeps.sweep import Added, Growth, Sweep, with_pending
from sweeps.tracking.outline import SEARCH, SEARCH_GUIDE, Group, States, kind_tags
from sweeps.tracking.views import View, search_views
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.records import EpochRecord

NO_NUMBER = ("out_of_memory", "lost_worker")
"""Failures of a trial that its setting is to blame for; a bug, or a full disk, may be mended, and the setting waits."""
STORE_TIME_EVERY_SECONDS = 5.0
LOOKS = 20
"""How often the median pruner is asked about a trial, at least. Optuna's database takes 6 ms each time, and an epoch of
a small trial takes less."""


@dataclass(slots=True)
class Hunt:
    """A search that goes on. settings: those asked for so far, by number. at_once: how many may be open at a time."""

    search: Search
    suggestions: Suggestions
    at_once: int
    settings: dict[int, Suggestion] = field(default_factory=dict)
    seconds: float = 0.0  # that drivers were at it
    stored_seconds: float = 0.0

    @property
    def open(self) -> list[Suggestion]:
        """In order."""
        return [one for one in self.settings.values() if one.outcome == "open"]

    @property
    def closed(self) -> int:
        """How many settings were tried."""
        return len(self.settings) - len(self.open)

    @property
    def time_is_up(self) -> bool:
        return self.search.hours is not None and self.seconds >= self.search.hours * 3600

    @property
    def asks(self) -> bool:
        """Whether it may ask for another setting."""
        return len(self.settings) < self.search.budget and len(self.open) < self.at_once and not self.time_is_up

    @property
    def is_over(self) -> bool:
        """Whether its budget is spent. (Of hours when no trial is running any more.)"""
        return self.time_is_up or (len(self.settings) >= self.search.budget and not self.open)

    def place(self, number: int, seed: int) -> str:
        """What a trial that is not known yet is called."""
        return f"{self.search.name} {number} {seed}"

    def count_time(self, seconds: float) -> None:
        """A driver was at it for so long."""
        if self.search.hours is not None:
            self.seconds += seconds
            if self.seconds - self.stored_seconds > STORE_TIME_EVERY_SECONDS or self.time_is_up:
                self.suggestions.add_seconds(self.seconds - self.stored_seconds)
                self.stored_seconds = self.seconds


class SearchSweep(Sweep):
    """Of a tuning. Its trials are those of the settings that were asked for so far.

    known: what trials take; whoever has looked it up says so.
    """

    command = "search"

    def __init__(
        self,
        tuning: Tuning,
        reference: str,
        results: Results,
        ledger: Ledger,
        jobs: int,
        device: str,
        gpus_per_trial: float | None = None,
    ) -> None:
        self.tuning, self.reference, self.results, self.ledger = tuning, reference, results, ledger
        self.jobs, self.device, self.gpus_per_trial = jobs, device, gpus_per_trial
        self._trials: dict[str, TrialConfig] = {}
        self._found_in: dict[str, tuple[Hunt, int]] = {}
        self._seconds: dict[str, float] = {}
        self._news: list[Added] = []
        self.known = Known([], None)
        self._owner = secrets.token_hex(8)
        self._looked_at: float | None = None
        self._storage = open_storage(results.optuna_url)
        self.hunts = [self._hunt(search) for search in tuning.searches]
        for hunt in self.hunts:
            self._take_in(hunt)
        self._news.clear()

    def _hunt(self, search: Search) -> Hunt:
        suggestions = Suggestions(search, self._storage)
        seconds = suggestions.searched_seconds
        return Hunt(search, suggestions, at_once(self.tuning, search, self.jobs), {}, seconds, seconds)

    def close(self) -> None:
        """Give the database's connections back."""
        close_storage(self._storage)

    @property
    def name(self) -> str:
        return self.tuning.name

    @property
    def question(self) -> str:
        """That the tuning is to answer."""
        return self.tuning.question

    @property
    def trials(self) -> Mapping[str, TrialConfig]:
        return self._trials

    @property
    def shown(self) -> SearchOutline:
        return SearchOutline(self)

    def shown_rows(self) -> dict[str, LedgerRow]:
        return with_pending(self.shown, self.ledger.rows(list(self._trials)))

    def wanted(self) -> Sequence[str]:
        """Of open settings, where there is time left: all their trials, or with Wilcoxon's pruner one after another."""
        ids = {trial.trial_id: None for hunt, one in self._open() for trial in hunt.search.trials(one.setting)}
        return list(ids) if not self._one_by_one else self._next_seeds()

    @property
    def _one_by_one(self) -> bool:
        return self.tuning.searches[0].pruner == "wilcoxon"

    def _next_seeds(self) -> list[str]:
        groups = [[trial.trial_id for trial in hunt.search.trials(one.setting)] for hunt, one in self._open()]
        rows = self.ledger.rows([trial_id for group in groups for trial_id in group])
        left = ([trial_id for trial_id in group if rows[trial_id].state != "finished"] for group in groups)
        return list(dict.fromkeys(group[0] for group in left if group))

    def _open(self) -> Iterator[tuple[Hunt, Suggestion]]:
        for hunt in self.hunts:
            if not hunt.time_is_up:
                yield from ((hunt, one) for one in hunt.open)

    def grow(self) -> Growth:
        """Tell what came of open settings, and ask for another one where nothing is left to be trained."""
        self._count_time()
        dropped = self._tell()
        while not self._has_work() and self._ask():
            dropped += self._tell()  # of a setting that was tried before it is known what comes of it
        added, self._news = self._news, []
        return Growth(added, dropped)

    def _has_work(self) -> bool:
        return any(row.state == "pending" and row.failure is None for row in self.rows().values())

    def _count_time(self) -> None:
        """From the first time on that something is to be trained: what was estimated before is no search."""
        now = time.monotonic()
        for hunt in self.hunts:
            if self._looked_at is not None and not hunt.is_over:
                hunt.count_time(now - self._looked_at)
        self._looked_at = now

    def _ask(self) -> bool:
        """For one setting, of the search that has fewest, or for what another driver has asked for in the meantime."""
        for hunt in sorted((hunt for hunt in self.hunts if hunt.asks), key=lambda hunt: len(hunt.settings)):
            with self.ledger.alone(hunt.search.key, self._owner):
                before = len(hunt.settings)
                self._take_in(hunt)
                if len(hunt.settings) == before and hunt.asks:
                    hunt.suggestions.ask()
                    self._take_in(hunt)
            if len(hunt.settings) > before:
                return True
        return False

    def _take_in(self, hunt: Hunt) -> None:
        """The search's settings as they are now; another driver may have asked and told."""
        for one in hunt.suggestions.all():
            new = one.number not in hunt.settings
            hunt.settings[one.number] = one
            if new:
                trials = hunt.search.trials(one.setting)
                if one.outcome == "open":
                    self.ledger.declare(self.name, trials)
                self._news += [self._added(hunt, one.number, trial) for trial in trials]

    def _added(self, hunt: Hunt, number: int, trial: TrialConfig) -> Added:
        self._trials[trial.trial_id] = trial
        self._found_in.setdefault(trial.trial_id, (hunt, number))
        work = expected_of_one([trial], self.known)
        return Added(trial, f"{hunt.search.name} #{number}", hunt.place(number, trial.seed), work)

    def _tell(self) -> list[str]:
        """What came of open settings. The trials of those given up are returned."""
        waiting = [(hunt, one) for hunt in self.hunts for one in hunt.open]
        ids = [trial.trial_id for hunt, one in waiting for trial in hunt.search.trials(one.setting)]
        rows = self.ledger.rows(ids)
        over = [trial_id for trial_id in ids if rows[trial_id].state == "finished"]
        measured = self.ledger.measured(over) if over else {}
        return [trial_id for hunt, one in waiting for trial_id in self._tell_one(hunt, one, rows, measured)]

    def _tell_one(
        self, hunt: Hunt, one: Suggestion, rows: Mapping[str, LedgerRow], measured: Mapping[str, Measured]
    ) -> list[str]:
        ids = [trial.trial_id for trial in hunt.search.trials(one.setting)]
        values = [self._value(hunt.search, id_, measured) for id_ in ids if rows[id_].state == "finished"]
        seconds = sum(self._train_seconds(trial_id, measured) for trial_id in ids)
        if bad := next((rows[id_] for id_ in ids if _gives_no_number(rows[id_])), None):
            hunt.suggestions.tell(one.number, (), ids, seconds, bad.cause or bad.state)
        elif self._one_by_one and self._is_worse(hunt, one, values):
            hunt.suggestions.prune(one.number, values, ids, seconds)
        elif len(values) == len(ids):
            hunt.suggestions.tell(one.number, values, ids, seconds)
        else:
            return []
        self._take_in(hunt)
        return [trial_id for trial_id in ids if rows[trial_id].state == "pending"]

    def _is_worse(self, hunt: Hunt, one: Suggestion, values: Sequence[float]) -> bool:
        """Asked after each seed; after the last one there is nothing to be saved."""
        worse = [hunt.suggestions.should_prune(one.number, seed, value) for seed, value in enumerate(values)]
        return any(worse[: hunt.search.seeds - 1])

    def _value(self, search: Search, trial_id: str, measured: Mapping[str, Measured]) -> float:
        found = measured.get(trial_id)
        value = None if found is None else found.nll if search.metric == "val/nll" else found.error
        if value is None:
            raise ConfigError(
                f"trial {trial_id} is finished, but the ledger does not have its {search.metric}:"
                f" make forget TRIAL={trial_id}"
            )
        return value

    def _train_seconds(self, trial_id: str, measured: Mapping[str, Measured]) -> float:
        if trial_id in measured:
            return measured[trial_id].epoch_seconds * self._trials[trial_id].epochs
        return self._seconds.get(trial_id, 0.0)

    def gives_up(self, trial_id: str, records: Sequence[EpochRecord]) -> bool:
        """Whether the median pruner does, after one of these epochs, of which it is asked about some, but the last."""
        self._seconds[trial_id] = self._seconds.get(trial_id, 0.0) + sum(r.metrics["epoch_seconds"] for r in records)
        hunt, number = self._found_in[trial_id]
        if hunt.search.pruner != "median" or hunt.settings[number].outcome != "open":
            return False
        every = max(1, self._trials[trial_id].epochs // LOOKS)
        for record in (record for record in records if record.epoch % every == 0):
            worse = hunt.suggestions.should_prune(number, record.epoch, record.metrics[hunt.search.metric])
            if worse and record.epoch < self._trials[trial_id].epochs:
                hunt.suggestions.prune(number, (), [trial_id], self._seconds[trial_id])
                self._take_in(hunt)
                return True
        return False

    @property
    def is_over(self) -> bool:
        """Whether all budgets are spent."""
        return all(hunt.is_over for hunt in self.hunts)

    def out_of_time(self) -> list[str]:
        """The searches whose hours are spent before all of their settings were tried."""
        return [hunt.search.name for hunt in self.hunts if hunt.time_is_up and hunt.closed < hunt.search.budget]

    def counts(self) -> str:
        """How many settings were tried, and what came of them."""
        outcomes = Counter(one.outcome for hunt in self.hunts for one in hunt.settings.values())
        tried, budget = sum(hunt.closed for hunt in self.hunts), sum(hunt.search.budget for hunt in self.hunts)
        of_these = [f"{outcomes[outcome]} {outcome}" for outcome in ("failed", "pruned") if outcomes[outcome]]
        return f"{tried} of {budget} settings tried" + (f" ({', '.join(of_these)})" if of_these else "")

    def standings(self) -> list[Standing]:
        """How far each search is."""
        rows = self.rows()
        return [self._standing(hunt, rows) for hunt in self.hunts]

    def _standing(self, hunt: Hunt, rows: Mapping[str, LedgerRow]) -> Standing:
        search, outcomes = hunt.search, Counter(one.outcome for one in hunt.settings.values())
        to_come = 0 if hunt.time_is_up else (search.budget - len(hunt.settings)) * search.seeds
        begun = [trial for one in hunt.open for trial in search.trials(one.setting) if trial.trial_id in rows]
        left = to_come + sum(rows[trial.trial_id].state in ("pending", "failed") for trial in begun)
        counts = {outcome: outcomes[outcome] for outcome in OUTCOMES}
        return Standing(search.name, search.budget, counts, left, search.typical_trials())

    def labels(self) -> dict[str, str]:
        """What trials are called, by id."""
        return {trial_id: f"{hunt.search.name} #{number}" for trial_id, (hunt, number) in self._found_in.items()}

    def found_in(self, trial_id: str) -> tuple[Search, int]:
        """The search, and the number of the setting, that a trial belongs to."""
        hunt, number = self._found_in[trial_id]
        return hunt.search, number

    def places(self) -> Iterator[tuple[str, Work]]:
        """What settings that were not asked for yet are expected to take: a place a trial."""
        for hunt in self.hunts:
            work = expected_of_one(hunt.search.typical_trials(), self.known)
            for number in range(len(hunt.settings), hunt.search.budget):
                yield from ((hunt.place(number, seed), work) for seed in range(hunt.search.seeds))


def _gives_no_number(row: LedgerRow) -> bool:
    return row.state == "diverged" or (row.state == "failed" and row.failure in NO_NUMBER)


def at_once(tuning: Tuning, search: Search, jobs: int) -> int:
    """How many settings of ``search`` may be open at a time.

    One as long as all jobs have work then: what is suggested does not hang on which of two trials ends first. Nor does
    it ever where suggestions do not follow from results.
    """
    if search.sampler != "tpe":
        return jobs
    trials_each = 1 if search.pruner == "wilcoxon" else search.seeds
    return math.ceil(jobs / (len(tuning.searches) * trials_each))


@dataclass(frozen=True)
class SearchOutline:
    """Of a tuning: a group a search."""

    sweep: SearchSweep

    @property
    def name(self) -> str:
        return self.sweep.name

    @property
    def question(self) -> str:
        return self.sweep.question

    @property
    def trials(self) -> Sequence[TrialConfig]:
        return list(self.sweep.trials.values())

    @property
    def groups(self) -> Sequence[Group]:
        return [_search_group(self.name, search) for search in self.sweep.tuning.searches]

    def group(self, trial_id: str) -> Group:
        return _search_group(self.name, self.sweep.found_in(trial_id)[0])

    def label(self, trial: TrialConfig) -> str:
        search, number = self.sweep.found_in(trial.trial_id)
        return f"#{number} {setting_text(search.setting_of(trial))}".rstrip()

    def run_name(self, trial: TrialConfig) -> str:
        return f"{self.label(trial)} seed={trial.seed}"

    def tags(self, trial: TrialConfig) -> Mapping[str, str]:
        return {"setting": str(self.sweep.found_in(trial.trial_id)[1])}

    def is_over(self, group: Group, states: States) -> bool:
        return next(hunt.is_over for hunt in self.sweep.hunts if search_key(hunt.search) == group.key)

    def views(self, metrics: Iterable[str]) -> Sequence[View]:
        searches = self.sweep.tuning.searches
        return search_views(list(dict.fromkeys(name for one in searches for name in one.space)), searches[0].metric)

    @property
    def guide(self) -> Sequence[str]:
        return SEARCH_GUIDE


def search_key(search: Search) -> str:
    """By which the ledger knows the search's run."""
    return SEARCH + search.digest


def _search_group(tuning: str, search: Search) -> Group:
    params = search.base_params
    space = {f"space.{name}": str(distribution) for name, distribution in search.space.items()}
    tags = {"kind": "search", "study": tuning, "search": search.name, "digest": search.digest, **kind_tags(params)}
    return Group(search_key(search), search.name, {**params, **space}, tags)

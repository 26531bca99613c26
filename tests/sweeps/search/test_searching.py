"""A search from its first setting to its last: what is asked, told, given up and gone on with. Nothing trains here."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_spaces import recipes
from search_spaces.catalog import find_tuning, frozen_of
from search_spaces.choices import Choice, Frozen, read_frozen
from search_spaces.search import OneOf, Search, Tuning
from search_spaces.spaces import full_space, narrow_space
from sweeps.housekeeping import collect_garbage
from sweeps.ledger import Ledger, Measured
from sweeps.search.commands import publish_searched
from sweeps.search.freeze import freeze
from sweeps.search.searching import SearchSweep, at_once, search_key
from sweeps.search.suggest import Outcome
from sweeps.tracking.delivery import deliver_missing
from sweeps.tracking.tracker import Delivery, Tracker
from tests.sweeps.conftest import Desk, lapsing, make_records
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.config import Amp, Erm, TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.records import EpochRecord

AMP, ERM = (recipes.digits_mlp(method, 0) for method in (Amp(epsilon=0.2, inner_lr=1.0), Erm()))


def search_of(base: TrialConfig, **changes: Any) -> Search:
    given: dict[str, Any] = {"space": full_space(base.method), "settings": 6, "seeds": 2} | changes
    return Search(name=type(base.method).__name__.lower(), base=base, **given)


def tuning(**changes: Any) -> Tuning:
    searches = [search_of(base, **changes) for base in (ERM, AMP)]
    return Tuning(name="toy", question="Which?", searches=searches, final_seeds=range(2))


def nll(trial: TrialConfig) -> float:
    """Of the trial; lowest at η = 0.1, with a little noise from the seed."""
    return 0.1 + math.log(trial.lr / 0.1) ** 2 + 0.01 * trial.seed


@contextlib.contextmanager
def sweep_of(tuning: Tuning, folder: Path, jobs: int = 2) -> Iterator[SearchSweep]:
    folder.mkdir(exist_ok=True)
    results = Results(folder)
    ledger = Ledger(results.ledger_url)
    sweep = SearchSweep(tuning, "toy", results, ledger, jobs, "cpu")
    try:
        yield sweep
    finally:
        sweep.close()
        ledger.close()


def begin(sweep: SearchSweep, owner: str = "driver") -> TrialConfig | None:
    """Lease the next trial, as a searcher does; None when there is none."""
    row = sweep.ledger.lease(sweep.wanted(), owner, sweep.name)
    if row is None and sweep.grow().added:
        row = sweep.ledger.lease(sweep.wanted(), owner, sweep.name)
    return None if row is None else sweep.trials[row.trial_id]


def end(sweep: SearchSweep, trial: TrialConfig, value: float | None = None, owner: str = "driver") -> None:
    """Settle the trial as finished, as a searcher does."""
    found = Measured("kind", "here", 1.0, 0.5, 100, 0.25, nll(trial) if value is None else value)
    assert sweep.ledger.settle(trial.trial_id, owner, "finished", measured=found)
    sweep.grow()


def train(sweep: SearchSweep, trials: int | None = None) -> int:
    """Train so many trials one at a time, by default all that come; how many it were is returned."""
    done = 0
    while done != trials and (trial := begin(sweep)):
        end(sweep, trial)
        done += 1
    return done


def settings(sweep: SearchSweep) -> list[tuple[str, int, str, float | None, tuple[float, ...]]]:
    """All that is known of each setting, in order."""
    return [
        (hunt.search.name, one.number, one.outcome, one.value, tuple(one.setting.values()))
        for hunt in sweep.hunts
        for one in hunt.suggestions.all()
    ]


def outcomes(sweep: SearchSweep, place: int = 0) -> list[Outcome]:
    """Of the settings of one search."""
    return [one.outcome for one in sweep.hunts[place].suggestions.all()]


def test_every_search_tries_as_many_settings_as_it_has_budget_for(tmp_path: Path) -> None:
    with sweep_of(tuning(), tmp_path) as sweep:
        assert train(sweep) == 2 * 6 * 2
        assert sweep.is_over
        assert sweep.counts() == "12 of 12 settings tried"
        for hunt in sweep.hunts:
            found = hunt.suggestions.all()
            assert [one.outcome for one in found] == ["told"] * 6
            for one in found:
                trials = hunt.search.trials(one.setting)
                assert one.value == pytest.approx(sum(map(nll, trials)) / 2)
                assert one.train_seconds == 2 * 0.5 * AMP.epochs
        assert begin(sweep) is None


def test_no_trial_of_a_search_reads_the_test_set(tmp_path: Path) -> None:
    with sweep_of(tuning(), tmp_path) as sweep:
        train(sweep)
        assert {trial.evaluate for trial in sweep.trials.values()} == {"val"}
        assert len(sweep.trials) == 24


def test_methods_take_turns(tmp_path: Path) -> None:
    """So that a search that is stopped by hours, or by its user, has tried as much of each."""
    with sweep_of(tuning(), tmp_path) as sweep:
        train(sweep, 12)
        assert [hunt.closed for hunt in sweep.hunts] == [3, 3]


@pytest.mark.parametrize("stops", [(1, 2, 3, 4, 5), (7,), (1, 1, 1)])
def test_a_search_that_is_broken_off_goes_on_as_if_nothing_had_been(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """Killed in the middle of a trial: its lease lapses, and it is trained again."""
    with sweep_of(tuning(), tmp_path / "whole") as sweep:
        train(sweep)
        whole = settings(sweep)
    for trials in stops:
        with sweep_of(tuning(), tmp_path / "broken") as sweep:
            train(sweep, trials)
            with lapsing():
                begin(sweep)
    with sweep_of(tuning(), tmp_path / "broken") as sweep:
        train(sweep)
        assert settings(sweep) == whole


def test_what_is_suggested_does_not_hang_on_which_trial_ends_first(tmp_path: Path) -> None:
    """As long as there is no more than one setting of a search at a time."""
    found = []
    for name, late_first in (("one", False), ("other", True)):
        with sweep_of(tuning(), tmp_path / name) as sweep:
            while running := [trial for trial in (begin(sweep) for _ in range(3)) if trial]:
                for trial in sorted(running, key=lambda trial: trial.seed, reverse=late_first):
                    end(sweep, trial)
            found.append(settings(sweep))
    assert found[0] == found[1]
    assert {outcome for _, _, outcome, _, _ in found[0]} == {"told"}


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    with sweep_of(tuning(settings=4), tmp_path / "grown") as sweep:
        train(sweep)
    with sweep_of(tuning(settings=4), tmp_path / "grown") as sweep:
        assert sweep.is_over
    with sweep_of(tuning(), tmp_path / "grown") as sweep:
        assert train(sweep) == 2 * 2 * 2
        grown = settings(sweep)
    with sweep_of(tuning(), tmp_path / "whole") as sweep:
        train(sweep)
        assert settings(sweep) == grown


def test_two_drivers_share_a_search(tmp_path: Path) -> None:
    one_search = Tuning(name="toy", question="?", searches=[search_of(AMP, seeds=1, settings=8)])
    with sweep_of(one_search, tmp_path) as one, sweep_of(one_search, tmp_path) as other:
        drivers = {"one": one, "other": other}
        while any(not sweep.is_over for sweep in drivers.values()):
            running = [(sweep, owner, begin(sweep, owner)) for owner, sweep in drivers.items()]
            assert any(trial for _, _, trial in running) or (one.is_over and other.is_over)
            for sweep, owner, trial in running:
                if trial:
                    end(sweep, trial, owner=owner)
        assert outcomes(one) == ["told"] * 8
        assert len({values for *_, values in settings(one)}) == 8


def test_what_another_driver_has_asked_for_is_news(tmp_path: Path) -> None:
    """However this one comes to hear of it: what shows how a sweep goes on must know every trial."""
    one_search = Tuning(name="toy", question="?", searches=[search_of(AMP, seeds=1, settings=8)])
    with sweep_of(one_search, tmp_path) as one, sweep_of(one_search, tmp_path) as other:
        mine, its = begin(one, "one"), begin(other, "other")
        assert mine is not None
        assert its is not None
        assert one.ledger.settle(mine.trial_id, "one", "diverged")
        assert [added.trial for added in one.grow().added][:1] == [its]


def test_a_setting_of_a_dead_driver_is_taken_up(tmp_path: Path) -> None:
    with sweep_of(tuning(), tmp_path) as sweep, lapsing():
        lost = begin(sweep, "dead")
    with sweep_of(tuning(), tmp_path) as sweep:
        assert lost == begin(sweep)


def fail(sweep: SearchSweep, trial: TrialConfig, how: str) -> None:
    state, failure = ("diverged", None) if how == "diverged" else ("failed", how)
    settle: Callable[..., bool] = sweep.ledger.settle
    assert settle(trial.trial_id, "driver", state, f"it is {how}", failure=failure)


@pytest.mark.parametrize("how", ["diverged", "out_of_memory", "lost_worker"])
def test_a_setting_without_a_number_is_told_as_failed_and_its_other_seeds_are_not_trained(
    tmp_path: Path, how: str
) -> None:
    with sweep_of(tuning(), tmp_path) as sweep:
        trial = begin(sweep)
        assert trial is not None
        fail(sweep, trial, how)
        growth = sweep.grow()
        assert outcomes(sweep) == ["failed"]
        assert sweep.hunts[0].suggestions.best() is None
        other = sweep.tuning.searches[0].trials(sweep.tuning.searches[0].first)[1]
        assert growth.dropped == [other.trial_id]
        train(sweep)
        assert outcomes(sweep) == ["failed", *["told"] * 5]
        assert sweep.ledger.rows([other.trial_id])[other.trial_id].state == "pending"
        assert sweep.counts() == "12 of 12 settings tried (1 failed)"


def test_a_setting_with_a_bug_waits_until_it_is_mended(tmp_path: Path) -> None:
    with sweep_of(tuning(), tmp_path) as sweep:
        trial = begin(sweep)
        assert trial is not None
        fail(sweep, trial, "bug")
        train(sweep)
        assert outcomes(sweep) == ["open"]
        assert outcomes(sweep, 1) == ["told"] * 6
        assert not sweep.is_over
        with pytest.raises(
            ConfigError, match=r"^toy: 6 of 12 settings tried: .* not spent: erm: make search STUDY=toy"
        ):
            freeze(sweep, tmp_path / "frozen.json")
    with sweep_of(tuning(), tmp_path) as sweep:
        sweep.ledger.retry_failed(sweep.wanted())
        train(sweep)
        assert outcomes(sweep) == ["told"] * 6


def test_hours_end_a_search_and_what_was_begun_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sweeps.search.searching.time.monotonic", lambda: now)
    declared = tuning(hours=1.0, seeds=1)
    with sweep_of(declared, tmp_path) as sweep:
        for _ in range(3):
            trial = begin(sweep)
            assert trial is not None
            now += 900
            end(sweep, trial)
        running = begin(sweep)
        assert running is not None
        now += 901
        sweep.grow()
        assert begin(sweep) is None
        end(sweep, running)
        sweep.grow()
        assert outcomes(sweep) + outcomes(sweep, 1) == ["told"] * 4
        assert sweep.is_over
        assert sweep.out_of_time() == ["erm", "amp"]
    now += 1e6  # a night in which nobody searched
    with sweep_of(declared, tmp_path) as sweep:
        assert sweep.is_over
    with sweep_of(tuning(hours=2.0, seeds=1), tmp_path) as sweep:
        assert not sweep.is_over
        assert train(sweep) == 8


def test_a_killed_driver_s_time_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sweeps.search.searching.time.monotonic", lambda: now)
    for _ in range(4):
        with sweep_of(tuning(hours=1.0), tmp_path) as sweep:
            assert not sweep.is_over
            now += 901  # in which it was planned
            sweep.grow()
            now += 901
            sweep.grow()
    with sweep_of(tuning(hours=1.0), tmp_path) as sweep:
        assert sweep.is_over


def record(epoch: int, value: float) -> EpochRecord:
    return EpochRecord(epoch, epoch, {"val/nll": value, "val/error": 0.1, "epoch_seconds": 0.5})


def train_level(sweep: SearchSweep, level: float) -> None:
    """A trial whose metric is ``level`` in each epoch; it is not given up."""
    trial = begin(sweep)
    assert trial is not None
    assert not sweep.gives_up(trial.trial_id, [record(epoch, level) for epoch in range(1, AMP.epochs + 1)])
    end(sweep, trial, level)


def test_the_median_gives_a_trial_up_and_another_one_comes(tmp_path: Path) -> None:
    with sweep_of(tuning(seeds=1, pruner="median", settings=8), tmp_path, jobs=1) as sweep:
        for level in range(10, 0, -1):
            train_level(sweep, float(level))
        worse = begin(sweep)
        assert worse is not None
        assert not sweep.gives_up(worse.trial_id, [record(epoch, 99.0) for epoch in range(1, 14)])
        assert sweep.gives_up(worse.trial_id, [record(14, 99.0)])
        assert not sweep.gives_up(worse.trial_id, [record(15, 99.0)])  # once is enough
        found = [one for hunt in sweep.hunts for one in hunt.suggestions.all() if one.outcome == "pruned"]
        assert [one.train_seconds for one in found] == [7.0]
        assert worse.trial_id not in sweep.wanted()
        assert sweep.ledger.settle(worse.trial_id, "driver", "pending")
        train(sweep)
        assert sweep.is_over
        assert sweep.counts() == "16 of 16 settings tried (1 pruned)"


def test_the_median_does_not_judge_a_trial_that_has_ended(tmp_path: Path) -> None:
    """There is nothing to be saved, and its number would be lost."""
    with sweep_of(tuning(seeds=1, pruner="median", settings=8), tmp_path, jobs=1) as sweep:
        for level in range(12):
            trial = begin(sweep)
            assert trial is not None
            assert not sweep.gives_up(trial.trial_id, [record(AMP.epochs, float(level))])
            end(sweep, trial, float(level))
        assert outcomes(sweep)[:6] == outcomes(sweep, 1)[:6] == ["told"] * 6


def test_the_median_is_asked_some_twenty_times_however_many_epochs_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of each of a thousand short epochs, the driver would be at it longer than the trial trains."""
    search = search_of(replace(ERM, epochs=1030), seeds=1, pruner="median")
    asked = []
    with sweep_of(Tuning(name="toy", question="?", searches=[search]), tmp_path, jobs=1) as sweep:
        monkeypatch.setattr(sweep.hunts[0].suggestions, "should_prune", lambda number, step, value: asked.append(step))
        trial = begin(sweep)
        assert trial is not None
        for start in range(1, 1031, 103):  # however the records are reported
            sweep.gives_up(trial.trial_id, [record(epoch, 1.0) for epoch in range(start, start + 103)])
    assert asked == list(range(51, 1031, 51))


def test_wilcoxon_trains_seed_by_seed_and_gives_the_rest_up(tmp_path: Path) -> None:
    with sweep_of(tuning(seeds=6, pruner="wilcoxon", settings=2), tmp_path, jobs=1) as sweep:
        for _ in range(12):
            trial = begin(sweep)
            assert trial is not None
            end(sweep, trial, 1.0 + 0.1 * (trial.seed % 3))
        trained = []
        while trial := begin(sweep):
            assert len(sweep.wanted()) == 1
            trained.append(trial.seed)
            end(sweep, trial, 2.0 + 0.1 * (trial.seed % 3))
        assert trained == [0, 1, 2, 3] * 2
        assert outcomes(sweep) == outcomes(sweep, 1) == ["told", "pruned"]


def test_a_setting_that_was_tried_before_is_told_at_once(tmp_path: Path) -> None:
    listed = {"method.inner_steps": OneOf(values=(1, 2)), "lr": OneOf(values=(0.05, 0.1))}
    search = search_of(AMP, space=listed, settings=4, seeds=1, sampler_seed=1)
    with sweep_of(Tuning(name="toy", question="?", searches=[search]), tmp_path, jobs=1) as sweep:
        trained = train(sweep)
        assert outcomes(sweep) == ["told"] * 4
        assert trained == len({values for *_, values in settings(sweep)}) < 4


def test_a_method_without_parameters_of_its_own_is_tried_once(tmp_path: Path) -> None:
    search = search_of(ERM, space=narrow_space(Erm()), settings=5)
    with sweep_of(Tuning(name="toy", question="?", searches=[search]), tmp_path) as sweep:
        assert train(sweep) == 2
        assert sweep.is_over


@pytest.mark.parametrize(
    ("jobs", "changes", "open_ones"),
    [
        (2, {}, 1),
        (4, {}, 1),
        (5, {}, 2),
        (4, {"seeds": 1}, 2),
        (4, {"seeds": 6, "pruner": "wilcoxon"}, 2),
        (4, {"sampler": "random"}, 4),
    ],
)
def test_there_are_as_many_settings_at_a_time_as_keep_all_jobs_busy(
    jobs: int, changes: dict[str, Any], open_ones: int
) -> None:
    declared = tuning(**changes)
    assert at_once(declared, declared.searches[0], jobs) == open_ones


def test_freezing_writes_the_best_setting_of_each(tmp_path: Path) -> None:
    with sweep_of(tuning(), tmp_path) as sweep:
        with pytest.raises(ConfigError, match="0 of 12 settings tried"):
            freeze(sweep, tmp_path / "frozen.json")
        train(sweep)
        frozen = freeze(sweep, tmp_path / "frozen.json")
        for hunt in sweep.hunts:
            choice, values = frozen.choices[hunt.search.name], [one.value for one in hunt.suggestions.all()]
            assert choice.value == min(value for value in values if value is not None)
            assert choice.setting == hunt.suggestions.all()[choice.number].setting
            assert (choice.digest, choice.tried, choice.failed) == (hunt.search.digest, 6, 0)
            assert choice.train_seconds == 6 * 2 * 0.5 * AMP.epochs
        assert freeze(sweep, tmp_path / "frozen.json") == frozen
    with sweep_of(tuning(settings=30), tmp_path) as sweep:
        train(sweep)
        with pytest.raises(ConfigError, match="other choices are frozen already"):
            freeze(sweep, tmp_path / "frozen.json")
        assert read_frozen(tmp_path / "frozen.json") == frozen


def test_there_is_nothing_to_choose_from_failures(tmp_path: Path) -> None:
    with sweep_of(replace(tuning(), searches=[search_of(ERM, settings=1)]), tmp_path) as sweep:
        trial = begin(sweep)
        assert trial is not None
        fail(sweep, trial, "diverged")
        sweep.grow()
        with pytest.raises(ConfigError, match=r"^erm: no setting gave a number"):
            freeze(sweep, tmp_path / "frozen.json")


def test_a_finished_trial_without_its_number_is_said(tmp_path: Path) -> None:
    with sweep_of(tuning(seeds=1), tmp_path) as sweep:
        trial = begin(sweep)
        assert trial is not None
        assert sweep.ledger.settle(trial.trial_id, "driver", "finished")
        with pytest.raises(
            ConfigError, match=rf"^trial {trial.trial_id} is finished, but .* val/nll: make forget TRIAL="
        ):
            sweep.grow()


def test_mlflow_has_a_run_a_search_and_under_it_its_trials(desk: Desk, tmp_path: Path) -> None:
    with sweep_of(tuning(settings=2, seeds=1), desk.results.root) as sweep:
        tracker = Tracker(desk.client, sweep.shown, sweep.ledger, desk.results)
        tracker.prepare()  # before there is any trial
        while trial := begin(sweep):
            tracker.write(Delivery(trial, "leased"))
            tracker.write(Delivery(trial, "finished", make_records()))
            end(sweep, trial)
        assert {run.info.status for run in desk.runs("toy") if run.data.tags["kind"] != "trial"} == {"SCHEDULED"}
        tracker.finish({trial_id: row.state for trial_id, row in sweep.shown_rows().items()})
        for hunt in sweep.hunts:
            parent = desk.run("toy", search_key(hunt.search))
            assert (parent.info.run_name, parent.info.status) == (hunt.search.name, "FINISHED")
            assert parent.data.params["space.lr"].startswith("LogUniform(low=0.005")
            assert "seed" not in parent.data.params
            for one in hunt.suggestions.all():
                (trial,) = hunt.search.trials(one.setting)
                run = desk.run("toy", trial.trial_id)
                assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
                assert (run.data.tags["setting"], run.data.tags["phase"]) == (str(one.number), "search")
                assert run.info.run_name.startswith(f"#{one.number} lr=")
        assert len(desk.runs("toy")) == 1 + 2 + 4


def test_a_run_of_a_trial_that_was_given_up_is_killed(desk: Desk) -> None:
    """And so is the search's over, though a trial of it is pending for ever."""
    with sweep_of(replace(tuning(), searches=[search_of(ERM, settings=1)]), desk.results.root) as sweep:
        tracker = Tracker(desk.client, sweep.shown, sweep.ledger, desk.results)
        tracker.prepare()
        trial = begin(sweep)
        assert trial is not None
        (other,) = (one for one in sweep.trials.values() if one != trial)
        tracker.write(Delivery(other, "leased"))
        fail(sweep, trial, "diverged")
        sweep.grow()
        rows = sweep.shown_rows()
        deliver_missing(sweep.shown, rows, tracker, desk.results)
        tracker.finish({trial_id: row.state for trial_id, row in rows.items()})
        assert desk.run("toy", other.trial_id).info.status == "KILLED"
        assert desk.run("toy", trial.trial_id).info.status == "FAILED"
        assert desk.run("toy", "summary").info.status == "FINISHED"


def test_the_weights_of_a_search_are_garbage(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    with sweep_of(tuning(settings=1, seeds=1), desk.results.root) as sweep:
        while trial := begin(sweep):
            Checkpoint(trial.trial_id, make_records(), {"weights": 1}).save(desk.results.checkpoint(trial.trial_id))
            end(sweep, trial)
        collect_garbage([sweep.tuning], sweep.ledger, desk.results, dry_run=False)
        assert "of 2 trials" in capsys.readouterr().out
        for trial_id in sweep.trials:
            stored = load_checkpoint(desk.results.checkpoint(trial_id), trial_id)
            assert stored is not None
            assert (stored.records, stored.state) == (make_records(), {})


def test_a_verdict_on_choices_that_were_taken_back_is_not_published(desk: Desk, tmp_path: Path) -> None:
    """The README says how to search anew: remove the frozen file. The old verdict's report still lies there."""
    file = tmp_path / "own.py"
    file.write_text(TUNING_FILE)
    declared = find_tuning(str(file))
    for name in (declared.name, declared.final_name):
        desk.results.report(name).mkdir(parents=True)
        (desk.results.report(name) / "report.md").write_text("# a report")
    assert publish_searched(declared, str(file), desk.results, desk.ledger)
    assert desk.client.get_experiment_by_name(declared.name) is not None
    assert desk.client.get_experiment_by_name(declared.final_name) is None
    choices = {one.name: Choice(one.digest, 0, 0.5, one.first, 1, 0, 0, 1.0) for one in declared.searches}
    Frozen(declared.name, "2026-11-24", "abc", choices).write(frozen_of(str(file)))
    assert publish_searched(declared, str(file), desk.results, desk.ledger)
    assert desk.client.get_experiment_by_name(declared.final_name) is not None


TUNING_FILE = """
from search_spaces import recipes
from search_spaces.search import Search, Tuning
from search_spaces.spaces import full_space
from trainer.config import Erm

BASE = recipes.digits_mlp(Erm(), 0)
STUDY = Tuning(name="own", question="?", searches=[Search(name="erm", base=BASE, space=full_space(Erm()), settings=3)])
"""

"""What a sweep has written comes back as frames: every declared trial, whatever became of it, and every epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from mlflow.entities import RunTag
from pandas.testing import assert_frame_equal

from analysis import store
from analysis.runs import HISTORY, TAGS, begun, load, load_finals, load_history, load_records
from search_spaces import recipes
from search_spaces.study import Study
from sweeps.ledger import Ledger, State
from sweeps.tracking.tracker import Delivery, Tracker, connect
from tests.analysis.conftest import Place
from trainer.config import Amp, Erm, TrialConfig
from trainer.machine import TRACKING_VARIABLE, Results
from trainer.records import EpochRecord

FIRST = 1_700_000_000_000
ERRORS = (0.5, 0.25, 0.25, 0.375)
"""Of the test set, by epoch: the lowest stands twice."""
VAL_NLL = (2.0, 1.5, 1.0, 1.25)


def trial(seed: int, epsilon: float | None = None) -> TrialConfig:
    method = Erm() if epsilon is None else Amp(epsilon=epsilon)
    return replace(recipes.digits_mlp(method, seed), epochs=4, lr_milestones=())


def records(
    offset: float, first: int = FIRST, epochs: int = 4, more: Mapping[str, float] | None = None
) -> list[EpochRecord]:
    """offset: added to every number, to tell trials apart. first: when it began, in milliseconds since 1970."""
    return [
        EpochRecord(
            epoch,
            first + 1000 * epoch,
            {
                "test/error": ERRORS[epoch - 1] + offset,
                "test/nll": epoch / 8 + offset,
                "val/nll": VAL_NLL[epoch - 1] + offset,
                "lr": 1 / epoch,
                **(more or {}),
            },
        )
        for epoch in range(1, epochs + 1)
    ]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A study, and who writes of it."""

    study: Study
    tracker: Tracker
    ledger: Ledger

    def write(
        self, trial: TrialConfig, state: State, records: Sequence[EpochRecord] = (), cause: str | None = None
    ) -> str:
        """As a sweep delivers it; the run's id."""
        self.tracker.write(Delivery(trial, state, records, cause))
        return self.tracker.run_id(trial.trial_id)


def declared(name: str) -> Study:
    """ERM and AMP of two radii, two seeds each."""
    trials = [trial(seed, epsilon) for epsilon in (None, 0.5, 1.0) for seed in (0, 1)]
    return Study(name=name, question="Is all of it read?", trials=trials)


@pytest.fixture
def ledger(results: Results) -> Iterator[Ledger]:
    made = Ledger(results.ledger_url)
    yield made
    made.close()


def begin(study: Study, ledger: Ledger, results: Results) -> Sweep:
    ledger.declare(study.name, study.trials)
    tracker = Tracker(connect(results), study, ledger, results)
    tracker.prepare()
    return Sweep(study, tracker, ledger)


@pytest.fixture
def sweep(place: Place, ledger: Ledger, results: Results) -> Sweep:
    return begin(declared(place.new_name()), ledger, results)


def test_every_trial_has_a_row_whatever_became_of_it(sweep: Sweep, results: Results) -> None:
    trials = sweep.study.trials
    outcomes: list[tuple[str, State]] = [
        ("finished", "finished"),
        ("diverged", "diverged"),
        ("failed", "failed"),
        ("running", "leased"),
        ("interrupted", "pending"),
    ]
    ids = [
        sweep.write(one, state, records(number), f"because of {number}")
        for number, (one, (_, state)) in enumerate(zip(trials, outcomes, strict=False))
    ]
    frame = load(sweep.study, results)
    assert frame["trial_id"].tolist() == [one.trial_id for one in trials]
    assert frame["outcome"].tolist() == [*(outcome for outcome, _ in outcomes), "missing"]
    assert frame["run_id"].tolist()[:5] == ids
    assert frame["run_id"].isna().tolist() == 5 * [False] + [True]
    assert frame["cause"].tolist()[:5] == [f"because of {number}" for number in range(5)]
    assert frame["method.epsilon"].tolist()[2:] == [0.5, 0.5, 1.0, 1.0]
    assert frame["cell"].tolist() == [cell.label for cell in sweep.study.cells() for _ in cell.trials]
    assert set(TAGS) <= set(frame.columns)
    numbers = [name for name in frame.columns if name.startswith(("test/", "val/", "oracle/", "best_val/"))]
    assert len(numbers) == 3 + 2 * 4
    assert frame[numbers].notna().all(axis=1).tolist() == [True] + 5 * [False]
    assert frame.loc[1:, numbers].isna().all(axis=None)


def test_last_and_chosen_epochs_stand_side_by_side(sweep: Sweep, results: Results) -> None:
    for number, one in enumerate(sweep.study.trials):
        sweep.write(one, "finished", records(10 * number))
    frame = load(sweep.study, results)
    base = [10.0 * number for number in range(6)]
    expected = {
        "test/nll": 0.5,
        "test/error": 0.375,
        "oracle/test/nll": 0.25,
        "oracle/test/error": 0.25,
        "oracle/val/nll": 1.5,
        "best_val/test/nll": 0.375,
        "best_val/test/error": 0.25,
        "best_val/val/nll": 1.0,
    }
    for column, value in expected.items():
        assert frame[column].tolist() == [offset + value for offset in base], column
    assert (frame["oracle/epoch"].unique().tolist(), frame["best_val/epoch"].unique().tolist()) == ([2], [3])
    assert frame["lr"].tolist() == [one.lr for one in sweep.study.trials]  # the parameter, and not the metric
    finals = load_finals(sweep.study, results)
    assert_frame_equal(finals, frame[list(finals.columns)])
    assert not any(name.startswith(("oracle/", "best_val/")) for name in finals.columns)


def test_nan_of_a_finished_trial_stays_nan(sweep: Sweep, results: Results) -> None:
    [first, second, *_] = sweep.study.trials
    sweep.write(first, "finished", records(0, more={"test/nll": math.nan}))
    sweep.write(second, "finished", records(0))
    frame = load(sweep.study, results)
    assert frame.loc[0, "outcome"] == "finished"
    assert frame[["test/nll", "oracle/test/nll"]].isna().all(axis=1).tolist()[:2] == [True, False]
    assert frame.loc[0, "oracle/epoch"] == 2


def test_histories_have_every_epoch_of_every_run(sweep: Sweep, results: Results) -> None:
    trials = sweep.study.trials
    sweep.write(trials[3], "diverged", records(3, epochs=2))
    sweep.write(trials[0], "finished", records(0))
    sweep.write(trials[4], "leased", records(4, epochs=1))
    history = load_history(sweep.study, results)
    assert tuple(history.columns) == HISTORY
    assert history["value"].notna().all()
    assert history["trial_id"].unique().tolist() == [trials[0].trial_id, trials[3].trial_id, trials[4].trial_id]
    assert history.groupby("trial_id", observed=True)["epoch"].max().to_dict() == {
        trials[0].trial_id: 4,
        trials[3].trial_id: 2,
        trials[4].trial_id: 1,
    }
    order = [key for key, _ in itertools.groupby(zip(history["trial_id"], history["metric"], strict=True))]
    assert len(order) == len(set(order)) == 3 * 4
    assert (history["epoch"].diff().iloc[1:] == 1).sum() == len(history) - len(order)
    of_third = history[(history["trial_id"] == trials[3].trial_id) & (history["metric"] == "test/nll")]
    assert of_third[["cell", "seed", "epoch", "timestamp", "value"]].values.tolist() == [
        [sweep.study.cells()[1].label, 1, 1, FIRST + 1000, 3.125],
        [sweep.study.cells()[1].label, 1, 2, FIRST + 2000, 3.25],
    ]
    assert not any(name.startswith("final/") for name in history["metric"].cat.categories)
    for name in ("trial_id", "cell", "metric"):
        assert isinstance(history[name].dtype, pd.CategoricalDtype)


def test_a_second_reading_asks_for_no_point_and_is_the_same(
    sweep: Sweep, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.write(sweep.study.trials[0], "finished", records(0))
    sweep.write(sweep.study.trials[2], "diverged", records(1, epochs=2))
    first = load(sweep.study, results), load_history(sweep.study, results)
    monkeypatch.setattr(store.DatabaseStore, "_points", None)
    monkeypatch.setattr(store.ServerStore, "_points", None)
    second = load(sweep.study, results), load_history(sweep.study, results)
    for one, other in zip(first, second, strict=True):
        assert_frame_equal(one, other)


def test_a_trial_that_goes_on_is_read_as_far_as_it_is(sweep: Sweep, results: Results) -> None:
    one = sweep.study.trials[0]
    state: State
    for epochs, state in ((1, "leased"), (3, "leased"), (3, "pending"), (4, "leased"), (4, "finished")):
        sweep.write(one, state, records(0, epochs=epochs))
        history = load_history(sweep.study, results)
        assert history.loc[history["metric"] == "test/nll", "epoch"].tolist() == list(range(1, epochs + 1))
    assert load(sweep.study, results).loc[0, "oracle/epoch"] == 2


def test_a_run_that_was_deleted_is_missing(place: Place, sweep: Sweep, results: Results) -> None:
    gone, left = (sweep.write(one, "finished", records(0)) for one in sweep.study.trials[:2])
    assert load(sweep.study, results)["outcome"].tolist()[:2] == ["finished", "finished"]
    place.client.delete_run(gone)
    frame = load(sweep.study, results)
    assert frame["outcome"].tolist()[:2] == ["missing", "finished"]
    assert frame["oracle/epoch"].isna().tolist()[:2] == [True, False]
    assert frame.loc[1, "run_id"] == left
    assert load_history(sweep.study, results)["trial_id"].unique().tolist() == [sweep.study.trials[1].trial_id]


def test_a_trial_that_was_trained_anew_shows_its_new_run(sweep: Sweep, results: Results) -> None:
    one = sweep.study.trials[0]
    old = sweep.write(one, "leased", records(0, epochs=3))
    assert len(load_history(sweep.study, results)) == 3 * 4
    new = sweep.write(one, "finished", records(5, first=FIRST + 10**6))
    assert new != old
    frame = load(sweep.study, results)
    assert (frame.loc[0, "run_id"], frame.loc[0, "oracle/test/nll"]) == (new, 5.25)
    assert load_history(sweep.study, results)["timestamp"].min() == FIRST + 10**6 + 1000


def test_of_two_runs_of_a_trial_the_newer_counts(place: Place, sweep: Sweep, results: Results) -> None:
    """As two drivers can leave for a moment."""
    one = sweep.study.trials[0]
    sweep.write(one, "finished", records(0))
    experiment = place.client.get_experiment_by_name(sweep.study.name)
    assert experiment is not None
    tags = {"kind": "trial", "trial_id": one.trial_id}
    twin = place.client.create_run(experiment.experiment_id, start_time=2 * FIRST, tags=tags).info.run_id
    frame = load(sweep.study, results)
    assert (frame.loc[0, "run_id"], frame.loc[0, "outcome"]) == (twin, "running")
    assert load_history(sweep.study, results).empty


def test_of_an_epoch_that_was_written_twice_the_newer_counts(place: Place, sweep: Sweep, results: Results) -> None:
    one = sweep.study.trials[0]
    run_id = sweep.write(one, "leased", records(0))
    place.client.log_metric(run_id, "test/error", 0.125, FIRST + 10**6, 1)
    place.client.log_metric(run_id, "test/error", 9.0, FIRST, 2)
    sweep.write(one, "finished", records(0))
    history = load_history(sweep.study, results)
    assert history.loc[history["metric"] == "test/error", "value"].tolist() == [0.125, *ERRORS[1:]]
    assert load(sweep.study, results).loc[0, "oracle/epoch"] == 1


def test_numbers_of_a_copy_are_its_originals(place: Place, sweep: Sweep, results: Results) -> None:
    one, other = sweep.study.trials[:2]
    original = sweep.write(one, "finished", records(7))
    assert sweep.ledger.lease([one.trial_id], "driver", sweep.study.name)
    assert sweep.ledger.settle(one.trial_id, "driver", "finished")
    second = begin(Study(name=place.new_name(), question="And here?", trials=[one, other]), sweep.ledger, results)
    assert second.tracker.copy(one, sweep.study.name)
    frame = load(second.study, results)
    assert frame["outcome"].tolist() == ["finished", "missing"]
    assert (frame.loc[0, "run_id"], frame.loc[0, "test/nll"], frame.loc[0, "oracle/test/nll"]) == (original, 7.5, 7.25)
    assert len(load_history(second.study, results)) == 4 * 4
    copied = load_records(second.study.name, results).set_index("trial_id").loc[one.trial_id]
    of_original = load_records(sweep.study.name, results).set_index("trial_id").loc[one.trial_id]
    assert copied["copied"]
    assert not of_original["copied"]
    assert copied["ended"] == of_original["ended"]
    place.client.delete_run(original)
    assert load(second.study, results)["outcome"].tolist() == ["missing", "missing"]
    assert load_history(second.study, results).empty
    assert load_records(second.study.name, results)["ended"].isna().all()


def test_records_say_who_has_seen_the_test_set(place: Place, sweep: Sweep, results: Results) -> None:
    one, other = sweep.study.trials[:2]
    seen = sweep.write(one, "finished", records(0))
    unseen = sweep.write(other, "leased", [EpochRecord(1, FIRST, {"val/nll": 1.0})])
    place.client.log_batch(unseen, tags=[RunTag("trial_id", "undeclared")])
    found = load_records(sweep.study.name, results).set_index("trial_id")
    assert found["has_test"].to_dict() == {one.trial_id: True, "undeclared": False}
    shown = place.client.get_run(seen).info
    assert found.loc[one.trial_id, "started"] == pd.Timestamp(shown.start_time, unit="ms", tz="UTC")
    assert found.loc[one.trial_id, "ended"] == pd.Timestamp(shown.end_time, unit="ms", tz="UTC")
    assert found.loc["undeclared", "ended"] is pd.NaT
    assert set(found["phase"]) == {one.phase}


def test_what_has_begun_is_named(sweep: Sweep, results: Results) -> None:
    assert sweep.study.name in begun(results)
    assert "never-begun" not in begun(results)


def test_a_study_that_never_began_is_missing_as_a_whole(place: Place, results: Results) -> None:
    study = declared(place.new_name())
    frame, history = load(study, results), load_history(study, results)
    assert frame["outcome"].tolist() == 6 * ["missing"]
    assert tuple(history.columns) == HISTORY
    assert [isinstance(dtype, pd.CategoricalDtype) for dtype in history.dtypes] == [True, True, False, True] + 3 * [
        False
    ]
    assert history.empty
    assert load_records(study.name, results).empty
    assert not (results.root / "cache").exists()


def test_without_a_store_nothing_is_there_nor_made(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACKING_VARIABLE)
    study = declared("never-begun")
    assert load(study, results)["outcome"].tolist() == 6 * ["missing"]
    assert load_history(study, results).empty
    assert load_records(study.name, results).empty
    assert begun(results) == set()
    assert list(results.root.iterdir()) == []

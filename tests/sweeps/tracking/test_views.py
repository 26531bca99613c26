"""Saved views, as far as they can be judged without a browser; ``tests/browser`` looks at them in MLflow's pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from search_spaces import recipes
from search_spaces.study import Study
from sweeps.tracking.tracker import Delivery
from sweeps.tracking.views import View, best_link, param, run_link, saved, search_views, study_views
from tests.sweeps.conftest import Desk, make_records, make_study, make_trial
from trainer.config import Amp, Erm

KNOWN = [f"{name}/{statistic}" for name in ("test/nll", "difference") for statistic in ("mean", "low", "high", "n")]
KNOWN += ["test/error/mean", "test/ece/mean"]
FINAL = ("test/error", "test/nll", "test/ece")


def of(views: Sequence[View], key: str) -> View:
    [view] = [view for view in views if view.key == key]
    return view


def keys(study: Study) -> list[str]:
    return [view.key for view in study_views(study, KNOWN)]


def state(view: View) -> dict[str, Any]:
    """As MLflow's pages read it: JSON in JSON."""
    [(name, value)] = saved([view], made=7).items()
    assert name == f"mlflow.sharedViewState.{view.key}"
    envelope = json.loads(value)
    assert (envelope["name"], envelope["createdAt"], envelope["updatedAt"]) == (view.title, 7, 7)
    found: dict[str, Any] = json.loads(envelope["state"])
    return found


def study_of(*methods: Amp | Erm) -> Study:
    trials = [recipes.digits_mlp(method, seed=0) for method in methods]
    return Study(name="toy", question="Does it work?", trials=trials)


def test_the_leaderboard_has_parameters_then_mean_interval_and_n_and_the_best_cell_first() -> None:
    methods = Erm(), Amp(epsilon=0.1), Amp(epsilon=0.2)
    shown = state(of(study_views(study_of(*methods), KNOWN), "leaderboard"))
    assert shown["searchFilter"] == "tags.kind = 'cell'"
    assert (shown["orderByKey"], shown["orderByAsc"]) == ("metrics.`test/nll/mean`", True)
    assert shown["selectedColumns"] == [
        "params.`method`",
        "params.`method.epsilon`",
        *(f"metrics.`test/nll/{statistic}`" for statistic in ("mean", "low", "high", "n")),
        *(f"metrics.`difference/{statistic}`" for statistic in ("mean", "low", "high")),
        "metrics.`test/error/mean`",
        "metrics.`test/ece/mean`",
    ]
    assert [name for name in shown["columnOrder"] if name in shown["selectedColumns"]] == shown["selectedColumns"]
    assert set(shown["columnWidths"]) == set(shown["columnOrder"])


def test_columns_are_those_that_the_cells_have() -> None:
    columns = of(study_views(study_of(Erm(), Amp(epsilon=0.1)), ["val/nll/mean", "val/nll/n"]), "leaderboard").columns
    assert [name for name in columns if name.startswith("metrics.")] == [
        "metrics.`val/nll/mean`",
        "metrics.`val/nll/n`",
    ]


def test_there_is_a_view_for_each_number_of_a_method_that_varies() -> None:
    amps = [Amp(epsilon=e, inner_steps=n) for e in (0.1, 0.2) for n in (1, 2)]
    views = study_views(study_of(Erm(), *amps), KNOWN)
    assert [view.key for view in views] == ["leaderboard", "by-epsilon", "by-inner_steps", "trials", "failures"]
    view = of(views, "by-inner_steps")
    assert view.columns[0] == "params.`method.inner_steps`"
    assert sorted(view.columns) == sorted(of(views, "leaderboard").columns)
    assert view.order_by == "attributes.start_time"


@pytest.mark.parametrize(
    "methods",
    [(Erm(),), (Erm(), Amp(epsilon=0.5)), (Amp(epsilon=0.5), Amp(epsilon=0.5, ball="per_tensor"))],
    ids=["one cell", "one radius", "words"],
)
def test_there_is_none_where_no_number_varies(methods: Sequence[Amp | Erm]) -> None:
    assert keys(study_of(*methods)) == ["leaderboard", "trials", "failures"]


def test_each_data_set_has_a_leaderboard_of_its_own() -> None:
    methods = Erm(), Amp(epsilon=0.5)
    trials = [recipe(method, 0) for recipe in (recipes.digits_mlp, recipes.mnist5k_mlp) for method in methods]
    views = study_views(Study(name="toy", question="Does it work?", trials=trials), KNOWN)
    assert [view.key for view in views][:3] == ["leaderboard", "leaderboard-digits", "leaderboard-mnist5k"]
    assert views[1].where == "tags.kind = 'cell' and tags.dataset = 'Digits'"
    assert views[1].columns == views[0].columns


def test_a_search_is_judged_by_what_it_minimises() -> None:
    best, trials, failures = search_views(["lr", "weight_decay"], "val/error")
    assert (best.where, best.order_by) == ("tags.kind = 'search'", "metrics.`search/best/value`")
    assert trials.order_by == "metrics.`final/val/error`"
    assert trials.columns[:4] == ["tags.`search`", "tags.`setting`", "params.`seed`", trials.order_by]
    assert {param("lr"), param("weight_decay")} <= set(trials.columns) & set(failures.columns)
    assert not any("test" in column for view in (best, trials, failures) for column in view.columns)


def test_links_are_relative_and_open_the_pages_for_training() -> None:
    view = of(study_views(make_study(), KNOWN), "trials")
    link = "#/experiments/12/runs?workflowType=machine_learning&viewStateShareKey=trials"
    assert view.link("12") == link
    assert run_link("12", "abc").startswith("#/experiments/12/runs/abc?")
    page = run_link("12", "abc", "report/report.html")
    assert page.startswith("#/experiments/12/runs/abc/artifacts/report/report.html?")


def test_who_opens_the_pages_comes_to_the_leaderboard_once_it_is_saved() -> None:
    views = study_views(make_study(), KNOWN)
    assert best_link("12", saved(views, made=7)) == views[0].link("12")
    assert best_link("12", {}) == "#/experiments/12/runs?workflowType=machine_learning"


def shown_by(client: MlflowClient, experiment_id: str, view: View) -> list[str]:
    """Keys of the runs that the view's filter and order find, as MLflow's pages ask for them."""
    runs = client.search_runs([experiment_id], view.where, order_by=[f"{view.order_by} ASC"])
    return [run.data.tags["key"] for run in runs]


def test_mlflow_understands_filters_and_orders(desk: Desk) -> None:
    study = make_study(seeds=(0, 1))
    tracker = desk.tracker(study)
    records = make_records(names=FINAL)
    worse = tuple(replace(record, metrics=dict.fromkeys(FINAL, 100.0)) for record in records)
    good, bad, failed, diverged = study.trials
    tracker.write(Delivery(bad, "finished", worse))
    tracker.write(Delivery(good, "finished", records))
    tracker.write(Delivery(failed, "failed", (), "boom"))
    tracker.write(Delivery(diverged, "diverged", records[:1]))
    views, experiment = tracker.outline.views(KNOWN), tracker.experiment_id
    cells = [cell.cell_id for cell in study.cells()]
    for key, value in zip(cells, (2.0, 1.0), strict=True):
        desk.client.log_metric(tracker.run_id(key), "test/nll/mean", value)
    assert shown_by(desk.client, experiment, of(views, "leaderboard")) == cells[::-1]
    trials = shown_by(desk.client, experiment, of(views, "trials"))
    assert set(trials) == {trial.trial_id for trial in study.trials}
    assert trials.index(good.trial_id) < trials.index(bad.trial_id)
    assert shown_by(desk.client, experiment, of(views, "failures")) == [diverged.trial_id, failed.trial_id]


def test_the_filter_of_a_data_set_finds_its_cells_alone(desk: Desk) -> None:
    study = Study(name="toy", question="Does it work?", trials=(make_trial(), recipes.mnist5k_mlp(Erm(), 0)))
    tracker = desk.tracker(study)
    view = of(tracker.outline.views(KNOWN), "leaderboard-mnist5k")
    assert shown_by(desk.client, tracker.experiment_id, view) == [study.cells()[1].cell_id]

"""What MLflow shows of a study, on a real MLflow store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

from analysis.figures.base import LOOKS
from search_spaces import recipes
from search_spaces.study import Study
from sweeps.ledger import State
from sweeps.tracking.outline import COLOURS, short_label
from sweeps.tracking.tracker import METRICS_A_CALL, STATUS_OF, SUMMARY, Delivery, connect
from tests.sweeps.conftest import Desk, make_records, make_study, make_trial
from trainer.config import Amp, Erm, Method
from trainer.declaration import ConfigError
from trainer.machine import TRACKING_VARIABLE, Results

ROOT = Path(__file__).parents[3]
STUDY = make_study()
TRIAL = STUDY.trials[1]  # of AMP, with seed 0
ID = TRIAL.trial_id
RECORDS = make_records()


def everything(desk: Desk, study: str = "toy") -> dict[str, Any]:
    """All that the store has of a study, times of the runs and whole histories included."""
    found: dict[str, Any] = {}
    for run in desk.runs(study):
        histories = {name: desk.history(run, name) for name in run.data.metrics}
        found[run.info.run_id] = (dict(run.info), run.data.params, run.data.tags, histories)
    return found


def test_one_experiment_a_study(desk: Desk) -> None:
    desk.tracker(STUDY)
    desk.tracker(make_study("another"))
    experiment = desk.experiment("toy")
    assert experiment.tags["mlflow.note.content"] == STUDY.question
    assert experiment.artifact_location == (desk.results.artifacts / "toy").as_uri()
    names = {found.name for found in desk.client.search_experiments()}
    assert names == {"another", "toy"}


def test_a_summary_then_a_run_a_cell_then_a_run_a_trial(desk: Desk) -> None:
    tracker = desk.tracker(STUDY)
    for trial in STUDY.trials:
        tracker.write(Delivery(trial, "finished", RECORDS))
    cells = STUDY.cells()
    keys = [SUMMARY, *(cell.cell_id for cell in cells), *(trial.trial_id for trial in STUDY.trials)]
    assert sorted(run.data.tags["key"] for run in desk.runs("toy")) == sorted(keys)
    for cell in cells:
        run = desk.run("toy", cell.cell_id)
        for trial in cell.trials:
            assert desk.run("toy", trial.trial_id).data.tags["mlflow.parentRunId"] == run.info.run_id


def test_the_ledger_records_every_run(desk: Desk) -> None:
    tracker = desk.tracker(STUDY)
    tracker.write(Delivery(TRIAL, "leased"))
    in_store = {run.data.tags["key"]: run.info.run_id for run in desk.runs("toy")}
    assert desk.ledger.run_ids("toy") == in_store
    assert {key: tracker.run_id(key) for key in in_store} == in_store


def test_tags_of_a_trial(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    tags = desk.run("toy", ID).data.tags
    expected = {
        "kind": "trial",
        "trial_id": ID,
        "study": "toy",
        "method": "Amp",
        "dataset": "Digits",
        "model": "Mlp",
        "seed": "0",
        "phase": "final",
        "outcome": "finished",
        "cause": "",
    }
    assert {name: tags.get(name) for name in expected} == expected
    assert {"commit", "host", "cpu", "version.torch", "version.numpy", "version.python"} <= set(tags)
    assert "copy_of" not in tags


def test_tags_of_a_cell_and_of_the_summary(desk: Desk) -> None:
    desk.tracker(STUDY)
    cell = STUDY.cells()[1]
    run, summary = desk.run("toy", cell.cell_id), desk.run("toy", SUMMARY)
    tags = {name: run.data.tags.get(name) for name in ("kind", "study", "method", "dataset", "model", "seed")}
    assert tags == {
        "kind": "cell",
        "study": "toy",
        "method": "Amp",
        "dataset": "Digits",
        "model": "Mlp",
        "seed": None,
    }
    assert run.info.run_name == cell.label
    assert (summary.data.tags["kind"], summary.info.run_name) == ("summary", "toy")


def test_runs_of_one_method_have_its_colour(desk: Desk) -> None:
    tracker = desk.tracker(STUDY)
    for trial in STUDY.trials:
        tracker.write(Delivery(trial, "leased"))
    colours = {run.data.tags.get("method"): run.data.tags.get("mlflow.runColor") for run in desk.runs("toy")}
    assert colours == {"Erm": COLOURS["Erm"], "Amp": COLOURS["Amp"], None: None}


def test_colours_are_those_of_the_figures_and_all_differ() -> None:
    assert {name: look.colour for name, look in LOOKS.items()} == COLOURS
    assert len({colour.lower() for colour in COLOURS.values()}) == len(COLOURS)
    assert set(COLOURS) == {kind.__name__ for kind in get_args(Method)}


def test_names_of_runs_leave_out_what_says_itself(desk: Desk) -> None:
    methods = Erm(), Amp(epsilon=0.5)
    trials = [recipe(method, 0) for recipe in (recipes.digits_mlp, recipes.mnist5k_mlp) for method in methods]
    study = Study(name="two", question="Which data set?", trials=trials)
    tracker = desk.tracker(study)
    tracker.write(Delivery(trials[3], "leased"))
    cells = {"Erm Digits", "Amp Digits", "Erm Mnist5k", "Amp Mnist5k"}
    assert {run.info.run_name for run in desk.runs("two")} == {"two", *cells, "Amp Mnist5k seed=0"}


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("Erm", "Erm"),
        ("Amp epsilon=0.5", "Amp epsilon=0.5"),
        ("Amp model=Vgg16 dataset=Cifar100 inner_lr=5.0", "Amp Vgg16 Cifar100 inner_lr=5.0"),
        ("Amp model.width=16 augment.policy=cifar10", "Amp model.width=16 augment.policy=cifar10"),
    ],
)
def test_short_labels(label: str, short: str) -> None:
    assert short_label(label) == short


def test_parameters_have_the_names_of_the_declaration(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "leased"))
    params = desk.run("toy", ID).data.params
    assert params == {name: str(value) for name, value in TRIAL.params().items()}
    assert params["method.epsilon"] == "0.5"
    of_cell = desk.run("toy", STUDY.cells()[1].cell_id).data.params
    assert of_cell == {name: value for name, value in params.items() if name != "seed"}


def test_metrics_have_the_epoch_as_step_and_the_records_timestamp(desk: Desk) -> None:
    tracker = desk.tracker(STUDY)
    tracker.write(Delivery(TRIAL, "leased", RECORDS[:2]))
    tracker.write(Delivery(TRIAL, "leased", RECORDS[2:]))
    run = desk.run("toy", ID)
    assert set(run.data.metrics) == {"val/error", "val/nll"}
    for name in run.data.metrics:
        expected = [(record.epoch, record.timestamp, record.metrics[name]) for record in RECORDS]
        assert desk.history(run, name) == expected


def test_final_metrics_repeat_the_last_epoch_at_step_0(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    run, last = desk.run("toy", ID), RECORDS[-1]
    assert set(run.data.metrics) == {"val/error", "val/nll", "final/val/error", "final/val/nll"}
    for name, value in last.metrics.items():
        assert desk.history(run, f"final/{name}") == [(0, last.timestamp, value)]


def test_writing_again_changes_nothing(desk: Desk) -> None:
    tracker = desk.tracker(STUDY)
    delivery = Delivery(TRIAL, "finished", RECORDS)
    tracker.write(delivery)
    before = everything(desk)
    tracker.write(delivery)
    assert everything(desk) == before
    again = desk.tracker(STUDY)
    again.write(delivery)
    assert everything(desk) == before
    assert desk.runs("toy", ViewType.DELETED_ONLY) == []


def test_a_delivery_that_holds_earlier_ones_adds_what_is_new(desk: Desk) -> None:
    tracker = desk.tracker(STUDY)
    for end in (1, 2):
        tracker.write(Delivery(TRIAL, "leased", RECORDS[:end]))
    tracker.write(Delivery(TRIAL, "finished", RECORDS))
    run = desk.run("toy", ID)
    assert [step for step, _, _ in desk.history(run, "val/nll")] == [1, 2, 3]


@pytest.mark.parametrize("another_driver", [True, False])
def test_epochs_that_are_trained_anew_stand_once(desk: Desk, another_driver: bool) -> None:
    """A checkpoint was damaged: the same epochs come again at another time."""
    tracker = desk.tracker(STUDY)
    tracker.write(Delivery(TRIAL, "leased", RECORDS[:2]))
    tracker.write(Delivery(STUDY.trials[0], "finished", RECORDS))
    other = desk.run("toy", STUDY.trials[0].trial_id).info.run_id
    again = tuple(replace(record, timestamp=record.timestamp + 60_000) for record in RECORDS)
    tracker = desk.tracker(STUDY) if another_driver else tracker
    for delivery in (Delivery(TRIAL, "leased", again[:1]), Delivery(TRIAL, "finished", again[1:])):
        tracker.write(delivery)
    [run] = [run for run in desk.runs("toy") if run.data.tags["key"] == ID]
    assert run.info.status == "FINISHED"
    for name in RECORDS[0].metrics:
        assert desk.history(run, name) == [(one.epoch, one.timestamp, one.metrics[name]) for one in again]
    assert desk.ledger.run_ids("toy")[ID] == run.info.run_id
    assert desk.run("toy", STUDY.trials[0].trial_id).info.run_id == other


def test_more_metrics_than_one_call_takes(desk: Desk) -> None:
    records = make_records(epochs=METRICS_A_CALL // 2 + 1, names=("val/error", "val/nll"))
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", records))
    run = desk.run("toy", ID)
    for name in ("val/error", "val/nll"):
        expected = [(record.epoch, record.timestamp, record.metrics[name]) for record in records]
        assert desk.history(run, name) == expected
        assert desk.history(run, f"final/{name}") == [(0, expected[-1][1], expected[-1][2])]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("pending", "KILLED"),
        ("leased", "RUNNING"),
        ("finished", "FINISHED"),
        ("diverged", "FAILED"),
        ("failed", "FAILED"),
    ],
)
def test_the_status_is_that_of_the_state(desk: Desk, state: State, status: str) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, state, RECORDS, "because" if status == "FAILED" else None))
    run = desk.run("toy", ID)
    assert run.info.status == status
    assert run.data.tags["outcome"] == state
    assert run.data.tags["cause"] == ("because" if status == "FAILED" else "")
    assert (run.info.end_time is None) == (status == "RUNNING")


def test_the_status_follows_a_trial_that_is_tried_again(desk: Desk) -> None:
    tracker, seen = desk.tracker(STUDY), []
    states: tuple[State, ...] = ("leased", "failed", "leased", "pending", "leased", "finished")
    for state in states:
        tracker.write(Delivery(TRIAL, state, RECORDS, "boom" if state == "failed" else None))
        run = desk.run("toy", ID)
        seen.append((run.info.status, run.data.tags["cause"]))
    assert seen == [(STATUS_OF[state], "boom" if state == "failed" else "") for state in states]


def test_a_long_cause_keeps_its_end(desk: Desk) -> None:
    cause = "Traceback\n" * 2000 + "ValueError: the reason"
    desk.tracker(STUDY).write(Delivery(TRIAL, "failed", (), cause))
    assert desk.run("toy", ID).data.tags["cause"].endswith("ValueError: the reason")


def test_stale_are_the_trials_whose_run_shows_another_state(desk: Desk) -> None:
    erm, amp, third, fourth = STUDY.trials
    tracker = desk.tracker(STUDY)
    for trial in (erm, amp, third):
        tracker.write(Delivery(trial, "leased"))
    tracker.write(Delivery(erm, "finished", RECORDS))
    states: dict[str, State] = {
        erm.trial_id: "finished",
        amp.trial_id: "pending",
        third.trial_id: "leased",
        fourth.trial_id: "failed",
    }
    assert desk.tracker(STUDY).stale(states) == [amp, fourth]
    assert tracker.stale(states) == [amp, fourth]
    assert tracker.stale({}) == []


def test_a_run_whose_driver_died_before_recording_it_is_adopted(desk: Desk) -> None:
    desk.tracker(STUDY)
    experiment = desk.experiment("toy")
    orphan = desk.client.create_run(experiment.experiment_id, tags={"key": ID})
    assert ID not in desk.ledger.run_ids("toy")
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    run = desk.run("toy", ID)
    assert (run.info.run_id, run.info.status) == (orphan.info.run_id, "FINISHED")
    assert run.data.params["method.epsilon"] == "0.5"


def test_an_adopted_run_is_recorded(desk: Desk) -> None:
    desk.tracker(STUDY)
    experiment = desk.experiment("toy")
    orphan = desk.client.create_run(experiment.experiment_id, tags={"key": ID})
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    assert desk.ledger.run_ids("toy").get(ID) == orphan.info.run_id


def test_the_recorded_run_stays_and_orphans_go(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "leased"))
    recorded = desk.ledger.run_ids("toy")[ID]
    experiment = desk.experiment("toy")
    for start in (1, 2**41):  # older and newer than the recorded one
        desk.client.create_run(experiment.experiment_id, start_time=start, tags={"key": ID})
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    assert (desk.run("toy", ID).info.run_id, desk.run("toy", ID).info.status) == (recorded, "FINISHED")
    assert {run.data.tags["key"] for run in desk.runs("toy", ViewType.DELETED_ONLY)} == {ID}


def test_of_orphans_alone_one_is_adopted(desk: Desk) -> None:
    desk.tracker(STUDY)
    experiment = desk.experiment("toy")
    for _ in range(2):
        desk.client.create_run(experiment.experiment_id, tags={"key": ID})
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    assert desk.run("toy", ID).info.run_id == desk.ledger.run_ids("toy")[ID]
    assert desk.run("toy", ID).info.status == "FINISHED"


def test_two_drivers_that_started_together_share_their_runs(desk: Desk) -> None:
    first, second = desk.tracker(STUDY), desk.tracker(STUDY)
    first.write(Delivery(TRIAL, "leased", RECORDS[:1]))
    second.write(Delivery(TRIAL, "finished", RECORDS))
    assert first.run_id(ID) == second.run_id(ID)
    assert desk.run("toy", ID).info.status == "FINISHED"
    assert [step for step, _, _ in desk.history(desk.run("toy", ID), "val/nll")] == [1, 2, 3]


def test_of_two_runs_made_at_the_same_moment_one_is_kept(desk: Desk) -> None:
    first = desk.tracker(STUDY)

    class Overtaken(MlflowClient):
        """A second driver's client: the first driver is a moment faster."""

        def create_run(self, *args: Any, **kwargs: Any) -> Run:
            first.write(Delivery(TRIAL, "leased"))
            return super().create_run(*args, **kwargs)

    second = desk.tracker(STUDY, Overtaken(desk.results.tracking_uri))
    second.write(Delivery(TRIAL, "finished", RECORDS))
    assert desk.run("toy", ID).info.run_id == desk.ledger.run_ids("toy")[ID] == first.run_id(ID)
    assert desk.run("toy", ID).info.status == "FINISHED"
    assert [run.data.tags["key"] for run in desk.runs("toy", ViewType.DELETED_ONLY)] == [ID]


def test_a_recorded_run_that_the_store_does_not_have_is_replaced(desk: Desk) -> None:
    desk.ledger.declare("toy", STUDY.trials)
    for key in (SUMMARY, STUDY.cells()[0].cell_id, ID):
        desk.ledger.claim_run("toy", key, "0" * 32)
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    for key in (SUMMARY, STUDY.cells()[0].cell_id, ID):
        assert desk.run("toy", key).info.run_id == desk.ledger.run_ids("toy")[key]


def test_a_run_deleted_in_the_ui_is_made_anew(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    gone = desk.run("toy", ID).info.run_id
    desk.client.delete_run(gone)
    tracker = desk.tracker(STUDY)
    assert tracker.stale({ID: "finished"}) == [TRIAL]
    tracker.write(Delivery(TRIAL, "finished", RECORDS))
    assert desk.run("toy", ID).info.run_id == desk.ledger.run_ids("toy")[ID] != gone


def test_an_experiment_deleted_in_the_ui_comes_back_whole(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    before = desk.run("toy", ID)
    desk.client.delete_experiment(desk.experiment("toy").experiment_id)
    tracker = desk.tracker(STUDY)
    assert desk.experiment("toy").lifecycle_stage == "active"
    assert tracker.stale({ID: "finished"}) == []
    tracker.write(Delivery(TRIAL, "finished", RECORDS))
    after = desk.run("toy", ID)
    assert (after.info.run_id, after.data.metrics) == (before.info.run_id, before.data.metrics)


def status_of_cells(desk: Desk) -> list[str]:
    """Of the summary, the ERM cell and the AMP cell."""
    keys = [SUMMARY, *(cell.cell_id for cell in STUDY.cells())]
    return [desk.run("toy", key).info.status for key in keys]


def test_cells_and_summary_are_scheduled_until_their_trials_ended(desk: Desk) -> None:
    tracker = desk.tracker(STUDY)
    assert status_of_cells(desk) == ["SCHEDULED"] * 3
    states: dict[str, State] = {trial.trial_id: "pending" for trial in STUDY.trials}
    tracker.finish(states)
    assert status_of_cells(desk) == ["SCHEDULED"] * 3
    erm, amp = (cell.trials for cell in STUDY.cells())
    states |= {erm[0].trial_id: "finished", erm[1].trial_id: "leased", amp[0].trial_id: "finished"}
    tracker.finish(states)
    assert status_of_cells(desk) == ["SCHEDULED"] * 3
    states[erm[1].trial_id] = "diverged"
    tracker.finish(states)
    assert status_of_cells(desk) == ["SCHEDULED", "FINISHED", "SCHEDULED"]
    states[amp[1].trial_id] = "failed"
    tracker.finish(states)
    assert status_of_cells(desk) == ["FINISHED"] * 3


def test_a_cell_with_work_again_is_reopened(desk: Desk) -> None:
    states: dict[str, State] = {trial.trial_id: "finished" for trial in STUDY.trials}
    desk.tracker(STUDY).finish(states)
    tracker = desk.tracker(STUDY)
    assert status_of_cells(desk) == ["FINISHED"] * 3
    tracker.finish(states | {ID: "pending"})
    assert status_of_cells(desk) == ["SCHEDULED", "FINISHED", "SCHEDULED"]


LATER = Study(name="later", question="And now?", trials=(TRIAL, make_trial(seed=7)))


def test_a_trial_of_another_study_is_shown_as_a_copy(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    original = desk.run("toy", ID)
    assert desk.tracker(LATER).copy(TRIAL, "toy")
    copy = desk.run("later", ID)
    assert copy.info.status == "FINISHED"
    assert copy.data.tags["copy_of"] == original.info.run_id
    assert (copy.data.tags["kind"], copy.data.tags["study"], copy.data.tags["trial_id"]) == ("trial", "later", ID)
    assert copy.data.params == original.data.params
    finals = {name: value for name, value in original.data.metrics.items() if name.startswith("final/")}
    assert copy.data.metrics == finals != {}
    assert all(step == 0 for name in finals for step, _, _ in desk.history(copy, name))


def test_a_copy_is_written_once(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    tracker = desk.tracker(LATER)
    tracker.copy(TRIAL, "toy")
    before = everything(desk, "later")
    assert tracker.copy(TRIAL, "toy")
    assert desk.tracker(LATER).copy(TRIAL, "toy")
    assert everything(desk, "later") == before


def test_a_copy_cut_short_is_completed(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    desk.tracker(LATER).copy(TRIAL, "toy")
    whole = desk.run("later", ID)
    desk.client.update_run(whole.info.run_id, "RUNNING")
    desk.tracker(LATER).copy(TRIAL, "toy")
    copy = desk.run("later", ID)
    assert (copy.info.status, copy.data.metrics) == ("FINISHED", whole.data.metrics)
    assert all(len(desk.history(copy, name)) == 1 for name in copy.data.metrics)


def test_a_copy_is_never_stale(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    desk.tracker(LATER).copy(TRIAL, "toy")
    states: tuple[State, ...] = ("finished", "pending")
    assert [desk.tracker(LATER).stale({ID: state}) for state in states] == [[], []]


@pytest.mark.parametrize("recorded", [False, True])
def test_without_the_original_there_is_no_copy(desk: Desk, recorded: bool) -> None:
    if recorded:  # in another store
        desk.ledger.claim_run("toy", ID, "0" * 32)
    assert not desk.tracker(LATER).copy(TRIAL, "toy")
    assert ID not in {run.data.tags["key"] for run in desk.runs("later")}


def test_of_a_deleted_original_there_is_no_copy(desk: Desk) -> None:
    desk.tracker(STUDY).write(Delivery(TRIAL, "finished", RECORDS))
    desk.client.delete_run(desk.run("toy", ID).info.run_id)
    assert not desk.tracker(LATER).copy(TRIAL, "toy")


def refusal(results: Results) -> str:
    started = time.monotonic()
    with pytest.raises(ConfigError) as error:
        connect(results)
    assert time.monotonic() - started < 15
    message = str(error.value)
    assert "\n" not in message
    assert TRACKING_VARIABLE in message
    return message


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nonsense://127.0.0.1:9", "http://[", "nonsense"])
def test_an_address_that_does_not_answer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, address)
    assert address in refusal(Results(tmp_path))


def test_a_store_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("my diary\n" * 100)
    assert "not a database" in refusal(Results(tmp_path))


@pytest.mark.parametrize("password", ["hunter2", "hunter2" * 30, "p%40ss", "p:s"])
@pytest.mark.parametrize("scheme", ["http", "nonsense"])
def test_a_password_in_the_address_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, password: str
) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, f"{scheme}://user:{password}@127.0.0.1:9")
    message = refusal(Results(tmp_path))
    assert password[:7] not in message
    assert "127.0.0.1:9" in message


CONNECT = "import sys, pathlib, sweeps.tracking.tracker as t; t.connect(t.Results(pathlib.Path(sys.argv[1])))"


def test_mlflow_leaves_the_home_folder_alone_and_reports_to_nobody(tmp_path: Path, empty_store: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    code = f"{CONNECT}; from mlflow.telemetry import get_telemetry_client; print(get_telemetry_client())"
    found = subprocess.run(
        [sys.executable, "-c", code, str(empty_store.parent)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert found.stdout == "None\n"
    assert list(home.iterdir()) == []

"""What ``python -m sweeps publish`` puts into MLflow, from a report's files, on a real MLflow store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from search_spaces.study import Study
from sweeps.tracking.notes import RUN_LIMIT
from sweeps.tracking.outline import COLOURS, RUN_COLOUR
from sweeps.tracking.publish import publish, shown_at
from sweeps.tracking.tracker import SUMMARY, Delivery, connect
from sweeps.tracking.views import TAG
from tests.sweeps.conftest import Desk, make_records, make_study
from trainer.declaration import ConfigError
from trainer.machine import TRACKING_VARIABLE

STUDY = make_study()
ERM, AMP = STUDY.cells()
SAID: dict[str, Any] = {
    "name": "toy",
    "question": STUDY.question,
    "answer": "AMP's NLL is lower.\nOn nothing else.",
    "findings": ["Its ECE is lower as well."],
    "warnings": ["A seed of AMP is missing."],
    "reproduce": "make sweep STUDY=toy",
    "figures": ["epsilon.png"],
}
CELLS = f"""cell_id,cell,n_finished,test/nll/n,test/nll/mean,test/nll/sd,test/nll/low,test/nll/high,difference/mean
{ERM.cell_id},Erm,2,2,0.5,0.1,0.4,0.6,
{AMP.cell_id},Amp,1,1,0.25,nan,nan,nan,-0.25
"""


def report(desk: Desk, said: dict[str, Any] | None = SAID, page: str = "report.html") -> Path:
    """The files that ``python -m analysis report`` leaves."""
    folder = desk.results.report("toy")
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text("# toy\n")
    (folder / page).write_text("<!doctype html><title>toy</title>")
    (folder / "cells.csv").write_text(CELLS)
    (folder / "figures" / "epsilon.png").write_bytes(b"\x89PNG")
    if said is not None:
        (folder / "report.json").write_text(json.dumps(said))
    return folder


def published(desk: Desk, study: Study = STUDY) -> bool:
    desk.ledger.declare(study.name, study.trials)
    return publish(study, desk.results, desk.ledger)


def description(desk: Desk) -> str:
    return desk.experiment("toy").tags["mlflow.note.content"]


def test_without_a_report_it_says_how_to_make_one(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="python -m analysis report toy"):
        published(desk)


def test_cells_carry_the_statistics_of_their_seeds(desk: Desk) -> None:
    report(desk)
    assert published(desk)
    assert desk.run("toy", ERM.cell_id).data.metrics == {
        "test/nll/n": 2,
        "test/nll/mean": 0.5,
        "test/nll/sd": 0.1,
        "test/nll/low": 0.4,
        "test/nll/high": 0.6,
    }


def test_what_a_single_seed_does_not_have_is_not_there(desk: Desk) -> None:
    report(desk)
    published(desk)
    metrics = desk.run("toy", AMP.cell_id).data.metrics
    assert metrics == {"test/nll/n": 1, "test/nll/mean": 0.25, "difference/mean": -0.25}


def test_the_summary_has_the_files_of_the_report(desk: Desk, tmp_path: Path) -> None:
    folder = report(desk)
    published(desk)
    summary = desk.run("toy", SUMMARY).info.run_id
    copy = Path(desk.client.download_artifacts(summary, "report", str(tmp_path)))
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert sorted(path.relative_to(copy) for path in copy.rglob("*") if path.is_file()) == files
    assert all((copy / file).read_bytes() == (folder / file).read_bytes() for file in files)


def test_the_first_line_of_the_description_is_its_links(desk: Desk) -> None:
    report(desk)
    published(desk)
    line, experiment = description(desk).splitlines()[0], desk.experiment("toy")
    runs = f"#/experiments/{experiment.experiment_id}/runs"
    summary = desk.run("toy", SUMMARY).info.run_id
    titles = ("Leaderboard", "All trials", "Failures")
    links = [
        f"{runs}?workflowType=machine_learning&viewStateShareKey={key}" for key in ("leaderboard", "trials", "failures")
    ]
    expected = [f"**[{title}]({link})**" for title, link in zip(titles, links, strict=True)]
    page = f"{runs}/{summary}/artifacts/report/report.html?workflowType=machine_learning"
    assert line == " · ".join([*expected, f"**[Report]({page})**"])


def test_each_link_of_the_description_names_a_view_that_is_saved(desk: Desk) -> None:
    report(desk)
    published(desk)
    linked = {part.partition(")")[0] for part in description(desk).split("viewStateShareKey=")[1:]}
    saved = {name.removeprefix(TAG) for name in desk.experiment("toy").tags if name.startswith(TAG)}
    assert linked == saved == {"leaderboard", "trials", "failures"}


def test_the_description_has_question_answer_warnings_and_the_command(desk: Desk) -> None:
    report(desk)
    published(desk)
    text = description(desk)
    parts = ["**Question.** Does it work?", "AMP's NLL is lower.", "On nothing else.", "A seed of AMP is missing."]
    parts += ["How to read", "difference/*", "copy_of", "`make sweep STUDY=toy`"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_the_summarys_note_has_the_findings_and_the_way_to_the_page(desk: Desk) -> None:
    report(desk)
    published(desk)
    note = desk.run("toy", SUMMARY).data.tags["mlflow.note.content"]
    for part in ("artifacts/report/report.html", "AMP's NLL is lower.", "Its ECE is lower as well.", "make sweep"):
        assert part in note


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}", '{"answer": null, "findings": null}'])
def test_without_an_answer_there_is_the_rest(desk: Desk, content: str | None) -> None:
    folder = report(desk, said=None, page="report.md")
    if content is not None:
        (folder / "report.json").write_text(content)
    assert published(desk)
    assert "**Question.** Does it work?" in description(desk)
    assert "Answer" not in description(desk)
    assert "artifacts/report/report.md" in description(desk)


def test_a_long_note_is_cut(desk: Desk) -> None:
    report(desk, said={**SAID, "findings": ["And this. " * RUN_LIMIT]})
    published(desk)
    note = desk.run("toy", SUMMARY).data.tags["mlflow.note.content"]
    assert len(note) == RUN_LIMIT
    assert note.endswith("…")


WRITERS = ("log_batch", "log_artifacts", "log_inputs", "set_tag", "set_experiment_tag", "update_run", "create_run")


class Counting:
    """Calls of MLflow's client that write, by name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        writers = (
            "log_batch",
            "log_artifacts",
            "set_tag",
            "set_experiment_tag",
            "log_inputs",
            "update_run",
            "create_run",
        )
        for name in writers:
            patch.setattr(MlflowClient, name, self._counted(name, getattr(MlflowClient, name)))

    def _counted(self, name: str, call: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return call(*args, **kwargs)

        return counted


def test_what_is_there_already_is_not_written_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    report(desk)
    assert published(desk)
    writing = Counting(monkeypatch)
    assert not published(desk)
    assert writing.calls == []


@pytest.mark.parametrize("changed", ["cells.csv", "report.json", "figures/epsilon.png"])
def test_a_changed_report_is_published(desk: Desk, changed: str) -> None:
    folder = report(desk)
    published(desk)
    text = {"cells.csv": CELLS.replace("0.25", "0.125"), "report.json": json.dumps({**SAID, "answer": "No."})}
    (folder / changed).write_text(text.get(changed, "another picture"))
    assert published(desk)
    assert not published(desk)
    if changed == "cells.csv":
        assert desk.run("toy", AMP.cell_id).data.metrics["test/nll/mean"] == 0.125
    if changed == "report.json":
        assert "**Answer.** No." in description(desk)


def test_changed_views_are_published(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    report(desk)
    published(desk)
    monkeypatch.setattr("sweeps.tracking.views.TEST", ("test/nll",))  # a later version shows less
    assert published(desk)
    view = json.loads(desk.experiment("toy").tags[f"{TAG}trials"])
    assert "metrics.`final/test/error`" not in json.loads(view["state"])["selectedColumns"]


def test_what_runs_of_an_earlier_version_lack_is_mended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = AMP.trials[0]
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_inputs", lambda *_: None)
        tracker = desk.tracker(STUDY)
        tracker.write(Delivery(trial, "finished", make_records()))
    for key in (trial.trial_id, AMP.cell_id):
        desk.client.update_run(tracker.run_id(key), name="an old name")
        desk.client.delete_tag(tracker.run_id(key), RUN_COLOUR)
    report(desk)
    published(desk)
    runs = desk.run("toy", trial.trial_id), desk.run("toy", AMP.cell_id)
    assert [len(run.inputs.dataset_inputs) for run in runs if run.inputs] == [3, 3]
    looks = {run.info.run_name: run.data.tags.get(RUN_COLOUR) for run in runs}
    assert looks == {"Amp seed=0": COLOURS["Amp"], "Amp": COLOURS["Amp"]}
    writing = Counting(monkeypatch)
    published(desk)
    assert writing.calls == []


def test_a_store_that_takes_no_report_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk is full")

    report(desk)
    monkeypatch.setattr(MlflowClient, "log_artifacts", full)
    with pytest.raises(ConfigError, match="took no report: disk is full"):
        published(desk)


def test_a_study_on_a_server_has_the_address_of_its_page(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_at("toy", desk.results) == f"make ui ({desk.results.tracking_uri})"
    report(desk)
    assert published(desk)
    client = connect(desk.results)
    monkeypatch.setenv(TRACKING_VARIABLE, "https://user:hunter2@lab.example.org/")
    monkeypatch.setattr("sweeps.tracking.publish.connect", lambda _results: client)
    page = shown_at("toy", desk.results)
    assert page.startswith("https://user:***@lab.example.org/#/experiments/")
    assert "workflowType=machine_learning" in page
    assert shown_at("unknown", desk.results) == "https://user:***@lab.example.org"

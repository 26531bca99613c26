"""``deliver``: MLflow brought up to date by a process that trains nothing, of one study or of all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sql
from mlflow.exceptions import MlflowException

from search_spaces.study import Study
from sweeps.cli import main
from sweeps.deliver import deliver, deliver_all
from sweeps.sweep import with_pending
from sweeps.tracking.tracker import Tracker
from tests.sweeps.conftest import Desk, lapsing, make_records, make_study, make_trial
from trainer.config import TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import RESULTS_VARIABLE, TRACKING_VARIABLE
from trainer.measurement import Measurement
from trainer.probe_config import Calibration, Probe, Sharpness

STUDY = make_study()
FIRST, SECOND, *_ = STUDY.trials
RECORDS = make_records()
PROBE = Calibration()
FLATNESS = Sharpness(radii=(0.5,))
PROBED = replace(STUDY, probes=[PROBE, FLATNESS])
OWN = Study(name="own", question="And mine?", trials=[make_trial(seed=9), make_trial(seed=8)])


def undelivered(desk: Desk, study: Study, *trials: TrialConfig) -> None:
    for trial in trials:
        desk.settle(study, trial, "finished")
        desk.save(trial, RECORDS)


def bring(desk: Desk, study: Study = STUDY) -> int:
    known = desk.ledger.rows([trial.trial_id for trial in study.trials])
    return deliver(study, with_pending(study, known), desk.ledger, desk.results)


def shown(desk: Desk, study: str) -> dict[str, str]:
    return {run.data.tags["key"]: run.info.status for run in desk.runs(study) if run.data.tags["kind"] == "trial"}


def test_it_is_complete_in_order_and_closes_the_cells(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    undelivered(desk, STUDY, *STUDY.trials)
    assert bring(desk) == 0
    assert capsys.readouterr().out == "toy: 4 trials delivered\n"
    for trial in STUDY.trials:
        run = desk.run("toy", trial.trial_id)
        expected = [(record.epoch, record.timestamp, record.metrics["val/nll"]) for record in RECORDS]
        assert (run.info.status, desk.history(run, "val/nll")) == ("FINISHED", expected)
    assert {run.info.status for run in desk.runs("toy")} == {"FINISHED"}


def test_again_it_changes_nothing(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    undelivered(desk, STUDY, FIRST)
    bring(desk)
    before = [run.to_dictionary() for run in desk.runs("toy")]
    capsys.readouterr()
    assert bring(desk) == 0
    assert capsys.readouterr().out == "toy: all that was trained is in MLflow already\n"
    assert [run.to_dictionary() for run in desk.runs("toy")] == before
    assert desk.run("toy", "summary").info.status == "SCHEDULED"


def test_a_copy_counts_once(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    later = Study(name="later", question="?", trials=[FIRST])
    undelivered(desk, STUDY, FIRST)
    bring(desk)
    for _ in range(2):
        bring(desk, later)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "later: 1 trials delivered",
        "later: all that was trained is in MLflow already",
    ]


def test_lost_records_are_named(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.settle(STUDY, FIRST, "finished")
    assert bring(desk) == 1
    assert FIRST.trial_id in capsys.readouterr().out


def test_without_a_name_all_studies_are_delivered(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    undelivered(desk, STUDY, FIRST, SECOND)
    undelivered(desk, OWN, OWN.trials[0])
    desk.ledger.declare("planned", [make_trial(seed=77)])
    assert deliver_all({"toy": STUDY}, desk.ledger, desk.results) == 0
    assert capsys.readouterr().out.splitlines() == ["own: 1 trials delivered", "toy: 2 trials delivered"]
    assert shown(desk, "toy") == {FIRST.trial_id: "FINISHED", SECOND.trial_id: "FINISHED"}
    assert shown(desk, "own") == {OWN.trials[0].trial_id: "FINISHED"}
    assert desk.client.get_experiment_by_name("planned") is None
    assert bring(desk, OWN) == 0  # the file itself finds what was made without it
    assert len({run.data.tags["key"] for run in desk.runs("own")}) == len(desk.runs("own"))


def test_with_nothing_trained_it_says_so(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.ledger.declare("toy", STUDY.trials)
    assert deliver_all({"toy": STUDY}, desk.ledger, desk.results) == 0
    assert capsys.readouterr().out == "Nothing was trained yet\n"


def test_trials_of_another_version_do_not_keep_the_others(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    undelivered(desk, OWN, OWN.trials[0])
    undelivered(desk, STUDY, FIRST)
    params = json.dumps(OWN.trials[0].params() | {"method": "Unheard"})
    engine = sql.create_engine(desk.results.ledger_url)
    with engine.begin() as connection:
        changed = sql.text("UPDATE trials SET params = :params WHERE trial_id = :id")
        connection.execute(changed, {"params": params, "id": OWN.trials[0].trial_id})
    engine.dispose()
    assert deliver_all({"toy": STUDY}, desk.ledger, desk.results) == 1
    left, done = capsys.readouterr().out.splitlines()
    assert left.startswith("own: left out: method = 'Unheard'")
    assert done == "toy: 1 trials delivered"


def test_an_outage_in_the_midst_is_one_line_and_made_good(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    undelivered(desk, STUDY, *STUDY.trials)
    write = Tracker.write
    written: list[object] = []

    def fails(self: Tracker, delivery: object) -> None:
        if len(written) == 2:
            raise MlflowException("503\nagain")
        written.append(delivery)
        write(self, delivery)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "write", fails)
        with pytest.raises(ConfigError, match=f"^{TRACKING_VARIABLE}.*stopped: 503$"):
            bring(desk)
    assert bring(desk) == 0
    assert set(shown(desk, "toy").values()) == {"FINISHED"}
    for trial in STUDY.trials:
        assert [step for step, _, _ in desk.history(desk.run("toy", trial.trial_id), "val/nll")] == [1, 2, 3]


def test_the_command(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(desk.results.root))
    undelivered(desk, OWN, OWN.trials[0])
    assert main(["deliver"]) == 0
    assert capsys.readouterr().out == "own: 1 trials delivered\n"
    assert main(["deliver", "fig8-digits"]) == 0
    assert "fig8-digits: all that was trained is in MLflow already" in capsys.readouterr().out


def test_without_results_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "nowhere"))
    assert main(["deliver"]) == 2
    assert "no ledger in" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_only_its_file_can_say_that_a_study_of_ones_own_is_over(desk: Desk) -> None:
    undelivered(desk, OWN, *OWN.trials)
    assert deliver_all({}, desk.ledger, desk.results) == 0
    assert set(shown(desk, "own").values()) == {"FINISHED"}
    assert desk.run("own", "summary").info.status == "SCHEDULED"
    bring(desk, OWN)
    assert desk.run("own", "summary").info.status == "FINISHED"


def measured(desk: Desk, trial: TrialConfig, probe: Probe, ece: float = 0.25) -> None:
    found = Measurement({"probe/calibration/test/ece": ece, "probe/calibration/test/mce": math.inf}, {})
    found.save(desk.results.measurement(trial.trial_id, probe.probe_id), probe)


def probes_shown(desk: Desk, trial: TrialConfig, study: str = "toy") -> dict[str, list[tuple[int, float]]]:
    run = desk.run(study, trial.trial_id)
    names = [name for name in run.data.metrics if name.startswith("probe/")]
    return {name: [(step, value) for step, _, value in desk.history(run, name)] for name in names}


def test_what_probes_measured_meanwhile_is_delivered_as_well(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    undelivered(desk, PROBED, FIRST, SECOND)
    measured(desk, SECOND, PROBE)
    Measurement({"probe/sharpness/0.5": 3.0}, {}).save(
        desk.results.measurement(SECOND.trial_id, FLATNESS.probe_id), FLATNESS
    )
    for said in ("2 trials and 1 trials' probes delivered", "all that was trained is in MLflow already"):
        assert bring(desk, PROBED) == 0
        assert capsys.readouterr().out == f"toy: {said}\n"
        assert probes_shown(desk, FIRST) == {}
        assert probes_shown(desk, SECOND) == {
            "probe/calibration/test/ece": [(0, 0.25)],
            "probe/sharpness/0.5": [(0, 3.0)],
        }
    assert json.loads(desk.run("toy", SECOND.trial_id).data.tags["probe.calibration"])["probe_id"] == PROBE.probe_id


def test_of_probes_that_are_not_declared_any_more_nothing_is_delivered(desk: Desk) -> None:
    undelivered(desk, PROBED, FIRST)
    measured(desk, FIRST, Calibration(bins=3))
    assert bring(desk, PROBED) == 0
    assert probes_shown(desk, FIRST) == {}


def test_a_copy_has_the_probes_of_its_own_study(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    later = Study(name="later", question="?", trials=[FIRST], probes=[PROBE])
    undelivered(desk, STUDY, FIRST)
    measured(desk, FIRST, PROBE)
    assert deliver_all({"toy": STUDY, "later": later}, desk.ledger, desk.results) == 0
    assert capsys.readouterr().out == "toy: 1 trials delivered\n"
    assert bring(desk, later) == 0
    assert (probes_shown(desk, FIRST), list(probes_shown(desk, FIRST, "later"))) == ({}, ["probe/calibration/test/ece"])


def test_a_trial_that_is_not_finished_any_more_shows_no_probes(desk: Desk) -> None:
    undelivered(desk, PROBED, FIRST)
    bring(desk, PROBED)
    measured(desk, FIRST, PROBE)
    with lapsing():
        assert desk.ledger.take(FIRST.trial_id, "forget")
    assert bring(desk, PROBED) == 0
    assert shown(desk, "toy") == {FIRST.trial_id: "KILLED"}
    assert probes_shown(desk, FIRST) == {}


def test_an_outage_while_probes_are_delivered_is_made_good(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    undelivered(desk, PROBED, *STUDY.trials)
    for trial in STUDY.trials:
        measured(desk, trial, PROBE)
    add, added = Tracker.add, list[TrialConfig]()

    def fails(self: Tracker, trial: TrialConfig, metrics: Mapping[str, float], tags: Mapping[str, str]) -> bool:
        if len(added) == 2:
            raise MlflowException("503")
        added.append(trial)
        return add(self, trial, metrics, tags)

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "add", fails)
        with pytest.raises(ConfigError, match=f"^{TRACKING_VARIABLE}.*stopped: 503$"):
            bring(desk, PROBED)
    assert bring(desk, PROBED) == 0
    assert [probes_shown(desk, trial) for trial in STUDY.trials] == [{"probe/calibration/test/ece": [(0, 0.25)]}] * 4

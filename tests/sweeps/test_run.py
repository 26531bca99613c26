"""A run that breaks off: in one line, soon, and with the cause that is behind it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from sweeps import launch
from sweeps.cli import main
from sweeps.ledger import Ledger
from sweeps.run import DELIVERY_PATIENCE_SECONDS, run
from sweeps.sweep import StudySweep
from sweeps.tracking.delivery import Courier
from sweeps.tracking.tracker import Delivery, first_line
from tests.sweeps.conftest import Desk, make_records, make_study
from trainer.machine import RESULTS_VARIABLE

STUDY = make_study()
FULL = OperationalError("UPDATE trials SET\nstate=?", {}, Exception("database or disk is full"))


def test_a_ledger_that_does_its_work_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise FULL

    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(Ledger, "declare", fails)
    assert main(["run", "fig8-digits"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: ledger sqlite:///{tmp_path}/ledger.db: database or disk is full: once it works")


@pytest.mark.parametrize("breaks_off", [True, False])
def test_only_a_run_that_breaks_off_does_not_wait_for_mlflow(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, breaks_off: bool
) -> None:
    patience = list[float]()
    desk.ledger.declare("toy", STUDY.trials)
    close = Courier.close

    def ends(_: launch.Launch) -> bool:
        if breaks_off:
            raise FULL
        return True

    def closed(courier: Courier, seconds: float) -> int:
        patience.append(seconds)
        return close(courier, seconds)

    monkeypatch.setattr(launch, "run_to_the_end", ends)
    monkeypatch.setattr(Courier, "close", closed)
    sweep = StudySweep(STUDY, "toy", desk.results, desk.ledger, jobs=1, device="cpu")
    if breaks_off:
        with pytest.raises(OperationalError, match="full"):
            run(sweep)
        assert 0 < patience[0] < DELIVERY_PATIENCE_SECONDS / 5
    else:
        run(sweep)
        assert patience == [DELIVERY_PATIENCE_SECONDS]


def test_of_a_store_on_a_full_disk_the_database_is_quoted() -> None:
    """As MLflow raises it: its own text begins with a hint to its developers."""
    error = MlflowException("(raised as a result of Query-invoked autoflush)\ndatabase or disk is full")
    error.__cause__ = FULL
    assert first_line(error) == "database or disk is full"
    assert first_line(MlflowException("503\nagain")) == "503"


def test_mlflow_prints_nothing_of_the_errors_that_are_told_here(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = desk.tracker(STUDY)
    with contextlib.closing(sqlite3.connect(desk.results.tracking_uri.removeprefix("sqlite:///"))) as database:
        database.execute("DROP TABLE latest_metrics")
    with pytest.raises(MlflowException) as caught:
        tracker.write(Delivery(STUDY.trials[0], "finished", make_records()))
    assert first_line(caught.value) == "no such table: latest_metrics"
    assert capfd.readouterr() == ("", "")

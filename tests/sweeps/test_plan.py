"""What plan says before anything is paid for, and when run asks, refuses or goes ahead."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from search_spaces import recipes
from search_spaces.paper import TABLE1, TableCell
from search_spaces.study import Study
from sweeps import hardware as hardware_module
from sweeps import plan as plan_module
from sweeps.budget import Budget
from sweeps.cli import main
from sweeps.cost.estimate import Estimate, detectable, kind, measured
from sweeps.cost.power import power_lines
from sweeps.filters import Selection
from sweeps.hardware import hardware
from sweeps.ledger import Ledger, LedgerRow, Measured, State
from sweeps.plan import Plan, about, make_plan, size
from sweeps.run import run
from sweeps.sweep import ADDRESS_VARIABLE, StudySweep
from sweeps.table import short_labels
from tests.sweeps.conftest import FIRST_TIMESTAMP, Desk, make_records, make_study, make_trial
from trainer.config import Amp, Cifar10, Erm, PreActResNet18, TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import RESULTS_VARIABLE, Results
from trainer.records import EpochRecord

STUDY = make_study()
HOUR = 3600.0


@pytest.fixture(autouse=True)
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure of a test depends on the machine's speed or disk."""
    monkeypatch.setattr(plan_module, "matmul_peak", lambda _device: 1e9)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "results"))
    return Results.here()


@pytest.fixture
def ledger(results: Results) -> Iterator[Ledger]:
    results.root.mkdir()
    ledger = Ledger(results.ledger_url)
    ledger.declare("toy", STUDY.trials)
    yield ledger
    ledger.close()


def of(trial: TrialConfig, seconds: float = 2.0, *, nll: float = 0.5, error: float = 0.1) -> Measured:
    records = [EpochRecord(1, FIRST_TIMESTAMP, {"epoch_seconds": seconds, "test/nll": nll, "test/error": error})]
    found = measured(trial, records, hardware("cpu"), 1000)
    assert found is not None
    return found


def settle(ledger: Ledger, trial: TrialConfig, state: State, found: Measured | None = None) -> None:
    assert ledger.lease([trial.trial_id], "driver", "toy")
    assert ledger.settle(trial.trial_id, "driver", state, measured=found)


def rows_of(study: Study, *states: State) -> dict[str, LedgerRow]:
    """The first trials in ``states``, the rest pending."""
    ids = [trial.trial_id for trial in study.trials]
    padded = [*states, *["pending"] * (len(ids) - len(states))]
    return {id_: LedgerRow(id_, "", "toy", state, None, None, None) for id_, state in zip(ids, padded, strict=True)}  # type: ignore[arg-type]


def plan_of(seconds: Sequence[float | None], *, needed: float = 10, free: int = 1000, jobs: int = 2) -> Plan:
    """A plan of trials that take so long each."""
    study = Study(name="toy", question="?", trials=[make_trial(seed) for seed in range(len(seconds))])
    ids = [trial.trial_id for trial in study.trials]
    found = {
        id_: Estimate(one, "unknown" if one is None else "measured", needed)
        for id_, one in zip(ids, seconds, strict=True)
    }
    return Plan(study, rows_of(study), found, jobs, "cpu", None, free)


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(list(command)) == 0
    return capsys.readouterr().out


def test_what_is_over_or_runs_elsewhere_is_not_to_train_and_what_failed_is(results: Results) -> None:
    plan = make_plan(STUDY, rows_of(STUDY, "finished", "failed", "leased"), None, 1, "cpu")
    assert list(plan.estimates) == [STUDY.trials[1].trial_id, STUDY.trials[3].trial_id]
    assert plan.counts() == ("2 cells, 4 trials: 1 finished, 0 diverged, 1 failed, 1 running elsewhere, 2 to train")
    diverged = make_plan(STUDY, rows_of(STUDY, "diverged"), None, 1, "cpu")
    assert STUDY.trials[0].trial_id not in diverged.estimates


def test_measured_times_of_this_hardware_are_used(ledger: Ledger) -> None:
    erm, amp, *left = STUDY.trials
    settle(ledger, erm, "finished", of(erm, 2.0))
    settle(ledger, amp, "finished", replace(of(amp, 99.0), hardware="another machine"))
    plan = make_plan(STUDY, ledger.rows([trial.trial_id for trial in STUDY.trials]), ledger, 2, "cpu")
    assert [plan.estimates[trial.trial_id] for trial in left] == [
        Estimate(6.0, "measured", 1000),
        Estimate(12.0, "scaled", 1000),
    ]
    assert plan.peak is None
    assert plan.device_hours == pytest.approx(18 / HOUR)
    assert plan.time() == (
        "about 12 s of training (measured here with this network, data and number of passes; measured here with another"
        " method, times the passes through the network)"
    )


def test_another_study_s_trials_count_as_measured(ledger: Ledger) -> None:
    elsewhere = make_trial(seed=77)
    ledger.declare("another", [elsewhere])
    settle(ledger, elsewhere, "finished", of(elsewhere, 4.0))
    plan = make_plan(STUDY, rows_of(STUDY), ledger, 2, "cpu")
    assert plan.estimates[STUDY.trials[0].trial_id].seconds == 12.0


HERE = "measured here with this network, data and number of passes"


def test_times_are_told_with_their_source() -> None:
    assert plan_of([60, 60, 60, 60]).time() == f"about 2.0 min of training ({HERE})"
    assert plan_of([60, 600], jobs=8).time() == f"about 10 min of training ({HERE})"
    assert (
        plan_of([60, None, None]).time()
        == f"about 1.0 min of training for 1 of 3 trials, the others not known ({HERE})"
    )
    assert plan_of([None]).time() == "not known before a trial of its kind is finished here"
    assert plan_of([None]).hours() == "core-hours not known"
    assert plan_of([3 * HOUR, None]).hours() == "at least 3.0 core-hours"
    assert plan_of([60]).hours() == "less than 0.1 core-hours"
    plan = replace(make_plan(STUDY, rows_of(STUDY), None, 1, "cpu"), peak=46e9)
    assert plan.time().endswith(
        "(from FLOPs at an assumed 50% of the measured peak, 46 GFLOP/s; a narrow network may take several times that)"
    )


def test_disk() -> None:
    assert plan_of([1, 1], needed=3e6, free=40 * 10**9).disk() == "about 6.0 MB for checkpoints; 40 GB are free"
    unknown = replace(plan_of([1, 1]), estimates={"a": Estimate(1, "measured", None), "b": Estimate(1, "FLOPs", 2e3)})
    assert unknown.disk() == "about 2.0 kB for checkpoints, those of 1 not known; 1.0 kB are free: too little"
    none = replace(plan_of([1]), estimates={"a": Estimate(None, "unknown", None)})
    assert none.disk() == "not known for checkpoints; 1.0 kB are free"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.43, "0.43 s"), (59, "59 s"), (200, "3.3 min"), (7200, "2.0 h"), (3 * 86400, "3.0 days"), (3e9, "95 years")],
)
def test_about(seconds: float, expected: str) -> None:
    assert about(seconds) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, "0 B"), (64_000, "64 kB"), (3.14e6, "3.1 MB"), (178e9, "180 GB")])
def test_size(count: float, expected: str) -> None:
    assert size(count) == expected


def test_labels_leave_out_what_follows_from_the_rest() -> None:
    trials = [*recipes.table1_trials("as_written", [0]), *recipes.table2_trials("as_written", [0])]
    labels = short_labels([trial.params() for trial in trials])
    assert len(set(labels)) == len(labels)
    assert "Amp WideResNet Cifar10 augment.policy=none augment.cutout=16" in labels
    assert short_labels([trial.params() for trial in STUDY.trials[:2]]) == ["Erm", "Amp"]


def test_the_command_shows_cells_counts_time_disk_and_power(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    study = recipes_study()
    ledger.declare("toy", study.trials)
    settle(ledger, study.trials[0], "finished", of(study.trials[0]))
    lines = printed(capsys, "plan", "fig8-digits", "--jobs", "1").splitlines()
    header, erm = (next(line for line in lines if word in line) for word in ("seeds  ", "  Erm"))
    assert header.split() == ["seeds", "finished", "diverged", "failed", "running", "a", "trial", "from"]
    assert erm.split() == ["Erm", "5", "1", "–", "–", "–", "1.3", "min", "measured"]
    assert "8 cells, 40 trials: 1 finished, 0 diverged, 0 failed, 0 running elsewhere, 39 to train" in lines
    assert any(line.startswith("Time: about ") and "one at a time; " in line for line in lines)
    assert any(line.startswith("Disk: about ") for line in lines)
    assert any("paired t-test" in line for line in lines)


def recipes_study() -> Study:
    from search_spaces.catalog import find

    return find("fig8-digits")


def test_it_writes_nothing(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "plan", "fig8-digits")
    assert not results.root.exists()


def test_filters_choose_what_is_planned_and_what_status_counts(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    few = printed(capsys, "plan", "fig8-digits", "--only", "method=Amp", "--only", "method.epsilon=0.5", "--seeds", "2")
    assert "1 cells, 2 trials" in few
    assert "1 cells, 3 trials" in printed(capsys, "status", "fig8-digits", "--only", "method=Erm", "--seeds", "3")
    assert main(["plan", "fig8-digits", "--only", "method=Sam"]) == 2
    assert "there are Erm, Amp" in capsys.readouterr().err


def test_a_selection_is_part_of_how_a_run_is_found_again(ledger: Ledger, results: Results) -> None:
    sweep = StudySweep(STUDY, "toy", results, ledger, 1, "cpu", Selection(("method=Amp",), 1))
    assert [trial.seed for trial in sweep.study.trials] == [0]
    assert list(sweep.rows()) == [STUDY.trials[1].trial_id]
    assert set(sweep.shown_rows()) == {trial.trial_id for trial in STUDY.trials}
    assert sweep.how_to_go_on.endswith(" ONLY=method=Amp SEEDS=1")


def test_a_run_of_some_trials_leaves_the_study_whole_in_mlflow(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = STUDY.trials[:2]
    for trial in (first, other):
        desk.settle(STUDY, trial, "finished")
        desk.save(trial, make_records())
    selection = Selection(("method=Erm",), 1)
    assert run(StudySweep(STUDY, "toy", desk.results, desk.ledger, 1, "cpu", selection)) == 0
    assert "toy: 1 of 1 already finished" in capsys.readouterr().out
    assert {desk.run("toy", trial.trial_id).info.status for trial in (first, other)} == {"FINISHED"}
    assert [desk.run("toy", cell.cell_id).info.status for cell in STUDY.cells()] == ["SCHEDULED"] * 2


def power_table(declared: Study, chosen: Study, known: dict[str, Measured]) -> list[list[str]]:
    return [line.split() for line in power_lines(declared, chosen, known)]


def test_power_from_measured_pairs_is_the_median_over_methods() -> None:
    methods = (Erm(), Amp(epsilon=0.1), Amp(epsilon=0.2), Amp(epsilon=9))
    study = Study(
        name="toy", question="?", trials=[recipes.digits_mlp(method, seed) for method in methods for seed in range(3)]
    )
    # Differences to ERM in NLL: 0, 1, 2 (deviation 1); 0, 2, 4 (2); 0, 50, 100. In error a tenth of them.
    slope = {0: 7.0, 3: 8.0, 6: 9.0, 9: 57.0}
    known = {
        trial.trial_id: of(
            trial, nll=trial.seed * slope[place - place % 3], error=trial.seed * slope[place - place % 3] / 10
        )
        for place, trial in enumerate(study.trials)
    }
    nll = detectable(2.0, 3)
    assert nll is not None
    assert power_table(study, study, known)[2] == ["3", f"{100 * nll / 10:.2g}", f"{nll:.2g}", "9", "pairs"]


def test_power_counts_the_seeds_that_are_chosen_and_the_pairs_that_are_whole() -> None:
    study = make_study(seeds=range(5))
    chosen = replace(study, trials=[trial for trial in study.trials if trial.seed < 3])
    done = [trial for trial in study.trials if trial.seed != 4 or isinstance(trial.method, Erm)]
    known = {trial.trial_id: of(trial, nll=trial.seed**2 * len(trial.params())) for trial in done}
    row = power_table(study, chosen, known)[2]
    assert (row[0], row[-2:]) == ("3", ["4", "pairs"])
    only_amp = replace(study, trials=[trial for trial in study.trials if isinstance(trial.method, Amp)])
    assert power_table(study, only_amp, known)[2][0] == "5"
    only_erm = replace(study, trials=[trial for trial in study.trials if isinstance(trial.method, Erm)])
    assert power_table(study, only_erm, known) == []


def test_power_from_the_paper() -> None:
    trials = [
        trial
        for trial in recipes.table1_trials("as_written", range(10))
        if isinstance(trial.dataset, Cifar10) and isinstance(trial.model, PreActResNet18)
        and isinstance(trial.method, Amp | Erm)
    ]  # fmt: skip
    study = Study(name="toy", question="?", trials=trials)
    erm, amp = (TABLE1[TableCell(method, PreActResNet18, Cifar10, "vanilla")] for method in (Erm, Amp))
    deviation = (erm.error.deviation**2 + amp.error.deviation**2) ** 0.5
    points = detectable(deviation, 10)
    assert points is not None
    assert power_table(study, study, {})[2][:2] == ["10", f"{points:.2g}"]
    assert power_table(study, study, {})[2][-2:] == ["the", "paper"]
    own = {trial.trial_id: of(trial, nll=trial.seed**2 * len(trial.params())) for trial in trials}
    assert power_table(study, study, own)[2][-2:] == ["10", "pairs"]


def test_power_that_is_not_known_or_not_there() -> None:
    one_seed, alone = make_study(seeds=[0]), replace(STUDY, trials=STUDY.trials[::2])
    assert power_table(STUDY, STUDY, {})[2][:3] == ["2", "–", "–"]
    assert power_table(alone, alone, {}) == []
    known = {trial.trial_id: of(trial, nll=trial.seed) for trial in STUDY.trials}
    assert power_table(STUDY, one_seed, known)[2][:3] == ["1", "–", "–"]


class Terminal:
    """A standard input that is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user types, and what was asked."""
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "yes"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys, "stdin", Terminal())
    return asked


@pytest.mark.parametrize(
    ("plan", "budget"),
    [
        (plan_of([HOUR / 2, HOUR / 2]), Budget()),
        (plan_of([None] * 50), Budget()),
        (plan_of([9 * HOUR]), Budget(yes=True)),
        (plan_of([9 * HOUR]), Budget(max_hours=9)),
        (plan_of([None] * 60), Budget(max_trials=60)),
        (plan_of([1.0], needed=1000), Budget(max_trials=1, max_hours=0.1)),
    ],
)
def test_what_is_cheap_or_allowed_is_not_asked_about(plan: Plan, budget: Budget, answers: list[str]) -> None:
    assert budget.approve(plan)
    assert answers == []


MUCH = [
    (plan_of([HOUR, 0.2 * HOUR]), Budget(), "1.2 core-hours, more than 1"),
    (plan_of([None] * 51), Budget(), "51 trials whose time is not known, more than 50"),
    (plan_of([1.0], needed=1001), Budget(), "more disk than is free"),
    (plan_of([9 * HOUR]), Budget(max_trials=5), "9.0 core-hours, more than 1"),
]


@pytest.mark.parametrize(("plan", "budget", "reason"), MUCH)
def test_what_is_much_is_asked_about(
    plan: Plan, budget: Budget, reason: str, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert budget.approve(plan)
    assert len(answers) == 1
    assert reason in answers[0]
    summary = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in summary] == ["toy", "Time", "Disk"]


@pytest.mark.parametrize("answer", ["", "n", "no", "yep", EOFError()])
def test_anything_but_yes_is_no(answer: str | EOFError, answers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(_question: str) -> str:
        if isinstance(answer, EOFError):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", reply)
    assert not Budget().approve(plan_of([9 * HOUR]))


@pytest.mark.parametrize(("plan", "budget", "reason"), MUCH)
def test_without_a_terminal_what_is_much_is_refused(
    plan: Plan, budget: Budget, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        with pytest.raises(ConfigError) as refused:
            budget.approve(plan)
    told = str(refused.value)
    assert "\n" not in told
    assert all(part in told for part in (reason, "--yes", "--max-hours", "--max-trials"))


@pytest.mark.parametrize(
    ("plan", "budget", "parts"),
    [
        (plan_of([9 * HOUR]), Budget(yes=True, max_hours=8.5), ("--max-hours 8.5", "9.0 core-hours (measured here")),
        (plan_of([1, 1, None]), Budget(yes=True, max_trials=2), ("--max-trials 2", "3 to train")),
        (plan_of([1, None]), Budget(max_hours=5), ("--max-hours 5", "the time of 1 trials", "--max-trials")),
        (plan_of([None]), Budget(yes=True, max_hours=5), ("--max-hours 5", "not known")),
    ],
)
def test_beyond_a_limit_no_yes_helps(plan: Plan, budget: Budget, parts: tuple[str, ...], answers: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        budget.approve(plan)
    assert answers == []
    assert all(part in str(refused.value) for part in parts)


LONG = """
from dataclasses import replace
from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Erm

STUDY = Study(name="long", question="?", trials=[replace(recipes.digits_mlp(Erm(), 0), epochs=10**9)])
"""


@pytest.fixture
def long_study(tmp_path: Path) -> str:
    (tmp_path / "long.py").write_text(LONG)
    return str(tmp_path / "long.py")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ((), ("core-hours, more than 1", "--yes")),
        (("--max-hours", "2"), ("--max-hours 2:", "core-hours (from FLOPs")),
        (("--max-trials", "1"), ("core-hours, more than 1",)),
    ],
)
def test_run_refuses_in_one_line(
    long_study: str,
    options: tuple[str, ...],
    parts: tuple[str, ...],
    results: Results,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        assert main(["run", long_study, *options]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert all(part in told.err for part in parts)
    assert not (results.root / "mlflow.db").exists()


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many"])
def test_hours_that_are_none(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "fig8-digits", "--max-hours", value])
    assert "is not a number of hours > 0" in capsys.readouterr().err


def test_no_on_a_terminal_trains_nothing(long_study: str, results: Results) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "run", long_study], stdin=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    os.write(ours, b"n\n")
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(ours)
    assert process.returncode == 130
    assert "Train? [y/N]" in out
    assert out.endswith("Nothing was trained\n")
    assert not (results.root / "mlflow.db").exists()
    ledger = Ledger(results.ledger_url)
    with ledger._engine.connect() as connection:
        assert connection.execute(sql.text("SELECT state FROM trials")).all() == [("pending",)]
    ledger.close()


def test_the_number_of_queries_does_not_grow_with_the_ledger(
    results: Results, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append(statement)

    sql.event.listen(sql.engine.Engine, "before_cursor_execute", note)
    try:
        printed(capsys, "plan", "fig8-digits")
        few, trials = len(asked), [make_trial(seed) for seed in range(200)]
        ledger.declare("many", trials)
        for trial in trials[:50]:
            settle(ledger, trial, "finished", of(trial))
        asked.clear()
        printed(capsys, "plan", "fig8-digits")
        printed(capsys, "plan", "fig8-mnist5k")
    finally:
        sql.event.remove(sql.engine.Engine, "before_cursor_execute", note)
    assert len(asked) == 2 * few <= 10


def test_neither_torch_nor_a_checkpoint_is_read(results: Results, ledger: Ledger) -> None:
    study = recipes_study()
    ledger.declare("toy", study.trials)
    for trial in study.trials[:2]:
        settle(ledger, trial, "finished", of(trial))
    opened = (
        "import sys; sys.addaudithook(lambda event, args: event == 'open' and '.pt' in str(args[0]) and sys.exit(9))"
    )
    code = (
        f"{opened}; from sweeps.cli import main; main(['plan', 'fig8-digits']); sys.exit(8 * ('torch' in sys.modules))"
    )
    for trial in study.trials:
        path = results.checkpoint(trial.trial_id)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 finished" in done.stdout


def test_a_ledger_from_before_has_nothing_measured(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    results.root.mkdir()
    old = Ledger(results.ledger_url)
    study = recipes_study()
    old.declare("toy", study.trials)
    settle(old, study.trials[0], "finished")
    with old._engine.begin() as connection:
        connection.execute(sql.text("DROP TABLE measured"))
    old.close()
    assert "1 finished" in printed(capsys, "plan", "fig8-digits")
    again = Ledger(results.ledger_url)
    settle(again, study.trials[1], "finished", of(study.trials[1]))
    again.close()
    assert "measured" in printed(capsys, "plan", "fig8-digits")


@pytest.mark.parametrize("lapse", [False, True])
def test_the_outcome_of_a_lost_lease_leaves_no_measurement(ledger: Ledger, lapse: bool) -> None:
    from tests.sweeps.conftest import lapsing

    trial = STUDY.trials[0]
    if lapse:
        with lapsing():
            assert ledger.lease([trial.trial_id], "driver", "toy")
    else:
        assert ledger.lease([trial.trial_id], "driver", "toy")
    assert ledger.settle(trial.trial_id, "driver", "finished", measured=of(trial)) is not lapse
    assert ledger.measured([trial.trial_id, "unknown"]) == ({} if lapse else {trial.trial_id: of(trial)})


def test_times_of_whatever_hardware_are_used_where_a_rays_nodes_train(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    erm, *left = STUDY.trials
    settle(ledger, erm, "finished", replace(of(erm, 2.0), hardware="a node"))
    rows = ledger.rows([trial.trial_id for trial in STUDY.trials])
    assert make_plan(STUDY, rows, ledger, 2, "cpu").estimates[left[1].trial_id].source == "FLOPs"
    monkeypatch.setenv(ADDRESS_VARIABLE, "auto")
    assert make_plan(STUDY, rows, ledger, 2, "cpu").estimates[left[1].trial_id] == Estimate(6.0, "measured", 1000)


def test_training_again_measures_again(ledger: Ledger) -> None:
    trial = STUDY.trials[0]
    settle(ledger, trial, "pending", of(trial, 1.0))
    settle(ledger, trial, "finished", of(trial, 5.0))
    assert ledger.measured([trial.trial_id]) == {trial.trial_id: of(trial, 5.0)}
    assert ledger.measured_kinds([kind(trial)], hardware("cpu")) == [of(trial, 5.0)]
    assert ledger.measured_kinds([kind(trial)], "another machine") == []
    assert ledger.measured_kinds(["another kind"], hardware("cpu")) == []
    assert ledger.measured_kinds([kind(trial)], None) == [of(trial, 5.0)]
    assert ledger.measured_kinds(["another kind"], None) == []


def test_a_finished_trial_is_measured_by_its_driver(ledger: Ledger, results: Results, tmp_path: Path) -> None:
    from sweeps.cluster.node import Node
    from sweeps.cluster.resources import Room
    from sweeps.cluster.worker import Report
    from sweeps.launch import Launch, LedgerSearcher, Stop

    class Silent:
        def send(self, _delivery: object) -> None: ...

        def show(self, _states: object) -> None: ...

        def at_once(self, _jobs: int) -> None: ...

        def started(self, _trial_id: str) -> None: ...

        def trained(self, _trial_id: str, _records: object) -> None: ...

        def ended(self, _trial_id: str, _state: str, _cause: str | None = None) -> None: ...

    silent: Any = Silent()
    launch = Launch(StudySweep(STUDY, "toy", results, ledger, 1, "cpu"), silent, silent)
    room = Room(launch.sweep, [Node("a", "a", cpus=1)])
    searcher = LedgerSearcher(launch, [trial.trial_id for trial in STUDY.trials], room, Stop(launch, tmp_path / "stop"))
    trial = STUDY.trials[0]
    results.checkpoint(trial.trial_id).parent.mkdir()
    results.checkpoint(trial.trial_id).write_bytes(b"x" * 321)

    def report(*seconds: float, outcome: str | None = None) -> dict[str, Any]:
        records = [
            EpochRecord(1, FIRST_TIMESTAMP, {"epoch_seconds": one, "test/nll": one / 10, "test/error": 0.2})
            for one in seconds
        ]
        return Report(tuple(records), outcome, hardware="of the node").encode()

    assert json.loads(searcher.suggest("a")["params"]) == trial.params()  # type: ignore[index]
    searcher.on_trial_result("a", report(9.0, 9.0, 9.0))
    searcher.on_trial_complete("a", error=True)  # its worker is lost: again, from the checkpoint
    assert ledger.measured([trial.trial_id]) == {}
    searcher.suggest("b")
    searcher.on_trial_result("b", report(1.0, 2.0))
    searcher.on_trial_result("b", report(3.0, outcome="finished"))
    expected = Measured(kind(trial), "of the node", 1, 2.0, 321, 0.2, 0.3)
    assert ledger.measured([trial.trial_id]) == {trial.trial_id: expected}
    searcher.suggest("c")
    searcher.on_trial_result("c", report(1.0, outcome="diverged"))
    assert set(ledger.measured([other.trial_id for other in STUDY.trials])) == {trial.trial_id}


def test_the_peak_is_measured_on_one_core() -> None:
    peak = hardware_module.matmul_peak("cpu")
    assert peak is not None
    assert 1e8 < peak < 1e13


def test_no_gpu_no_peak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware_module, "NVIDIA", tmp_path)
    assert hardware_module.matmul_peak("cuda") is None
    assert hardware_module.at_a_time(16, "cuda") == 16


def test_gpus_limit_what_runs_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("0000:01", "0000:02"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "information").write_text("Model: \t\t NVIDIA Made-up 9\nIRQ:   \t\t 51\n")
    monkeypatch.setattr(hardware_module, "NVIDIA", tmp_path)
    assert hardware_module.gpus() == ["NVIDIA Made-up 9"] * 2
    assert (hardware_module.at_a_time(16, "cuda"), hardware_module.at_a_time(16, "cpu")) == (2, 16)


def test_a_study_about_times_trains_one_trial_at_a_time(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "cost-small", "--jobs", "2"]) == 0
    assert "one at a time" in capsys.readouterr().out
    assert main(["plan", "zeta-small", "--jobs", "2"]) == 0
    assert "2 at a time" in capsys.readouterr().out

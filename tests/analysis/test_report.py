"""From MLflow runs to table, figure and files, on a study whose numbers are made up and so known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis.figures.base import STYLE, Drawn, save_figures
from analysis.report import digested, report, reproduce
from analysis.runs import load
from analysis.sentences import answer, warnings
from analysis.tables import cells_table, text_rows
from search_spaces import recipes
from search_spaces.study import Study
from sweeps.ledger import Ledger
from sweeps.tracking.tracker import Delivery, Tracker, connect
from trainer.config import Amp, Erm, Holdout, ImageFolder, Method, TrialConfig
from trainer.data.description import Description
from trainer.data.parts import part_files
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.records import EpochRecord

EPSILONS = (0.1, 0.2, 0.4)
TEST_NLL = {None: 0.30, 0.1: 0.25, 0.2: 0.20, 0.4: 0.40}


def declared() -> Study:
    methods: list[Method] = [Erm(), *(Amp(epsilon=epsilon) for epsilon in EPSILONS)]
    trials = [recipes.digits_mlp(method, seed) for seed in range(3) for method in methods]
    return Study(name="made-up", question="Is the report right?", trials=tuple(trials))


def record(trial: TrialConfig) -> EpochRecord:
    epsilon = trial.method.epsilon if isinstance(trial.method, Amp) else None
    nll = TEST_NLL[epsilon] + 0.01 * trial.seed + (0.001 * trial.seed if epsilon else 0)
    parts = {f"{part}/{name}": nll / scale for part in ("val", "test") for name, scale in (("nll", 1), ("error", 10))}
    return EpochRecord(
        40, 1_000_000, parts | {"lr": 5e-4, "test/ece": nll / 20, "train/nll": nll / 100, "train/error": 0.0}
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        found = Results(tmp_path_factory.mktemp("results"))
        ledger = Ledger(found.ledger_url)
        study = declared()
        ledger.declare(study.name, study.trials)
        tracker = Tracker(connect(found), study, ledger, found)
        tracker.prepare()
        for trial in study.trials:
            if trial == study.trials[-1]:
                continue  # ε = 0.4, seed 2: missing
            if trial == study.trials[-5]:
                tracker.write(Delivery(trial, "diverged", [record(trial)], "train/criterion is nan in epoch 41"))
            else:
                tracker.write(Delivery(trial, "finished", [record(trial)]))
        ledger.close()
        yield found


@pytest.fixture(scope="module")
def frame(results: Results) -> pd.DataFrame:
    return load(declared(), results)


def test_every_declared_trial_has_a_row(frame: pd.DataFrame) -> None:
    assert frame["trial_id"].tolist() == [trial.trial_id for trial in declared().trials]
    assert frame["outcome"].value_counts().to_dict() == {"finished": 10, "missing": 1, "diverged": 1}
    assert frame.loc[frame["outcome"] != "finished", "test/nll"].isna().all()
    assert frame["method.epsilon"].dropna().unique().tolist() == list(EPSILONS)


def test_table_is_what_the_numbers_say(frame: pd.DataFrame) -> None:
    table = cells_table(declared(), frame).set_index("cell")
    assert table.loc["Amp epsilon=0.2", "test/nll/mean"] == pytest.approx(0.211)
    assert table.loc["Amp epsilon=0.2", "difference/mean"] == pytest.approx(-0.099)
    assert table.loc["Amp epsilon=0.2", "difference/lower"] == 3
    # t(0.975, 2) = 4.3027; the differences are -0.100, -0.099, -0.098
    assert table.loc["Amp epsilon=0.2", "difference/high"] == pytest.approx(-0.099 + 4.3027 * 0.001 / 3**0.5, abs=1e-6)
    assert table["chosen_on_validation"].tolist() == [False, False, True, False]
    assert [table.loc["Amp epsilon=0.4", name] for name in ("n_finished", "n_diverged", "seeds")] == [1, 1, 3]


def test_text_hides_nothing(frame: pd.DataFrame) -> None:
    study = declared()
    table = cells_table(study, frame)
    rows = text_rows(study, frame, table)
    assert rows[0][:2] == ["method", "method.epsilon"]
    assert rows[3][1] == "0.2 *"
    assert rows[4][-1] == "1/3, 1 diverged"
    assert rows[4][-3].endswith("[n = 1]")
    assert "1 missing" in " ".join(warnings(frame))
    assert "lower in 3 of 3 seeds" in answer(frame, table)


def test_mixed_commits_are_named(frame: pd.DataFrame) -> None:
    mixed = frame.assign(commit=["aaa"] * 6 + ["bbb"] * 6)
    lines = warnings(mixed)
    assert any("more than one commit: aaa (6 trials), bbb (6 trials)" in line for line in lines)


def test_report_writes_its_files_and_is_the_same_again(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    files = report(declared(), results, "made-up")
    first = {file.name: file.read_bytes() for file in files}
    frames = {f"{name}.{ending}" for name in ("cells", "trials") for ending in ("csv", "parquet")}
    assert {"report.html", "report.md", "report.json", "epsilon.png", "epsilon.svg", *frames} <= set(first)
    assert "Is the report right?" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in report(declared(), results, "made-up")} == first
    cells = pd.read_csv(next(file for file in files if file.name == "cells.csv"))
    assert cells["difference/n"].tolist()[1:] == [3, 3, 1]


@pytest.mark.parametrize(
    ("read", "command"),
    [
        (Description(images=9, size=32, channels=1), "make digest FOLDER=PATH SIZE=32 CHANNELS=1"),
        (Description(images=9, size=None, channels=3), "make digest FOLDER=PATH"),
        (None, "make digest FOLDER=PATH [SIZE=N] [CHANNELS=1]"),
    ],
)
def test_images_of_ones_own_are_read_again_as_they_were(read: Description | None, command: str, tmp_path: Path) -> None:
    own = ImageFolder(digest="0123456789abcdef", classes=2, test=Holdout(fraction=0.2))
    trials = [replace(recipes.digits_mlp(Erm(), seed), dataset=own) for seed in range(2)]
    if read is not None:
        (part,) = part_files(own, tmp_path).values()
        read.write(part)
    assert digested(Study(name="own", question="?", trials=trials), tmp_path) == [command]
    assert digested(declared(), tmp_path) == []


def test_what_makes_it_again_names_commit_and_images(frame: pd.DataFrame) -> None:
    commit = "0123456789" * 4
    whole = frame.assign(commit=commit)
    assert reproduce(whole, "fig8-digits", []) == f"git checkout {commit} && make sweep STUDY=fig8-digits"
    assert reproduce(whole, "my study.py", []) == "make sweep STUDY='my study.py'"
    assert reproduce(whole, "my.py", ["make digest FOLDER=a", "true"]) == (
        "make digest FOLDER=a && true && make sweep STUDY=my.py"
    )
    mixed = whole.assign(commit=[commit, *["b" * 40] * (len(whole) - 1)])
    assert reproduce(mixed, "fig8-digits", []) == "make sweep STUDY=fig8-digits"
    assert reproduce(frame.assign(commit=f"{commit}-dirty"), "fig8-digits", []) == "make sweep STUDY=fig8-digits"


def test_nothing_finished_is_said(results: Results) -> None:
    trial = replace(recipes.digits_mlp(Erm(), 0), weight_decay=0.5)
    with pytest.raises(ConfigError, match=r"no trial is finished in .*: make sweep STUDY='my studies/empty\.py'$"):
        report(Study(name="empty", question="?", trials=(trial,)), results, "my studies/empty.py")


def test_a_parameter_keeps_its_value_beside_a_metric_of_its_name(frame: pd.DataFrame) -> None:
    assert frame["lr"].tolist() == [trial.lr for trial in declared().trials]  # the metric ``lr`` is the decayed one


def test_brackets_in_a_question_are_letters(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    study = replace(declared(), question="Does [bold] or [/] matter?")
    report(study, results, "made-up")
    printed = capsys.readouterr().out
    assert "Does [bold] or [/] matter?" in printed
    assert "[n = 1]" in printed


def test_what_leaves_no_room_is_drawn_without_a_warning(tmp_path: Path) -> None:
    with rc_context(fname=STYLE):
        figure = Figure(figsize=(1, 1))
        figure.subplots().set_yticks([0], ["m" * 200])
        assert save_figures([Drawn("narrow", "?", figure)], tmp_path)[0].png.stat().st_size > 1000

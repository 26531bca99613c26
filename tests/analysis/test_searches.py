"""From Optuna's database to tables, sentences and figures, on searches whose numbers are made up and so known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.trial import TrialState

from analysis.cli import main
from analysis.figures.searches import draw_searches
from analysis.search_report import duration_text, frozen_lines, search_report, searches_table, settings_table
from analysis.searches import Searched, blocks, importance, read_searches, row_names
from search_spaces import recipes
from search_spaces.catalog import frozen_of
from search_spaces.search import LogUniform, OneOf, Search, Tuning
from search_spaces.study import Study
from sweeps.ledger import Ledger
from sweeps.tracking.tracker import Delivery, Tracker, connect
from tests.analysis.tunings import Told, fill, frozen_with, write_tuning
from trainer.config import Erm, Mlp
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.records import EpochRecord

LRS = (0.05, 0.006, 0.02, 0.3, 0.4, 0.01, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5)
ERM: tuple[Told, ...] = (
    [0.31, 0.29], [0.5, 0.4], TrialState.FAIL, [0.25, 0.27], TrialState.PRUNED, [9.0, 9.0], TrialState.RUNNING
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_stores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "SWEEPS_OPTUNA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    (tmp_path / "results").mkdir()
    return Results(tmp_path / "results")


@pytest.fixture
def own(tmp_path: Path) -> tuple[Tuning, str]:
    return write_tuning(tmp_path)


def amp_settings() -> Iterator[tuple[dict[str, float], Told]]:
    """Twelve on a grid, of which ε decides: the nearer to 0.1, the lower the value."""
    for place, lr in enumerate(LRS):
        epsilon = (0.1, 0.02, 0.05, 0.4)[place % 4]
        value = 0.2 + abs(math.log10(epsilon) + 1) + 0.001 * place
        yield {"lr": lr, "method.epsilon": epsilon, "method.inner_lr": (1.0, 0.2, 5.0)[place // 4]}, [value, value]


@pytest.fixture
def filled(results: Results, own: tuple[Tuning, str]) -> Results:
    """ERM's search is unfinished, AMP's is whole and has a setting beyond its budget, RMP's has none that worked."""
    erm, amp, rmp = own[0].searches
    fill(results, erm, [({"lr": lr}, told) for lr, told in zip(LRS, ERM, strict=False)])
    beyond = ({"lr": 0.05, "method.epsilon": 0.1, "method.inner_lr": 1.0}, [0.0, 0.0])
    fill(results, amp, [*amp_settings(), beyond])
    fill(results, rmp, [({"batch_size": size}, TrialState.FAIL) for size in (50, 20, 100)])
    return results


def read(own: tuple[Tuning, str], results: Results) -> dict[str, Searched]:
    return {one.search.name: one for one in read_searches(own[0], results)}


def test_settings_are_what_the_database_says(filled: Results, own: tuple[Tuning, str]) -> None:
    found = read(own, filled)
    erm = found["digits-erm"]
    assert erm.settings["state"].tolist() == ["told", "told", "failed", "told", "pruned", "told", "open"]
    assert erm.settings["lr"].tolist() == list(LRS[:7])
    assert erm.settings["cause"].tolist()[2] == "loss is nan"
    assert erm.settings["value"].isna().tolist() == [False, False, True, False, True, False, True]
    assert (erm.done, erm.best, erm.chosen) == (6, 3, 3)
    assert erm.first_value == pytest.approx(0.30)
    assert found["digits-amp"].settings["number"].tolist() == list(range(12))  # the thirteenth is not of this budget
    rmp = found["mnist5k-rmp"]
    assert (rmp.best, rmp.done, rmp.count("failed")) == (None, 3, 3)
    assert math.isnan(rmp.first_value)


def test_tables_hold_every_search_and_setting(filled: Results, own: tuple[Tuning, str]) -> None:
    found = read(own, filled)
    table = searches_table({"Digits": [found["digits-erm"], found["digits-amp"]], "Mnist5k": [found["mnist5k-rmp"]]})
    erm, amp, rmp = table.to_dict("records")
    assert [erm[name] for name in ("budget", "tried", "failed", "pruned", "open", "seeds")] == [12, 4, 1, 1, 1, 2]
    assert [erm[name] for name in ("trials", "train_seconds", "best/number", "lr")] == [12, 180.0, 3, 0.3]
    assert [erm["first/value"], erm["best/value"]] == pytest.approx([0.30, 0.26])
    assert erm["best/sd"] == pytest.approx(0.02 / math.sqrt(2))
    assert [amp["method.epsilon"], amp["best/value"]] == pytest.approx([0.1, 0.2])
    assert (rmp["tried"], rmp["budget"], rmp["dataset"]) == (0, 3, "Mnist5k")  # the space has three
    assert np.isnan(float(rmp["best/value"]))
    settings = settings_table(list(found.values()))
    assert len(settings) == 7 + 12 + 3
    assert settings[["value/0", "value/1"]].iloc[3].tolist() == [0.25, 0.27]
    assert np.isnan(float(settings["value/0"].iloc[2]))
    ids = [trial.trial_id for trial in own[0].searches[0].trials({"lr": LRS[0]})]
    assert settings["trial_ids"].iloc[0] == " ".join(ids)


def test_report_says_how_far_it_is(
    filled: Results, own: tuple[Tuning, str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = search_report(own[0], filled, own[1])
    names = {file.name for file in files}
    assert {"searches.csv", "settings.csv", "report.md", "history-Digits.png", "epsilon-zeta.svg"} <= names
    assert "history-Mnist5k.png" not in names  # nothing there has a value
    printed, text = capsys.readouterr().out, (filled.report("made-up") / "report.md").read_text()
    for shown in (printed, text):
        assert "Is the report [right]?" in shown
        assert "Unfinished: 1 of 3 searches have settings left to try: digits-erm 6/12." in shown
        assert "12 settings or all that a space has" in shown
        assert "Nothing is frozen yet: make freeze STUDY=" in shown
        assert "No importance is given for digits-erm, mnist5k-rmp" in shown
        assert "optimistic" in shown
        assert "MLflow has no trial in made-up" in shown
    assert "| Erm | 4 | 1 | 1 | 1 | 3.0 min | 0.3000 | 0.2600 | 0.0141 | 3 | lr=0.3 |" in text
    assert "| Rmp | 0 | 3 | 0 | 0 | 90 s | – | – | – | – | – |" in text
    assert "](figures/history-Digits.png)" in text


def test_a_finished_search_says_so(results: Results, own: tuple[Tuning, str]) -> None:
    for search in own[0].searches:
        amp = list(amp_settings())
        told = amp if search.name == "digits-amp" else [(search.first, [1.0, 1.0])] * search.budget
        fill(results, search, told)
    search_report(own[0], results, own[1])
    text = (results.report("made-up") / "report.md").read_text()
    assert "**Each of the 3 searches has spent its budget.**" in text


def test_nothing_tried_is_one_line_and_makes_no_database(
    results: Results, own: tuple[Tuning, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"made-up: no setting is tried in .*: make search STUDY="):
        search_report(own[0], results, own[1])
    assert main(["report", own[1]]) == 2
    assert capsys.readouterr().err.startswith("error: made-up: no setting is tried")
    assert list(results.root.iterdir()) == []


def test_an_open_setting_alone_is_nothing_tried(results: Results, own: tuple[Tuning, str]) -> None:
    fill(results, own[0].searches[0], [({"lr": 0.05}, TrialState.RUNNING)])
    with pytest.raises(ConfigError, match="no setting is tried"):
        search_report(own[0], results, own[1])


def test_one_setting_is_a_report(results: Results, own: tuple[Tuning, str]) -> None:
    fill(results, own[0].searches[1], [next(amp_settings())])
    files = search_report(own[0], results, own[1])
    assert {"history-Digits.png", "parallel-Digits.png", "epsilon-zeta.png"} <= {file.name for file in files}


def test_what_is_no_database_is_one_line(results: Results, own: tuple[Tuning, str]) -> None:
    (results.root / "optuna.db").write_text("not a database, and longer than a header of one would be" * 20)
    with pytest.raises(ConfigError, match=r"^Optuna's database sqlite:///.* cannot be read: .*$"):
        read_searches(own[0], results)


def test_a_database_without_tables_is_given_none(results: Results, own: tuple[Tuning, str]) -> None:
    (results.root / "optuna.db").touch()
    with pytest.raises(ConfigError, match="no such table"):
        read_searches(own[0], results)
    assert (results.root / "optuna.db").read_bytes() == b""


def test_reading_writes_nothing(filled: Results, own: tuple[Tuning, str]) -> None:
    before = (filled.root / "optuna.db").read_bytes()
    read(own, filled)
    assert (filled.root / "optuna.db").read_bytes() == before


def drawn(found: list[Searched]) -> dict[str, Figure]:
    names = {one.search.name: one.search.name for one in found}
    return {one.stem.replace(" ", "-"): one.figure for one in draw_searches({"Digits": found}, names)}


def panel(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title().endswith(title))


def points(axes: Axes, label: str) -> list[list[float]]:
    line = next(line for line in axes.lines if line.get_label() == label)
    return [np.asarray(data, dtype=float).tolist() for data in line.get_data()]


def test_history_shows_every_setting(filled: Results, own: tuple[Tuning, str]) -> None:
    found = read(own, filled)
    figure = drawn([found["digits-erm"], found["digits-amp"]])["history-Digits"]
    axes = panel(figure, "digits-erm")
    assert axes.get_yscale() == "log"
    assert axes.get_ylim() == panel(figure, "digits-amp").get_ylim()
    assert points(axes, "a setting") == [[0, 1, 3], pytest.approx([0.30, 0.45, 0.26])]
    assert points(axes, "lowest so far") == [[0, 1, 3, 5], pytest.approx([0.30, 0.30, 0.26, 0.26])]
    assert points(axes, "above the axis")[0] == [5]
    assert points(axes, "failed: no value")[0] == [2]
    assert points(axes, "pruned: given up")[0] == [4]
    assert points(axes, "first: the base's own") == [[0], pytest.approx([0.30])]
    assert points(axes, "chosen") == [[3], pytest.approx([0.26])]
    low, high = axes.get_ylim()
    assert low < 0.2 < 0.9 < high < 9  # AMP's worst is 0.907; one setting at 9 does not flatten the rest


def test_what_is_frozen_is_marked_even_if_it_is_not_the_best(filled: Results, own: tuple[Tuning, str]) -> None:
    frozen = frozen_with(own[0], {"digits-erm": (1, 0.45, {"lr": 0.006})}, "2026-01-02T03:04:05+00:00")
    figures = drawn(read_searches(own[0], filled, frozen)[:1])
    assert points(panel(figures["history-Digits"], "digits-erm"), "chosen") == [[1], pytest.approx([0.45])]
    place_of_lr = math.log(0.006 / 0.005) / math.log(0.5 / 0.005)
    heights = points(panel(figures["parallel-Digits"], "digits-erm"), "chosen")[1]
    assert heights == pytest.approx([place_of_lr, 2 / 3])  # the third of four


def test_parallel_axes_are_the_spaces(filled: Results, own: tuple[Tuning, str]) -> None:
    axes = panel(drawn([read(own, filled)["digits-amp"]])["parallel-Digits"], "digits-amp")
    assert len(axes.lines) == 12 + 2
    places, heights = points(axes, "chosen")
    assert places == [0, 1, 2, 3]
    assert heights == pytest.approx([0.5, 0.5, 0.5, 0.0])  # in the middles of their log ranges, and first in rank
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["0.005\nlr", "0.01\nepsilon", "0.1\ninner_\nlr", "0.2\nval NLL\nby rank"]


def test_contour_shows_points_chosen_and_first(filled: Results, own: tuple[Tuning, str]) -> None:
    amp = read(own, filled)["digits-amp"]
    axes = panel(drawn([amp])["epsilon-zeta"], "digits-amp")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [*axes.get_xlim(), *axes.get_ylim()] == pytest.approx([0.01, 1.0, 0.1, 10.0])
    assert points(axes, "a setting")[0] == amp.settings["method.epsilon"].tolist()
    assert points(axes, "chosen") == [[0.1], [1.0]]
    assert len(axes.collections) == 1
    few = replace(amp, settings=amp.settings[:9])
    assert not panel(drawn([few])["epsilon-zeta"], "digits-amp").collections
    on_a_line = replace(amp, settings=amp.settings.assign(**{"method.inner_lr": 1.0}))
    assert not panel(drawn([on_a_line])["epsilon-zeta"], "digits-amp").collections


def test_importance_is_of_what_decides(filled: Results, own: tuple[Tuning, str]) -> None:
    found = read(own, filled)
    share = importance(found["digits-amp"])
    assert share is not None
    assert share.idxmax() == "method.epsilon"
    assert share["method.epsilon"] > 0.6
    assert share.sum() <= 1.001
    assert importance(found["digits-erm"]) is None  # four have a value
    again = importance(read(own, filled)["digits-amp"])
    assert again is not None
    assert again.equals(share)


def test_a_listed_space_has_importance_too(results: Results) -> None:
    search = Search(
        name="sizes",
        base=recipes.digits_mlp(Erm(), 0),
        space={"batch_size": OneOf(values=(10, 20, 50)), "epochs": OneOf(values=(31, 35, 40, 50))},
        settings=12,
        sampler="grid",
    )
    fill(results, search, [(setting, [float(setting["batch_size"])]) for setting in search.grid])
    (found,) = read_searches(Tuning(name="sizes", question="?", searches=[search]), results)
    share = importance(found)
    assert share is not None
    assert share["batch_size"] > 0.9 > share["epochs"]
    figures = draw_searches({"Digits": [found]}, {"sizes": "Erm"})
    assert {one.stem for one in figures} == {"history Digits", "parallel Digits", "importance Digits"}


def test_frozen_choices_are_held_against_the_search(filled: Results, own: tuple[Tuning, str]) -> None:
    tuning, reference = own
    choices = {"digits-erm": (3, 0.26, {"lr": 0.3}), "digits-amp": (1, 0.9, {}), "mnist5k-rmp": (0, 0.1, {})}
    frozen = frozen_with(tuning, choices, "2026-01-02T03:04:05+00:00")
    found = read_searches(tuning, filled, frozen)
    assert [one.chosen for one in found] == [3, 1, 0]
    lines = " ".join(frozen_lines(found, frozen, reference))
    assert "Frozen on 2026-01-02T03:04:05+00:00 by commit abc1234." in lines
    assert "not the best one any more: digits-amp (frozen number 1, now number 0)." in lines
    erm = replace(frozen.choices["digits-erm"], digest="of another search")
    changed = replace(
        frozen, choices={"digits-erm": erm, "digits-amp": replace(frozen.choices["digits-amp"], number=0)}
    )
    again = read_searches(tuning, filled, changed)
    assert [one.chosen for one in again] == [3, 0, None]
    lines = " ".join(frozen_lines(again, changed, reference))
    assert "the search is new or another since: digits-erm, mnist5k-rmp." in lines
    assert "still is the best one in 1 of 3 searches" in lines


def test_a_changed_search_reports_without_a_verdict(filled: Results, own: tuple[Tuning, str]) -> None:
    frozen = frozen_with(own[0], {"digits-erm": (3, 0.26, {"lr": 0.3})}, "2026-01-02T03:04:05+00:00")
    frozen.write(frozen_of(own[1]))
    assert main(["report", own[1]]) == 0
    assert not filled.report("made-up-final").exists()


@pytest.mark.parametrize(("evaluate", "metric"), [("val", "val/nll"), ("val", "test/nll"), ("test", "val/nll")])
def test_a_search_that_read_the_test_set_is_shown_up(
    filled: Results, own: tuple[Tuning, str], evaluate: str, metric: str
) -> None:
    search = own[0].searches[0]
    trial = search.trials({})[0] if evaluate == "val" else search.final_trials({}, [0])[0]
    study = Study(name="made-up", question="?", trials=[trial])
    ledger = Ledger(filled.ledger_url)
    ledger.declare(study.name, study.trials)
    tracker = Tracker(connect(filled), study, ledger, filled)
    tracker.prepare()
    tracker.write(Delivery(trial, "finished", [EpochRecord(1, 1_000_000, {metric: 0.5})]))
    ledger.close()
    search_report(own[0], filled, own[1])
    text = (filled.report("made-up") / "report.md").read_text()
    if (evaluate, metric) == ("val", "val/nll"):
        assert "has not read the test set: of its 1 trials in MLflow none" in text
        assert "WARNING" not in text
    else:
        assert f"**WARNING: 1 of the search's 1 trials read the test set: {trial.trial_id}.**" in text
        assert "has not read" not in text


def test_blocks_are_what_can_be_compared(own: tuple[Tuning, str]) -> None:
    erm, amp, rmp = own[0].searches
    narrow = replace(erm, name="narrow", space={"lr": LogUniform(low=0.01, high=0.1)})
    found = blocks([erm, amp, rmp, narrow])
    assert {title: [one.name for one in block] for title, block in found.items()} == {
        "Digits": ["digits-erm", "digits-amp", "narrow"],
        "Mnist5k": ["mnist5k-rmp"],
    }
    assert row_names(found["Digits"]) == {"digits-erm": "digits-erm", "digits-amp": "Amp", "narrow": "narrow"}
    other = replace(erm, name="wide", base=replace(erm.base, model=Mlp(hidden=(7,), norm="none")))
    assert len(blocks([erm, other])) == 2


def test_durations_have_a_fitting_unit() -> None:
    assert [duration_text(seconds) for seconds in (0.82, 45.2, 738, 16_200)] == ["0.82 s", "45 s", "12.3 min", "4.5 h"]


def test_a_best_setting_at_the_edge_of_its_range_is_said(results: Results, own: tuple[Tuning, str]) -> None:
    """On the scale on which it is drawn: 0.0051 is next to 0.005, 0.03 is not, of a range that ends at 0.5."""
    tuning, reference = own
    fill(results, tuning.searches[0], [({"lr": 0.03}, (0.5, 0.5)), ({"lr": 0.0051}, (0.6, 0.6))])
    search_report(tuning, results, reference)
    assert "Next to an end" not in report_text(results, tuning)
    fill(results, tuning.searches[0], [({"lr": 0.0051}, (0.4, 0.4))])
    search_report(tuning, results, reference)
    expected = "Next to an end of its range, which may be too narrow: digits-erm lr=0.0051."
    assert expected in report_text(results, tuning)


def test_how_many_images_a_value_is_from_is_said(results: Results, own: tuple[Tuning, str]) -> None:
    tuning, reference = own
    fill(results, tuning.searches[0], [({"lr": 0.03}, (0.5, 0.5))])
    search_report(tuning, results, reference)
    assert "held out (Digits: 60, Mnist5k: 200 a split)" in report_text(results, tuning)


def report_text(results: Results, tuning: Tuning) -> str:
    return (results.report(tuning.name) / "report.md").read_text(encoding="utf-8")

"""Tables of trials whose numbers are made up: what is compared, what is bold, what is said of what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from analysis.compare import p_value
from analysis.images import images_of
from analysis.render import Strong, terminal_table
from analysis.sentences import answer, notes, over_blocks, selection_notes, warnings
from analysis.tables import blocks_of, cells_table, provenance_rows, selection_rows, text_rows
from search_spaces import recipes
from search_spaces.catalog import built_in
from search_spaces.study import Study
from tests.analysis.frames import made_frame
from trainer.config import (
    Amp,
    Augment,
    Dropout,
    Erm,
    Holdout,
    ImageFolder,
    Method,
    Mlp,
    Rmp,
    SmallCnn,
    TrialConfig,
    TwoSpirals,
)
from trainer.data.description import Description
from trainer.data.parts import part_files

NOWHERE = Path("/nowhere")
"""Where no image of a user's own is."""
NOISE = (0.000, 0.012, -0.006, 0.004, -0.010, 0.015, -0.002, 0.007, -0.013, 0.003)
"""Of a seed, in every cell alike."""
JITTER = (0.001, -0.002, 0.0005, 0.0015, -0.001, 0.002, -0.0005, 0.0025, -0.0015, 0.0003)
"""Of a seed, in cells that are not ERM's."""


def study(methods: Sequence[Method], seeds: int = 3, validation: bool = False) -> Study:
    trials = [recipes.digits_mlp(method, seed) for seed in range(seeds) for method in methods]
    if not validation:
        trials = [replace(trial, validation=None, evaluate="test") for trial in trials]
    return Study(name="made-up", question="?", trials=trials)


def metrics(nll: float, seed: int, is_baseline: bool) -> dict[str, float]:
    value = nll + NOISE[seed] + (0 if is_baseline else JITTER[seed])
    return {
        "train/nll": value / 100,
        "test/nll": value,
        "test/error": value / 10,
        "test/ece": value / 20,
        "test/criterion": value,
        "oracle/test/nll": value + 0.02,
        "oracle/test/error": value / 10 - 0.001 * (seed + 1),
        "oracle/epoch": 7.0,
    }


def frame_of(
    found: Study, nll: Mapping[object, float], gone: Mapping[tuple[object, int], str] | None = None
) -> pd.DataFrame:
    """nll: by ε, or by the method's name. gone: the outcome of trials that did not finish."""

    def numbers(trial: TrialConfig) -> Mapping[str, float] | str:
        name = type(trial.method).__name__
        key = trial.method.epsilon if isinstance(trial.method, Amp) else name
        value = nll[key] if key in nll else nll[name]
        if gone and (key, trial.seed) in gone:
            return gone[key, trial.seed]
        own = metrics(value, trial.seed, name == "Erm")
        if trial.validation is not None:
            own |= {f"val/{part}": own[f"test/{part}"] + 0.1 for part in ("nll", "error", "ece")}
            own |= {"best_val/test/nll": own["test/nll"] - 0.01, "best_val/test/error": own["test/error"] + 0.002}
        return own

    return made_frame(found, numbers)


def test_cells_have_every_metric_at_every_selected_epoch() -> None:
    found = study([Erm(), Amp(epsilon=0.2)], validation=True)
    frame = frame_of(found, {"Erm": 0.3, 0.2: 0.2})
    row = cells_table(found, frame).set_index("cell").loc["Amp"]
    names = ("train/nll", "val/error", "test/criterion", "oracle/test/nll", "best_val/test/error", "oracle/epoch")
    assert [row[f"{name}/n"] for name in names] == [3] * 6
    own = frame[frame["cell"] == "Amp"]
    assert row["test/nll/mean"] == pytest.approx(own["test/nll"].mean())
    assert row["oracle/test/error/mean"] == pytest.approx(own["oracle/test/error"].mean())
    assert (row["leak/test/nll/mean"], row["leak/test/error/mean"]) == pytest.approx((0.02, -0.002))
    # The leaks of error are -0.001, -0.002, -0.003: t(0.975, 2) = 4.3027.
    assert row["leak/test/error/high"] == pytest.approx(-0.002 + 4.3027 * 0.001 / 3**0.5, abs=1e-7)
    assert pd.isna(row["leak/test/nll/low"])  # every seed leaks as much: no interval


def test_tests_are_corrected_within_their_block() -> None:
    methods = (Erm(), Dropout(rate=0.1), Amp(epsilon=0.2))
    both = [
        replace(trial, model=model)
        for trial in study(methods, 4).trials
        for model in (Mlp(hidden=(8,), norm="none"), SmallCnn(width=4))
        if not (isinstance(model, SmallCnn) and isinstance(trial.method, Dropout))
    ]
    found = Study(name="two", question="?", trials=both)
    frame = frame_of(found, {"Erm": 0.3, "Dropout": 0.305, 0.2: 0.3})
    table = cells_table(found, frame).set_index("cell")
    raw = p_value(pd.Series(JITTER[:4]))
    single, adjusted = table["difference/p"].to_dict(), table["difference/p_holm"].to_dict()
    assert table["block"].to_dict()["Amp model=SmallCnn"] == "Digits SmallCnn"
    assert table["name"].to_dict()["Amp model=SmallCnn"] == "Amp"
    assert single["Amp model=Mlp"] == pytest.approx(raw)
    assert single["Dropout model=Mlp"] < raw
    assert adjusted["Dropout model=Mlp"] == pytest.approx(2 * single["Dropout model=Mlp"])  # the lower one of two
    assert adjusted["Amp model=Mlp"] == pytest.approx(raw)
    assert adjusted["Amp model=SmallCnn"] == pytest.approx(raw)  # the only one
    assert table["difference/p_holm"].isna().tolist() == (table["method"] == "Erm").tolist()


def test_bold_is_the_best_and_what_is_not_told_apart_from_it() -> None:
    found = study([Erm(), Dropout(rate=0.1), Amp(epsilon=0.2)], 5)
    frame = frame_of(found, {"Erm": 0.3, "Dropout": 0.2004, 0.2: 0.2})
    frame.loc[frame["cell"] == "Dropout", "test/nll"] += [0.002, -0.003, 0.001, 0.002, -0.002]
    table = cells_table(found, frame)
    assert table["best"].tolist() == [False, True, True]
    rows = text_rows(found, frame, table)
    place = rows[0].index("test NLL [95% CI]")
    assert [isinstance(row[place], Strong) for row in rows[1:]] == [False, True, True]
    said = answer(frame, table)
    assert "Of 3 cells Amp has the lowest mean test NLL" in said
    assert "picked by this very mean" in said
    assert said.endswith("Not told apart from it: Dropout.")
    assert any(line.startswith("Bold: ") for line in notes(frame, table, []))


def test_a_cell_with_a_seed_missing_is_shown_and_named_and_never_best() -> None:
    found = study([Erm(), Dropout(rate=0.1), Amp(epsilon=0.2)], 4)
    gone = {(0.2, 2): "missing", (0.2, 3): "diverged", ("Dropout", 1): "failed"}
    frame = frame_of(found, {"Erm": 0.3, "Dropout": 0.25, 0.2: 0.1}, gone)
    table = cells_table(found, frame).set_index("cell", drop=False)
    own = frame[frame["cell"] == "Amp"]["test/nll"]
    assert table.loc["Amp", "test/nll/mean"] == pytest.approx(own.dropna().mean())
    assert table.loc["Amp", "test/nll/n"] == 2
    assert not table["best"].any()
    assert text_rows(found, frame, table)[3][-1] == "2/4, 1 diverged"
    lines = "\n".join(warnings(frame))
    assert "Amp: seed 2 missing, seed 3 diverged" in lines
    assert "Dropout: seed 1 failed" in lines
    assert answer(frame, table) == "No ranking by test NLL: that takes two cells with all their seeds."


def test_wilcoxon_stands_beside_from_ten_seeds_on() -> None:
    for seeds, expected in ((9, False), (10, True)):
        found = study([Erm(), Amp(epsilon=0.2)], seeds)
        frame = frame_of(found, {"Erm": 0.3, 0.2: 0.2})
        table = cells_table(found, frame)
        assert ("p (Wilcoxon)" in text_rows(found, frame, table)[0]) is expected
        assert any("signed-rank" in line for line in notes(frame, table, [])) is expected
    assert table["difference/wilcoxon_p"].iloc[1] == pytest.approx(2 / 2**10)


def test_what_was_chosen_on_validation_is_what_is_answered() -> None:
    found = study([Erm(), *(Amp(epsilon=epsilon) for epsilon in (0.1, 0.2, 0.3))], validation=True)
    frame = frame_of(found, {"Erm": 0.3, 0.1: 0.25, 0.2: 0.22, 0.3: 0.21})
    frame.loc[frame["cell"] == "Amp epsilon=0.3", "val/nll"] += 1
    table = cells_table(found, frame)
    said = answer(frame, table)
    assert said.startswith("Amp epsilon=0.2, chosen on validation, has a test NLL of 0.22")
    assert "lower in 3 of 3 seeds, p = " in said
    assert "(paired t-test, Holm-corrected for 3)" in said
    assert text_rows(found, frame, table)[3][1] == "0.2 *"


@pytest.mark.parametrize(("best", "said"), [(0.1, "lowest"), (0.3, "highest")])
def test_a_choice_at_the_edge_of_what_was_tried_is_said(best: float, said: str) -> None:
    found = study([Erm(), *(Amp(epsilon=epsilon) for epsilon in (0.1, 0.2, 0.3))], validation=True)
    frame = frame_of(found, {"Erm": 0.3, 0.1: 0.25, 0.2: 0.25, 0.3: 0.25} | {best: 0.2})
    assert answer(frame, cells_table(found, frame)).endswith(
        f" Its epsilon is the {said} of 3 tried; what lies beyond was not tried."
    )
    two = study([Erm(), *(Amp(epsilon=epsilon) for epsilon in (0.1, 0.3))], validation=True)
    frame = frame_of(two, {"Erm": 0.3, 0.1: 0.25, 0.3: 0.25} | {best: 0.2})
    assert "tried" not in answer(frame, cells_table(two, frame)), "of two each is at an edge"


def test_a_difference_that_is_none_is_not_left_to_the_reader() -> None:
    found = study([Erm(), Amp(epsilon=0.2)], 4)
    frame = frame_of(found, {"Erm": 0.3, 0.2: 0.3})
    frame.loc[frame["cell"] == "Amp", "test/nll"] += [0.01, -0.02, 0.015, -0.015]
    assert "(paired t-test): no difference is shown. " in answer(frame, cells_table(found, frame))
    frame.loc[frame["cell"] == "Amp", "test/nll"] -= 0.2
    assert "no difference is shown" not in answer(frame, cells_table(found, frame))


def test_methods_with_one_setting_each_are_compared_and_not_chosen() -> None:
    found = study([Erm(), Rmp(epsilon=0.1), Amp(epsilon=0.2)], validation=True)
    frame = frame_of(found, {"Erm": 0.3, "Rmp": 0.31, 0.2: 0.2})
    table = cells_table(found, frame)
    assert not table["chosen_on_validation"].any()
    assert "picked by this very mean" in answer(frame, table)


def test_where_erm_is_lowest_it_is_said() -> None:
    found = study([Erm(), Amp(epsilon=0.2)])
    frame = frame_of(found, {"Erm": 0.1, 0.2: 0.2})
    assert "Erm has the lowest mean" in answer(frame, cells_table(found, frame))
    assert "it is the baseline. Not told apart from it: none." in answer(frame, cells_table(found, frame))


def test_without_erm_there_is_no_difference() -> None:
    found = study([Amp(epsilon=0.1), Amp(epsilon=0.2)])
    frame = frame_of(found, {0.1: 0.3, 0.2: 0.2})
    table = cells_table(found, frame)
    assert "difference/p_holm" not in table or table["difference/p_holm"].isna().all()
    assert "no ERM trial to compare it with" in answer(frame, table)
    assert text_rows(found, frame, table)[1][-2] == "–"


def test_selection_shows_the_leak_and_says_what_the_oracle_is() -> None:
    found = study([Erm(), Amp(epsilon=0.2)], validation=True)
    frame = frame_of(found, {"Erm": 0.3, 0.2: 0.2})
    table = cells_table(found, frame)
    rows = selection_rows(table)
    assert rows[0][1:5] == ["test error %", "oracle", "leak [95% CI]", "best on val"]
    assert rows[1][1:5] == ["3.02", "2.82", "-0.20 [-0.45, +0.05]", "3.22"]
    assert rows[1][5:9] == ["0.3020", "0.3220", "+0.0200 [equal]", "0.2920"]
    assert "chosen on the test set" in selection_notes(table)[0]
    plain = frame[[name for name in frame if not str(name).startswith(("oracle", "best_val"))]]
    assert selection_rows(cells_table(found, plain)) == []
    assert selection_notes(cells_table(found, plain)) == []


def test_the_sampling_error_of_a_known_test_set_is_said() -> None:
    found = study([Erm(), Amp(epsilon=0.2)])
    frame = frame_of(found, {"Erm": 4.0, 0.2: 3.0})
    error = float(cells_table(found, frame)["test/error/mean"].to_numpy().min())
    spread = 100 * math.sqrt(error * (1 - error) / 1197)
    assert (
        f"{100 * error:.2f} ± {spread:.2f} % (Digits, 1,197 images)"
        in notes(frame, cells_table(found, frame), images_of(found, NOWHERE))[0]
    )
    spirals = [recipes.spirals_mlp(method, seed) for method in (Erm(), Amp(epsilon=0.2)) for seed in range(3)]
    spirals = [replace(trial, dataset=TwoSpirals(test_size=50)) for trial in spirals]
    made = Study(name="spirals", question="?", trials=spirals)
    frame = frame_of(made, {"Erm": 0.3, 0.2: 0.2})
    assert "(TwoSpirals, 100 images)" in notes(frame, cells_table(made, frame), images_of(made, NOWHERE))[0]


def study_of_own_images(*, test: Holdout | None = None) -> Study:
    digest = "0123456789abcdef" if test else "0123456789abcdef:fedcba9876543210"
    own = ImageFolder(digest=digest, classes=10, test=test)
    methods = Erm(), Amp(epsilon=0.2)
    trials = [replace(recipes.digits_mlp(method, seed), dataset=own) for method in methods for seed in range(3)]
    return Study(name="own", question="?", trials=[replace(one, validation=Holdout(fraction=0.2)) for one in trials])


def test_of_images_that_nobody_counted_the_formula_of_the_sampling_error_is_said(tmp_path: Path) -> None:
    found = study_of_own_images()
    train, _ = part_files(found.trials[0].dataset, tmp_path).values()
    Description(images=100, size=None, channels=3).write(train)  # of the test set there is none
    frame = frame_of(found, {"Erm": 0.3, 0.2: 0.2})
    said, *others = notes(frame, cells_table(found, frame), images_of(found, tmp_path))
    assert said.endswith(
        "an error e on n test images of ImageFolder has from them a standard error of √(e(1 - e) / n)."
    )
    assert not any("examples to train on" in line for line in others)


def test_of_two_sets_of_which_one_was_counted_nothing_is_said(tmp_path: Path) -> None:
    one, other = study_of_own_images(test=Holdout(fraction=0.5)), study_of_own_images()
    (part,) = part_files(one.trials[0].dataset, tmp_path).values()
    Description(images=100, size=None, channels=3).write(part)
    shipped = study([Erm()])
    both = Study(name="both", question="?", trials=[*one.trials, *other.trials, *shipped.trials])
    assert [images.dataset for images in images_of(both, tmp_path)] == ["Digits"]
    assert [images.test for images in images_of(one, tmp_path)] == [50]


@pytest.mark.parametrize(
    ("test", "counts", "said"),
    [
        (None, [102, 72], "82 examples to train on, 20 for validation, 72 in the test set."),
        (Holdout(fraction=0.25), [101], "61 examples to train on, 15 for validation, 25 in the test set."),
    ],
)
def test_how_many_images_of_ones_own_there_are_is_said(
    test: Holdout | None, counts: list[int], said: str, tmp_path: Path
) -> None:
    found = study_of_own_images(test=test)
    for part, count in zip(part_files(found.trials[0].dataset, tmp_path).values(), counts, strict=True):
        Description(images=count, size=32, channels=3).write(part)
    frame = frame_of(found, {"Erm": 0.3, 0.2: 0.2})
    first, second, *_ = notes(frame, cells_table(found, frame), images_of(found, tmp_path))
    assert second == f"ImageFolder has {said}"
    assert re.search(rf"\d ± \d+\.\d\d % \(ImageFolder, {said.split()[-5]} images\)\.$", first)


def test_way_down_leads_to_runs_commits_and_data() -> None:
    found = study([Erm(), Amp(epsilon=0.2)], 2)
    frame = frame_of(found, {"Erm": 0.3, 0.2: 0.2}, {(0.2, 1): "missing"})
    rows = [dict(zip(provenance_rows(frame)[0], row, strict=True)) for row in provenance_rows(frame)[1:]]
    assert [row["outcome"] for row in rows] == ["finished", "finished", "finished", "missing"]
    assert rows[0]["run"] == f"run-{found.trials[0].trial_id}"
    assert (rows[0]["commit"], rows[0]["torch"], rows[0]["data digest"]) == (
        "c0ffee",
        "2.14.1",
        found.trials[0].params()["dataset.digest"],
    )
    assert rows[3]["run"] == "–"


def test_blocks_have_short_titles_and_names() -> None:
    titles = {name: [block.title for block in blocks_of(built_in()[name])] for name in ("table1", "table2-small")}
    assert titles["table1"][:3] == ["Svhn PreActResNet18", "Svhn Vgg16", "Cifar10 PreActResNet18"]
    assert titles["table2-small"] == ["Mnist5k vanilla", "Mnist5k cutout", "Digits vanilla", "Digits cutout"]
    (fig8,) = blocks_of(built_in()["fig8-mnist5k"])
    assert list(fig8.names.values())[:2] == ["Erm", "Amp epsilon=0.02"]
    names = blocks_of(built_in()["table1"])[0].names
    assert names["Amp model=PreActResNet18 dataset=Svhn"] == "Amp"


def test_blocks_that_share_a_short_title_have_a_long_one() -> None:
    trials = [
        replace(trial, augment=Augment(flip="none", crop_padding=padding))
        for padding in (1, 2)
        for trial in study([Erm(), Amp(epsilon=0.2)]).trials
    ]
    found = blocks_of(Study(name="padded", question="?", trials=trials))
    assert [block.title for block in found] == ["Digits augment.crop_padding=1", "Digits augment.crop_padding=2"]


def test_a_parameter_that_is_a_list_is_its_text() -> None:
    trials = [replace(trial, lr_milestones=steps) for steps in ((20,), (10, 30)) for trial in study([Erm()]).trials]
    found = Study(name="steps", question="?", trials=trials)
    table = cells_table(found, frame_of(found, {"Erm": 0.3}))
    assert table["lr_milestones"].tolist() == ["[20]", "[10, 30]"]


def test_means_over_blocks_are_bootstrapped_from_five_on() -> None:
    for widths, expected in ((4, 0), (5, 1)):
        trials = [
            replace(trial, model=SmallCnn(width=width))
            for width in range(2, 2 + widths)
            for trial in study([Erm(), Amp(epsilon=0.2)]).trials
        ]
        found = Study(name="blocks", question="?", trials=trials)
        frame = frame_of(found, {"Erm": 0.3, 0.2: 0.2})
        frame["test/nll"] += frame["model.width"] * (frame["method"] == "Amp") / 100
        lines = over_blocks(frame, cells_table(found, frame))
        assert len(lines) == expected
    extra = [replace(trial, method=Rmp(epsilon=0.1)) for trial in trials[:2] if trial.method == Erm()]
    with_one = Study(name="blocks", question="?", trials=[*trials, *extra])
    frame = frame_of(with_one, {"Erm": 0.3, "Rmp": 0.3, 0.2: 0.2})
    assert "Rmp" not in over_blocks(frame, cells_table(with_one, frame))[0]
    # Differences -0.1 + width / 100 + mean jitter, widths 2 to 6.
    assert "over 5 blocks" in lines[0]
    assert f"Amp {-0.06 + sum(JITTER[:3]) / 3:+.4f} [-0.0" in lines[0]


def test_main_table_of_the_default_study_fits_a_terminal() -> None:
    fig8 = built_in()["fig8-mnist5k"]
    frame = frame_of(fig8, {"Erm": 0.3134, "Amp": 0.2})
    console = Console(width=500)
    shown = terminal_table(text_rows(fig8, frame, cells_table(fig8, frame)))
    assert console.measure(shown).maximum <= 120

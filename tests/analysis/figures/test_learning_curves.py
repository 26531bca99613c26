"""Curves over epochs: their means and intervals, seeds that end early, which cells are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from analysis.compare import estimate
from analysis.figures import learning_curves
from search_spaces import recipes
from search_spaces.study import Study
from tests.analysis.figures.materials import made_material, panel, points
from trainer.config import Amp, Erm, Method, TrialConfig

EPOCHS = 10
TWO: tuple[Method, ...] = (Erm(), Amp(epsilon=0.2))


def study_of(methods: Sequence[Method]) -> Study:
    trials = [recipes.digits_mlp(method, seed) for seed in range(3) for method in methods]
    return Study(name="made-up", question="?", trials=trials)


def nll(trial: TrialConfig, epoch: int) -> float:
    epsilon = trial.method.epsilon if isinstance(trial.method, Amp) else 0.0
    return 1.0 / epoch + epsilon + 0.01 * (trial.seed - 1)


def numbers(trial: TrialConfig) -> Mapping[str, float] | str:
    last = nll(trial, EPOCHS)
    return {f"{part}/{name}": last / by for part in ("val", "test") for name, by in (("nll", 1), ("error", 10))}


def epochs(trial: TrialConfig) -> Iterator[tuple[int, str, float]]:
    for epoch in range(1, EPOCHS + 1):
        value = nll(trial, epoch)
        yield from (
            (epoch, "train/criterion", value / 2),
            (epoch, "test/nll", value),
            (epoch, "test/error", value / 10),
        )


def diverging(at: int, value: float = 1e6) -> Callable[[TrialConfig], Iterator[tuple[int, str, float]]]:
    """As ``epochs``, but AMP's last seed is at ``value`` in the epoch ``at`` and then gone."""

    def found(trial: TrialConfig) -> Iterator[tuple[int, str, float]]:
        for epoch, metric, usual in epochs(trial):
            if isinstance(trial.method, Amp) and trial.seed == 2:
                if epoch <= at:
                    yield epoch, metric, value if epoch == at else usual
            else:
                yield epoch, metric, usual

    return found


def test_means_over_seeds_of_every_epoch() -> None:
    (drawn,) = learning_curves.draw(made_material(study_of(TWO), numbers, epochs))
    assert drawn.stem == "learning curves"
    assert [axes.get_title() for axes in drawn.figure.axes] == ["training criterion", "test NLL", "test error (%)"]
    expected = [(float(epoch), round(1 / epoch + 0.2, 6)) for epoch in range(1, EPOCHS + 1)]
    assert points(panel(drawn.figure, "test NLL"), "Amp") == expected
    in_per_cent = [(float(epoch), round(10 / epoch + 2, 6)) for epoch in range(1, EPOCHS + 1)]
    assert points(panel(drawn.figure, "test error (%)"), "Amp") == in_per_cent
    assert {line.get_marker() for line in panel(drawn.figure, "test NLL").lines} == {"s", "o"}


def test_intervals_are_student_t() -> None:
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(4, 5)), index=range(1, 5))
    wide.iloc[3, 1:] = np.nan
    line = learning_curves.by_epoch(wide)
    for epoch in (1, 2, 3):
        slow = estimate(wide.T[epoch])
        assert (line.mean[epoch], line.low[epoch], line.high[epoch]) == pytest.approx((slow.mean, slow.low, slow.high))
    assert line.seeds.tolist() == [5, 5, 5, 1]
    assert np.isnan(line.low[4])


def test_a_seed_that_diverges_is_not_averaged_away() -> None:
    def outcomes(trial: TrialConfig) -> Mapping[str, float] | str:
        return "diverged" if isinstance(trial.method, Amp) and trial.seed == 2 else numbers(trial)

    (drawn,) = learning_curves.draw(made_material(study_of(TWO), outcomes, diverging(at=4, value=1.5)))
    axes = panel(drawn.figure, "test NLL")
    assert [x for x, _ in points(axes, "Amp")] == [1, 2, 3, 4]
    (dashes,) = (line for line in axes.lines if line.is_dashed() and line.get_linewidth() == 1.0)
    found = np.asarray(dashes.get_xydata(), dtype=float)
    found = found[~np.isnan(found[:, 1])]
    assert found[:, 0].tolist() == [4, 5, 6, 7, 8, 9, 10]
    assert found[1, 1] == pytest.approx(1 / 5 + 0.2 - 0.005)  # of seeds 0 and 1
    ((epoch, _),) = points(axes, "a seed's last epoch")
    assert epoch == 4
    assert "dashed" in drawn.caption
    assert "1 diverged of 3" in drawn.caption


def test_a_seed_that_explodes_does_not_set_the_limits() -> None:
    (drawn,) = learning_curves.draw(made_material(study_of(TWO), numbers, diverging(at=2)))
    axes = panel(drawn.figure, "test NLL")
    assert axes.get_ylim()[1] < 2.0
    ((_, height),) = points(axes, "a seed's last epoch")
    assert height == pytest.approx(axes.get_ylim()[1], abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_ends_the_seed(value: float) -> None:
    (drawn,) = learning_curves.draw(made_material(study_of(TWO), numbers, diverging(at=4, value=value)))
    ((epoch, _),) = points(panel(drawn.figure, "test NLL"), "a seed's last epoch")
    assert epoch == 3


def test_of_many_cells_the_telling_ones_are_drawn_and_the_rest_named() -> None:
    radii = [0.2, 0.3, 0.4, 0.1, 0.5, 0.6, 0.9, 0.7, 0.8]
    study = study_of((Erm(), *(Amp(epsilon=epsilon) for epsilon in radii)))
    (drawn,) = learning_curves.draw(made_material(study, numbers, epochs))
    labels = [str(line.get_label()) for line in panel(drawn.figure, "test NLL").lines]
    assert labels == ["Erm", "Amp ε=0.2", "Amp ε=0.1", "Amp ε=0.9", "Amp ε=0.8"]  # first, chosen, highest, last
    assert "Left out: Amp ε=0.3, Amp ε=0.4, Amp ε=0.5, Amp ε=0.6, Amp ε=0.7." in drawn.caption
    markers = [line.get_marker() for line in panel(drawn.figure, "test NLL").lines]
    assert len(set(markers)) == len(markers)


def test_a_cell_without_epochs_is_named() -> None:
    def of_amp(trial: TrialConfig) -> Iterator[tuple[int, str, float]]:
        yield from epochs(trial) if isinstance(trial.method, Amp) else ()

    (drawn,) = learning_curves.draw(made_material(study_of(TWO), numbers, of_amp))
    assert "No epoch is known of Erm." in drawn.caption
    assert [line.get_label() for line in panel(drawn.figure, "test NLL").lines] == ["Amp"]


def test_no_history_is_no_figure() -> None:
    assert not list(learning_curves.draw(made_material(study_of(TWO), numbers)))

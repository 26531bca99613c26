from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch

from trainer.config import Erm, Mlp, TrialConfig, TwoSpirals
from trainer.data.load import load, load_part
from trainer.data.spirals import INNER_RADIUS, two_spirals
from trainer.loop import train
from trainer.machine import Machine

EXACT = TwoSpirals(train_size=300, test_size=200, noise=0, turns=2)


def coordinates(
    declared: TwoSpirals, part: Literal["train", "test"] = "train"
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """[points, 2], the first half of class 0."""
    return two_spirals(declared, part).images[:, :, 0, 0].double().numpy()


def trial(**changes: object) -> TrialConfig:
    """The network of the paper's Figures 5 and 6."""
    base = TrialConfig(
        method=Erm(),
        model=Mlp(hidden=(100, 100, 100), norm="none"),
        dataset=TwoSpirals(),
        seed=0,
        validation=None,
        evaluate="test",
        epochs=150,
        batch_size=20,
        lr=0.05,
        lr_milestones=(),
        lr_decay=0.1,
        momentum=0.9,
        weight_decay=0.0,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("part", "size"), [("train", 7), ("test", 11)])
def test_points_of_both_classes(part: Literal["train", "test"], size: int) -> None:
    found = two_spirals(TwoSpirals(train_size=7, test_size=11), part)
    assert found.images.shape == (2 * size, 2, 1, 1)
    assert (found.images.dtype, found.labels.dtype) == (torch.float32, torch.int64)
    assert found.labels.tolist() == [0] * size + [1] * size


def test_without_noise_points_lie_on_the_spirals() -> None:
    """The radius grows evenly with the angle, from the inner to the outer one, in two turns, half a turn apart."""
    points, labels = coordinates(EXACT), two_spirals(EXACT, "train").labels.numpy()
    radius = np.hypot(*points.T)
    angle = 2 * np.pi * 2 * (radius - INNER_RADIUS) / (1 - INNER_RADIUS) + np.pi * labels
    np.testing.assert_allclose(points.T, radius * np.array([np.cos(angle), np.sin(angle)]), atol=1e-5)
    assert INNER_RADIUS <= radius.min() < 0.1
    assert 0.98 < radius.max() <= 1
    assert abs(np.mean(radius) - (1 + INNER_RADIUS) / 2) < 0.05


def test_noise_is_in_units_of_the_outer_radius_and_alike_in_both_coordinates() -> None:
    moved = coordinates(dataclasses.replace(EXACT, noise=0.1, train_size=3000))
    moved -= coordinates(dataclasses.replace(EXACT, train_size=3000))
    assert np.std(moved, axis=0) == pytest.approx([0.1, 0.1], rel=0.05)
    assert np.abs(np.mean(moved, axis=0)).max() < 0.006
    assert abs(np.mean(moved[:, 0] * moved[:, 1])) < 0.05 * 0.1**2


def test_points_hang_on_the_fields_alone() -> None:
    same = dataclasses.replace(EXACT)
    assert np.array_equal(coordinates(same), coordinates(EXACT))
    for change in ({"seed": 1}, {"turns": 2.5}, {"noise": 0.1}):
        assert not np.array_equal(coordinates(dataclasses.replace(EXACT, **change)), coordinates(EXACT))


def test_parts_are_disjoint_and_the_size_of_one_is_nothing_to_the_other() -> None:
    train_points, test_points = coordinates(EXACT), coordinates(EXACT, "test")
    assert not {*map(tuple, train_points)} & {*map(tuple, test_points)}
    assert np.array_equal(coordinates(dataclasses.replace(EXACT, train_size=5), "test"), test_points)
    assert np.array_equal(coordinates(dataclasses.replace(EXACT, test_size=5)), train_points)


def test_points_are_those_of_every_version() -> None:
    found = coordinates(TwoSpirals())
    np.testing.assert_allclose(found[0], STORED[0], atol=1e-6)
    np.testing.assert_allclose(found[-1], STORED[1], atol=1e-6)


STORED = ((-0.0766712, 0.2453311), (0.1547758, 0.3665782))


def test_nothing_is_stored(fresh: Machine) -> None:
    data = load(trial(), fresh)
    assert (len(data.train), data.classes, data.scale.levels) == (200, 2, None)
    assert data.test is not None
    assert len(data.test) == 2000
    assert not fresh.data_dir.exists()


def test_each_coordinate_is_normalised_by_itself(fresh: Machine) -> None:
    part = load_part(TwoSpirals(), "train", fresh.data_dir)
    seen = load(trial(), fresh).scale.normalize(part.stored.images)
    assert seen.mean((0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert seen.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_the_papers_network_learns_them_and_a_line_does_not(fresh: Machine) -> None:
    last = [*train(trial(), fresh)][-1].metrics
    assert last["train/error"] == 0
    assert last["test/error"] < 0.1
    line = [*train(trial(model=Mlp(hidden=(), norm="none"), epochs=30), fresh)][-1].metrics
    assert line["train/error"] > 0.3

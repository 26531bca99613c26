from __future__ import annotations

import pytest

from search_spaces import recipes
from trainer.config import Augment, Cifar10, Cifar100, Dataset, Mnist5k, Svhn
from trainer.declaration import ConfigError

CIFAR = {"flip": "horizontal", "crop_padding": 4}
SVHN = {"flip": "none", "crop_padding": 2}


@pytest.mark.parametrize(
    ("dataset", "crop", "hole", "policy"),
    [(Cifar10(), CIFAR, 16, "cifar10"), (Cifar100(), CIFAR, 8, "cifar10"), (Svhn(), SVHN, 20, "svhn")],
)
def test_augmentation_is_the_papers(dataset: Dataset, crop: dict[str, object], hole: int, policy: str) -> None:
    fills: list[tuple[recipes.Protocol, str]] = [("as_written", "zero"), ("as_released", "gray")]
    for protocol, fill in fills:
        shared = {**crop, "crop_fill": fill}
        assert recipes.vanilla(dataset, protocol) == Augment(**shared)  # type: ignore[arg-type]
        assert recipes.cutout(dataset, protocol) == Augment(**shared, cutout=hole)  # type: ignore[arg-type]
        expected = Augment(**shared, cutout=hole, policy=policy)  # type: ignore[arg-type]
        assert recipes.autoaugment(dataset, protocol) == expected


@pytest.mark.parametrize(
    ("dataset", "mean", "std"),
    [
        (Cifar10(), (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
        (Cifar100(), (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
        (Svhn(), (109.9, 109.7, 113.8), (50.1, 50.6, 50.8)),
    ],
)
def test_normalisation_is_the_released_codes(dataset: Dataset, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    found = recipes.normalization(dataset)
    assert [255 * value for value in found.mean] == pytest.approx(mean)
    assert [255 * value for value in found.std] == pytest.approx(std)


def test_other_data_sets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"augments Cifar10, Cifar100, Svhn, not Mnist5k: declare an Augment or"):
        recipes.autoaugment(Mnist5k(), "as_written")
    with pytest.raises(ConfigError, match="not Mnist5k"):
        recipes.normalization(Mnist5k())

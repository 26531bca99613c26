from __future__ import annotations

import pytest

from search_spaces import recipes
from trainer.config import (
    Amp,
    Augment,
    Cifar10,
    Cifar100,
    Dataset,
    Dropout,
    Erm,
    Mnist5k,
    PreActResNet18,
    PyramidNet,
    Rmp,
    Svhn,
    TrialConfig,
    Vgg16,
    WideResNet,
)
from trainer.declaration import ConfigError

PROTOCOLS: tuple[recipes.Protocol, recipes.Protocol] = ("as_written", "as_released")

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


def test_table_1_as_written_follows_the_text() -> None:
    names = [type(method).__name__ for method in recipes.table1_methods(PreActResNet18(), "as_written")]
    assert names == ["Erm", "Dropout", "LabelSmoothing", "Flooding", "MixUp", "AdversarialTraining", "Rmp", "Amp"]
    methods = dict(zip(names, recipes.table1_methods(PreActResNet18(), "as_written"), strict=True))
    assert methods["Amp"] == Amp(epsilon=0.5, inner_lr=1.0, inner_steps=1, ball="global", bn_stats="clean")
    assert methods["Dropout"] == Dropout(rate=0.1, placement="relu")
    assert methods["Rmp"] == Rmp(epsilon=0.1, law="sphere", bn_stats="clean")
    vgg = recipes.table1_methods(Vgg16(), "as_written")[-1]
    assert vgg == Amp(epsilon=0.1, inner_lr=0.2)


def test_the_released_protocol_differs_where_the_notes_say_so_and_nowhere_else() -> None:
    written, released = (recipes.table1_methods(PreActResNet18(), protocol) for protocol in PROTOCOLS)
    differing = {type(one).__name__ for one, other in zip(written, released, strict=True) if one != other}
    assert differing == {"Dropout", "LabelSmoothing", "AdversarialTraining", "Rmp", "Amp"}
    trials = [
        recipes.paper_trial(Erm(), PreActResNet18(), Cifar10(), recipes.vanilla(Cifar10(), protocol), 0, protocol)
        for protocol in PROTOCOLS
    ]
    one, other = (trial.params() for trial in trials)
    found = {name for name in {*one, *other} if one.get(name) != other.get(name)}
    assert found == {
        "augment.crop_fill",
        "clip_gradients",
        "clip_gradients.max_norm",
        "clip_gradients.passes",
        "model.form",
        "momentum_form",
        "normalization",
        "normalization.mean",
        "normalization.std",
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_trial_of_the_paper_has_its_schedule_and_reads_the_test_set_alone(protocol: recipes.Protocol) -> None:
    for method in recipes.table1_methods(Vgg16(), protocol):
        trial = recipes.paper_trial(method, Vgg16(), Svhn(), recipes.vanilla(Svhn(), protocol), 3, protocol)
        assert (trial.epochs, trial.batch_size, trial.lr, trial.lr_milestones) == (200, 50, 0.1, (100, 150))
        assert (trial.momentum, trial.weight_decay, trial.lr_decay, trial.seed) == (0.9, 1e-4, 0.1, 3)
        assert (trial.validation, trial.evaluate) == (None, "test")
        assert TrialConfig.from_params(trial.params()) == trial


def test_table_2_has_its_settings_and_networks() -> None:
    assert recipes.TABLE2_AMP == {"vanilla": (0.5, 1.0), "cutout": (0.3, 0.5), "autoaugment": (0.1, 0.1)}
    assert recipes.in_form_of(WideResNet(), "as_released") == WideResNet(form="released")
    assert recipes.in_form_of(PyramidNet(), "as_released") == PyramidNet()

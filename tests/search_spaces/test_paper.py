"""The paper's numbers are those of the two CSV files, which were typed from the paper by others."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces import paper, recipes
from search_spaces.catalog import find
from trainer.config import (
    AdversarialTraining,
    Amp,
    Augment,
    Cifar10,
    Cifar100,
    Dataset,
    Dropout,
    Erm,
    Flooding,
    Holdout,
    LabelSmoothing,
    Method,
    MixUp,
    Model,
    PreActResNet18,
    PyramidNet,
    Rmp,
    Svhn,
    TrialConfig,
    Vgg16,
    WideResNet,
)

DATA = Path(__file__).parent / "data"
METHODS: Mapping[str, type[Method]] = {
    "ERM": Erm,
    "Dropout": Dropout,
    "Label Smoothing": LabelSmoothing,
    "Flooding": Flooding,
    "MixUp": MixUp,
    "Adv. Training": AdversarialTraining,
    "RMP": Rmp,
    "AMP": Amp,
}
MODELS: Mapping[str, type[Model]] = {
    "PreActResNet18": PreActResNet18,
    "VGG16": Vgg16,
    "WideResNet-28-10": WideResNet,
    "PyramidNet-164-270": PyramidNet,
}
DATASETS: Mapping[str, type[Dataset]] = {"SVHN": Svhn, "CIFAR-10": Cifar10, "CIFAR-100": Cifar100}
AUGMENTATIONS: Mapping[str, recipes.Augmentation] = {
    "Vanilla": "vanilla",
    "Cutout": "cutout",
    "AutoAug": "autoaugment",
}


def rows(name: str) -> Sequence[Mapping[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cell(row: Mapping[str, str]) -> paper.TableCell:
    augmentation = AUGMENTATIONS[row.get("augmentation", "Vanilla")]
    return paper.TableCell(METHODS[row["method"]], MODELS[row["architecture"]], DATASETS[row["dataset"]], augmentation)


def spread(row: Mapping[str, str], metric: str) -> paper.Spread:
    return paper.Spread(float(row[f"{metric}_mean"]), float(row[f"{metric}_std"]))


@pytest.mark.parametrize(
    ("name", "table", "size"), [("table1.csv", paper.TABLE1, 48), ("table2.csv", paper.TABLE2, 36)]
)
def test_every_number_is_the_files_and_none_is_missing(
    name: str, table: Mapping[paper.TableCell, paper.Published], size: int
) -> None:
    expected = {cell(row): row for row in rows(name)}
    assert set(table) == set(expected)
    assert len(table) == size
    for key, row in expected.items():
        assert table[key].error == spread(row, "test_error_pct"), key
        assert table[key].criterion == (spread(row, "test_nll") if name == "table1.csv" else None), key


def test_every_number_has_its_source() -> None:
    parts: dict[type[Dataset], str] = {Svhn: "Table 1 (a)", Cifar10: "Table 1 (b)", Cifar100: "Table 1 (c)"}
    assert all(printed.source == parts[key.dataset] for key, printed in paper.TABLE1.items())
    assert {printed.source for printed in paper.TABLE2.values()} == {"Table 2"}
    assert paper.COST_RATIO == (1.8, "§5.5")
    assert paper.FIG8_BEST_EPSILON == (0.06, "§5.4")


@pytest.mark.parametrize(
    ("name", "protocol", "table"),
    [
        ("table1", "as_written", paper.TABLE1),
        ("table1-released", "as_released", paper.TABLE1),
        ("table2", "as_written", paper.TABLE2),
        ("table2-released", "as_released", paper.TABLE2),
    ],
)
def test_every_cell_of_the_table_studies_repeats_its_own_of_the_paper(
    name: str, protocol: recipes.Protocol, table: Mapping[paper.TableCell, paper.Published]
) -> None:
    found: set[paper.TableCell] = set()
    for one in find(name).cells():
        trial = one.trials[0]
        kind = paper.augmentation(trial.augment)
        assert kind is not None
        key = paper.TableCell(type(trial.method), type(trial.model), type(trial.dataset), kind)
        assert [paper.repetition(repeated) for repeated in one.trials] == [(table[key], protocol)] * 10
        found.add(key)
    assert found == set(table)


TRIAL = recipes.vanilla_trial(Amp(epsilon=0.5), PreActResNet18(), Cifar10(), 0, "as_written")


def test_chance_and_rounding_make_no_other_repetition() -> None:
    expected = paper.Repetition(paper.TABLE1[paper.TableCell(Amp, PreActResNet18, Cifar10, "vanilla")], "as_written")
    assert expected.published.error == (3.97, 0.091)
    faster = replace(TRIAL, seed=77, precision="bfloat16", memory_format="channels_last")
    assert paper.repetition(TRIAL) == paper.repetition(faster) == expected


@pytest.mark.parametrize(
    "other",
    [
        replace(TRIAL, method=Amp(epsilon=0.4)),
        replace(TRIAL, method=Amp(epsilon=0.5, ball="per_tensor")),
        replace(TRIAL, model=PreActResNet18(width=16)),
        replace(TRIAL, epochs=201),
        replace(TRIAL, validation=Holdout(fraction=0.1), evaluate="val+test"),
        replace(TRIAL, augment=None),
        replace(TRIAL, augment=recipes.cutout(Cifar10(), "as_written")),
        recipes.digits_mlp(Erm(), 0),
    ],
    ids=["radius", "ball", "width", "epochs", "split", "no augmentation", "Cutout", "digits"],
)
def test_other_settings_are_no_repetition(other: TrialConfig) -> None:
    assert paper.repetition(other) is None


def test_an_augmentation_is_called_by_its_strongest_part() -> None:
    assert paper.augmentation(None) is None
    crop = Augment(flip="none", crop_padding=2)
    assert paper.augmentation(crop) == "vanilla"
    assert paper.augmentation(replace(crop, cutout=8)) == "cutout"
    assert paper.augmentation(replace(crop, policy="svhn", cutout=8)) == "autoaugment"
    assert paper.augmentation(replace(crop, policy="svhn")) == "autoaugment"

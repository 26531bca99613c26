"""The paper's published numbers, as printed: their only home.

"The paper" is Zheng, Zhang and Mao, "Regularizing Neural Networks via Adversarial Model Perturbation", CVPR 2021.
What it shows in figures alone (the curves of Figures 2 and 8, the bars of Figure 7) is not here: it prints no values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from search_spaces import recipes
from search_spaces.recipes import Augmentation, Protocol
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


class Spread(NamedTuple):
    """Mean and standard deviation over 10 trials. (The paper does not say whether it divides by 9 or by 10.)"""

    mean: float
    deviation: float


class TableCell(NamedTuple):
    """What a cell of Tables 1 and 2 is of. The tables have no network in common."""

    method: type[Method]
    model: type[Model]
    dataset: type[Dataset]
    augmentation: Augmentation


class Published(NamedTuple):
    """What the paper prints in a cell.

    error: top-1 test error in per cent; metrics of ours are fractions. criterion: Table 1's "Test NLL" in nats, None in
    Table 2. The authors' released code takes the method's own training criterion for it, our ``test/criterion``: that
    is the NLL for most methods, but not for label smoothing and flooding. source: the table.
    """

    error: Spread
    criterion: Spread | None
    source: str


class Stated(NamedTuple):
    """A number that stands in the text. source: its section."""

    value: float
    source: str


COST_RATIO = Stated(1.8, "§5.5")
"""Training time with AMP, N = 1, in units of ERM's: it "usually takes around" so much, on one V100."""
FIG8_BEST_EPSILON = Stated(0.06, "§5.4")
"""Where the test risk of Figure 8 is lowest: "around" so much; CIFAR-10, N = 2, ζ = 2 (misprinted as η)."""


_TABLE1_METHODS: tuple[type[Method], ...] = (
    Erm,
    Dropout,
    LabelSmoothing,
    Flooding,
    MixUp,
    AdversarialTraining,
    Rmp,
    Amp,
)
_TABLE1: Mapping[tuple[str, type[Dataset], type[Model]], tuple[tuple[float, float, float, float], ...]] = {
    # Error and its deviation, NLL and its deviation; a row a method.
    ("Table 1 (a)", Svhn, PreActResNet18): (
        (2.95, 0.063, 0.166, 0.004),
        (2.80, 0.065, 0.156, 0.012),
        (2.78, 0.087, 0.998, 0.002),
        (2.84, 0.047, 0.130, 0.003),
        (2.74, 0.044, 0.146, 0.004),
        (2.77, 0.080, 0.151, 0.018),
        (2.93, 0.066, 0.161, 0.010),
        (2.30, 0.025, 0.096, 0.002),
    ),
    ("Table 1 (a)", Svhn, Vgg16): (
        (3.14, 0.060, 0.140, 0.027),
        (2.96, 0.049, 0.134, 0.027),
        (3.07, 0.070, 1.004, 0.002),
        (3.15, 0.085, 0.128, 0.003),
        (3.09, 0.057, 0.160, 0.003),
        (2.94, 0.091, 0.122, 0.003),
        (3.19, 0.052, 0.134, 0.004),
        (2.73, 0.015, 0.116, 0.006),
    ),
    ("Table 1 (b)", Cifar10, PreActResNet18): (
        (5.02, 0.212, 0.239, 0.009),
        (4.86, 0.148, 0.223, 0.009),
        (4.85, 0.115, 1.038, 0.003),
        (4.97, 0.082, 0.166, 0.003),
        (4.09, 0.117, 0.198, 0.004),
        (4.99, 0.085, 0.247, 0.006),
        (4.97, 0.167, 0.239, 0.008),
        (3.97, 0.091, 0.129, 0.003),
    ),
    ("Table 1 (b)", Cifar10, Vgg16): (
        (6.32, 0.193, 0.361, 0.012),
        (6.22, 0.147, 0.314, 0.009),
        (6.29, 0.158, 1.076, 0.003),
        (6.26, 0.145, 0.234, 0.005),
        (5.48, 0.112, 0.251, 0.003),
        (6.49, 0.130, 0.380, 0.010),
        (6.30, 0.109, 0.363, 0.010),
        (5.65, 0.147, 0.207, 0.005),
    ),
    ("Table 1 (c)", Cifar100, PreActResNet18): (
        (24.31, 0.303, 1.056, 0.013),
        (24.48, 0.351, 1.110, 0.021),
        (22.07, 0.256, 2.099, 0.005),
        (24.50, 0.234, 0.950, 0.011),
        (21.78, 0.210, 0.910, 0.007),
        (25.23, 0.229, 1.110, 0.012),
        (24.28, 0.138, 1.059, 0.011),
        (21.51, 0.308, 0.774, 0.016),
    ),
    ("Table 1 (c)", Cifar100, Vgg16): (
        (27.84, 0.297, 1.827, 0.209),
        (27.72, 0.337, 1.605, 0.062),
        (27.49, 0.179, 2.310, 0.005),
        (27.93, 0.271, 1.221, 0.037),
        (26.81, 0.254, 1.136, 0.013),
        (29.12, 0.145, 1.535, 0.389),
        (27.81, 0.327, 1.873, 0.035),
        (25.60, 0.168, 1.049, 0.049),
    ),
}
_TABLE2_COLUMNS: tuple[tuple[type[Model], type[Method]], ...] = (
    (WideResNet, Erm),
    (WideResNet, Amp),
    (PyramidNet, Erm),
    (PyramidNet, Amp),
)
_TABLE2: Mapping[tuple[type[Dataset], Augmentation], tuple[tuple[float, float], ...]] = {
    (Svhn, "vanilla"): ((2.57, 0.067), (2.19, 0.036), (2.47, 0.034), (2.11, 0.041)),
    (Svhn, "cutout"): ((2.27, 0.085), (1.83, 0.018), (2.19, 0.021), (1.82, 0.023)),
    (Svhn, "autoaugment"): ((1.91, 0.059), (1.61, 0.024), (1.80, 0.044), (1.35, 0.056)),
    (Cifar10, "vanilla"): ((3.87, 0.167), (3.00, 0.059), (3.60, 0.197), (2.75, 0.040)),
    (Cifar10, "cutout"): ((3.38, 0.081), (2.67, 0.043), (2.83, 0.102), (2.27, 0.034)),
    (Cifar10, "autoaugment"): ((2.78, 0.134), (2.32, 0.097), (2.49, 0.128), (1.98, 0.062)),
    (Cifar100, "vanilla"): ((19.17, 0.270), (17.33, 0.110), (17.13, 0.210), (15.09, 0.092)),
    (Cifar100, "cutout"): ((18.12, 0.114), (16.04, 0.071), (16.45, 0.136), (14.34, 0.153)),
    (Cifar100, "autoaugment"): ((17.79, 0.185), (14.95, 0.088), (15.43, 0.269), (13.36, 0.245)),
}


def _table1() -> Iterator[tuple[TableCell, Published]]:
    for (source, dataset, model), rows in _TABLE1.items():
        for method, (error, error_deviation, nll, nll_deviation) in zip(_TABLE1_METHODS, rows, strict=True):
            printed = Published(Spread(error, error_deviation), Spread(nll, nll_deviation), source)
            yield TableCell(method, model, dataset, "vanilla"), printed


def _table2() -> Iterator[tuple[TableCell, Published]]:
    for (dataset, augmentation), row in _TABLE2.items():
        for (model, method), error in zip(_TABLE2_COLUMNS, row, strict=True):
            yield TableCell(method, model, dataset, augmentation), Published(Spread(*error), None, "Table 2")


TABLE1: Mapping[TableCell, Published] = dict(_table1())
"""Error and NLL of eight methods with two networks on three data sets (§5.1)."""
TABLE2: Mapping[TableCell, Published] = dict(_table2())
"""Error of ERM and AMP with two networks and three augmentations on three data sets (§5.2)."""


class Repetition(NamedTuple):
    """A trial that repeats one of the paper's, and after which of the two protocols."""

    published: Published
    protocol: Protocol


def repetition(trial: TrialConfig) -> Repetition | None:
    """What the paper prints of trials with the settings of ``trial``; None for any other trial.

    All settings must be a table's, seed, precision and memory format aside: AMP with another ε is none of Table 1's. To
    set such a trial beside its cell all the same, look up ``TABLE1[TableCell(...)]`` and say that its settings differ.
    """
    protocol = _protocols().get(_plain(trial))
    kind = augmentation(trial.augment)
    if protocol is None or kind is None:
        return None
    cell = TableCell(type(trial.method), type(trial.model), type(trial.dataset), kind)
    return Repetition((TABLE1.get(cell) or TABLE2[cell]), protocol)


@functools.cache
def _protocols() -> Mapping[TrialConfig, Protocol]:
    return {
        _plain(trial): protocol
        for protocol in recipes.PROTOCOLS
        for trial in (*recipes.table1_trials(protocol, [0]), *recipes.table2_trials(protocol, [0]))
    }


def _plain(trial: TrialConfig) -> TrialConfig:
    """Without what changes chance and rounding alone."""
    return dataclasses.replace(trial, seed=0, precision="float32", memory_format="contiguous")


def augmentation(augment: Augment | None) -> Augmentation | None:
    """What §5.2 calls this augmentation, by its strongest part; None for none."""
    if augment is None:
        return None
    if augment.policy != "none":
        return "autoaugment"
    return "cutout" if augment.cutout else "vanilla"

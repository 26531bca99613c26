"""The paper's hyper-parameters and the settings of the small studies, as functions: their only home.

Each gives one trial of a method and a seed; a study varies the rest with ``dataclasses.replace``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from trainer.config import (
    AdversarialTraining,
    Amp,
    Augment,
    Cifar10,
    Cifar100,
    ClipGradients,
    Dataset,
    Digits,
    Dropout,
    Erm,
    Flooding,
    Holdout,
    LabelSmoothing,
    Method,
    MixUp,
    Mlp,
    Mnist5k,
    Model,
    Normalization,
    PreActResNet18,
    PyramidNet,
    Rmp,
    SmallCnn,
    Svhn,
    TrialConfig,
    TwoSpirals,
    Vgg16,
    WideResNet,
)
from trainer.declaration import ConfigError

Protocol = Literal["as_written", "as_released"]
"""The paper's text, or what the authors' released code does besides."""
PROTOCOLS: tuple[Protocol, ...] = ("as_written", "as_released")
Augmentation = Literal["vanilla", "cutout", "autoaugment"]
"""What the images go through in training, in the words of §5.2."""

SEEDS = range(5)
PAPER_SEEDS = range(10)
"""Tables 1 and 2 are over 10 trials a cell (their captions)."""


def fig8_amp(epsilon: float) -> Amp:
    """AMP as in Figure 8: ζ = 2, N = 2 (paper, §5.4, where ζ is misprinted as η), Algorithm 1's global ball."""
    return Amp(epsilon=epsilon, inner_lr=2.0, inner_steps=2, ball="global")


def mnist5k_mlp(method: Method, seed: int) -> TrialConfig:
    """A small network with BatchNorm on 1,000 digits, in the overfitting regime that AMP needs.

    Momentum, weight decay, batch size and the two divisions of η by ten are the paper's (§5.1); the rest is sized for
    two CPU cores.
    """
    return TrialConfig(
        method=method,
        model=Mlp(hidden=(128, 128), norm="batch"),
        dataset=Mnist5k(),
        seed=seed,
        validation=Holdout(fraction=0.5),
        evaluate="val+test",
        epochs=30,
        batch_size=50,
        lr=0.05,
        lr_milestones=(15, 22),
        lr_decay=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )


def mnist5k_cnn(method: Method, seed: int) -> TrialConfig:
    """The same with a small convolutional network."""
    return dataclasses.replace(mnist5k_mlp(method, seed), model=SmallCnn(width=8))


def digits_mlp(method: Method, seed: int) -> TrialConfig:
    """A smaller network without BatchNorm on 400 digits of 8 × 8 pixels: a trial takes a fraction of a second."""
    return TrialConfig(
        method=method,
        model=Mlp(hidden=(64, 64), norm="none"),
        dataset=Digits(),
        seed=seed,
        validation=Holdout(fraction=1 / 3),
        evaluate="val+test",
        epochs=40,
        batch_size=50,
        lr=0.05,
        lr_milestones=(20, 30),
        lr_decay=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )


def digits_cnn(method: Method, seed: int) -> TrialConfig:
    """The same with a small convolutional network, which has BatchNorm."""
    return dataclasses.replace(digits_mlp(method, seed), model=SmallCnn(width=16))


CNN_EPSILON = 0.1
"""Of the radii 0.1 and 0.3 the better one on validation for both small convolutional networks."""
SPIRALS_AMP = Amp(epsilon=0.1)
"""Of 0.1 and 0.2 the radius that leaves no training point on the wrong side of the boundary."""


def spirals_mlp(method: Method, seed: int) -> TrialConfig:
    """A feed-forward network on 100 points a class, as in Figure 6, of which the paper gives no settings.

    Without momentum AMP underfits, and with twice the radius it begins to. That was seen on training points and on
    others of the same law, not on the test set.
    """
    return TrialConfig(
        method=method,
        model=Mlp(hidden=(100, 100, 100), norm="none"),
        dataset=TwoSpirals(),
        seed=seed,
        validation=None,
        evaluate="test",
        epochs=500,
        batch_size=20,
        lr=0.05,
        lr_milestones=(250, 375),
        lr_decay=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )


class _Published(NamedTuple):
    """What the authors' released code does to the images of one data set; the text gives no figures."""

    flip: Literal["horizontal", "none"]
    crop_padding: int
    hole: int
    policy: Literal["cifar10", "svhn"]
    normalization: Normalization


def _of_255(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
    """Constants published in levels."""
    return Normalization(mean=tuple(value / 255 for value in mean), std=tuple(value / 255 for value in std))


_PUBLISHED: Mapping[type[Dataset], _Published] = {
    Cifar10: _Published("horizontal", 4, 16, "cifar10", _of_255((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))),
    Cifar100: _Published("horizontal", 4, 8, "cifar10", _of_255((129.3, 124.1, 112.4), (68.2, 65.4, 70.4))),
    Svhn: _Published("none", 2, 20, "svhn", _of_255((109.9, 109.7, 113.8), (50.1, 50.6, 50.8))),
}


def _published(dataset: Dataset) -> _Published:
    if type(dataset) not in _PUBLISHED:
        names = ", ".join(known.__name__ for known in _PUBLISHED)
        name = type(dataset).__name__
        raise ConfigError(f"the paper augments {names}, not {name}: declare an Augment or Normalization of your own")
    return _PUBLISHED[type(dataset)]


def normalization(dataset: Dataset) -> Normalization:
    """The constants of the released code. Raises ConfigError for a data set that the paper does not have."""
    return _published(dataset).normalization


def vanilla(dataset: Dataset, protocol: Protocol) -> Augment:
    """Random crop, and flip where that leaves the class (§5.1; §5.2, "vanilla"). Raises ConfigError as above.

    The text flips without exception; digits are not flipped here in either protocol, as in the released code.
    The released code fills what a crop uncovers with gray; the text says nothing, so as written it is the usual zero.
    """
    known = _published(dataset)
    fill: Literal["zero", "gray"] = "gray" if protocol == "as_released" else "zero"
    return Augment(flip=known.flip, crop_padding=known.crop_padding, crop_fill=fill)


def cutout(dataset: Dataset, protocol: Protocol) -> Augment:
    """Vanilla, and a square hole (§5.2, "Cutout"). Raises ConfigError as above."""
    return dataclasses.replace(vanilla(dataset, protocol), cutout=_published(dataset).hole)


def autoaugment(dataset: Dataset, protocol: Protocol) -> Augment:
    """Cutout, and the policy found on CIFAR-10 or SVHN (§5.2, "AutoAugment"). Raises ConfigError as above."""
    return dataclasses.replace(cutout(dataset, protocol), policy=_published(dataset).policy)


def amp(epsilon: float, inner_lr: float, protocol: Protocol) -> Amp:
    """AMP with one inner step: the ball over all weights as written, one for each tensor as released."""
    if protocol == "as_written":
        return Amp(epsilon=epsilon, inner_lr=inner_lr)
    return Amp(epsilon=epsilon, inner_lr=inner_lr, ball="per_tensor", bn_stats="all")


TABLE1_AMP: Mapping[type[Model], tuple[float, float]] = {PreActResNet18: (0.5, 1.0), Vgg16: (0.1, 0.2)}
"""ε and ζ of Table 1 (§5.1, where ζ is misprinted as γ)."""
TABLE2_AMP: Mapping[Augmentation, tuple[float, float]] = {
    "vanilla": (0.5, 1.0),
    "cutout": (0.3, 0.5),
    "autoaugment": (0.1, 0.1),
}
"""ε and ζ of Table 2 (§5.2), for both of its networks."""


RELEASED_ADVERSARIAL_TRAINING = AdversarialTraining(
    step=1.0, unit="normalized", start="random", gradient_mode="eval", clip="none", bn_stats="adversarial"
)


def table1_methods(model: PreActResNet18 | Vgg16, protocol: Protocol) -> tuple[Method, ...]:
    """The eight methods of Table 1 with the settings of §5.1, in its order."""
    return (*_rivals(protocol), amp(*TABLE1_AMP[type(model)], protocol))


def _rivals(protocol: Protocol) -> tuple[Method, ...]:
    if protocol == "as_written":
        return (
            Erm(),
            Dropout(rate=0.1),
            LabelSmoothing(smoothing=0.2),
            Flooding(level=0.02),
            MixUp(alpha=1.0),
            AdversarialTraining(step=1.0),
            Rmp(epsilon=0.1),
        )
    return (
        Erm(),
        Dropout(rate=0.1, placement="released"),
        LabelSmoothing(smoothing=0.2, spread="other_classes"),
        Flooding(level=0.02),
        MixUp(alpha=1.0),
        RELEASED_ADVERSARIAL_TRAINING,
        Rmp(epsilon=0.1, law="box", bn_stats="perturbed"),
    )


def in_form_of(model: Model, protocol: Protocol) -> Model:
    """``model`` in its published form as written, in its released one, where that differs, as released."""
    if isinstance(model, PreActResNet18 | WideResNet):
        return dataclasses.replace(model, form="published" if protocol == "as_written" else "released")
    return model


def paper_trial(
    method: Method, model: Model, dataset: Dataset, augment: Augment | None, seed: int, protocol: Protocol
) -> TrialConfig:
    """A trial of Table 1 or 2: SGD, η = 0.1, divided by ten after epochs 100 and 150 of 200, batch 50 (§5.1).

    It is trained on the whole training set and evaluated on the test set. As released SGD has Nesterov's momentum, the
    optimizer's gradient is clipped at a norm of 50 and images are normalised with published constants; as written with
    those of the training set. Raises ConfigError for a data set that the released code has no constants for.
    """
    written = TrialConfig(
        method=method,
        model=in_form_of(model, protocol),
        dataset=dataset,
        seed=seed,
        validation=None,
        evaluate="test",
        epochs=200,
        batch_size=50,
        lr=0.1,
        lr_milestones=(100, 150),
        lr_decay=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        augment=augment,
    )
    if protocol == "as_written":
        return written
    return dataclasses.replace(
        written,
        momentum_form="nesterov",
        clip_gradients=ClipGradients(max_norm=50.0, passes="outer"),
        normalization=normalization(dataset),
    )


def vanilla_trial(method: Method, model: Model, dataset: Dataset, seed: int, protocol: Protocol) -> TrialConfig:
    """A trial as in Table 1, of any method and network: ``paper_trial`` with vanilla augmentation."""
    return paper_trial(method, model, dataset, vanilla(dataset, protocol), seed, protocol)


PAPER_DATASETS: tuple[Dataset, ...] = (Svhn(), Cifar10(), Cifar100())
TABLE1_MODELS: tuple[PreActResNet18 | Vgg16, ...] = (PreActResNet18(), Vgg16())
TABLE2_MODELS: tuple[Model, ...] = (WideResNet(), PyramidNet())
AUGMENTATIONS: Mapping[Augmentation, Callable[[Dataset, Protocol], Augment]] = {
    "vanilla": vanilla,
    "cutout": cutout,
    "autoaugment": autoaugment,
}


def table1_trials(protocol: Protocol, seeds: Iterable[int]) -> Iterator[TrialConfig]:
    """Table 1: eight methods with two networks on three data sets, seed by seed."""
    for seed, dataset, model in itertools.product(seeds, PAPER_DATASETS, TABLE1_MODELS):
        for method in table1_methods(model, protocol):
            yield vanilla_trial(method, model, dataset, seed, protocol)


def table2_trials(protocol: Protocol, seeds: Iterable[int]) -> Iterator[TrialConfig]:
    """Table 2: ERM and AMP with two networks and three augmentations on three data sets, seed by seed."""
    for seed, dataset, model, kind in itertools.product(seeds, PAPER_DATASETS, TABLE2_MODELS, AUGMENTATIONS):
        augment = AUGMENTATIONS[kind](dataset, protocol)
        for method in (Erm(), amp(*TABLE2_AMP[kind], protocol)):
            yield paper_trial(method, model, dataset, augment, seed, protocol)


MNIST5K_AMP = Amp(epsilon=0.5, inner_lr=1.0)
"""The paper's setting for its network with BatchNorm, PreActResNet18."""
DIGITS_AMP = Amp(epsilon=0.2, inner_lr=1.0)
"""Of the radii 0.1, 0.2 and 0.5 the one with the lowest validation NLL."""
MNIST5K_TABLE1 = (*_rivals("as_written"), MNIST5K_AMP)
"""Table 1's eight methods for ``mnist5k_mlp``, in its order."""
DIGITS_TABLE1 = tuple(
    AdversarialTraining(step=16 / 255) if isinstance(method, AdversarialTraining) else method
    for method in (*_rivals("as_written"), DIGITS_AMP)
)
"""The same for ``digits_mlp``, whose images have 16 levels above black: a step of one level of 255 is a 16th of one."""
MNIST5K_AUGMENT: Mapping[Augmentation, Augment] = {
    "vanilla": Augment(flip="none", crop_padding=2),
    "cutout": Augment(flip="none", crop_padding=2, cutout=7),
}
DIGITS_AUGMENT: Mapping[Augmentation, Augment] = {
    "vanilla": Augment(flip="none", crop_padding=1),
    "cutout": Augment(flip="none", crop_padding=1, cutout=2),
}
"""Crops and holes for small images: a hole takes a quarter of the side, as for CIFAR-100; digits are never flipped."""
TABLE2_SMALL_AMP: Mapping[Augmentation, Amp] = {"vanilla": Amp(epsilon=0.1), "cutout": Amp(epsilon=0.03)}
"""Of a few radii those with the lowest validation NLL; as in Table 2 stronger augmentation wants a smaller one.

(With Cutout on digits no radius tried had a lower one than ERM.)
"""


def mnist5k_augmented(method: Method, kind: Augmentation, seed: int) -> TrialConfig:
    """``mnist5k_mlp`` with augmentation, and twice as long."""
    longer = dataclasses.replace(mnist5k_mlp(method, seed), epochs=60, lr_milestones=(30, 45))
    return dataclasses.replace(longer, augment=MNIST5K_AUGMENT[kind])


def digits_augmented(method: Method, kind: Augmentation, seed: int) -> TrialConfig:
    """``digits_cnn`` with augmentation."""
    return dataclasses.replace(digits_cnn(method, seed), augment=DIGITS_AUGMENT[kind])


def table2_small_trials(seeds: Iterable[int]) -> Iterator[TrialConfig]:
    """ERM and AMP on top of crops and of Cutout on two small sets, seed by seed."""
    for seed, trial, kind in itertools.product(seeds, (mnist5k_augmented, digits_augmented), TABLE2_SMALL_AMP):
        for method in (Erm(), TABLE2_SMALL_AMP[kind]):
            yield trial(method, kind, seed)

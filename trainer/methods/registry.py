"""From a method's declaration to its gradient."""

from __future__ import annotations

import torch

from trainer.config import (
    AdversarialTraining,
    Amp,
    ClipGradients,
    Dropout,
    Erm,
    Flooding,
    LabelSmoothing,
    MixUp,
    Rmp,
    Sam,
)
from trainer.config import Method as Declared
from trainer.data.pixels import PixelScale
from trainer.methods.adversarial_training import AdversarialTrainingMethod
from trainer.methods.amp import AmpMethod
from trainer.methods.base import Method
from trainer.methods.dropout import DropoutMethod
from trainer.methods.erm import ErmMethod
from trainer.methods.flooding import FloodingMethod
from trainer.methods.label_smoothing import LabelSmoothingMethod
from trainer.methods.mixup import MixUpMethod
from trainer.methods.rmp import RmpMethod
from trainer.methods.sam import SamMethod


def build_method(
    declared: Declared, noise: torch.Generator, scale: PixelScale | None = None, clip: ClipGradients | None = None
) -> Method:
    """The method that ``declared`` names, with no epoch behind it.

    noise: where it draws from, on its device. scale: of the images; only adversarial training needs it. clip: see
    ``trainer.config.ClipGradients``; the optimizer's gradient is clipped by whoever calls the optimizer.
    """
    method = _method(declared, noise, scale)
    method.max_norm = clip.max_norm if clip is not None and clip.passes == "every" else None
    return method


def _method(declared: Declared, noise: torch.Generator, scale: PixelScale | None) -> Method:
    match declared:
        case Erm():
            return ErmMethod()
        case Dropout():
            return DropoutMethod(declared, noise)
        case LabelSmoothing():
            return LabelSmoothingMethod(declared)
        case Flooding():
            return FloodingMethod(declared)
        case MixUp():
            return MixUpMethod(declared, noise)
        case AdversarialTraining():
            return AdversarialTrainingMethod(declared, noise, scale)
        case Rmp():
            return RmpMethod(declared, noise)
        case Amp():
            return AmpMethod(declared)
        case Sam():
            return SamMethod(declared)

"""From a method's declaration to its gradient."""

from __future__ import annotations

import torch

from trainer.config import Amp, Erm, Flooding, LabelSmoothing, MixUp, Rmp, Sam
from trainer.config import Method as Declared
from trainer.methods.amp import AmpMethod
from trainer.methods.base import Method
from trainer.methods.erm import ErmMethod
from trainer.methods.flooding import FloodingMethod
from trainer.methods.label_smoothing import LabelSmoothingMethod
from trainer.methods.mixup import MixUpMethod
from trainer.methods.rmp import RmpMethod
from trainer.methods.sam import SamMethod


def build_method(declared: Declared, noise: torch.Generator) -> Method:
    """The method that ``declared`` names, with no epoch behind it. ``noise``: where it draws from, on its device."""
    match declared:
        case Erm():
            return ErmMethod()
        case LabelSmoothing():
            return LabelSmoothingMethod(declared)
        case Flooding():
            return FloodingMethod(declared)
        case MixUp():
            return MixUpMethod(declared, noise)
        case Rmp():
            return RmpMethod(declared, noise)
        case Amp():
            return AmpMethod(declared)
        case Sam():
            return SamMethod(declared)

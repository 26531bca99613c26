"""From a method's declaration to its gradient."""

from __future__ import annotations

from trainer.config import Amp, Erm
from trainer.config import Method as Declared
from trainer.methods.amp import AmpMethod
from trainer.methods.base import Method
from trainer.methods.erm import ErmMethod


def build_method(declared: Declared) -> Method:
    """The method that ``declared`` names, with no epoch behind it."""
    match declared:
        case Erm():
            return ErmMethod()
        case Amp():
            return AmpMethod(declared)

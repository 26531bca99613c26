"""Label smoothing (Szegedy et al., CVPR 2016): cross-entropy against softened targets.

Setting of the paper (§5.1): 0.2. Where the text and the authors' released code differ: ``spread``.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from trainer.config import LabelSmoothing
from trainer.methods.erm import ErmMethod


class LabelSmoothingMethod(ErmMethod):
    """ERM on the smoothed cross-entropy. Its minimum is not 0, which is why the paper's tables show NLLs above 0.9."""

    def __init__(self, settings: LabelSmoothing) -> None:
        self.settings = settings

    def criterion(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing, classes = self.settings.smoothing, logits.shape[1]
        if self.settings.spread == "other_classes":
            # 1 - s and s/(K-1) are the uniform mixture with s·K/(K-1).
            smoothing *= classes / (classes - 1)
        uniform = -functional.log_softmax(logits, dim=1).mean()
        # Not cross_entropy's own smoothing: with few classes the share of the uniform distribution can exceed 1.
        return (1 - smoothing) * functional.cross_entropy(logits, labels) + smoothing * uniform

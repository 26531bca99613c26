"""Error, negative log-likelihood and expected calibration error of a classifier, in one pass over its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ECE_BINS = 15


@dataclass(frozen=True, slots=True)
class ClassificationMetrics:
    """error and ece are fractions in [0, 1]; nll is the mean natural-log loss in nats."""

    error: float
    nll: float
    ece: float


def classification_metrics(logits: Tensor, labels: Tensor) -> ClassificationMetrics:
    """Metrics of ``logits`` [n, classes] (any float dtype) against class numbers ``labels`` [n].

    ECE is the confidence-weighted calibration gap of Guo et al. 2017 (paper, §5.3) with 15 equal-width bins (lo, hi].
    Computed in float64, so that neither large logits nor half precision lose anything. Raises ValueError for shapes
    that do not fit or no examples.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.numel() == 0:
        shapes = f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
        raise ValueError(f"{shapes}: must be [n, classes] and [n], not empty")
    log_probabilities = torch.log_softmax(logits.detach().double(), dim=1)
    log_confidence, predicted = log_probabilities.max(dim=1)
    wrong = (predicted != labels).double()
    nll = -log_probabilities.gather(1, labels.long().unsqueeze(1)).mean()
    ece = _calibration_error(log_confidence.exp(), 1 - wrong)
    return ClassificationMetrics(*torch.stack([wrong.mean(), nll, ece]).tolist())


def confidence_bins(confidence: Tensor, bins: int = ECE_BINS) -> Tensor:
    """The equal-width bin (lo, hi] that each of ``confidence`` [n] lies in: int64 [n], from 0 on."""
    edges = torch.arange(1, bins, dtype=confidence.dtype, device=confidence.device) / bins
    return torch.bucketize(confidence, edges)


def _calibration_error(confidence: Tensor, correct: Tensor) -> Tensor:
    bins = confidence_bins(confidence)
    gaps = torch.zeros(ECE_BINS, dtype=confidence.dtype, device=confidence.device)
    gaps.index_add_(0, bins, confidence - correct)
    return gaps.abs().sum() / len(confidence)

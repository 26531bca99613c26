"""Reliability: confidence and accuracy in bins of the confidence (Guo et al., ICML 2017, §2; the paper's §5.3)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.measurement import Measurement
from trainer.metrics import confidence_bins
from trainer.probe_config import Calibration
from trainer.probes.risk import predict
from trainer.trained import TrainedModel


def measure_calibration(probe: Calibration, trained: TrainedModel) -> Measurement:
    """On PART, ``test`` or, for a search trial, ``val``.

    ``probe/calibration/PART/ece``, Σ count/n · |accuracy - confidence|: with 15 bins the trial's own ``PART/ece``.
    ``probe/calibration/PART/mce``: the largest gap of a bin that is not empty. Arrays: ``edges`` [bins + 1];
    ``PART/count``, ``PART/confidence`` (the mean), ``PART/accuracy`` [bins], NaN in empty bins.
    """
    part = trained.held_out
    count, confidence, accuracy = reliability(*predict(trained.model, trained.sample(part)), probe.bins)
    gaps = np.abs(accuracy - confidence)[count > 0]
    ece = float((count[count > 0] * gaps).sum() / count.sum())
    metrics = {f"probe/calibration/{part}/ece": ece, f"probe/calibration/{part}/mce": float(gaps.max())}
    columns = {f"{part}/count": count, f"{part}/confidence": confidence, f"{part}/accuracy": accuracy}
    return Measurement(metrics, {"edges": np.arange(probe.bins + 1) / probe.bins, **columns})


def reliability(
    logits: Tensor, labels: Tensor, bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, mean confidence and accuracy [bins] of ``logits`` [n, classes] against ``labels`` [n]."""
    log_confidence, predicted = torch.log_softmax(logits.double(), dim=1).max(dim=1)
    confidence = log_confidence.exp()
    places = confidence_bins(confidence, bins).cpu().numpy()
    count = np.bincount(places, minlength=bins)

    def mean(values: Tensor) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # an empty bin has none
            return np.asarray(np.bincount(places, weights=values.cpu().numpy(), minlength=bins) / count)

    return count, mean(confidence), mean((predicted == labels).double())

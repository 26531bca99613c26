"""SAM's sharpness at several radii (Foret et al., ICLR 2021, equations 1 and 2).

max over ‖ε‖ ≤ ρ of L(θ + ε) - L(θ), with the maximum where the linearised loss has it: ε = ρ·g/‖g‖, g = ∇L(θ).
"""

from __future__ import annotations

import numpy as np
import torch

from trainer.measurement import Measurement
from trainer.methods.base import global_norm, restored, trained_parameters
from trainer.methods.sam import TINY
from trainer.probe_config import Sharpness, in_metric_name
from trainer.probes.risk import risk, risk_and_gradient
from trainer.trained import TrainedModel


@torch.no_grad()
def measure_sharpness(probe: Sharpness, trained: TrainedModel) -> Measurement:
    """``probe/sharpness/RHO`` in nats.

    Arrays: ``radii`` and ``sharpness`` [radii]; ``loss`` L(θ) and ``gradient_norm`` ‖g‖ [].
    """
    model, theta = trained.model, trained_parameters(trained.model)
    sample, rises = trained.sample("train", probe.examples), []
    loss = risk(model, sample)
    _, ascent = risk_and_gradient(model, theta, sample)
    norm = global_norm(ascent).item()
    for rho in probe.radii:
        with restored(theta):
            torch._foreach_add_(theta, ascent, alpha=rho / (norm + TINY))
            rises.append(risk(model, sample) - loss)
    metrics = {f"probe/sharpness/{in_metric_name(rho)}": rise for rho, rise in zip(probe.radii, rises, strict=True)}
    arrays = {"radii": probe.radii, "sharpness": rises, "loss": loss, "gradient_norm": norm}
    return Measurement(metrics, {name: np.array(values) for name, values in arrays.items()})

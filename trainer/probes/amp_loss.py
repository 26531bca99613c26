"""The measured AMP loss at several radii: what AMP minimises, with the whole sample as one mini-batch.

L_AMP(θ) = max over ‖Δ‖ ≤ ε of L(θ + Δ) (paper, equation 4), with the maximum where Algorithm 1 (lines 4 to 11) looks
for it: N steps Δ ← Δ + ζ·∇L(θ + Δ), each brought back into the ball.
"""

from __future__ import annotations

import numpy as np
import torch

from trainer.config import Amp
from trainer.measurement import Measurement
from trainer.methods.amp import ascend
from trainer.methods.base import restored, trained_parameters
from trainer.probe_config import AmpLoss, in_metric_name
from trainer.probes.risk import risk, risk_and_gradient
from trainer.trained import TrainedModel


@torch.no_grad()
def measure_amp_loss(probe: AmpLoss, trained: TrainedModel) -> Measurement:
    """``probe/amp_loss/EPSILON`` in nats.

    Arrays: ``radii``, ``amp_loss`` L(θ + Δ), ``delta_norm`` ‖Δ‖, ``clip_fraction`` [radii]; ``loss`` L(θ) [].
    """
    model, theta = trained.model, trained_parameters(trained.model)
    sample, rows = trained.sample("train", probe.examples), []
    for epsilon in probe.radii:
        settings = Amp(epsilon=epsilon, inner_lr=probe.inner_lr, inner_steps=probe.inner_steps, ball=probe.ball)
        with restored(theta) as origin:
            step = ascend(lambda: risk_and_gradient(model, theta, sample), theta, origin, settings)
            rows.append((risk(model, sample), step.delta_norm.item(), step.clip_fraction.item()))
    names = ("amp_loss", "delta_norm", "clip_fraction")
    arrays = dict(zip(names, np.array(rows).T, strict=True))
    named = zip(map(in_metric_name, probe.radii), rows, strict=True)
    metrics = {f"probe/amp_loss/{epsilon}": row[0] for epsilon, row in named}
    return Measurement(metrics, arrays | {"radii": np.array(probe.radii), "loss": np.array(risk(model, sample))})

"""From a probe's declaration to what it measures."""

from __future__ import annotations

from trainer.measurement import Measurement
from trainer.probe_config import (
    AmpLoss,
    Calibration,
    DecisionBoundary,
    Hessian,
    LossAlongDirections,
    Probe,
    Sharpness,
)
from trainer.probes.amp_loss import measure_amp_loss
from trainer.probes.boundary import measure_boundary
from trainer.probes.calibration import measure_calibration
from trainer.probes.directions import measure_along_directions
from trainer.probes.risk import evaluating
from trainer.probes.sharpness import measure_sharpness
from trainer.streams import own_randomness
from trainer.trained import TrainedModel


def measure(probe: Probe, trained: TrainedModel) -> Measurement:
    """What ``probe`` finds in ``trained``: the same numbers each time, for all randomness comes from the probe's seed.

    The model, its buffers and modes, ``.grad`` and torch's random state are afterwards bit for bit as they were. Raises
    ConfigError for what this model or its data do not allow.
    """
    device = trained.data.scale.mean.device.type
    with evaluating(trained.model), own_randomness(trained.trial.seed, 0, device):
        return _measure(probe, trained)


def _measure(probe: Probe, trained: TrainedModel) -> Measurement:
    match probe:
        case Sharpness():
            return measure_sharpness(probe, trained)
        case AmpLoss():
            return measure_amp_loss(probe, trained)
        case Hessian():
            from trainer.probes.hessian import measure_hessian  # curvlinops: a second that the others need not wait

            return measure_hessian(probe, trained)
        case LossAlongDirections():
            return measure_along_directions(probe, trained)
        case DecisionBoundary():
            return measure_boundary(probe, trained)
        case Calibration():
            return measure_calibration(probe, trained)
        case _:
            raise NotImplementedError(probe)

"""How near each network's training step comes to what the machine's matrix multiplication reaches.

FLOPs are counted as written, two for each multiply-add. A library that computes 3 × 3 convolutions by Winograd's
algorithm makes less than half of those multiplications, so that a share can exceed 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ratios import seconds
from trainer.config import Model, PreActResNet18, PyramidNet, Vgg16, WideResNet
from trainer.models.registry import build_model
from trainer.precision import set_precision

SHAPE, CLASSES, PAPERS_BATCH = (3, 32, 32), 10, 50
NETWORKS: dict[str, Model] = {
    "PreActResNet18": PreActResNet18(),
    "VGG16": Vgg16(),
    "WideResNet-28-10": WideResNet(),
    "PyramidNet-164-270": PyramidNet(),
}


class Utilisation(NamedTuple):
    """step_gflop: forward and backward of ``PAPERS_BATCH`` images. share: of the matmul peak, at ``batch`` images."""

    step_gflop: float
    batch: int
    seconds: float
    share: float


def shortest(work: Callable[[], object], device: str, rounds: int) -> float:
    """Seconds of the machine at its best, which a share of a peak is about."""
    return min(seconds(work, device) for _ in range(rounds))


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix multiplication that is large for the device."""
    side = 2048 if device == "cpu" else 8192
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return float(2 * side**3 / shortest(lambda: one @ other, device, rounds=5))


def step_flop(declared: Model, batch: int) -> float:
    """Counted on tensors without storage."""
    with torch.device("meta"):
        model = build_model(declared, SHAPE, CLASSES, init_seed=0)
        images, labels = torch.empty(batch, *SHAPE), torch.zeros(batch, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        _step(model, images, labels)
    return float(counter.get_total_flops())


def _step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]


def utilisation(declared: Model, device: str, peak: float, precision: str = "float32") -> Utilisation:
    """The step of ERM, with fewer images than the paper's batch on a CPU, where it would take a minute."""
    batch = 4 if device == "cpu" else PAPERS_BATCH
    model = build_model(declared, SHAPE, CLASSES, init_seed=0).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_precision(model, "bfloat16" if precision == "bfloat16" else "float32", device)
    images, labels = torch.randn(batch, *SHAPE, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
    taken = shortest(lambda: _step(model, images, labels), device, rounds=3)
    return Utilisation(step_flop(declared, PAPERS_BATCH) / 1e9, batch, taken, step_flop(declared, batch) / taken / peak)

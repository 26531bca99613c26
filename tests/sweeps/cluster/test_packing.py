"""How many trials share a GPU: numbers by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeps.cluster.packing import HEADROOM, UNITS, share, trials_per_gpu, trials_that_share
from trainer.memory import forget_peak, gpu_memory
from trainer.records import GpuMemory

GIB = 2**30


@pytest.mark.parametrize(
    ("taken", "gpu", "most", "expected"),
    [
        (1 * GIB, 80 * GIB, 100, 72),  # 80 / 1.1 = 72.7
        (1 * GIB, 80 * GIB, 16, 16),
        (10 * GIB, 24 * GIB, 16, 2),  # 24 / 11 = 2.18
        (11 * GIB, 24 * GIB, 16, 1),  # 24 / 12.1 = 1.98
        (24 * GIB, 24 * GIB, 16, 1),
        (30 * GIB, 24 * GIB, 16, 1),
        (3 * GIB, 12 * GIB, 16, 3),  # 12 / 3.3 = 3.6: four of 3 GiB would leave no room at all
        (1 * GIB, 80 * GIB, 0, 1),
    ],
)
def test_as_many_as_fit_with_headroom(taken: int, gpu: int, most: int, expected: int) -> None:
    assert trials_per_gpu(GpuMemory(taken, gpu), most) == expected


@given(st.integers(1, 10**11), st.integers(10**9, 10**12), st.integers(1, 256))
def test_what_is_packed_fits(taken: int, gpu: int, most: int) -> None:
    trials = trials_per_gpu(GpuMemory(taken, gpu), most)
    assert 1 <= trials <= most
    assert trials == 1 or trials * taken * (1 + HEADROOM) <= gpu * (1 + 1e-9)
    assert trials == most or (trials + 1) * taken * (1 + HEADROOM) > gpu * (1 - 1e-9)


@given(st.integers(1, UNITS))
def test_shares_of_a_gpu_fit_on_it_in_rays_units(trials: int) -> None:
    units = share(trials) * UNITS
    assert units == pytest.approx(round(units))
    assert round(units) >= 1
    assert trials * round(units) <= UNITS
    assert trials_that_share(share(trials)) >= trials


@pytest.mark.parametrize(("given", "expected"), [(1.0, 1), (0.5, 2), (0.34, 2), (0.3, 3), (0.25, 4), (0.1, 10)])
def test_so_many_trials_have_a_share_each(given: float, expected: int) -> None:
    assert trials_that_share(given) == expected


class FakeCuda:
    """A GPU of 24 GiB on which this process holds some, and other things are."""

    def __init__(self, reserved: int, peak: int, others: int) -> None:
        self.reserved, self.peak, self.others = reserved, peak, others

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found: dict[str, Any] = {
            "empty_cache": self.empty,
            "reset_peak_memory_stats": self.reset,
            "max_memory_reserved": lambda: self.peak,
            "memory_reserved": lambda: self.reserved,
            "mem_get_info": lambda: (24 * GIB - self.reserved - self.others, 24 * GIB),
        }
        for name, function in found.items():
            monkeypatch.setattr(torch.cuda, name, function)

    def empty(self) -> None:
        self.reserved = 0

    def reset(self) -> None:
        self.peak = self.reserved


def test_a_trial_takes_its_peak_and_what_is_used_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(reserved=2 * GIB, peak=3 * GIB, others=1 * GIB)
    cuda.install(monkeypatch)
    assert gpu_memory("cuda") == GpuMemory(4 * GIB, 24 * GIB)
    assert gpu_memory("cpu") is None
    forget_peak("cpu")
    assert cuda.peak == 3 * GIB
    forget_peak("cuda")
    assert gpu_memory("cuda") is None, "what was trained before in the process is no part of the trial"

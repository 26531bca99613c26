"""The machine at hand: what its trials run on, how many at a time, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from sweeps.children import deaf_to_ctrl_c, worker_pool

Found = TypeVar("Found")
NVIDIA = Path("/proc/driver/nvidia/gpus")
SIDE = {"cpu": 1024, "cuda": 8192}
ROUNDS = 8


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def hardware(device: str) -> str:
    """A name for machines on which a trial takes equally long: the GPU's, or the CPU's and its number of cores."""
    if device == "cuda":
        return " + ".join(gpus()) or "cuda"
    return f"{_cpu()} × {os.cpu_count()}"


def gpus() -> list[str]:
    """The models of this machine's NVIDIA GPUs, as their driver tells them; empty where it does not."""
    return sorted(_field(file, "Model") or "GPU" for file in NVIDIA.glob("*/information"))


def _cpu() -> str:
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def _field(file: Path, name: str) -> str | None:
    """The value of the first line ``name: value``."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)


def at_a_time(jobs: int, device: str, per_gpu: int = 1) -> int:
    """How many trials run at a time: each has a core of its own, and so many share a GPU."""
    return min(jobs, len(gpus()) * per_gpu or jobs) if device == "cuda" else jobs


def matmul_peak(device: str) -> float | None:
    """FLOP/s in float32 of a large square matrix multiplication on one core, or one GPU; None without one."""
    if device == "cpu":
        return _cpu_peak()
    if not gpus():
        return None
    # In a process of its own: importing torch takes seconds, and a GPU's context would hold memory for good.
    return in_own_process(cuda_peak)


def torch_sees_gpu() -> bool:
    """Whether trials could train on a GPU of this machine; takes as long as importing torch."""
    return in_own_process(_cuda_is_available)


def in_own_process(look: Callable[[], Found]) -> Found:
    """What ``look`` returns, which may import or allocate what this process is not to have."""
    with worker_pool(1) as pool:
        with deaf_to_ctrl_c():
            future = pool.submit(look)
        return future.result()


def _cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()


def _cpu_peak() -> float:
    """By numpy, which is imported ten times as fast as torch and whose library reaches about the same."""
    import numpy as np
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    side = SIDE["cpu"]
    one, other = np.ones((2, side, side), dtype="float32")
    with threadpool_limits(1):
        return 2 * side**3 / _shortest(lambda: one @ other)


def cuda_peak() -> float | None:
    """The same by torch; None where it sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    one, other = torch.ones(2, SIDE["cuda"], SIDE["cuda"], device="cuda")

    def multiply() -> None:
        one @ other
        torch.cuda.synchronize()

    return 2 * SIDE["cuda"] ** 3 / _shortest(multiply)


def _shortest(work: Callable[[], object]) -> float:
    """Seconds of the machine at its best, which a share of a peak is about."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)

"""What a trial takes of its GPU's memory, measured: it follows from no declaration."""

from __future__ import annotations

import torch

from trainer.records import GpuMemory


def forget_peak(device: str) -> None:
    """Before a trial: what its process trained earlier is no part of it. Nothing on a CPU."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gpu_memory(device: str) -> GpuMemory | None:
    """Since ``forget_peak``, by a process alone on its GPU; None on a CPU, and before anything was on the GPU.

    Reserved, not allocated: what PyTorch's allocator keeps for later is nobody else's either.
    """
    if device != "cuda" or not (peak := torch.cuda.max_memory_reserved()):
        return None
    free, total = torch.cuda.mem_get_info()
    besides = total - free - torch.cuda.memory_reserved()
    return GpuMemory(peak + besides, total)

"""Torch's settings of a process: what a trial finds there, whatever was trained before it in the same process."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # their numbers in glibc's malloc.h


def set_for_training(threads: int) -> None:
    """The settings that every trial is trained and measured with.

    On a GPU float32 convolutions are float32, not TensorFloat-32, and the same each time: without that a resumed trial
    would differ from an uninterrupted one.
    """
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != threads:
        with contextlib.suppress(RuntimeError):  # a process can say so once, before it has used some
            torch.set_num_interop_threads(threads)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have the process keep what it frees, up to 2 GiB, for its next allocations, where its allocator is glibc's.

    By default large blocks go back to the kernel, and the activations of every batch are faulted in page by page: 3%
    of the time of a step of a narrow PreActResNet18 in a Ray worker's thread, 16% in a program's first.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Undo what a user's module sets for the whole process: the next trial's numbers would depend on it."""
    kept = [(put, get()) for get, put in SETTINGS]
    try:
        yield
    finally:
        for put, value in kept:
            put(value)


def _flag(module: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(module, name), lambda value: setattr(module, name, value)


SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, lambda value: torch._C._set_grad_enabled(value)),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    _flag(torch.backends.mkldnn, "enabled"),
    _flag(torch.backends.cudnn, "enabled"),
    _flag(torch.backends.cudnn, "benchmark"),
    _flag(torch.backends.cudnn, "deterministic"),
    _flag(torch.backends.cudnn, "allow_tf32"),
)
"""How each is read and put back. (Whether denormals are flushed cannot be read: ``set_for_training`` sets it.)"""

"""Disks that can be filled to the last byte and freed again, under a folder that a sweep writes to."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FOLDER, FULL = "SWEEPS_TEST_DISK", "SWEEPS_TEST_DISK_FULL"
SHIM = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_full(int handle)
{{
    const char *folder = getenv("{FOLDER}"), *full = getenv("{FULL}");
    char link[64], path[4096];
    ssize_t length, prefix;

    if (!folder || !full || access(full, F_OK))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    length = readlink(link, path, sizeof path);
    prefix = strlen(folder);
    return length > prefix && path[prefix] == '/' && !strncmp(path, folder, prefix);
}}

#define UNLESS_FULL(name, parameters, arguments) \\
    ssize_t name parameters \\
    {{ \\
        static ssize_t (*original) parameters; \\
        int before = errno; \\
        if (is_full(handle)) {{ \\
            errno = ENOSPC; \\
            return -1; \\
        }} \\
        errno = before; \\
        if (!original) \\
            original = dlsym(RTLD_NEXT, #name); \\
        return original arguments; \\
    }}

UNLESS_FULL(write, (int handle, const void *from, size_t size), (handle, from, size))
UNLESS_FULL(pwrite, (int handle, const void *from, size_t size, off_t at), (handle, from, size, at))
UNLESS_FULL(pwrite64, (int handle, const void *from, size_t size, off64_t at), (handle, from, size, at))
"""
"""Preloaded, it lets a process write nothing below ``FOLDER`` as long as there is a file ``FULL``."""


@dataclass(frozen=True)
class Disk:
    """What ``folder`` lies on. variables: of the environment of those who write to it."""

    folder: Path
    fill: Callable[[], object]
    free: Callable[[], object]
    variables: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def pretended_disk(folder: Path, scratch: Path) -> Iterator[Disk]:
    """One whose refusals come from a library that is put before the C library: that takes no rights, but a compiler."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler here, cc")
    source, library, full = scratch / "disk.c", scratch / "disk.so", scratch / "full"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    variables = {"LD_PRELOAD": str(library), FOLDER: str(folder), FULL: str(full)}
    yield Disk(folder, full.touch, full.unlink, variables)


def may_mount() -> bool:
    """Whether this process may mount a file system; tried in a name space that ends with the attempt."""
    attempt = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
    return shutil.which("unshare") is not None and subprocess.run(attempt, capture_output=True).returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    """A file system in memory of so many bytes (``16m``): that takes the right to mount one, see ``may_mount``."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    ballast = folder / "ballast"
    try:
        yield Disk(folder, lambda: _fill_up(ballast), ballast.unlink)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill_up(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass

"""Checks of the machine itself: versions, cores, memory, descriptors, disks, GPUs and data sets."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version

from sweeps.doctor.finding import Finding, failed, ok, warning
from sweeps.hardware import cores, gpus, in_own_process
from sweeps.versions import FLOORS, installed, unsafe
from trainer.config import Cifar10, Cifar100, Dataset, Digits, Mnist5k, Svhn
from trainer.data.parts import Downloaded, part_files
from trainer.declaration import ConfigError
from trainer.machine import CACHE_VARIABLE

PYTHON = (3, 11), (3, 14)
"""The first version, and the first that is too new."""
LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
BUILT_IN: tuple[Dataset, ...] = (Digits(), Mnist5k(), Cifar10(), Cifar100(), Svhn())
GIB = 2**30
LITTLE_DISK, NO_DISK = 5 * GIB, GIB
"""A trial of PreActResNet18 keeps 90 MB (11.2 million weights and their momentum in float32): 5 GiB hold a study of 50.
CIFAR-10 takes 0.2 GiB as an archive and as much unpacked; with less than 1 GiB writes are about to fail."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  only looked at
OBJECT_STORE_BYTES = 100 * 2**20  # sweeps.cluster.connection's, which cannot be asked: importing it sets Ray's token
LITTLE_MEMORY = 2 * GIB
FEW_DESCRIPTORS = 1024


def check_versions() -> Iterator[Finding]:
    """Of Python, of what is known to be unsafe, and of what is pinned."""
    yield of_python(sys.version_info[:2])
    yield of_unsafe(installed(floor.package for floor in FLOORS))
    if LOCK.is_file():
        pins = pinned(LOCK.read_text(encoding="utf-8"))
        yield of_pins(pins, installed(pins))


def of_python(found: tuple[int, ...]) -> Finding:
    """Whether the packages are made for it."""
    first, too_new = PYTHON
    if first <= found < too_new:
        return ok("versions", f"Python {platform.python_version()}")
    return failed("versions", f"Python {'.'.join(map(str, found))}: must be 3.11, 3.12 or 3.13: make PYTHON=python3.12")


def of_unsafe(found: Mapping[str, str]) -> Finding:
    """The versions below which the other commands refuse to work."""
    if wrong := list(unsafe(found)):
        return failed("versions", "; ".join(wrong))
    return ok("versions", ", ".join(f"{name} {version}" for name, version in found.items()) + ": none known as unsafe")


def pinned(lock: str) -> dict[str, str]:
    """Versions by package, of the lines ``NAME==VERSION``."""
    lines = (line.partition("#")[0].strip() for line in lock.splitlines())
    return {name: version for name, _, version in (line.partition("==") for line in lines) if version}


def of_pins(pins: Mapping[str, str], found: Mapping[str, str]) -> Finding:
    """Whether what is installed is what was tested; packages of optional groups may be absent."""
    others = [f"{name} {found[name]} (pinned {pins[name]})" for name in found if not _same(found[name], pins[name])]
    if not others:
        return ok("versions", f"{len(found)} packages as requirements.lock pins them")
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    return warning("versions", f"not as pinned: {', '.join(others[:5])}{more}: make install")


def _same(found: str, pin: str) -> bool:
    """A build for one kind of GPU, 2.14.1+cpu say, is of the version that is pinned."""
    return Version(found).public == Version(pin).public


def check_processor() -> Iterator[Finding]:
    """Cores, memory and descriptors."""
    import psutil

    threads = os.environ.get("OMP_NUM_THREADS")
    said = f"OMP_NUM_THREADS={threads}" if threads else "OMP_NUM_THREADS is not set"
    yield ok("cores", f"{cores()} of {os.cpu_count()}, {said}; a trial has one core and one thread")
    yield of_memory(psutil.virtual_memory().available, psutil.virtual_memory().total)
    yield of_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def of_memory(free: int, total: int) -> Finding:
    """Bytes that processes could have now."""
    said = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < LITTLE_MEMORY:
        return warning("memory", f"{said}: end other programs, or train fewer at a time: JOBS=1")
    return ok("memory", said)


def of_descriptors(limit: int) -> Finding:
    """Files and sockets that one process may have open; Ray's server opens some for each worker."""
    if limit != resource.RLIM_INFINITY and limit < FEW_DESCRIPTORS:
        return warning("files", f"a process may have {limit} open: ulimit -n {FEW_DESCRIPTORS}, or more")
    return ok("files", "a process may have any number open" if limit < 0 else f"a process may have {limit} open")


def check_disks(results: Path, short: Path = Path("/tmp")) -> Iterator[Finding]:  # noqa: S108  only looked at
    """Room for results, for Ray's files and for its object store. short: where Ray's own folder is made."""
    yield of_disk("results", results, _free(results))
    yield of_disk("Ray's files", short, _free(short))
    if near := os.environ.get(CACHE_VARIABLE):
        yield of_disk("data sets", Path(near), _free(Path(near)))
    if SHARED_MEMORY.is_dir():
        yield of_shared_memory(_free(SHARED_MEMORY))


def _free(folder: Path) -> int:
    """Of the first folder above that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def of_disk(what: str, folder: Path, free: int) -> Finding:
    """free: bytes."""
    said = f"{what} in {folder}: {free / GIB:.1f} GiB free"
    if free < NO_DISK:
        return failed("disk", f"{said}: make room (make gc frees weights that no study needs)")
    if free < LITTLE_DISK:
        return warning("disk", f"{said}: little for checkpoints: make gc, or RESULTS elsewhere")
    return ok("disk", said)


def of_shared_memory(free: int) -> Finding:
    """Without room there Ray puts its store on a disk, and is slow."""
    said = f"{SHARED_MEMORY}: {free / GIB:.1f} GiB free, Ray's object store takes {OBJECT_STORE_BYTES / GIB:.1f}"
    if free < OBJECT_STORE_BYTES:
        return warning("memory", f"{said}: give the container more (--shm-size 1g)")
    return ok("memory", said)


class Gpu(NamedTuple):
    """As torch sees it. free, total: bytes."""

    name: str
    free: int
    total: int


class Torch(NamedTuple):
    """cuda: that torch was built for; None for a build without."""

    version: str
    cuda: str | None
    gpus: Sequence[Gpu]


def look_by_torch() -> Torch:
    """Imports torch, and makes a context on each GPU: for a process of its own."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [Gpu(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in range(count)]
    return Torch(torch.__version__, torch.version.cuda, found)


def check_gpus() -> Iterator[Finding]:
    """What trials could train on; takes as long as importing torch."""
    yield from of_gpus(in_own_process(look_by_torch), gpus(), _driver())


def of_gpus(torch: Torch, known: Sequence[str], driver: str) -> Iterator[Finding]:
    """known: GPUs that the driver tells of."""
    build = f"torch {torch.version}, built {f'for CUDA {torch.cuda}' if torch.cuda else 'without CUDA'}"
    if not torch.gpus and not known:
        yield ok("GPU", f"none, trials train on CPUs alone; {build}")
    elif not torch.gpus:
        cure = "is CUDA_VISIBLE_DEVICES empty, or the driver too old?" if torch.cuda else "install torch's CUDA build"
        yield warning("GPU", f"{', '.join(known)} is there and torch sees none; {build}; {driver}: {cure}")
    for number, gpu in enumerate(torch.gpus):
        yield _of_gpu(f"{number}: {gpu.name}, {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free; {build}", gpu)


def _of_gpu(said: str, gpu: Gpu) -> Finding:
    if gpu.free < gpu.total / 2:
        return warning("GPU", f"{said}: somebody else uses it, and trials may not fit: nvidia-smi says who")
    return ok("GPU", said)


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return "no NVIDIA driver"


def check_data(data_dir: Path, verify: bool) -> Iterator[Finding]:
    """Which built-in data sets are in ``data_dir``. verify: also read them and compare digests."""
    there = [dataset for dataset in BUILT_IN if all(path.exists() for path in part_files(dataset, data_dir).values())]
    for dataset in there if verify else []:
        yield _verified(dataset, data_dir)
    if there and not verify:
        yield ok("data", f"{_names(there)} in {data_dir}, not read again: --data (DATA=1) compares their digests")
    absent = [dataset for dataset in BUILT_IN if dataset not in there]
    if absent:
        yield ok("data", f"not here: {_absent(absent)}")


def _verified(dataset: Dataset, data_dir: Path) -> Finding:
    from trainer.data.load import load_part  # torch

    try:
        load_part(dataset, "train", data_dir)
        load_part(dataset, "test", data_dir)
    except ConfigError as error:
        return failed("data", str(error))
    return ok("data", f"{type(dataset).__name__} in {data_dir}, its digests are right")


def _absent(datasets: Sequence[Dataset]) -> str:
    """Some come with packages, and the others from the network."""
    downloaded = [dataset for dataset in datasets if isinstance(dataset, Downloaded)]
    shipped = [dataset for dataset in datasets if dataset not in downloaded]
    parts = [f"{_names(shipped)}, which the first trial brings"] if shipped else []
    parts += [f"{_names(downloaded)}, which make fetch STUDY=... brings"] if downloaded else []
    return "; ".join(parts)


def _names(datasets: Sequence[Dataset]) -> str:
    return ", ".join(type(dataset).__name__ for dataset in datasets)

"""Versions of the libraries that open sockets or read files, below which they are known to be unsafe: refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.version import InvalidVersion, Version

from trainer.declaration import ConfigError


@dataclass(frozen=True, slots=True)
class Floor:
    """The first version of ``package`` that is used. fault: of those before it. source: where that is published."""

    package: str
    version: str
    fault: str
    source: str


FLOORS = (
    Floor("mlflow", "3.17.2", "a stranger's trace is written outside the folder of a store of files", "CVE-2026-53995"),
    Floor("ray", "2.54.0", "a web page can delete jobs", "CVE-2026-27482"),
    Floor("torch", "2.10.0", "a checkpoint can run code in spite of weights_only=True", "CVE-2026-24747"),
)
"""Of several faults the one that was mended last: Ray's token came in 2.52.0 (docs.ray.io, ray-security/token-auth),
which mended CVE-2025-62593, and MLflow's CVE-2026-2652, 2651 and 96804 were mended in 3.10 to 3.15."""


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of ``packages`` that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def unsafe(found: Mapping[str, str], floors: Iterable[Floor] = FLOORS) -> Iterator[str]:
    """For each package below its floor, and each whose version cannot be read, what is wrong with it."""
    for floor in floors:
        version_there = found.get(floor.package)
        if version_there is not None and not _is_at_least(version_there, floor.version):
            cure = f"pip install '{floor.package}>={floor.version}', or make install"
            yield f"{floor.package} {version_there}: before {floor.version} {floor.fault} ({floor.source}): {cure}"


def _is_at_least(found: str, least: str) -> bool:
    try:
        return Version(found) >= Version(least)
    except InvalidVersion:
        return False


def refuse_unsafe() -> None:
    """Raise ConfigError, one line, where an installed package is below its floor. Imports none of them."""
    if found := list(unsafe(installed(floor.package for floor in FLOORS))):
        raise ConfigError("; ".join(found))

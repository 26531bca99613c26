"""Prints what an image installs, from pyproject.toml and requirements.lock: declared once, pinned once.

A layer is built anew when the file that it installs from changes: torch's is apart, for it is by far the largest.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

TORCH = {"torch", "torchvision"}
CUDA = re.compile(r"(cuda|nvidia|triton)\b")
"""Packages that PyTorch's CUDA build needs and nothing else."""


def declared(names: Sequence[str], settings: str) -> list[str]:
    """The requirements of the groups ``names`` of pyproject.toml, whose text is ``settings``; ``project``: its own."""
    project = tomllib.loads(settings)["project"]
    groups = project["optional-dependencies"] | {"project": project["dependencies"]}
    return sorted({requirement for name in names for requirement in groups[name]})


def pinned_torch(build: str, lock: str) -> Iterator[str]:
    """The lines of ``lock`` that install PyTorch's build ``cpu`` or ``cuda`` without looking for more."""
    for line in lock.splitlines():
        name = line.partition("==")[0]
        if name in TORCH or (build == "cuda" and CUDA.match(name)):
            yield line


def main(arguments: Sequence[str]) -> int:
    """``torch BUILD`` or names of groups; exit code 2 for a build or a group that there is not."""
    try:
        if arguments[:1] == ["torch"]:
            build = {"cpu": "cpu", "cuda": "cuda"}[arguments[1]]
            lines = list(pinned_torch(build, Path("requirements.lock").read_text(encoding="utf-8")))
        else:
            lines = declared(arguments, Path("pyproject.toml").read_text(encoding="utf-8"))
    except KeyError as error:
        print(f"error: {error}: must be cpu or cuda after torch, else groups of pyproject.toml", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

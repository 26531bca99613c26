"""Plain tables for a terminal, and the shortest labels that tell their rows apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from search_spaces.study import varying_params
from trainer.declaration import Scalar


def aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """The first and the last column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *middle, last in rows:
        cells = [text.rjust(width) for text, width in zip(middle, widths[1:-1], strict=True)]
        yield "  ".join(["  " + first.ljust(widths[0]), *cells, last]).rstrip()


def short_labels(rows: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """Of each row the parameters that tell it from the others, the method first.

    One that varies with those before it alone, as a digest does with its data set, is left out; so is the name of a
    part of the trial, whose value says enough: ``Amp Vgg16 Svhn augment.cutout=20``.
    """
    names = _telling(rows)
    names.sort(key=lambda name: name != "method")
    return [" ".join(_item(name, params[name]) for name in names if name in params) for params in rows]


def _telling(rows: Sequence[Mapping[str, Scalar]]) -> list[str]:
    names: list[str] = []
    # The method's own settings last: often they only follow the network.
    for name in sorted(varying_params(rows), key=lambda name: name.startswith("method")):
        if _groups(rows, [*names, name]) > _groups(rows, names):
            names.append(name)
    return names


def _groups(rows: Sequence[Mapping[str, Scalar]], names: Sequence[str]) -> int:
    return len({repr([params.get(name) for name in names]) for params in rows})


def _item(name: str, value: Scalar) -> str:
    return str(value) if name in ("method", "model", "dataset") else f"{name.removeprefix('method.')}={value}"

"""How a declaration checks itself and becomes flat parameters, and back.

A declaration is a frozen dataclass that says what is trained. It coerces its own values, so that ``1`` and ``1.0`` are
the same trial, and refuses bad ones in one line that names the field, the value and the range.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

Scalar = str | int | float | None | list[Any]
Keywords = Mapping[str, str | int | float]
"""The type of a field that takes a plain ``dict`` and keeps it as ``Arguments``."""
D = TypeVar("D", bound="Declaration")


class ConfigError(ValueError):
    """A declaration that cannot be. The message is one line: what, where, what to do."""


def added_later(default: Any) -> Any:
    """A field that came after trials were recorded: left out of the identity while it has its default.

    The default must mean what the code did before the field existed, so that the ids of old trials stay.
    """
    return dataclasses.field(default=default, metadata={"added_later": True})


class Arguments(Keywords):
    """Keyword arguments of a user's function: an immutable mapping, sorted by name, with values of plain types."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str | int | float] | None = None) -> None:
        self._items = dict(sorted((items or {}).items()))

    def __getitem__(self, name: str) -> str | int | float:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


class Declaration:
    """Base of every frozen, keyword-only dataclass that takes part in a trial's identity."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = _coerce(getattr(self, name), hint, where=f"{type(self).__name__}.{name}")
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise ConfigError for values of the right type that are out of range."""

    def require(self, holds: bool, field: str, expected: str) -> None:
        """Raise ConfigError naming ``field`` and its value unless ``holds``."""
        if not holds:
            raise ConfigError(f"{type(self).__name__}.{field} = {getattr(self, field)!r}: must be {expected}")


def _hints(declaration: type[Declaration]) -> dict[str, Any]:
    """Field names and their types, in order."""
    return _resolved_hints(declaration)  # type: ignore[arg-type]  # mypy misses that a class is hashable


@functools.cache
def _resolved_hints(declaration: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(declaration)
    return {field.name: hints[field.name] for field in dataclasses.fields(declaration)}


def _added_later(declaration: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(declaration) if field.metadata.get("added_later")}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is Literal:
        return _one_of(value, typing.get_args(hint), where)
    if typing.get_origin(hint) is tuple:
        return _tuple(value, typing.get_args(hint)[0], where)
    if hint == Keywords:
        return _arguments(value, where)
    if hint is float:
        return _float(value, where)
    if hint is int:
        return _int(value, where)
    if type(None) in _alternatives(hint) and not any(map(_is_declaration, _alternatives(hint))):
        (kind,) = (kind for kind in _alternatives(hint) if kind is not type(None))
        return None if value is None else _coerce(value, kind, where)
    if isinstance(value, _alternatives(hint)):
        return value
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in _alternatives(hint))
    raise ConfigError(f"{where} = {value!r}: must be {names.replace('NoneType', 'None')}")


def _one_of(value: Any, allowed: tuple[Any, ...], where: str) -> Any:
    if value not in allowed:
        raise ConfigError(f"{where} = {value!r}: must be one of {', '.join(map(repr, allowed))}")
    return value


def _tuple(value: Any, kind: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{where} = {value!r}: must be a sequence")
    return tuple(_coerce(item, kind, where) for item in value)


def _arguments(value: Any, where: str) -> Arguments:
    """Whole numbers stay so, for a function may take them as sizes; ``1`` and ``1.0`` are two trials here."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} = {value!r}: must be a mapping of names to values")
    coerced: dict[str, str | int | float] = {}
    for name, given in value.items():
        here = f"{where}[{name!r}]"
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(f"{where} has the key {name!r}: must be the name of a keyword argument")
        if isinstance(given, str):
            coerced[name] = given
        else:
            coerced[name] = _int(given, here) if isinstance(given, numbers.Integral) else _float(given, here)
    return Arguments(coerced)


def _float(value: Any, where: str) -> float:
    try:
        number = float(value) if _is_real(value) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where} = {value!r}: must be a finite number")
    return number + 0.0  # -0.0 and 0.0 are one value and must give one identity


def _int(value: Any, where: str) -> int:
    if isinstance(value, numbers.Integral) and _is_real(value):
        return int(value)
    if not _is_real(value) or not math.isfinite(value) or value != int(value):
        raise ConfigError(f"{where} = {value!r}: must be a whole number")
    return int(value)


def _is_real(value: Any) -> bool:
    """numpy's numbers are real ones too; True and False are not meant as numbers."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def flatten(declaration: Declaration, prefix: str = "") -> dict[str, Scalar]:
    """``{"method": "Amp", "method.epsilon": 0.5, ...}``: the one function that names parameters."""
    params: dict[str, Scalar] = {}
    for field in dataclasses.fields(declaration):  # type: ignore[arg-type]
        value, key = getattr(declaration, field.name), prefix + field.name
        if field.metadata.get("added_later") and value == field.default:
            continue
        if isinstance(value, Declaration):
            params[key] = type(value).__name__
            params |= flatten(value, key + ".")
        elif isinstance(value, Arguments):
            params |= {f"{key}.{name}": argument for name, argument in value.items()}
        else:
            params[key] = list(value) if isinstance(value, tuple) else value
    return params


def unflatten(declaration: type[D], params: Mapping[str, Scalar], prefix: str = "") -> D:
    """The inverse of ``flatten``. Raises ConfigError for a parameter that this version of the code does not know."""
    arguments: dict[str, Any] = {}
    rest = {key for key in params if key.startswith(prefix)}
    for name, hint in _hints(declaration).items():
        key = prefix + name
        if hint == Keywords:
            given = {other for other in rest if other.startswith(key + ".")}
            arguments[name] = {other.removeprefix(key + "."): params[other] for other in given}
            rest -= given
            continue
        if key not in params:
            if name not in _added_later(declaration):
                raise ConfigError(f"parameter {key!r} of {declaration.__name__} is missing: made by another version?")
            continue
        kinds = {kind.__name__: kind for kind in _alternatives(hint) if _is_declaration(kind)}
        if kinds and params[key] is not None:
            arguments[name] = unflatten(_kind(kinds, key, params[key]), params, key + ".")
            rest = {other for other in rest if not other.startswith(key + ".")}
        else:
            arguments[name] = params[key]
        rest.discard(key)
    if rest:
        raise ConfigError(f"unknown parameter {sorted(rest)[0]!r} for {declaration.__name__}: made by another version?")
    return declaration(**arguments)


def _is_declaration(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Declaration)


def _kind(kinds: Mapping[str, type[Declaration]], key: str, name: Scalar) -> type[Declaration]:
    if name not in kinds:
        raise ConfigError(f"{key} = {name!r}: must be one of {', '.join(kinds)}")
    return kinds[str(name)]

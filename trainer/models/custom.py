"""A user's own network: its module imported as declared, or refused in one line.

A process trains many trials, maybe of several studies. A module that it imported before is used again only if its
source is the declared one, and one of the same name from elsewhere never takes its place.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.config import Custom
from trainer.custom_source import own_imports, search_path, source_digest, source_files
from trainer.declaration import ConfigError
from trainer.settings import settings_kept
from trainer.streams import python_randomness


class _Source(NamedTuple):
    module: str
    file: Path
    digest: str


_imported: dict[str, _Source] = {}
"""Which source the top-level modules that were imported here, by name, were imported for."""

_built: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def build_custom(declared: Custom, shape: Sequence[int], classes: int, code_dir: Path) -> nn.Module:
    """The network that the declared function returns for images of ``shape`` (channels, height, width).

    code_dir: where its module is looked for first. Raises ConfigError when its source is not the declared one, when it
    cannot be imported or raises, and when what it returns is no network with logits [n, classes].
    """
    with _importing_from(code_dir):
        # Only the first import draws and sets things: weights must not depend on which it is.
        with torch.random.fork_rng(devices=[]), settings_kept():
            function = _function(declared, search_path(code_dir))
        with _reported(declared, "raised"), settings_kept(), python_randomness(torch.initial_seed()):
            model = function(shape=tuple(shape), classes=classes, **declared.arguments)
        if not isinstance(model, nn.Module):
            raise _refusal(declared, f"returned {type(model).__name__}: must be a torch.nn.Module")
        if model in _built:
            raise _refusal(declared, "returned a network that another trial has: must make a new one each time")
        _built.add(model)
        _check_logits(declared, model, shape, classes)
    return model


@contextlib.contextmanager
def _importing_from(code_dir: Path) -> Iterator[None]:
    """Import from ``code_dir`` and the working directory first.

    Nothing compiled is left: it would pass for that of a source that was changed within the second at the same length.
    """
    first, writes_nothing = search_path(code_dir)[:2], sys.dont_write_bytecode
    sys.path[:0] = first
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_nothing
        for folder in first:
            with contextlib.suppress(ValueError):  # the user's code may have changed the path itself
                sys.path.remove(folder)


@contextlib.contextmanager
def _reported(declared: Custom, what: str) -> Iterator[None]:
    """Turn any error of the user's code into one line; the error itself stays chained for its traceback."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise _refusal(declared, f"{what} {type(error).__name__}: {' '.join(str(error).split())}") from error


def _refusal(declared: Custom, why: str) -> ConfigError:
    return ConfigError(f"Custom.function = {declared.function!r}: {why}")


def _function(declared: Custom, folders: list[str]) -> Callable[..., Any]:
    name, files = declared.module, source_files(declared.module, folders)
    source = _Source(name, files[-1], source_digest(name, folders))
    if source.digest != declared.digest:
        raise ConfigError(
            f"Custom.digest = {declared.digest!r}: the source is now {source.digest} ({source.file}): restore it, or"
            " declare the study anew"
        )
    _prepare_import(declared, source, files[0])
    for top in {imported.partition(".")[0] for imported in own_imports(name, folders)} - {name.partition(".")[0]}:
        file = source_files(top, folders)[0]
        _prepare_import(declared, _Source(top, file, source_digest(top, folders)), file)
    with _reported(declared, "its import raised"):
        module = importlib.import_module(name)
    function = getattr(module, declared.function.partition(":")[2], None)
    if not callable(function):
        raise _refusal(declared, f"no such function in {source.file}")
    return function  # type: ignore[no-any-return]


def _prepare_import(declared: Custom, source: _Source, top_file: Path) -> None:
    """Drop what Python remembers of another source, so that importing the module runs this one.

    A package that was imported here goes as a whole; of one that something else imported (a study's file, this project
    itself) the module alone.
    """
    top = source.module.partition(".")[0]
    if top in _imported and _imported[top] != source:
        _forget(top)
    _refuse_namesake(declared, top, top_file)
    if top not in _imported:
        _forget(source.module)
    if top not in sys.modules:
        _imported[top] = source


def _forget(module: str) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith(module + ".")]:
        del sys.modules[name]


def _refuse_namesake(declared: Custom, top: str, file: Path) -> None:
    """What the process already uses under the name has to stay: this project's own packages, built-in modules, ..."""
    if top in sys.modules:
        origin = getattr(sys.modules[top], "__file__", None)
    else:
        spec = importlib.util.find_spec(top)
        origin = spec.origin if spec is not None else None
    if origin is None or not Path(origin).exists() or not file.samefile(origin):
        raise _refusal(declared, f"{top!r} means {origin or 'something else'} to Python here: rename {file}")


@torch.no_grad()
def _check_logits(declared: Custom, model: nn.Module, shape: Sequence[int], classes: int) -> None:
    """In eval mode, where BatchNorm's statistics stay and lazy layers get their weights; in training mode on a copy."""
    images = torch.zeros(2, *shape, dtype=torch.float32)
    for mode in ("evaluation", "training"):
        with _reported(declared, f"in {mode} mode on images [2, {', '.join(map(str, shape))}] its network raised"):
            tried = model.eval() if mode == "evaluation" else copy.deepcopy(model).train()
            with torch.random.fork_rng(devices=[]):
                logits = tried(images)
        if not isinstance(logits, Tensor) or logits.shape != (2, classes):
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise _refusal(declared, f"its network gives {found} for 2 images: must be logits [2, {classes}]")
        if not logits.isfinite().all():
            raise _refusal(declared, "its network's logits are not finite before any training")
    model.train()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise _refusal(declared, "its network has no parameter that requires a gradient: nothing to train")

"""A study's data: whether they are here, fetching them, and taking in a user's own images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from search_spaces.study import Study
from trainer.config import Dataset, TrialConfig, TwoSpirals
from trainer.data.parts import not_there
from trainer.declaration import ConfigError


def require_data(trials: Iterable[TrialConfig], data_dir: Path, study: str) -> None:
    """Raise ConfigError for data that ``trials`` need and that are not in ``data_dir``, before they fail one by one.

    study: how make is told the study.
    """
    for dataset in _datasets(trials):
        if error := not_there(dataset, data_dir, study):
            raise error


def _datasets(trials: Iterable[TrialConfig]) -> list[Dataset]:
    """Each one once, in order of appearance."""
    return list(dict.fromkeys(trial.dataset for trial in trials))


def fetch(study: Study, data_dir: Path) -> None:
    """Bring all data of ``study`` into ``data_dir``, verified. Raises ConfigError."""
    from trainer.data.fetch import fetch as bring  # torch, which the other commands do not need

    for dataset in _datasets(study.trials):
        try:
            new = bring(dataset, data_dir)
        except OSError as error:
            raise ConfigError(f"{data_dir}: cannot write to it: {error.strerror or error}") from error
        name = type(dataset).__name__
        if isinstance(dataset, TwoSpirals):
            print(f"{name}: made anew by every trial, nothing to fetch")
        else:
            print(f"{name}: {'now' if new else 'already'} in {data_dir}, verified")


def take_in(folder: Path, size: int | None, channels: int, data_dir: Path) -> None:
    """Read the images of ``folder`` into ``data_dir`` and print the line that declares them. Raises ConfigError."""
    from trainer.data.image_folder import read_folder

    found = read_folder(folder, size, channels)
    try:
        paths = found.store(data_dir)
    except OSError as error:
        raise ConfigError(f"{data_dir}: cannot write to it: {error.strerror or error}") from error
    counts = " and ".join(f"{len(part.labels)} {name}" for name, part in found.parts.items())
    shape = list(next(iter(found.parts.values())).images.shape[1:])
    print(f"{counts.replace(' all', '')} images {shape} of {len(found.classes)} classes: {', '.join(found.classes)}")
    print(f"stored as {', '.join(path.name for path in paths)} in {data_dir}; a study declares them so:\n")
    print("dataset=" + repr(found.declaration).replace(", test=None", "").replace("'", '"'))

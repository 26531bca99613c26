"""How many images a study trains on, chooses by and is judged by; of a user's own what ``make digest`` has counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from search_spaces.study import Study
from trainer.config import Dataset, Holdout, ImageFolder
from trainer.data.description import Description, description
from trainer.data.parts import part_files


class Images(NamedTuple):
    """Of some trials of a study, in numbers. dataset: its kind, as in the tables. validation: 0 for none."""

    dataset: str
    train: int
    validation: int
    test: int


def images_of(study: Study, data_dir: Path) -> list[Images]:
    """Of each data set and split once, in order of appearance; a kind of which not all are known is left out."""
    splits = dict.fromkeys((trial.dataset, trial.validation) for trial in study.trials)
    found = [(type(dataset), _images(dataset, validation, data_dir)) for dataset, validation in splits]
    unknown = {kind for kind, images in found if images is None}
    return list(dict.fromkeys(images for kind, images in found if images is not None and kind not in unknown))


def images_line(found: Sequence[Images]) -> Iterator[str]:
    """The line that says it, where there is anything to say."""
    parts = []
    for one in found:
        validation = f", {one.validation:,} for validation" if one.validation else ""
        parts.append(f"{one.dataset} has {one.train:,} examples to train on{validation}, {one.test:,} in the test set")
    if parts:
        yield f"{'; '.join(parts)}."


def described(dataset: ImageFolder, data_dir: Path) -> list[Description]:
    """What is known of its parts, train before test; nothing where it is not known of all."""
    found = [description(file) for file in part_files(dataset, data_dir).values()]
    known = [one for one in found if one is not None]
    return known if len(known) == len(found) else []


def _images(dataset: Dataset, validation: Holdout | None, data_dir: Path) -> Images | None:
    sizes = _sizes(dataset, data_dir)
    if sizes is None:
        return None
    train, test = sizes
    held_out = validation.size(train) if validation else 0
    return Images(type(dataset).__name__, train - held_out, held_out, test)


def _sizes(dataset: Dataset, data_dir: Path) -> tuple[int, int] | None:
    """Of the training and of the test set, before any validation split."""
    if not isinstance(dataset, ImageFolder):
        return dataset.sizes
    counts = [one.images for one in described(dataset, data_dir)]
    if dataset.test is None or not counts:
        return (counts[0], counts[1]) if counts else None
    held_out = dataset.test.size(counts[0])
    return counts[0] - held_out, held_out

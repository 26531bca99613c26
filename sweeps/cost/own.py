"""What a user's own images and network take, which no declaration tells: a process with torch looks at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from sweeps.children import deaf_to_ctrl_c, worker_pool
from sweeps.cost.network import NetworkCost, network_cost
from trainer.config import Custom, Dataset, ImageFolder, TrialConfig
from trainer.data.parts import classes, not_there, part_files
from trainer.declaration import ConfigError


class Own(NamedTuple):
    """images: of the training and of the test set, before any validation split. cost: of the network on one image."""

    images: tuple[float, float]
    cost: NetworkCost


def has_own(trial: TrialConfig) -> bool:
    """Whether the trial's images or its network are the user's own."""
    return isinstance(trial.dataset, ImageFolder) or isinstance(trial.model, Custom)


def own_costs(trials: Mapping[str, TrialConfig], data_dir: Path, code_dir: Path) -> dict[str, Own | str]:
    """Of each trial, under its key; one line that says why where it cannot be told.

    code_dir: where the modules of ``Custom`` networks are looked for first.
    """
    found: dict[str, Own | str] = {}
    with worker_pool(1) as pool:
        with deaf_to_ctrl_c():
            futures = {key: pool.submit(own_cost, trial, data_dir, code_dir) for key, trial in trials.items()}
        for key, future in futures.items():
            try:
                found[key] = future.result()
            except BrokenProcessPool:
                found[key] = "a process that looked at a network of yours was lost"
    return found


def own_cost(trial: TrialConfig, data_dir: Path, code_dir: Path) -> Own | str:
    """The same in this process."""
    try:
        shape, images = _shape_and_images(trial.dataset, data_dir)
        cost = network_cost(trial.model, shape, classes(trial.dataset)) or _counted(trial, shape, code_dir)
        return Own(images, cost)
    except ConfigError as error:
        return str(error)
    except Exception as error:  # of the user's network, in a backward pass
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _shape_and_images(dataset: Dataset, data_dir: Path) -> tuple[tuple[int, ...], tuple[float, float]]:
    """Of one image: channels, height, width. A folder of images is told by what was digested."""
    if isinstance(dataset, ImageFolder):
        return _shape_and_images_of_folder(dataset, data_dir)
    return dataset.shape, declared_images(dataset)


def declared_images(dataset: Dataset) -> tuple[float, float]:
    """How many images, or points, the training and the test set have; not of a folder, which does not declare it."""
    assert not isinstance(dataset, ImageFolder)
    return dataset.sizes


def _shape_and_images_of_folder(dataset: ImageFolder, data_dir: Path) -> tuple[tuple[int, ...], tuple[float, float]]:
    from trainer.data.cache import read_part

    if absent := not_there(dataset, data_dir):
        raise absent
    again = "run `make digest FOLDER=PATH` again"
    stored = {part: read_part(file, again).examples.images for part, file in part_files(dataset, data_dir).items()}
    shape = tuple(next(iter(stored.values())).shape[1:])
    if dataset.test is None:
        return shape, (len(stored["train"]), len(stored["test"]))
    number = len(stored["all"])
    return shape, (number * (1 - dataset.test.fraction), number * dataset.test.fraction)


def _counted(trial: TrialConfig, shape: Sequence[int], code_dir: Path) -> NetworkCost:
    """By torch, in a step of two images, the least that BatchNorm takes. Raises what the user's network does."""
    import torch
    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode

    from trainer.models.registry import build_model

    images, labels = torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64)
    network = build_model(trial.model, shape, classes(trial.dataset), init_seed=0, code_dir=code_dir).train()
    with FlopCounterMode(display=False) as forward:
        loss = functional.cross_entropy(network(images), labels)
    with FlopCounterMode(display=False) as backward:
        loss.backward()  # type: ignore[no-untyped-call]
    one, other = (counter.get_total_flops() // len(images) for counter in (forward, backward))
    layers = sum(any(own.ndim > 1 for own in module.parameters(recurse=False)) for module in network.modules())
    return NetworkCost(one, other, sum(tensor.numel() for tensor in network.parameters()), layers)

"""Examples as whole-data-set tensors, their digest, and stratified splits of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.config import Holdout


class Examples(NamedTuple):
    """images: uint8 [n, channels, height, width] as stored, or float [...] once normalised; labels: int64 [n]."""

    images: Tensor
    labels: Tensor

    def take(self, index: Tensor) -> Examples:
        """The examples at ``index``, in its order."""
        return Examples(self.images[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Subset:
    """The examples at ``index`` (int64 [n]) of ``stored``, which trials share and nobody changes: no copy is made."""

    stored: Examples
    index: Tensor

    @property
    def labels(self) -> Tensor:
        """int64 [n], in the order of ``index``."""
        return self.stored.labels[self.index]

    def __len__(self) -> int:
        return len(self.index)


def digest(examples: Examples) -> str:
    """First 16 hex digits of SHA-256 over shape, pixels and labels, in order."""
    content = hashlib.sha256(repr(tuple(examples.images.shape)).encode())
    content.update(examples.images.contiguous().numpy().data)
    content.update(examples.labels.numpy().astype("<i8").tobytes())
    return content.hexdigest()[:16]


def stratified(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two sorted index tensors over ``labels`` [n]: ``size`` examples with every class in proportion, and the rest.

    Uses numpy's legacy generator, whose streams are frozen: a split must be the same in every version.
    """
    randomness = np.random.RandomState(seed)
    chosen: list[int] = []
    for label, share in _shares(labels, size).items():
        members = np.flatnonzero(labels.numpy() == label)
        chosen.extend(randomness.permutation(members)[:share].tolist())
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.tensor(chosen, dtype=torch.int64)] = True
    return mask.nonzero().flatten(), (~mask).nonzero().flatten()


def _shares(labels: Tensor, size: int) -> dict[int, int]:
    """How many of each class, by the largest remainder; they add up to ``size``."""
    classes, counts = torch.unique(labels, return_counts=True)
    exact = {int(label): size * int(count) / len(labels) for label, count in zip(classes, counts, strict=True)}
    shares = {label: int(share) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (shares[label] - exact[label], label))
    for label in by_remainder[: size - sum(shares.values())]:
        shares[label] += 1
    return shares


def hold_out(labels: Tensor, holdout: Holdout) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the validation part, stratified by class. Raises ConfigError if one is empty."""
    total = len(labels)
    size = holdout.size(total)
    holdout.require(0 < size < total, "fraction", f"such that of {total} images some are held out and some are not")
    held_out, kept = stratified(labels, size, holdout.seed)
    return kept, held_out

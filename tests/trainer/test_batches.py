from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import trainer.data.batches
from trainer.config import Augment
from trainer.data.augment import changed, draw
from trainer.data.batches import batches
from trainer.data.pixels import PixelScale
from trainer.data.splits import Examples, Subset, digest
from trainer.declaration import ConfigError

SCALE = PixelScale(torch.tensor([120.0, 110.0, 100.0]).reshape(1, 3, 1, 1), torch.full((1, 3, 1, 1), 60.0), 255)
AUGMENTS = (
    Augment(flip="horizontal", crop_padding=4, crop_fill="gray"),
    Augment(flip="horizontal", crop_padding=4, cutout=16),
    Augment(flip="none", crop_padding=2, cutout=20, policy="svhn"),
    Augment(flip="horizontal", crop_padding=0, policy="cifar10"),
)


def subset(count: int = 60) -> Subset:
    """The second half, backwards, of twice as many noise images; a label is its image's place among all."""
    images = torch.randint(0, 256, (2 * count, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    stored = Examples(images.to(torch.uint8), torch.arange(2 * count))
    return Subset(stored, torch.arange(2 * count - 1, count - 1, -1))


def epoch(
    train: Subset, order: Tensor, augment: Augment | None, size: int = 25, seed: int = 0, scale: PixelScale = SCALE
) -> Examples:
    """All batches, put together."""
    found = list(batches(train, order, size, scale, augment=augment, randomness=np.random.RandomState(seed)))
    return Examples(torch.cat([batch.images for batch in found]), torch.cat([batch.labels for batch in found]))


def shuffled(train: Subset) -> Tensor:
    return torch.randperm(len(train), generator=torch.Generator().manual_seed(1))


def test_without_augmentation_images_are_normalised_and_nothing_else() -> None:
    train = subset()
    order = shuffled(train)
    found = epoch(train, order, None)
    places = train.index[order]
    assert torch.equal(found.images, (train.stored.images[places].float() - SCALE.mean) / SCALE.std)
    assert torch.equal(found.labels, places)


@pytest.mark.parametrize("augment", [None, *AUGMENTS])
def test_labels_stay_in_order_and_the_last_batch_has_the_rest(augment: Augment | None) -> None:
    train = subset()
    order = shuffled(train)[:55]
    found = list(batches(train, order, 25, SCALE, augment=augment, randomness=np.random.RandomState(0)))
    assert [tuple(batch.images.shape) for batch in found] == [(25, 3, 32, 32), (25, 3, 32, 32), (5, 3, 32, 32)]
    assert torch.equal(torch.cat([batch.labels for batch in found]), train.index[order])
    assert all(batch.images.dtype == torch.float32 for batch in found)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_images_are_changed_then_normalised_then_cut_out(augment: Augment) -> None:
    """Each is what its label's image becomes, with zeros in the hole and nowhere by themselves."""
    train = subset()
    order = shuffled(train)
    found = epoch(train, order, augment)
    draws = draw(augment, len(order), 32, 32, np.random.RandomState(0))
    levels = changed(train.stored.images.numpy(), found.labels.numpy(), augment, draws, 255)
    expected = (torch.from_numpy(levels).float() - SCALE.mean) / SCALE.std
    half = augment.cutout // 2
    for image, (row, column) in zip(expected, draws.hole.tolist(), strict=True):
        image[:, max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0
    assert torch.equal(found.images, expected)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_neither_batches_nor_chunks_show(augment: Augment, monkeypatch: pytest.MonkeyPatch) -> None:
    train = subset()
    order = shuffled(train)
    whole = epoch(train, order, augment, size=len(train))
    for size, values in ((1, 1), (7, 20 * 3 * 32 * 32), (50, 1)):
        monkeypatch.setattr(trainer.data.batches, "CHUNK_VALUES", values)
        assert torch.equal(epoch(train, order, augment, size=size).images, whole.images)


def test_only_the_last_batch_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images are augmented at a time."""
    train = subset()
    for images in (1, 30, 55):
        monkeypatch.setattr(trainer.data.batches, "CHUNK_VALUES", images * 3 * 32 * 32)
        randomness = np.random.RandomState(0)
        found = batches(train, torch.arange(60), 25, SCALE, augment=AUGMENTS[0], randomness=randomness)
        assert [len(batch.labels) for batch in found] == [25, 25, 10]


@pytest.mark.parametrize("augment", AUGMENTS)
def test_an_example_depends_on_the_random_state_and_its_place(augment: Augment) -> None:
    train = subset()
    order = shuffled(train)
    first = epoch(train, order, augment)
    assert torch.equal(epoch(train, order, augment).images, first.images)
    other = (epoch(train, order, augment, seed=1).images != first.images).flatten(1).any(1)
    assert other.sum() > len(train) / 2
    swapped = order.clone()
    swapped[[3, 40]] = order[[40, 3]]
    same = (epoch(train, swapped, augment).images == first.images).flatten(1).all(1)
    assert set(range(len(train))) - set(same.nonzero().flatten().tolist()) == {3, 40}


def test_the_next_epoch_draws_anew() -> None:
    train, randomness = subset(), np.random.RandomState(0)
    order = torch.arange(len(train))
    one, other = (
        torch.cat([batch.images for batch in batches(train, order, 25, SCALE, augment=AUGMENTS[0], randomness=state)])
        for state in (randomness, randomness)
    )
    assert not torch.equal(one, other)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_stored_images_are_never_changed(augment: Augment, tmp_path: Path) -> None:
    """Nor those that trials share through a file mapped into memory."""
    train = subset()
    torch.save(train.stored._asdict(), tmp_path / "images.pt")
    mapped = Subset(Examples(**torch.load(tmp_path / "images.pt", mmap=True, weights_only=True)), train.index)
    before, file = digest(train.stored), (tmp_path / "images.pt").read_bytes()
    order = shuffled(train)
    assert torch.equal(epoch(mapped, order, augment).images, epoch(train, order, augment).images)
    assert digest(train.stored) == digest(mapped.stored) == before
    assert (tmp_path / "images.pt").read_bytes() == file


@pytest.mark.parametrize(("shape", "levels"), [((1, 28, 28), 255), ((1, 8, 8), 16)])
def test_images_of_any_size_and_one_channel(shape: tuple[int, int, int], levels: int) -> None:
    images = torch.randint(0, levels + 1, (10, *shape)).to(torch.uint8)
    train = Subset(Examples(images, torch.arange(10)), torch.arange(10))
    scale = PixelScale(torch.full((1, 1, 1, 1), levels / 2), torch.full((1, 1, 1, 1), levels / 4), levels)
    augment = Augment(flip="none", crop_padding=2, crop_fill="gray", cutout=4)
    found = epoch(train, torch.arange(10), augment, scale=scale).images
    assert found.shape == (10, *shape)
    assert found.abs().max() <= 2  # what a crop uncovers has a level of these images, too
    policy = Augment(flip="none", crop_padding=2, policy="cifar10")
    with pytest.raises(ConfigError, match=f"'none' for images of 1 channels and {levels} levels"):
        batches(train, torch.arange(10), 5, scale, augment=policy, randomness=np.random.RandomState(0))


def test_augmentation_without_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="augment needs randomness"):
        batches(subset(), torch.arange(3), 2, SCALE, augment=AUGMENTS[0])

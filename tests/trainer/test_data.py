from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import trainer.data.load
from tests.trainer.trials import search_trial, tiny
from trainer.config import Dataset, Digits, Holdout, Mnist5k
from trainer.data.batches import batches
from trainer.data.load import TrialData, load
from trainer.data.parts import CLASSES, LEVELS, Part
from trainer.data.pixels import measured_scale
from trainer.data.shipped import SHIPPED
from trainer.data.splits import Examples, Subset, digest, hold_out, stratified
from trainer.declaration import ConfigError
from trainer.machine import Machine

DIGITS = Digits()


def start_anew() -> None:
    """As in a process that has loaded nothing yet."""
    trainer.data.load._load_part.cache_clear()


def cache_file(machine: Machine, part: Part, dataset: Digits = DIGITS) -> Path:
    (found,) = machine.data_dir.glob(f"*-{part}-{dataset.digest}.pt")
    return found


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


# ---- Splits


@settings(deadline=None)
@given(st.data(), st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any), st.integers(0, 2**32 - 1))
def test_stratified_splits(data: st.DataObject, counts: list[int], seed: int) -> None:
    everything = [label for label, count in enumerate(counts) for _ in range(count)]
    labels = torch.tensor(data.draw(st.permutations(everything)))
    size = data.draw(st.integers(0, len(labels)))
    chosen, rest = stratified(labels, size, seed)
    assert len(chosen) == size
    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(len(labels)))
    assert chosen.tolist() == sorted(chosen.tolist())
    assert rest.tolist() == sorted(rest.tolist())
    found = Counter(labels[chosen].tolist())
    for label, count in enumerate(counts):
        assert abs(found[label] - size * count / len(labels)) < 1
    again = stratified(labels, size, seed)
    assert torch.equal(again[0], chosen)
    assert torch.equal(again[1], rest)


def test_seeds_give_different_splits_and_leave_the_callers_random_state() -> None:
    labels = torch.arange(100) % 10
    before = pickle.dumps(np.random.get_state())
    splits = {tuple(stratified(labels, 50, seed)[0].tolist()) for seed in range(20)}
    assert len(splits) == 20
    assert pickle.dumps(np.random.get_state()) == before


def test_a_split_is_random_within_a_class() -> None:
    """Each example is chosen about equally often: nothing hangs on its place."""
    labels = torch.arange(20) % 2
    chosen = torch.zeros(20)
    for seed in range(400):
        chosen[stratified(labels, 10, seed)[0]] += 1
    assert 150 < chosen.min() <= chosen.max() < 250


def examples(size: int) -> Examples:
    """Every image says which example it is."""
    return Examples(torch.arange(size).reshape(-1, 1, 1, 1), torch.arange(size) % 10)


def whole(subset: Subset) -> Examples:
    """What a subset selects, as stored."""
    return subset.stored.take(subset.index)


def test_taken_examples_are_in_the_order_asked_for() -> None:
    taken = examples(30).take(torch.tensor([17, 3, 25, 3]))
    assert taken.images.flatten().tolist() == [17, 3, 25, 3]
    assert taken.labels.tolist() == [7, 3, 5, 3]


@pytest.mark.parametrize(("fraction", "size"), [(0.5, 60), (1 / 3, 40), (0.1, 12), (0.99, 119)])
def test_hold_out_takes_its_fraction_and_keeps_images_with_labels(fraction: float, size: int) -> None:
    stored = examples(120)
    kept, held_out = (Subset(stored, index) for index in hold_out(stored.labels, Holdout(fraction=fraction)))
    assert len(held_out) == size
    assert sorted([*kept.index.tolist(), *held_out.index.tolist()]) == list(range(120))
    for part in (kept, held_out):
        taken = whole(part)
        assert torch.equal(taken.images.flatten(), part.index)
        assert torch.equal(taken.images.flatten() % 10, taken.labels)
        assert torch.equal(taken.labels, part.labels)


def test_the_holdouts_seed_moves_the_split_and_the_trials_seed_does_not(machine: Machine) -> None:
    def val(**changes: Any) -> Tensor:
        held_out = load(tiny(**changes), machine).val
        assert held_out is not None
        return held_out.labels

    assert torch.equal(val(seed=0), val(seed=1))
    assert not torch.equal(val(), val(validation=Holdout(fraction=1 / 3, seed=1)))


# ---- The data that packages ship


@pytest.mark.parametrize(
    ("dataset", "sizes", "shape", "levels"),
    [(DIGITS, (600, 1197), (1, 8, 8), 16), (Mnist5k(), (2000, 3000), (1, 28, 28), 255)],
    ids=["digits", "mnist5k"],
)
def test_shipped_data_are_those_declared(
    dataset: Digits | Mnist5k, sizes: tuple[int, int], shape: tuple[int, ...], levels: int
) -> None:
    parts = SHIPPED[type(dataset)]()
    assert ":".join(map(digest, parts)) == dataset.digest
    everything = Counter(torch.cat([part.labels for part in parts]).tolist())
    assert sorted(everything) == list(range(CLASSES[type(dataset)]))
    assert LEVELS[type(dataset)] == levels
    for part, size in zip(parts, sizes, strict=True):
        assert part.images.shape == (size, *shape)
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.images.max() == levels
        for label, count in Counter(part.labels.tolist()).items():
            assert abs(count - size * everything[label] / sum(sizes)) < 1


def test_the_digest_sees_every_change() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    original = Examples(images, torch.tensor([0, 1, 2]))
    pixel = images.clone()
    pixel[2, 0, 1, 1] += 1
    changed = [
        Examples(pixel, original.labels),
        Examples(images, torch.tensor([0, 1, 1])),
        Examples(images.reshape(3, 1, 1, 4), original.labels),
        original.take(torch.tensor([1, 0, 2])),
        original.take(torch.tensor([0, 1])),
    ]
    assert len({digest(original), *map(digest, changed)}) == 1 + len(changed)
    strided = Examples(images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2), original.labels.int())
    assert digest(strided) == digest(original), "how it lies in memory is no change"


# ---- Loading


@pytest.mark.parametrize(
    ("declared", "part"),
    [
        ("0" * 16 + ":" + DIGITS.digest[17:], "train"),
        (DIGITS.digest[:17] + "0" * 16, "test"),
        (DIGITS.digest[:16], "test"),
        ("", "train"),
    ],
)
def test_a_wrong_declared_digest_is_refused(fresh: Machine, declared: str, part: str) -> None:
    for _ in range(2):  # nothing that was written at the first try may pass at the second
        with pytest.raises(ConfigError, match=f"Digits.digest: the {part} part is .*, declared is ") as caught:
            load(tiny(dataset=Digits(digest=declared)), fresh)
        assert "install the pinned one" in str(caught.value)
        assert "\n" not in str(caught.value)
        start_anew()
    assert [name for name in names(fresh.data_dir) if f"-{part}-" in name] == []


def rewritten(path: Path, **changes: Tensor | None) -> None:
    stored = torch.load(path, weights_only=True) | changes
    torch.save({name: tensor for name, tensor in stored.items() if tensor is not None}, path)


def one_pixel(path: Path) -> None:
    images = torch.load(path, weights_only=True)["images"]
    images[5, 0, 3, 3] += 1
    rewritten(path, images=images)


def one_label(path: Path) -> None:
    labels = torch.load(path, weights_only=True)["labels"]
    labels[5] = (labels[5] + 1) % 10
    rewritten(path, labels=labels)


def without_labels(path: Path) -> None:
    rewritten(path, labels=None)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def without_its_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("spoil", [one_pixel, one_label, without_labels, cut_short, without_its_end, emptied])
def test_a_changed_cache_is_refused_and_deleting_it_helps(fresh: Machine, part: Part, spoil: Any) -> None:
    before = digest(load(tiny(), fresh).train.stored)
    start_anew()  # nothing may map the file that is spoilt
    path = cache_file(fresh, part)
    spoil(path)
    start_anew()
    with pytest.raises(ConfigError) as caught:
        load(tiny(), fresh)
    assert str(path) in str(caught.value)
    assert "delete" in str(caught.value)
    assert "\n" not in str(caught.value)
    path.unlink()
    start_anew()
    assert digest(load(tiny(), fresh).train.stored) == before


def test_the_cache_spares_the_source(fresh: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tiny(), fresh)
    start_anew()
    monkeypatch.setitem(SHIPPED, Digits, lambda: pytest.fail("loaded from the package again"))
    again = load(tiny(), fresh)
    assert digest(whole(again.train)) == digest(whole(first.train))


def test_the_data_folder_is_made_and_holds_the_parts_alone(fresh: Machine) -> None:
    assert not fresh.data_dir.exists()
    load(search_trial(), fresh)
    assert names(fresh.data_dir) == [f"digits-{part}-{DIGITS.digest}.pt" for part in ("test", "train")]


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_interrupted_fill_leaves_no_half_file(fresh: Machine, monkeypatch: pytest.MonkeyPatch, part: Part) -> None:
    save, wanted = torch.save, {"train": 600, "test": 1197}[part]

    def fail(contents: dict[str, Tensor], file: IO[bytes]) -> None:
        if len(contents["labels"]) == wanted:
            file.write(b"PK\x03\x04 half")
            raise OSError("disk full")
        save(contents, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(
            ConfigError, match=rf"Digits: {fresh.data_dir}: cannot write to it \(disk full\): run `make"
        ):
            load(tiny(), fresh)
    assert names(fresh.data_dir) == ([] if part == "train" else [f"digits-train-{DIGITS.digest}.pt"])
    assert load(tiny(), fresh).test is not None


def test_a_search_trial_never_loads_the_test_part(fresh: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = trainer.data.load._load_part, []

    def guarded(dataset: Dataset, part: Part, data_dir: Path) -> Examples:
        asked.append(part)
        if part == "test":
            raise AssertionError("the test part was loaded")
        return original(dataset, part, data_dir)

    monkeypatch.setattr(trainer.data.load, "_load_part", guarded)
    assert load(search_trial(), fresh).test is None
    assert asked == ["train"]
    with pytest.raises(AssertionError, match="the test part was loaded"):
        load(tiny(), fresh)


def test_a_search_trial_does_not_open_the_test_file(fresh: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    load(search_trial(), fresh)
    start_anew()
    cache_file(fresh, "test").write_bytes(b"not to be opened")
    opened, read = [], torch.load

    def spy(path: Path, **options: Any) -> Any:
        opened.append(path.name)
        return read(path, **options)

    monkeypatch.setattr(torch, "load", spy)
    data = load(search_trial(), fresh)
    assert opened == [f"digits-train-{DIGITS.digest}.pt"]
    assert (data.test, len(data.train)) == (None, 400)
    with pytest.raises(ConfigError, match="damaged"):
        load(tiny(), fresh)


def test_parts_are_those_that_the_trial_names(machine: Machine) -> None:
    final = load(tiny(), machine)
    assert final.val is not None
    assert final.test is not None
    assert [len(part.labels) for part in (final.train, final.val, final.test)] == [400, 200, 1197]
    assert final.classes == 10
    whole = load(tiny(validation=None, evaluate="test"), machine)
    assert (len(whole.train.labels), whole.val) == (600, None)


def test_statistics_come_from_the_training_part_alone(machine: Machine) -> None:
    data, (train, test) = load(tiny(), machine), SHIPPED[Digits]()
    seen = normalized(data, data.train).images.double()
    assert seen.mean().item() == pytest.approx(0, abs=1e-6)
    assert seen.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    kept, held_out = (train.take(index) for index in hold_out(train.labels, Holdout(fraction=1 / 3)))
    pixels = kept.images.numpy().astype(np.float64)
    for part, stored in ((data.train, kept), (data.val, held_out), (data.test, test)):
        assert part is not None
        found = normalized(data, part)
        expected = (stored.images.numpy() - pixels.mean()) / pixels.std()
        np.testing.assert_allclose(found.images.numpy(), expected, atol=1e-5)
        assert torch.equal(found.labels, stored.labels)
        assert (found.images.dtype, found.labels.dtype) == (torch.float32, torch.int64)
    assert data.val is not None
    assert abs(normalized(data, data.val).images.mean().item()) > 1e-4


def normalized(data: TrialData, part: Subset) -> Examples:
    """All of ``part`` as the network sees it."""
    (found,) = batches(part, torch.arange(len(part)), len(part), data.scale)
    return found


def test_what_one_trial_does_to_its_data_no_other_sees(machine: Machine) -> None:
    data = load(tiny(), machine)
    before = digest(data.train.stored)
    seen = normalized(data, data.train)
    seen.images.zero_()
    seen.labels.zero_()
    again = load(tiny(), machine)
    assert digest(again.train.stored) == before
    assert normalized(again, again.train).labels.any()


@pytest.mark.parametrize("fraction", [1e-6, 0.9999])
def test_a_split_that_leaves_nothing_is_refused(machine: Machine, fraction: float) -> None:
    """Without validation or training images there is nothing to measure or to train on."""
    with pytest.raises(ConfigError, match="fraction"):
        load(tiny(validation=Holdout(fraction=fraction)), machine)


def test_a_channel_of_one_value_is_not_divided_by_zero() -> None:
    images = torch.stack([torch.full((4, 2, 2), 200, dtype=torch.uint8), torch.randint(256, (4, 2, 2)).byte()], dim=1)
    train = Subset(Examples(images, torch.zeros(4, dtype=torch.int64)), torch.arange(4))
    scale = measured_scale(train, 255)
    normalized = scale.normalize(images)
    assert (normalized[:, 0] == 0).all()
    assert normalized[:, 1].double().std(correction=0).item() == pytest.approx(1, abs=1e-6)

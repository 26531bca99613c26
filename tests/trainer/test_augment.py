from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms import functional as pil

from benchmarks.loader import PIL_OPERATIONS
from trainer.config import Augment
from trainer.data.augment import changed, crop_and_flip, cut_out, draw, refuse_unfit
from trainer.data.autoaugment import (
    OPERATIONS,
    SIGNED,
    Images,
    PolicyDraws,
    PolicyName,
    _groups,
    apply_policy,
    signed_magnitude,
    sub_policies,
)
from trainer.declaration import ConfigError

VANILLA = Augment(flip="horizontal", crop_padding=4)
SIZES = ((32, 32), (28, 28), (24, 40), (2, 2))
POLICIES: tuple[PolicyName, ...] = ("cifar10", "svhn")
BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")


def photographs(count: int, height: int, width: int, seed: int = 0) -> Images:
    """Smooth colours with noise [count, 3, height, width]; of ten, the first five are the cases in which operations
    have exceptions: one colour, an empty channel, a saturated one, pure noise, a few levels."""
    randomness = np.random.RandomState(seed)
    coarse = [Image.fromarray(randomness.randint(0, 256, (4, 4, 3)).astype(np.uint8)) for _ in range(count)]
    smooth = np.stack([np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in coarse])
    images = (
        (20 + 0.7 * smooth + randomness.normal(0, 4, smooth.shape))
        .clip(0, 255)
        .astype(np.uint8)
        .transpose(0, 3, 1, 2)
        .copy()
    )
    images[0::10] = 77
    images[1::10, 1] = 0
    images[2::10, 2] = 255
    images[3::10] = randomness.randint(0, 256, (3, height, width))
    images[4::10] = (images[4::10] >> 6) + 100
    return images


def by_pil(image: NDArray[np.uint8], operation: str, magnitude: float) -> NDArray[np.uint8]:
    found = PIL_OPERATIONS[operation](Image.fromarray(image.transpose(1, 2, 0)), magnitude)
    return np.asarray(found).transpose(2, 0, 1)


# ---- AutoAugment


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_equals_pil(operation: str, size: tuple[int, int]) -> None:
    images = photographs(10, *size)
    before = images.copy()
    for magnitude in {signed_magnitude(operation, level, sign, *size) for level in range(10) for sign in (-1, 1)}:
        found = OPERATIONS[operation](images, magnitude)
        expected = np.stack([by_pil(image, operation, magnitude) for image in images])
        off = np.abs(found.astype(int) - expected)
        if operation in BLENDS:  # the tolerance of the module's docstring
            assert off.max() <= 1
            assert np.count_nonzero(off) <= off.size / 1000
        else:
            assert off.max() == 0, (magnitude, off.max())
        assert found.dtype == np.uint8
    assert np.array_equal(images, before)


@pytest.mark.parametrize("size", SIZES)
def test_geometry_is_torchvisions(size: tuple[int, int]) -> None:
    """Which way a sign goes, and about which point, as its ``AutoAugment`` has it for PIL images."""
    image = photographs(6, *size)[5]
    shown = Image.fromarray(image.transpose(1, 2, 0))
    for level, sign in ((1, 1), (4, -1), (9, 1)):
        for operation in ("ShearX", "ShearY", "TranslateX", "TranslateY"):
            magnitude = signed_magnitude(operation, level, sign, *size)
            at = int(operation.endswith("Y"))
            pixels, shear = [0, 0], [0.0, 0.0]
            if operation.startswith("Shear"):
                shear[at] = float(np.degrees(np.arctan(magnitude)))
            else:
                pixels[at] = int(magnitude)
            expected = pil.affine(shown, 0.0, pixels, 1.0, shear, fill=[128] * 3, center=[0, 0])
            found = OPERATIONS[operation](image[None], magnitude)[0]
            assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1)), operation
        degrees = signed_magnitude("Rotate", level, sign, *size)
        expected = pil.rotate(shown, degrees, fill=[128] * 3)
        assert np.array_equal(OPERATIONS["Rotate"](image[None], degrees)[0], np.asarray(expected).transpose(2, 0, 1))


def test_operations_that_change_little_are_not_compared_in_vain() -> None:
    """Each does something to most of the images above, at its highest level."""
    images = photographs(10, 32, 32)
    for operation, kernel in OPERATIONS.items():
        changes = (kernel(images, signed_magnitude(operation, 9, 1, 32, 32)) != images).any((1, 2, 3))
        assert changes.sum() >= 7, operation


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_magnitudes_are_torchvisions(size: tuple[int, int]) -> None:
    space = AutoAugment()._augmentation_space(10, size)
    assert set(space) == set(OPERATIONS)
    for operation, (magnitudes, signed) in space.items():
        assert signed == (operation in SIGNED)
        for level, magnitude in enumerate(magnitudes.tolist() if magnitudes.ndim else [0.0]):
            whole = int(magnitude) if operation.startswith("Translate") else magnitude
            for sign in (-1, 1):
                found = signed_magnitude(operation, level if magnitudes.ndim else None, sign, *size)
                assert found == pytest.approx(sign * whole if signed else whole, abs=1e-4)


def test_the_policies_are_the_published_ones() -> None:
    """Counted, and the ends of both tables as in the paper's appendix."""
    tables = {name: sub_policies(name) for name in POLICIES}
    assert [len(table) for table in tables.values()] == [25, 25]
    assert tables["cifar10"][0] == (("Invert", 0.1, None), ("Contrast", 0.2, 6))
    assert tables["cifar10"][-1] == (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None))
    assert tables["svhn"][0] == (("ShearX", 0.9, 4), ("Invert", 0.2, None))
    assert tables["svhn"][-1] == (("ShearX", 0.7, 2), ("Invert", 0.1, None))
    for name, table in tables.items():
        assert list(table) == AutoAugment(AutoAugmentPolicy(name)).policies
        assert {operation for pair in table for operation, _, _ in pair} <= set(OPERATIONS)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_equals_pil_an_image_at_a_time(name: PolicyName) -> None:
    images = photographs(400, 32, 32)
    drawn = draw(VANILLA, len(images), 32, 32, np.random.RandomState(1))
    expected = images.copy()
    for image, number, uniform, signs in zip(expected, drawn.sub_policy, drawn.uniform, drawn.sign, strict=True):
        for (operation, probability, level), chance, sign in zip(
            sub_policies(name)[number], uniform, signs, strict=True
        ):
            if chance < probability:
                image[:] = by_pil(image, operation, signed_magnitude(operation, level, sign, 32, 32))
    apply_policy(images, name, PolicyDraws(drawn.sub_policy, drawn.uniform, drawn.sign))
    assert np.abs(images.astype(int) - expected).max() <= 2  # two blends of one level each
    assert np.mean(images != expected) <= 1 / 1000


@pytest.mark.parametrize("name", POLICIES)
def test_operations_are_applied_with_their_probability_and_both_signs(name: PolicyName) -> None:
    count = 50_000
    drawn = draw(VANILLA, count, 32, 32, np.random.RandomState(2))
    for step in (0, 1):
        expected: dict[tuple[str, float], float] = {}
        for pair in sub_policies(name):
            operation, probability, level = pair[step]
            for sign in (-1, 1):
                key = (operation, signed_magnitude(operation, level, sign, 32, 32))
                expected[key] = expected.get(key, 0) + count / 25 / 2 * probability
        groups = _groups(name, step, PolicyDraws(drawn.sub_policy, drawn.uniform, drawn.sign), 32, 32)
        assert set(groups) == {key for key, number in expected.items() if number}
        for key, members in groups.items():
            assert len(members) == len(set(members.tolist()))
            assert abs(len(members) - expected[key]) < 5 * expected[key] ** 0.5


# ---- Crop and flip


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_crop_and_flip_equal_padding_and_cutting(
    height: int, width: int, padding: int, channels: int, seed: int
) -> None:
    randomness = np.random.RandomState(seed)
    stored = randomness.randint(0, 256, (5, channels, height, width)).astype(np.uint8)
    before = stored.copy()
    index = randomness.randint(0, 5, 8)
    crop, flip = randomness.randint(0, 2 * padding + 1, (8, 2)), randomness.randint(0, 2, 8)
    found = crop_and_flip(stored, index, crop, flip, padding, fill=9)
    for image, place, (down, right), mirrored in zip(found, index, crop, flip, strict=True):
        padded = np.pad(stored[place], ((0, 0), (padding, padding), (padding, padding)), constant_values=9)
        window = padded[:, down : down + height, right : right + width]
        assert np.array_equal(image, window[:, :, ::-1] if mirrored else window)
    assert np.array_equal(stored, before)


@pytest.mark.parametrize(
    ("fill", "levels", "expected"), [("zero", 255, 0), ("gray", 255, 128), ("gray", 16, 8), ("gray", 1, 1)]
)
def test_what_a_crop_uncovers(fill: str, levels: int, expected: int) -> None:
    augment = Augment(flip="none", crop_padding=2, crop_fill=fill)  # type: ignore[arg-type]
    drawn = draw(augment, 1, 8, 8, np.random.RandomState(0))._replace(crop=np.array([[0, 4]]))
    found = changed(np.full((1, 1, 8, 8), 200, np.uint8), np.array([0]), augment, drawn, levels)
    assert set(found[0, 0, :2].ravel()) | set(found[0, 0, :, 6:].ravel()) == {expected}
    assert set(found[0, 0, 2:, :6].ravel()) == {200}


def test_without_flip_none_is_mirrored() -> None:
    augment = Augment(flip="none", crop_padding=1)
    stored = photographs(20, 8, 8)
    drawn = draw(augment, 20, 8, 8, np.random.RandomState(0))._replace(crop=np.ones((20, 2), np.int64))
    assert np.array_equal(changed(stored, np.arange(20), augment, drawn, 255), stored)


# ---- Cutout


@pytest.mark.parametrize(("height", "width", "side"), [(6, 5, 1), (6, 5, 2), (6, 5, 3), (4, 7, 4), (3, 3, 10)])
def test_the_hole_is_the_square_inside_of_the_image(height: int, width: int, side: int) -> None:
    """At every centre there is; as DeVries and Taylor: side // 2 pixels above and left of it, the rest from it on."""
    centres = [(row, column) for row in range(height) for column in range(width)]
    images = torch.ones(len(centres), 2, height, width)
    cut_out(images, torch.tensor(centres), side)
    for image, (row, column) in zip(images, centres, strict=True):
        expected = torch.ones(2, height, width)
        top, left = max(row - side // 2, 0), max(column - side // 2, 0)
        expected[:, top : row - side // 2 + side, left : column - side // 2 + side] = 0
        assert torch.equal(image, expected)


def test_holes_are_centred_anywhere() -> None:
    """Uniformly, hence smaller at the border: the mean hole of 16 in 32 × 32 has 196 pixels, not 256."""
    drawn = draw(VANILLA, 20_000, 32, 32, np.random.RandomState(3))
    images = torch.ones(20_000, 1, 32, 32)
    cut_out(images, torch.from_numpy(drawn.hole), 16)
    areas = (images == 0).sum((1, 2, 3)).double()
    assert areas.min() == 8 * 8
    assert areas.max() == 16 * 16
    side = sum(min(row + 8, 32) - max(row - 8, 0) for row in range(32)) / 32
    assert areas.mean().item() == pytest.approx(side**2, abs=5 * areas.std().item() / 20_000**0.5)


# ---- What is drawn


def test_everything_is_drawn_uniformly() -> None:
    drawn = draw(VANILLA, 40_000, 20, 24, np.random.RandomState(4))
    cells = {
        81: 9 * drawn.crop[:, 0] + drawn.crop[:, 1],
        480: 24 * drawn.hole[:, 0] + drawn.hole[:, 1],
        25: drawn.sub_policy,
        2: drawn.flip,
        4: (drawn.sign + 1) @ np.array([1, 2]) // 2,
        100: (10 * drawn.uniform).astype(int) @ np.array([10, 1]),
    }
    for number, values in cells.items():
        assert stats.chisquare(np.bincount(values, minlength=number)).pvalue > 0.001, number


def test_declarations_share_what_they_have_in_common() -> None:
    cutout = Augment(flip="horizontal", crop_padding=4, policy="cifar10", cutout=16)
    one, other = (draw(augment, 9, 32, 32, np.random.RandomState(5)) for augment in (VANILLA, cutout))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("channels", "levels"), [(1, 255), (3, 16), (1, 16)])
def test_autoaugment_of_other_images_is_refused(channels: int, levels: int) -> None:
    policy = Augment(flip="none", crop_padding=0, policy="svhn")
    with pytest.raises(ConfigError) as caught:
        refuse_unfit(policy, (channels, 32, 32), levels)
    assert str(caught.value) == (
        f"Augment.policy = 'svhn': must be 'none' for images of {channels} channels and {levels} levels:"
        " AutoAugment is defined for 3 channels and 255 levels"
    )
    refuse_unfit(VANILLA, (channels, 32, 32), levels)
    refuse_unfit(policy, (3, 32, 32), 255)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"crop_padding": 16}, r"Augment.crop_padding = 16: must be < 16, the images' side"),
        ({"crop_padding": 0, "cutout": 32}, r"Augment.cutout = 32: must be < 32, twice the images' side"),
    ],
)
def test_augmentation_that_may_leave_nothing_is_refused(changes: dict[str, int], refusal: str) -> None:
    with pytest.raises(ConfigError, match=refusal):
        refuse_unfit(Augment(flip="horizontal", **changes), (3, 20, 16), 255)  # type: ignore[arg-type]
    refuse_unfit(Augment(flip="horizontal", crop_padding=15, cutout=31), (3, 20, 16), 255)

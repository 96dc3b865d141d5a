from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from bestiary.batches.augmentation import (
    BatchRandom,
    augment,
    colour_jitter,
    random_erasing,
    random_hflip,
    random_resized_crop,
)
from bestiary.recipe import AugmentConfig

EVERYTHING = AugmentConfig(mirror=0.5, crop_min_area=0.3, colour_jitter=0.4, erasing=0.5)
NOTHING = AugmentConfig(mirror=0, crop_min_area=1, colour_jitter=0, erasing=0)

CHANGES: dict[str, Callable[[Tensor, BatchRandom], Tensor]] = {
    "mirror": lambda images, chance: random_hflip(images, chance),
    "random_resized_crop": lambda images, chance: random_resized_crop(images, chance, min_area=0.3),
    "colour_jitter": lambda images, chance: colour_jitter(images, chance, strength=0.4),
    "erasing": lambda images, chance: random_erasing(images, chance, probability=1.0),
    "augment": lambda images, chance: augment(images, EVERYTHING, chance),
}


def seeded(seed: int) -> BatchRandom:
    return BatchRandom(torch.Generator().manual_seed(seed))


def pictures(count: int = 6, height: int = 20, width: int = 24) -> Tensor:
    """Random uint8 pictures as training sees them: an NCHW view of NHWC memory."""
    pixels = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=seeded(1).generator)
    return pixels.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_and_range_are_kept_and_pixels_change(name: str, dtype: torch.dtype) -> None:
    images = pictures().to(dtype)
    before = images.clone()
    changed = CHANGES[name](images, seeded(0))
    assert changed.shape == images.shape
    assert changed.float().min() >= 0
    assert changed.float().max() <= 255
    assert not torch.equal(changed.float(), before.float())
    assert torch.equal(images, before), "the input is left as it was"


@pytest.mark.parametrize("name", CHANGES)
def test_the_generator_decides_everything(name: str) -> None:
    first, again, other = (CHANGES[name](pictures(), seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", CHANGES)
def test_no_pictures_stay_no_pictures(name: str) -> None:
    assert CHANGES[name](pictures(count=0), seeded(0)).shape == (0, 3, 20, 24)


def test_nothing_asked_changes_nothing() -> None:
    chance = seeded(0)
    state = chance.generator.get_state()
    assert torch.equal(augment(pictures(), NOTHING, chance), pictures().float())
    assert torch.equal(chance.generator.get_state(), state), "a part that is off draws no numbers"


def test_mirror_shows_each_picture_as_it_is_or_reversed() -> None:
    images = pictures(count=40)
    mirrored = random_hflip(images, seeded(0))
    reversed_ones = [torch.equal(after, before.flip(-1)) for before, after in zip(images, mirrored, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, mirrored, strict=True)]
    assert all(one != other for one, other in zip(reversed_ones, kept, strict=True))
    assert 10 < sum(reversed_ones) < 30


def test_a_crop_of_everything_is_the_picture() -> None:
    whole = random_resized_crop(pictures(), seeded(0), min_area=1.0, max_aspect_ratio=1.0)
    assert torch.allclose(whole, pictures().float(), atol=1e-2)


def test_pictures_come_back_in_the_size_that_is_asked_for() -> None:
    for settings in (EVERYTHING, NOTHING):
        assert augment(pictures(), settings, seeded(0), size=16).shape == (6, 3, 16, 16)
    flat = augment(torch.full((2, 3, 24, 24), 80.0), NOTHING, seeded(0), size=16)
    assert torch.allclose(flat, torch.full((2, 3, 16, 16), 80.0), atol=1e-3)


def test_a_crop_is_a_part_scaled_up() -> None:
    """On a ramp from left to right, a crop is a flatter ramp that stays inside the old one."""
    ramp = torch.linspace(0, 255, 32).expand(20, 3, 32, 32)
    cropped = random_resized_crop(ramp, seeded(0), min_area=0.2)
    slopes = cropped.diff(dim=-1).mean(dim=(1, 2, 3)) / (255 / 31)
    assert (cropped.diff(dim=-1) >= -1e-3).all()
    assert (slopes <= 1.0001).all()
    assert slopes.min() < 0.8
    assert (cropped.diff(dim=-2).abs() < 1e-3).all(), "columns are not mixed with rows"


def test_jitter_keeps_grey_pictures_grey_and_moves_their_brightness() -> None:
    grey = torch.full((30, 3, 8, 8), 100.0)
    jittered = colour_jitter(grey, seeded(0), strength=0.3)
    assert torch.allclose(jittered[:, 0], jittered[:, 1], atol=1e-3)
    assert torch.allclose(jittered[:, 0], jittered[:, 2], atol=1e-3)
    assert jittered.min() >= 70 - 1e-3
    assert jittered.max() <= 130 + 1e-3
    assert jittered.std() > 5


def test_erasing_fills_one_rectangle_with_the_mean_colour() -> None:
    images = pictures(count=10, height=32, width=32).float()
    erased = random_erasing(images, seeded(0), probability=1.0)
    for before, after in zip(images, erased, strict=True):
        gone = (before != after).any(dim=0)
        rows, columns = gone.any(dim=1), gone.any(dim=0)
        assert 0.01 < gone.float().mean() < 0.4
        assert torch.equal(gone, rows[:, None] & columns[None, :])
        assert torch.allclose(after[:, gone], before.mean(dim=(1, 2))[:, None], atol=1e-3)


def test_only_the_asked_share_is_erased() -> None:
    images = pictures(count=200).float()
    touched = (random_erasing(images, seeded(0), probability=0.25) != images).flatten(1).any(dim=1)
    assert 25 < int(touched.sum()) < 75

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from bestiary.batches.augmentation import (
    BatchRandom,
    augment,
    colour_jitter,
    random_erasing,
    random_hflip,
    random_quarter_turn,
    random_resized_crop,
    random_vflip,
    trivial_augment,
)
from bestiary.recipe_sections import AugmentConfig

EVERYTHING = AugmentConfig(mirror=0.5, crop_min_area=0.3, colour_jitter=0.4, erasing=0.5)
NOTHING = AugmentConfig(mirror=0, crop_min_area=1, colour_jitter=0, erasing=0)

CHANGES: dict[str, Callable[[Tensor, BatchRandom], Tensor]] = {
    "mirror": lambda images, chance: random_hflip(images, chance),
    "vertical mirror": lambda images, chance: random_vflip(images, chance),
    "trivial": lambda images, chance: trivial_augment(images, chance),
    "quarters": lambda images, chance: random_quarter_turn(images, chance),
    "any angle": lambda images, chance: random_resized_crop(images, chance, min_area=0.3, turn=True),
    "random_resized_crop": lambda images, chance: random_resized_crop(images, chance, min_area=0.3),
    "colour_jitter": lambda images, chance: colour_jitter(images, chance, strength=0.4),
    "erasing": lambda images, chance: random_erasing(images, chance, probability=1.0),
    "augment": lambda images, chance: augment(images, EVERYTHING, chance),
}


def seeded(seed: int) -> BatchRandom:
    return BatchRandom(torch.Generator().manual_seed(seed))


def pictures(count: int = 6, height: int = 24, width: int = 24) -> Tensor:
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
    assert CHANGES[name](pictures(count=0), seeded(0)).shape == (0, 3, 24, 24)


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


# ---- Turns, vertical mirror, TrivialAugment --------------------------------------------------------------------------

TURNED = AugmentConfig(vertical_mirror=0.5, turn="quarters", mirror=0, crop_min_area=1, colour_jitter=0)


class FixedRandom(BatchRandom):
    """Draws the same number for every picture."""

    number = 0.0

    def draw(self, count: int) -> Tensor:
        return torch.full((count,), self.number)


def fixed(number: float) -> FixedRandom:
    rng = FixedRandom(torch.Generator())
    object.__setattr__(rng, "number", number)
    return rng


def test_quarter_turns_are_those_of_numpy_and_equally_frequent() -> None:
    images = pictures(count=400)
    turned = random_quarter_turn(images, seeded(0))
    assert turned.dtype == torch.uint8
    counts = np.zeros(4, int)
    for before, after in zip(images.numpy(), turned.numpy(), strict=True):
        equal = [np.array_equal(after, np.rot90(before, number, (1, 2))) for number in range(4)]
        assert sum(equal) == 1
        counts += equal
    assert counts.min() > 70


@pytest.mark.parametrize(("number", "quarters"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3)])
def test_each_number_is_one_quarter(number: float, quarters: int) -> None:
    turned = random_quarter_turn(pictures(), fixed(number))
    np.testing.assert_array_equal(turned.numpy(), np.rot90(pictures().numpy(), quarters, (2, 3)))


def test_a_vertical_mirror_reverses_the_rows() -> None:
    images = pictures(count=40)
    flipped = random_vflip(images, seeded(0))
    reversed_ones = [torch.equal(after, before.flip(-2)) for before, after in zip(images, flipped, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, flipped, strict=True)]
    assert all(one != other for one, other in zip(reversed_ones, kept, strict=True))
    assert 10 < sum(reversed_ones) < 30


@pytest.mark.parametrize("number", [0.0, 0.25, 0.5, 0.75])
def test_a_turn_by_a_right_angle_is_a_quarter_turn(number: float) -> None:
    """The angle is the number times 360 degrees; a crop of everything moves nothing."""
    images = pictures().float()
    turned = random_resized_crop(images, fixed(number), min_area=1.0, max_aspect_ratio=1.0, turn=True)
    expected = np.rot90(images.numpy(), round(4 * number), (2, 3))
    np.testing.assert_allclose(turned.numpy(), expected, atol=0.02)


def test_a_turn_keeps_the_middle_and_fills_the_corners_with_the_picture() -> None:
    """By 45 degrees: the distance to the middle stays within the inner disc, and no corner is black."""
    axis = torch.arange(65.0) - 32
    distance = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()
    rings = (100 + distance).expand(1, 3, 65, 65)
    turned = random_resized_crop(rings, fixed(0.125), min_area=1.0, max_aspect_ratio=1.0, turn=True)
    inside = distance < 31
    assert (turned - rings)[:, :, inside].abs().max() < 0.5
    assert turned.min() > 99
    corner = distance.max() * 1.0  # lies outside the picture by its distance minus 32.5, reflected to the inside
    reflected = 2 * 32.5 - corner
    assert turned[0, 0, 0, 0] == pytest.approx(100 + float(reflected), abs=1.0)


@pytest.mark.parametrize("turn", ["quarters", "any"])
def test_pictures_that_are_not_square_cannot_be_turned(turn: str) -> None:
    settings = AugmentConfig.model_validate({"turn": turn})
    with pytest.raises(ValueError, match="Turns need square images; got 20 x 24"):
        augment(pictures(height=20), settings, seeded(0))


def test_any_angle_comes_back_in_the_size_that_is_asked_for() -> None:
    turned = augment(pictures(), AugmentConfig(turn="any", crop_min_area=1), seeded(0), size=16)
    assert turned.shape == (6, 3, 16, 16)


def test_a_turn_draws_its_numbers_after_those_of_the_crop() -> None:
    """A recipe without turns is augmented as it was before there were any."""
    calls = list[int]()

    class Counting(BatchRandom):
        def draw(self, count: int) -> Tensor:
            calls.append(count)
            return super().draw(count)

    for turn in (False, True):
        random_resized_crop(pictures(), Counting(torch.Generator()), min_area=0.3, turn=turn)
        calls.append(-1)
    assert calls == [6, 6, 6, 6, -1, 6, 6, 6, 6, 6, -1]


def test_trivial_augment_is_that_of_torchvision() -> None:
    images, chance = pictures(count=20), seeded(5)
    seeds = (seeded(5).draw(20).double() * 2**24).long()
    changed = trivial_augment(images, chance)
    for seed, before, after in zip(seeds.tolist(), images, changed, strict=True):
        torch.manual_seed(seed)
        fill = before.float().mean(dim=(1, 2)).tolist()
        change = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR, fill=fill)
        assert torch.equal(after, change(before))


def test_trivial_augment_leaves_the_generator_and_the_threads_of_torch_as_they_were() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        trivial_augment(pictures(), seeded(0))
        assert torch.equal(torch.rand(3), expected)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("settings", [TURNED, AugmentConfig(policy="trivial", turn="any", vertical_mirror=0.3)])
def test_a_picture_is_augmented_alike_if_processes_share_the_batch(settings: AugmentConfig) -> None:
    images = pictures(count=10)
    whole = augment(images, settings, seeded(2))
    first = augment(images[:4], settings, BatchRandom(torch.Generator().manual_seed(2), 0, 6))
    second = augment(images[4:], settings, BatchRandom(torch.Generator().manual_seed(2), 4, 0))
    torch.testing.assert_close(torch.cat([first, second]), whole)


def test_flips_and_quarter_turns_only_move_pixels() -> None:
    images = pictures(count=50)
    changed = augment(images, TURNED, seeded(0))
    kinds = {
        tuple(int(value) for value in after[0].flatten()[:5]): None for after in changed
    }  # each picture is shown in one of eight ways
    assert len(kinds) == 50
    assert torch.equal(changed.flatten(2).sort(dim=2).values, images.float().flatten(2).sort(dim=2).values)
    assert math.isclose(float(changed.mean()), float(images.float().mean()), rel_tol=1e-5)

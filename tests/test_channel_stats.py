from __future__ import annotations

import numpy as np
import pytest

from bestiary.array_types import Ints, Pixels
from bestiary.batches.channel_stats import channel_statistics

IMAGES = np.random.default_rng(0).integers(0, 256, (150, 9, 7, 3), dtype=np.uint8)


def test_statistics_are_those_of_all_pixels_at_once_and_a_few_are_read_at_a_time() -> None:
    read_at_once = []

    def read(positions: Ints) -> Pixels:
        read_at_once.append(len(positions))
        return IMAGES[positions]

    found = channel_statistics(read, len(IMAGES))
    pixels = IMAGES.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=1e-14)
    assert sum(read_at_once) == len(IMAGES)
    assert max(read_at_once) <= 64


def test_a_small_spread_far_from_zero_is_exact() -> None:
    images = np.full((3000, 20, 20, 3), 254, np.uint8)
    images[0, 0, 0] = 255
    found = channel_statistics(lambda positions: images[positions], len(images))
    pixels = images[..., 0].size
    assert found.std[0] == pytest.approx(np.sqrt(1 / pixels * (1 - 1 / pixels)), rel=1e-12)


def test_a_colour_that_never_changes_divides_by_one() -> None:
    images = np.full((4, 8, 8, 3), 7, np.uint8)
    found = channel_statistics(lambda positions: images[positions], 4)
    assert (found.mean, found.std) == ((7.0, 7.0, 7.0), (1.0, 1.0, 1.0))

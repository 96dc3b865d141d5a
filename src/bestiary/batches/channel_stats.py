"""Mean and standard deviation of each channel over a collection: exact, one pass, one batch in memory."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from bestiary.batches.loader import Read, iter_eval_batches

STATISTICS_BATCH = 64
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class ChannelStats:
    """Mean and standard deviation of red, green and blue over all pixels, in units of 0..255."""

    mean: Colour
    std: Colour


def channel_statistics(read: Read, count: int) -> ChannelStats:
    """Return the statistics of rows 0 to count - 1; a constant channel has a standard deviation of 1.

    Counts and sums are integers: nothing is rounded before the last division.
    """
    counts = np.zeros((3, 256), np.int64)  # a histogram of each channel
    with closing(iter_eval_batches(read, count, batch_size=STATISTICS_BATCH)) as batches:
        for batch in batches:
            counts += [np.bincount(batch.images[..., channel].ravel(), minlength=256) for channel in range(3)]
    (red, std_red), (green, std_green), (blue, std_blue) = (_mean_and_std(channel) for channel in counts.tolist())
    return ChannelStats((red, green, blue), (std_red, std_green, std_blue))


def _mean_and_std(counts: list[int]) -> tuple[float, float]:
    pixels = sum(counts)
    total = sum(count * value for value, count in enumerate(counts))
    squares = sum(count * value**2 for value, count in enumerate(counts))
    return total / pixels, math.sqrt((pixels * squares - total**2) / pixels**2) or 1.0

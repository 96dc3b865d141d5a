"""The mean and spread of each colour over a collection: exact, in one pass, in the memory of one batch."""

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
    """Of red, green and blue over all pixels, in units of 0..255."""

    mean: Colour
    std: Colour


def channel_statistics(read: Read, count: int) -> ChannelStats:
    """Return the statistics of rows 0 to count - 1; the spread of a colour that never changes is given as 1.

    Sums of bytes and of their squares are whole numbers, kept as such: nothing is rounded before the last division.
    """
    pixels, total, squares = 0, [0, 0, 0], [0, 0, 0]
    batches = iter_eval_batches(read, count, batch_size=STATISTICS_BATCH)
    with closing(batches):
        for batch in batches:
            pixels += batch.images.size // 3
            for colour in range(3):
                often = np.bincount(batch.images[..., colour].ravel(), minlength=256).tolist()
                total[colour] += sum(times * value for value, times in enumerate(often))
                squares[colour] += sum(times * value**2 for value, times in enumerate(often))
    variance = [(pixels * square - one**2) / pixels**2 for one, square in zip(total, squares, strict=True)]
    red, green, blue = (one / pixels for one in total)
    std_red, std_green, std_blue = (math.sqrt(value) or 1.0 for value in variance)
    return ChannelStats((red, green, blue), (std_red, std_green, std_blue))

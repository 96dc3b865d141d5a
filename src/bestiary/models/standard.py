"""The mean and the spread of features, without a copy of them: memory grows with a collection as little as can be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bestiary.batches.feature_matrix import Rows

ROWS_AT_ONCE = 2_048
LEAST = 1e-6  # added to the spread: a channel that never varies is not divided by 0

Features = npt.NDArray[np.float32]


def mean_and_scale(features: Rows) -> tuple[Features, Features]:
    """Return each channel's mean and standard deviation, float32 (channels,), of features (n, channels).

    >>> mean_and_scale(np.array([[1, 5], [3, 5]], np.float32))[0].tolist()
    [2.0, 5.0]
    """
    pieces = range(0, len(features), ROWS_AT_ONCE)
    mean = sum(features[at : at + ROWS_AT_ONCE].sum(axis=0, dtype=np.float64) for at in pieces) / len(features)
    squares = sum(np.square(features[at : at + ROWS_AT_ONCE] - mean).sum(axis=0) for at in pieces) / len(features)
    return np.asarray(mean, np.float32), np.asarray(np.sqrt(squares) + LEAST, np.float32)

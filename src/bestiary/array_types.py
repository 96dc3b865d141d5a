"""Types of the numpy arrays that modules exchange; docstrings give shapes and ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
AnyFloats = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]

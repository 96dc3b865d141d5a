"""The memory that a call takes in a process in which other threads may allocate as well."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable


def measure_peak(call: Callable[[], object], *, enough: float = 0) -> int:
    """Return the smallest peak in bytes of three calls, of fewer where one is below `enough`.

    tracemalloc counts every thread of the process. What a server or a client of an earlier test allocates meanwhile can
    only add to a peak, and not to each.
    """
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        try:
            call()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        if peaks[-1] < enough:
            break
    return min(peaks)

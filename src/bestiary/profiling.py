"""Stage timing and peak memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

MAX_SAMPLING_FRACTION = 0.03  # of a processor's time


class StageTimer:
    """Sums the seconds spent in each stage; time in a nested stage does not count for the outer one."""

    def __init__(self) -> None:
        """Start the timer."""
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []  # open stages: name, and when it started or resumed

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the context to the stage."""
        self._add_open_stage(self._seconds)
        self._open.append((name, time.perf_counter()))
        try:
            yield
        finally:
            self._add_open_stage(self._seconds)
            self._open.pop()
            if self._open:
                self._open[-1] = (self._open[-1][0], time.perf_counter())

    def totals(self) -> dict[str, float]:
        """Return seconds by stage so far, the open one included, and `total` since the timer was made."""
        seconds = dict(self._seconds)
        self._add_open_stage(seconds)
        return {name: round(count, 2) for name, count in (seconds | {"total": self.total}).items()}

    @property
    def total(self) -> float:
        """Seconds since the timer was made."""
        return time.perf_counter() - self._started

    def _add_open_stage(self, seconds: dict[str, float]) -> None:
        for name, began in self._open[-1:]:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began


class PeakMemory:
    """Context manager that samples the memory of this process and its children; `megabytes` is the peak so far.

    Proportional set size where the system reports it (shared pages count once), else resident set size. The system
    walks through all pages for it: samples are rarer where there are many processes, so that they take three
    hundredths of a processor at most.
    """

    def __init__(self, interval_seconds: float = 0.2) -> None:
        """Sampling starts with `with`."""
        self.megabytes = 0.0
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="bestiary-memory")

    def __enter__(self) -> PeakMemory:
        """Start sampling."""
        self._sample = _tree_sampler()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        stopped = False
        while not stopped:
            began = time.thread_time()
            self.megabytes = max(self.megabytes, self._sample() / 2**20)
            taken = time.thread_time() - began
            stopped = self._stop.wait(max(self._interval_seconds, taken / MAX_SAMPLING_FRACTION))


def _tree_sampler() -> Callable[[], int]:
    import psutil

    root = psutil.Process()

    def sample() -> int:
        total = 0
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += _process_bytes(process.pid) or process.memory_info().rss
        return total

    return sample


def _process_bytes(pid: int) -> int | None:
    """Return the proportional set size of a process in bytes, None where the system does not report it."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None

"""Seconds of each stage of a job, and its peak memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType


class StageTimer:
    """Adds up the seconds spent in each stage of a job; a stage inside another does not count for the outer one."""

    def __init__(self) -> None:
        """Start to count the total."""
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []  # stages under way: name, and when it began or went on

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the stage."""
        self._stop()
        self._open.append((name, time.perf_counter()))
        try:
            yield
        finally:
            self._stop()
            self._open.pop()
            if self._open:
                self._open[-1] = (self._open[-1][0], time.perf_counter())

    def totals(self) -> dict[str, float]:
        """Return seconds by stage so far, the one under way included, and `total` since the clock was made."""
        seconds = dict(self._seconds)
        for name, began in self._open[-1:]:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
        seconds["total"] = self.total
        return {name: round(count, 2) for name, count in seconds.items()}

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._started

    def _stop(self) -> None:
        for name, began in self._open[-1:]:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began


class PeakMemory:
    """Watches the memory of this process and its children while it is open; `megabytes` is the peak so far.

    Sampled five times a second: proportional set size where the system tells it (pages that processes share count
    once), else resident set size.
    """

    def __init__(self, interval_seconds: float = 0.2) -> None:
        """Nothing runs before `with`."""
        self.megabytes = 0.0
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="bestiary-memory")

    def __enter__(self) -> PeakMemory:
        """Start to watch."""
        self._sample = _tree_sampler()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to watch."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.megabytes = max(self.megabytes, self._sample() / 2**20)
            if self._stop.wait(self._interval_seconds):
                return


def _tree_sampler() -> Callable[[], int]:
    import psutil

    me = psutil.Process()

    def sample() -> int:
        total = 0
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += _process_bytes(process.pid) or process.memory_info().rss
        return total

    return sample


def _process_bytes(pid: int) -> int | None:
    """Proportional set size of a process in bytes, where Linux tells it."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None

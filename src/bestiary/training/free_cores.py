"""Processor load of other programs, and the number of training threads that suits it. No torch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

from bestiary.context import Context
from bestiary.machine import world_size
from bestiary.text import format_count

MEASURE_SECONDS, CONFIRM_SECONDS = 0.5, 2.0
RECHECK_SECONDS = 10.0  # while training goes on
# Of a core. The threads of a network wait for each other at every layer: where another program takes more than this of
# a core, one thread fewer is faster. Two threads on two cores, one of them taken: half the speed of one thread.
TOLERATED_LOAD = 0.4
_NOT_BUSY = frozenset({"idle", "iowait", "guest", "guest_nice"})  # the time of guests is part of "user"

Counters = tuple[float, float, float]  # seconds: of the clock, of all cores in use, of this process


class LoadMeter:
    """Measures how many cores other programs use, from one reading of the system's counters to the next."""

    def __init__(self, read_counters: Callable[[], Counters] | None = None) -> None:
        """Read the counters for the first time."""
        self._read = read_counters or _read_counters
        self._last = self._read()

    def measure(self) -> float:
        """Return the mean number of cores that other programs used since the last reading."""
        now = self._read()
        seconds, busy, own = (after - before for after, before in zip(now, self._last, strict=True))
        self._last = now
        return max(0.0, busy - own) / seconds if seconds > 0 else 0.0


def choose_training_threads(cores: int, load: float) -> int:
    """Return the number of threads for a network on so many cores, of which others use `load`.

    >>> [choose_training_threads(2, load) for load in (0.1, 0.4, 0.6, 1.0, 2.0)], choose_training_threads(8, 2.5)
    ([2, 2, 1, 1, 1], 5)
    """
    return max(1, math.floor(cores - load + TOLERATED_LOAD))


def measure_training_threads(context: Context, sleep: Callable[[float], None] = time.sleep) -> tuple[int, float]:
    """Return the number of training threads for the present load, and that load; `context.threads` at most.

    It takes half a second; where the load is high, two more, so that a short peak does not decide about a whole run.
    Where the number of threads was requested, or processes share the cores, it is that number; also where workers of a
    cluster train, which have threads of their own, and may be among the other programs of this computer.
    """
    if not context.has_automatic_threads or world_size() > 1 or context.remote_fit is not None:
        return context.training_threads, 0.0
    meter = LoadMeter()
    sleep(MEASURE_SECONDS)
    load = meter.measure()
    if choose_training_threads(context.threads, load) < context.threads:
        sleep(CONFIRM_SECONDS)
        load = min(load, meter.measure())
    return choose_training_threads(context.threads, load), load


def make_thread_chooser(context: Context, clock: Callable[[], float] = time.monotonic) -> Callable[[], int] | None:
    """Return the function that returns the number of threads for the next step, None if that number is fixed.

    It is fixed without a time budget, so that a run stays reproducible, and where it was requested. The load of the
    last seconds decides; changes are reported.
    """
    if context.planned is None or not context.has_automatic_threads or world_size() > 1:
        return None
    meter, threads, checked = LoadMeter(), context.training_threads, clock()

    def choose_threads() -> int:
        nonlocal threads, checked
        if clock() - checked >= RECHECK_SECONDS:
            checked, load = clock(), meter.measure()
            chosen = choose_training_threads(context.threads, load)
            if chosen != threads:
                context.reporter.info(describe_load(load, context.threads, chosen))
            threads = chosen
        return threads

    return choose_threads


def describe_load(load: float, cores: int, threads: int) -> str:
    """Return the notice about a busy machine.

    >>> describe_load(1.02, 2, 1)
    'Other programs use 1.0 of 2 cores: training with 1 thread. Set --threads for a fixed number.'
    """
    words = f"{load:.1f} of {format_count(cores, 'core')}: training with {format_count(threads, 'thread')}"
    return f"Other programs use {words}. Set --threads for a fixed number."


def _read_counters() -> Counters:
    """Return the counters; where the system does not report those of its cores, other programs seem to do nothing."""
    import psutil

    own = psutil.Process().cpu_times()
    own_seconds = own.user + own.system
    try:
        times = psutil.cpu_times(percpu=True)
    except (OSError, NotImplementedError, psutil.Error):
        return time.perf_counter(), own_seconds, own_seconds
    if hasattr(os, "sched_getaffinity"):  # only the cores that this process may use
        usable = os.sched_getaffinity(0)
        times = [core for number, core in enumerate(times) if number in usable] or times
    busy = sum(value for core in times for name, value in core._asdict().items() if name not in _NOT_BUSY)
    return time.perf_counter(), busy, own_seconds

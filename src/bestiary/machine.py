"""What the computer offers: cores, memory, the cache folder, and files that are never half-written."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
KEEP_BYTES = 2**30


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_out_of_memory_error(error: BaseException) -> bool:
    """Return whether an error says that memory was too small: Python's own, or torch's of a processor or a card."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def world_size() -> int:
    """Return how many processes `torchrun` started to do one job together; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process is the one of them that looks, writes and reports."""
    return world_size() == 1 or int(os.environ.get("RANK", "0")) == 0


def disable_malloc_trim() -> bool:
    """Tell glibc to keep freed memory instead of returning it to the system; return whether it was told.

    By default every large activation is given back and faulted in again at each step, which costs half to two
    thirds of the processor time of a network on a CPU. Called once, where heavy computing starts.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP_BYTES) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def trim_memory() -> None:
    """Return freed memory to the system after a stage that needed much, where glibc would keep it (`disable_malloc_trim`)."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def single_blas_thread() -> contextlib.AbstractContextManager[object]:
    """Return a context in which linear algebra keeps to one thread.

    Fits of linear models are thousands of small products: on two cores they take three times as long with two threads,
    which wait for each other, and ten times as long where another program has one of the cores (docs/log.md).
    """
    from threadpoolctl import threadpool_limits

    limits: contextlib.AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits

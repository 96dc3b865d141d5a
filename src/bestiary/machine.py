"""Cores, memory and process rank."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from typing import Literal

FeatureDevice = Literal["auto", "cpu", "cuda", "coreml"]  # of ONNX Runtime: features and predictions
TrainDevice = Literal["auto", "cpu", "cuda", "mps"]  # of torch: the training of networks
Device = Literal["auto", "cpu", "cuda", "mps", "coreml"]  # of a job

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
KEEP_BYTES = 2**30
# Of its arena, of CUDA, of cuBLAS and of cuDNN 9.
ONNX_RUNTIME_OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_out_of_memory_error(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error: Python's own, torch's or ONNX Runtime's of a CPU or a GPU."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if type(error).__module__.startswith("onnxruntime."):  # its errors share no public class
        return any(text in str(error) for text in ONNX_RUNTIME_OUT_OF_MEMORY)
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("DefaultCPUAllocator", "can't allocate memory", "MPS backend out of memory")
    )


def world_size() -> int:
    """Return the number of processes that `torchrun` started for one job; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process has rank 0, which reads, writes and reports."""
    return world_size() == 1 or int(os.environ.get("RANK", "0")) == 0


def disable_malloc_trim() -> bool:
    """Make glibc keep freed memory instead of returning it to the system; return whether that succeeded.

    By default glibc returns every large activation and faults it in again at each step, which costs half to two
    thirds of the processor time of a network on a CPU. Call it once, before heavy computing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP_BYTES) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def trim_memory() -> None:
    """Return freed memory to the system after a stage that needed much (see `disable_malloc_trim`)."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def single_blas_thread() -> contextlib.AbstractContextManager[object]:
    """Return a context in which BLAS uses one thread.

    Fits of linear models are thousands of small products: on two cores they take three times as long with two threads,
    which wait for each other, and ten times as long if another program uses one of the cores (docs/log.md).
    """
    from threadpoolctl import threadpool_limits

    limits: contextlib.AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits

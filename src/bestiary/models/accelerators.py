"""Accelerators that ONNX Runtime computes on: which are there, and why one cannot be used.

`onnxruntime.get_available_providers` lists what a package was built with, on computers without a card as well, and a
session whose provider cannot start computes on the processor without an error. Hence the driver is asked by its own
library, and a session which providers it has.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from bestiary.errors import MachineError
from bestiary.install_command import cuda_install_command
from bestiary.processor import read_processor

AcceleratorDevice = Literal["cuda", "coreml"]
DeviceName = Literal["cpu", "cuda", "coreml"]

PROVIDERS: dict[AcceleratorDevice, str] = {"cuda": "CUDAExecutionProvider", "coreml": "CoreMLExecutionProvider"}
TITLES: dict[DeviceName, str] = {"cpu": "the processor", "cuda": "CUDA", "coreml": "CoreML"}
DRIVER_PAGE = "https://www.nvidia.com/drivers"
NO_CARD = 100  # CUDA_ERROR_NO_DEVICE
MISSING_LIBRARY = re.compile(r"Failed to load (?:\S*[/\\])?([^/\\\s]+?):")
# Of ONNX Runtime's CUDA provider. TensorFloat-32 has the precision of float16: float32 has to mean float32. The search
# for the fastest convolution would be repeated for each batch size.
CUDA_OPTIONS = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}
COREML_OPTIONS = {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}
PROVIDER_OPTIONS: dict[AcceleratorDevice, dict[str, str]] = {"cuda": CUDA_OPTIONS, "coreml": COREML_OPTIONS}


@dataclass(frozen=True)
class Accelerator:
    """An accelerator that ONNX Runtime can use. driver: its version; on a Mac that of macOS."""

    device: AcceleratorDevice
    name: str
    driver: str

    def __str__(self) -> str:
        """Return device, name and driver."""
        return f"{TITLES[self.device]} on {self.name} (driver {self.driver})"


@dataclass(frozen=True)
class CudaDriver:
    """NVIDIA's driver. cards: the names of those that this process may use; cuda: the newest version that it supports.

    error: why there is no card to compute on; empty if there is one.
    """

    cards: tuple[str, ...]
    version: str
    cuda: tuple[int, int]
    error: str = ""


def find_accelerator() -> Accelerator | None:
    """Return the accelerator that `auto` may use, or None."""
    for device in PROVIDERS:
        if not explain_unavailable(device):
            return read_accelerator(device)
    return None


def require_accelerator(device: AcceleratorDevice) -> Accelerator:
    """Return the accelerator, or raise MachineError with what is missing and what installs it."""
    if reason := explain_unavailable(device):
        raise MachineError(
            f"--device {device} is not possible on this computer: {reason}. --device auto and cpu work here."
        )
    return read_accelerator(device)


def read_accelerator(device: AcceleratorDevice) -> Accelerator:
    """Return the description of an accelerator that can be used."""
    if device == "coreml":
        return Accelerator(device, read_processor().name, f"macOS {platform.mac_ver()[0]}")
    driver = read_cuda_driver()
    return Accelerator(device, driver.cards[0], driver.version)


def explain_unavailable(device: AcceleratorDevice) -> str:
    """Return what ONNX Runtime lacks to compute on a device here, with what installs it; empty if it lacks nothing."""
    if device == "coreml":
        return _explain_no_coreml()
    if sys.platform == "darwin":
        return "macOS has no CUDA; Apple's accelerator is coreml"
    driver = read_cuda_driver()
    reasons = [driver.error] if driver.error else []
    if PROVIDERS["cuda"] not in available_providers():
        reasons.append(
            "the installed package onnxruntime is the build for processors; its build for CUDA is installed by"
            f" {cuda_install_command()}"
        )
    elif not driver.error:
        reasons += _explain_unusable_libraries(driver)
    return "; ".join(reasons)


def available_providers() -> Sequence[str]:
    """Return the providers that the installed ONNX Runtime was built with."""
    import onnxruntime

    providers: Sequence[str] = onnxruntime.get_available_providers()
    return providers


@cache
def read_cuda_driver() -> CudaDriver:
    """Return what NVIDIA's driver says, by its own library `libcuda`, which needs no other package."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return CudaDriver(
            (), "", (0, 0), f"there is no NVIDIA driver, so no card can be used; install it from {DRIVER_PAGE}"
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    status = library.cuInit(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    cuda = version.value // 1000, version.value % 1000 // 10
    if status == 0:
        status = library.cuDeviceGetCount(ctypes.byref(count))
    if status == NO_CARD or (status == 0 and count.value == 0):
        return CudaDriver(
            (), _driver_version(), cuda, "the NVIDIA driver finds no card (CUDA_VISIBLE_DEVICES may hide it)"
        )
    if status != 0:
        reason = f"the NVIDIA driver cannot start: error {status}; install it again from {DRIVER_PAGE}"
        return CudaDriver((), _driver_version(), cuda, reason)
    return CudaDriver(tuple(_card_name(library, index) for index in range(count.value)), _driver_version(), cuda)


@cache
def load_cuda_libraries() -> tuple[str, ...]:
    """Load the libraries of CUDA and cuDNN for ONNX Runtime; return the names of those that are missing.

    They come from NVIDIA's Python packages, those that torch installs included, or from the system.
    `onnxruntime.preload_dlls` prints what it misses; standard output belongs to results.
    """
    import onnxruntime

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls()
    return tuple(dict.fromkeys(MISSING_LIBRARY.findall(printed.getvalue())))


def open_session(model: str | bytes, device: AcceleratorDevice, options: Any) -> Any:
    """Return an `onnxruntime.InferenceSession` whose nodes run on the device where it has kernels for them.

    Raises MachineError if ONNX Runtime runs them on the processor instead, which it does without an error.
    """
    import onnxruntime

    if device == "cuda":
        load_cuda_libraries()
        onnxruntime.set_default_logger_severity(4)  # it would print what the error below says
    providers = [(PROVIDERS[device], PROVIDER_OPTIONS[device]), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    if PROVIDERS[device] not in session.get_providers():
        reason = explain_unavailable(device) or "ONNX Runtime could not start it and gives no reason"
        raise MachineError(f"{TITLES[device]} cannot be used: {reason}.")
    return session


def _explain_no_coreml() -> str:
    if sys.platform != "darwin":
        return "CoreML is a part of macOS, and this is another system"
    if PROVIDERS["coreml"] not in available_providers():
        return "the installed ONNX Runtime has no CoreML, which its package for macOS has: pip install onnxruntime"
    return ""


def _explain_unusable_libraries(driver: CudaDriver) -> list[str]:
    """Return why the CUDA build of ONNX Runtime cannot be used although there is a card; empty if it can."""
    import onnxruntime

    cuda = str(getattr(onnxruntime, "cuda_version", "") or "")
    if cuda and int(cuda.split(".")[0]) > driver.cuda[0]:
        supported = ".".join(map(str, driver.cuda))
        return [
            f"onnxruntime-gpu {onnxruntime.__version__} needs a driver for CUDA {cuda}, and driver {driver.version}"
            f" supports CUDA {supported}; install a newer one from {DRIVER_PAGE}"
        ]
    if missing := load_cuda_libraries():
        return [
            f"libraries of CUDA {cuda} are missing ({', '.join(missing)}); they are installed by"
            f" {cuda_install_command()}"
        ]
    return []


def _card_name(library: Any, index: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")


def _driver_version() -> str:
    """Return the version of NVIDIA's driver, as its management library says; empty if that is missing."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return ""
    version = ctypes.create_string_buffer(80)
    if library.nvmlInit_v2() != 0:
        return ""
    library.nvmlSystemGetDriverVersion(version, len(version))
    library.nvmlShutdown()
    return version.value.decode(errors="replace")

"""Where the loop computes and in what precision, and how chance is seeded: the same code for CPU, CUDA and MPS."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bestiary.array_types import Array
from bestiary.errors import MachineError
from bestiary.install_command import install_command
from bestiary.machine import TrainDevice
from bestiary.models.accelerators import read_cuda_driver
from bestiary.training.loop_settings import Precision


def choose_device(requested: TrainDevice = "auto") -> torch.device:
    """Return the device to train on; for "auto" the fastest there is: cuda, then mps, then cpu.

    Raises MachineError, with what is missing, if a requested one cannot be used.
    """
    if requested != "auto" and (reason := explain_no_torch_device(requested)):
        raise MachineError(
            f"--device {requested} is not possible on this computer: {reason}. --device auto and cpu work here."
        )
    if requested == "cuda" or (requested == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", torch.cuda.current_device())
    if requested == "mps" or (requested == "auto" and torch.backends.mps.is_available()):
        return torch.device("mps")
    return torch.device("cpu")


def explain_no_torch_device(device: TrainDevice) -> str:
    """Return what torch lacks to train on a device here, with what installs it; empty if it lacks nothing."""
    if device == "mps" and not torch.backends.mps.is_available():
        return "MPS is Apple's accelerator: it needs a Mac with an Apple processor and torch's build for it"
    if device != "cuda" or torch.cuda.is_available():
        return ""
    driver, cuda = read_cuda_driver(), torch.version.cuda
    if driver.error or not cuda:
        return "; ".join(filter(None, [driver.error, "" if cuda else _describe_cpu_build()]))
    if driver.cuda[0] < int(cuda.split(".")[0]):
        return f"the driver {driver.version} is too old for torch {torch.__version__}, which is built for CUDA {cuda}"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return f"torch {torch.__version__} cannot start CUDA: {error}"
    return f"torch {torch.__version__} finds no card that it supports"


def describe_device(device: torch.device) -> str:
    """Return the name of a device for a person."""
    return f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _describe_cpu_build() -> str:
    return (
        f"torch {torch.__version__} is a build for processors; that of the package index computes on CUDA: remove this"
        f" one (pip uninstall torch torchvision), then {install_command('torch')}"
    )


def choose_precision(requested: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return what to compute in: for "auto", bfloat16 where the device has instructions for it.

    On a CPU that is AVX512_BF16 or AMX, as the processor says; without them bfloat16 is slower than float32.
    """
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return "float32"  # older versions of torch do not tell
    has = torch.cpu.get_capabilities()
    return "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"


def seed_for_step(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return the generator of one step's augmentation, and seed torch's own, which dropout draws from."""
    dropout_seed, augmentation_seed = np.random.SeedSequence((seed, epoch, step)).generate_state(2)
    torch.manual_seed(int(dropout_seed))
    return torch.Generator().manual_seed(int(augmentation_seed))


def to_device(array: Array, device: torch.device) -> Tensor:
    """Return the array on the device; for cuda from pinned memory, so that the copy overlaps with computing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def autocast(device: torch.device, precision: Literal["float32", "bfloat16"]) -> torch.autocast:
    """Return the context in which the network computes in this precision; its weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")

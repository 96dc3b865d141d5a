"""Where the loop computes and in what precision, and how chance is seeded: the same code for CPU, CUDA and MPS."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bestiary.array_types import Array
from bestiary.training.loop_settings import Precision


def choose_device() -> torch.device:
    """Return the fastest device there is: cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


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

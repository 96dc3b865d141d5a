"""Training goes on on the processor if the memory of the accelerator runs out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bestiary.machine import is_out_of_memory_error
from bestiary.models.networks import Network
from bestiary.training.checkpoint import copy_weights
from bestiary.training.loop import FitResult, LoopControl


def fit_with_fallback(
    fit: Callable[[LoopControl], FitResult], network: Network, run_folder: Path, control: LoopControl
) -> FitResult:
    """Return the result of `fit`; if the accelerator's memory runs out, the processor resumes at the last checkpoint.

    fit: `loop.fit` with everything but its control. No step counts twice: resuming equals an uninterrupted run. The
    batch size is a setting that decides what is learned; the user is told to reduce it, and it is not changed.
    """
    start, began, reason = copy_weights(network), time.time(), ""
    try:
        return fit(control)
    except Exception as error:
        device = device_type(network)
        if device == "cpu" or control.process_group.world_size > 1 or not is_out_of_memory_error(error):
            raise
        reason = str(error).strip().partition("\n")[0]
    checkpoint = run_folder / "checkpoints" / "last.pt"
    has_checkpoint = checkpoint.is_file() and (control.resume or checkpoint.stat().st_mtime >= began)
    control.reporter.info(
        f"The memory of {device} ran out: {reason} The processor continues"
        f" {'at the last checkpoint' if has_checkpoint else 'from the start'}. To train on {device}, start again with a"
        " smaller train.batch_size."
    )
    network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.load_state_dict(start)
    if device == "cuda":
        torch.cuda.empty_cache()
    return fit(replace(control, device="cpu", resume=has_checkpoint))


def device_type(network: Network) -> str:
    """Return the type of the device that a network is on, such as "cuda"."""
    return str(network.mean.device.type)

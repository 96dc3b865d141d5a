"""Choice of the device that a model predicts on: an accelerator if it agrees with the processor, and is faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

from bestiary.errors import InputError, RunError, did_you_mean
from bestiary.machine import FeatureDevice
from bestiary.models.accelerators import Accelerator, find_accelerator, require_accelerator
from bestiary.models.engine import Engine, EngineChoice, make_engine
from bestiary.progress import Reporter


def check_device(device: str) -> None:
    """Raise InputError for a device that predictions and features cannot be computed on."""
    if device == "mps":
        raise InputError(
            'The device "mps" trains networks only. For predictions and features on an Apple accelerator use "coreml".'
        )
    if device not in get_args(FeatureDevice):
        raise InputError(f'There is no device "{device}". {did_you_mean(device, get_args(FeatureDevice))}')


def load_device_engine(
    model: Path | bytes,
    size: int,
    device: FeatureDevice,
    load_processor_engine: Callable[[], Engine],
    *,
    threads: int,
    reporter: Reporter | None,
) -> Engine:
    """Return the engine of a float32 graph: of the accelerator, or of the processor if `auto` prefers that.

    size: of its input in pixels. What is used is told to the reporter. Raises MachineError if a requested accelerator
    is missing, RunError if it gives other answers than the processor.
    """
    if device == "cpu":
        return load_processor_engine()
    accelerator: Accelerator | None = find_accelerator() if device == "auto" else require_accelerator(device)
    if accelerator is None:
        return load_processor_engine()
    from bestiary.models.device_proof import load_or_prove  # here, for most computers have no accelerator

    proof = load_or_prove(model, size, accelerator, load_processor_engine, threads=threads)
    if proof.error and device != "auto":
        raise RunError(f"{accelerator} cannot run this model: {proof.error}. Use --device cpu.")
    if proof.error:
        _tell(reporter, f"{accelerator} is not used: {proof.error}.")
        return load_processor_engine()
    if device == "auto" and not proof.is_faster:
        return load_processor_engine()
    largest = max(proof.differences.values(), default=0.0)
    _tell(
        reporter, f"The model runs by {accelerator}; its answers differ from the processor's by at most {largest:.2g}."
    )
    choice = EngineChoice("onnxruntime", "float32", accelerator.device)
    return make_engine(choice, model, threads=threads, reporter=reporter, batch_size=proof.batch_size)


def _tell(reporter: Reporter | None, text: str) -> None:
    if reporter is not None:
        reporter.info(text)

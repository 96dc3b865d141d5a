"""Measurement of a graph on an accelerator: whether it agrees with the processor, how fast, and with which batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bestiary.array_types import Float32s, Pixels
from bestiary.errors import MachineError, RunError
from bestiary.models.accelerators import Accelerator
from bestiary.models.device_engine import DeviceEngine
from bestiary.models.engine import Outputs, Precision, run_batch

TEST_PICTURES = 16
BATCH_SIZES = (16, 64, 256)
MIN_GAIN = 1.1  # of a larger batch: it needs more memory
ROUNDS = 3
# The largest difference that is accepted, in units of `compare_outputs`. About 2e-6 is seen in float32 between engines.
# Features in float16 differ by up to 0.008 and in bfloat16 by 0.02 to 0.1 (docs/log.md). More is a fault of the device.
LARGEST_DIFFERENCES: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.03}
ABSOLUTE = ("probabilities", "familiarity")  # from 0 to 1; other outputs are compared by their L2 norm


@dataclass(frozen=True)
class DeviceMeasurement:
    """A graph on an accelerator. differences: of its outputs from those of the processor in float32, by name.

    batch_size: the fastest. error: why the accelerator cannot be used for the graph; empty if it can.
    """

    pictures_per_second: float
    batch_size: int
    differences: dict[str, float]
    error: str = ""


def measure_device(
    model: Path | bytes,
    accelerator: Accelerator,
    precision: Precision,
    images: Pixels,
    expected: Outputs,
    *,
    threads: int,
) -> DeviceMeasurement:
    """Return the measurement of a graph with one precision.

    images: uint8 (n, size, size, 3); expected: the outputs that count for them, by the processor in float32. Every
    batch size is compared, because a device takes other kernels for other sizes.
    """
    try:
        engine = DeviceEngine(
            model, device=accelerator.device, threads=threads, precision=precision, batch_size=max(BATCH_SIZES)
        )
    except (RunError, MachineError) as error:
        return DeviceMeasurement(0.0, 0, {}, str(error))
    best, differences = (0.0, 0), dict[str, float]()
    for batch_size in BATCH_SIZES:
        rows = np.arange(batch_size) % len(images)
        actual, speed = _time_batches(engine, images[rows])
        if engine.failure:
            return DeviceMeasurement(0.0, 0, differences, engine.failure)
        if engine.most_rows < max(BATCH_SIZES):  # its memory is full
            break
        for name, difference in compare_outputs(
            actual, {name: values[rows] for name, values in expected.items()}
        ).items():
            differences[name] = max(differences.get(name, 0.0), difference)
        if speed > MIN_GAIN * best[0]:
            best = speed, batch_size
    if engine.replaced_rows:
        return DeviceMeasurement(0.0, 0, differences, f"numbers in {precision} are not finite")
    if not best[1]:
        return DeviceMeasurement(0.0, 0, differences, f"its memory is full with {min(BATCH_SIZES)} pictures")
    return DeviceMeasurement(round(best[0], 1), best[1], differences, _explain_difference(differences, precision))


def compare_outputs(actual: Outputs, expected: Outputs) -> dict[str, float]:
    """Return the largest difference of any row, by output: absolute for probabilities, else relative in the L2 norm."""
    return {name: _largest_difference(name, actual[name], values) for name, values in expected.items()}


def draw_test_images(size: int, count: int = TEST_PICTURES) -> Pixels:
    """Return smooth waves of colour, uint8 (count, size, size, 3), all different and always the same."""
    y, x = np.mgrid[:size, :size] / size
    pictures = []
    for k in range(count):
        waves = [np.sin(2 * np.pi * (3.1 * y - 1.7 * x) + k), np.sin((9 + k) * y * x), np.cos(11 * x - (4 + k) * y)]
        pictures.append((127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8))
    return np.stack(pictures)


def _time_batches(engine: DeviceEngine, images: Pixels) -> tuple[Outputs, float]:
    """Return the outputs of the first run, which is no part of the time, and pictures a second."""
    outputs = run_batch(engine, images)
    seconds = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run_batch(engine, images)
        seconds = min(seconds, time.perf_counter() - began)
    return outputs, len(images) / max(seconds, 1e-9)


def _largest_difference(name: str, actual: Float32s, expected: Float32s) -> float:
    difference = (actual - expected).reshape(len(expected), -1)
    if name in ABSOLUTE:
        return float(np.abs(difference).max())
    lengths = np.linalg.norm(expected.reshape(len(expected), -1), axis=1)
    return float((np.linalg.norm(difference, axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)).max())


def _explain_difference(differences: dict[str, float], precision: Precision) -> str:
    """Return why outputs are refused, empty if they are not; a difference that is not a number is refused."""
    limit = LARGEST_DIFFERENCES[precision]
    for name, difference in differences.items():
        if not difference <= limit:
            return f"{name} differ from those of the processor in float32 by {difference:.2g}, more than {limit:g}"
    return ""

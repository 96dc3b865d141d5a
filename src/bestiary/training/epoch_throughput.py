"""Epoch throughput: a few steps of the training loop on random input. Needs torch."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bestiary.array_types import Array, Ints, Pixels
from bestiary.models.networks import Network
from bestiary.training.loop import LoopControl, ValidationMetrics, fit, predict_logits
from bestiary.training.methods import TrainingSetup
from bestiary.training.schedule import mean_progressive_size

MEASURE_SECONDS = 1.5


@dataclass(frozen=True)
class EpochThroughput:
    """Pictures per second in training and validation, and the other seconds of an epoch."""

    training: float
    validation: float
    overhead_seconds: float

    def epoch_seconds(self, train: int, val: int) -> float:
        """Return the time of an epoch."""
        return train / self.training + val / self.validation + self.overhead_seconds


def measure_epoch_throughput(setup: TrainingSetup) -> EpochThroughput:
    """Return the throughput of the training loop, from the second of two short epochs on random input.

    The first epoch includes one-time costs. The network changes. Checkpoints are written and counted, as in training.
    """
    first = _run_short_epoch(setup, steps=1)
    steps = math.floor(MEASURE_SECONDS * first.training / setup.settings.batch_size)
    return first if steps < 2 else _run_short_epoch(setup, steps=min(steps, 50))


def _run_short_epoch(setup: TrainingSetup, *, steps: int) -> EpochThroughput:
    batch, classes = setup.settings.batch_size, setup.network.head.linear.out_features
    noise: Array = np.random.default_rng(0).integers(0, 256, (batch, *setup.shape), np.uint8)
    if setup.shape[-1] != 3:
        noise = (noise / 256).astype(np.float16)  # as activations are cached
    labels = np.arange(max(steps * batch, classes), dtype=np.int64) % classes
    validation_seconds = list[float]()

    def read_rows(indices: Ints) -> Pixels:
        return noise[: len(indices)].copy()

    def validate(network: Network) -> ValidationMetrics:
        started = time.perf_counter()
        predict_logits(network, read_rows, batch, batch_size=batch)
        validation_seconds.append(time.perf_counter() - started)
        return ValidationMetrics(1.0, 0.5)

    settings = replace(setup.settings, epochs=2, warmup_epochs=0, patience_epochs=2, balance="none")
    if (size := mean_progressive_size(setup.settings)) is not None:
        settings = replace(settings, size_from=size, size_to=size)
    with tempfile.TemporaryDirectory() as name:
        folder, control = Path(name), LoopControl()
        result = fit(setup.network, read_rows, labels, validate, settings, setup.augmentation, folder, control)
    epoch = result.history[-1]
    pictures = max(1, len(labels) // batch) * batch
    overhead = epoch["seconds"] - validation_seconds[-1] - pictures / epoch["images_per_second"]
    return EpochThroughput(epoch["images_per_second"], batch / validation_seconds[-1], max(0.0, overhead))

"""How long an epoch will take: the very loop, for a few steps on noise. Needs torch, as the loop does."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bestiary.array_types import Array, Ints, Pixels
from bestiary.models.networks import Network
from bestiary.progress import SilentReporter
from bestiary.recipe import AugmentConfig
from bestiary.training.loop import LoopSettings, ValidationMetrics, fit, predict_logits
from bestiary.training.schedule import mean_progressive_size

MEASURE_SECONDS = 1.5


@dataclass(frozen=True)
class EpochThroughput:
    """Pictures a second, in training and in validation, and the seconds that an epoch takes besides."""

    training: float
    validation: float
    overhead_seconds: float

    def epoch_seconds(self, train: int, val: int) -> float:
        """Return the time for an epoch of so many pictures."""
        return train / self.training + val / self.validation + self.overhead_seconds


def measure_epoch_throughput(
    network: Network, settings: LoopSettings, augmentation: AugmentConfig, shape: tuple[int, int, int]
) -> EpochThroughput:
    """Return how fast this network trains here, from the second of two short epochs: in the first all is new.

    shape: height, width and channels of a picture, or of the activations that stand for it. The network is changed by
    it. The checkpoint is written and counted, as after every epoch.
    """
    first = _run_short_epoch(network, settings, augmentation, shape, steps=1)
    steps = math.floor(MEASURE_SECONDS * first.training / settings.batch_size)
    return first if steps < 2 else _run_short_epoch(network, settings, augmentation, shape, steps=min(steps, 50))


def _run_short_epoch(
    network: Network, settings: LoopSettings, augmentation: AugmentConfig, shape: tuple[int, int, int], *, steps: int
) -> EpochThroughput:
    count, batch, classes = steps * settings.batch_size, settings.batch_size, network.head.linear.out_features
    noise: Array = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
    if shape[-1] != 3:
        noise = (noise / 256).astype(np.float16)  # as activations are kept
    labels = np.arange(max(count, classes), dtype=np.int64) % classes
    judged = list[float]()

    def read(positions: Ints) -> Pixels:
        return noise[: len(positions)].copy()

    def evaluate(trained: Network) -> ValidationMetrics:
        began = time.perf_counter()
        predict_logits(trained, read, batch, batch_size=batch)
        judged.append(time.perf_counter() - began)
        return ValidationMetrics(1.0, 0.5)

    short = replace(settings, epochs=2, warmup_epochs=0, patience_epochs=2, balance="none")
    if (typical := mean_progressive_size(settings)) is not None:
        short = replace(short, size_from=typical, size_to=typical)
    with tempfile.TemporaryDirectory() as folder:
        second = fit(
            network, read, labels, evaluate, short, augmentation, Path(folder), reporter=SilentReporter()
        ).history[-1]
    shown = max(1, len(labels) // batch) * batch
    besides = second["seconds"] - judged[-1] - shown / second["images_per_second"]
    return EpochThroughput(second["images_per_second"], batch / judged[-1], max(0.0, besides))

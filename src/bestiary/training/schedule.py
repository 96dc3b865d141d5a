"""Schedules: learning rate by step, picture size by epoch (progressive resizing)."""

from __future__ import annotations

import math

from bestiary.training.loop_settings import LoopSettings, Schedule

SIZE_STEP = 16  # pixels
GROWTH_FRACTION = 0.9  # of the epochs; the last ones have the final size


def lr_factor(step: float, *, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Return the learning rate of a step as a fraction of its maximum: linear warm-up, then decay to nearly 0.

    Linear decay for "one-cycle" (Smith 2018, without the cycle in momentum), half a cosine for "cosine", none for
    "constant".
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - progress if schedule == "one-cycle" else (1 + math.cos(math.pi * progress)) / 2


def progressive_size(epoch: int, settings: LoopSettings) -> int | None:
    """Return the size in pixels of the training pictures of an epoch (1 is the first), None for the input size.

    It grows linearly from `size_from` to `size_to`: small pictures cost less, and are as good at first.
    """
    if settings.size_from is None or settings.size_to is None:
        return None
    progress = min(1.0, (epoch - 1) / max(1.0, GROWTH_FRACTION * (settings.epochs - 1)))
    size = settings.size_from + (settings.size_to - settings.size_from) * progress
    ends = sorted((settings.size_from, settings.size_to))
    return min(max(round(size / SIZE_STEP) * SIZE_STEP, ends[0]), ends[1])


def epoch_costs(settings: LoopSettings) -> list[float]:
    """Return the relative cost of a step in each epoch; it is proportional to the pixels of a training picture."""
    sizes = [progressive_size(epoch, settings) or 1 for epoch in range(1, settings.epochs + 1)]
    return [size**2 / sizes[-1] ** 2 for size in sizes]


def mean_progressive_size(settings: LoopSettings) -> int | None:
    """Return the constant size with the same mean cost per epoch; cost is proportional to pixels."""
    sizes = [progressive_size(epoch, settings) for epoch in range(1, settings.epochs + 1)]
    pixels = [size * size for size in sizes if size is not None]
    return round(math.sqrt(sum(pixels) / len(pixels))) if pixels else None

"""What changes while a network learns: the learning rate at each step, the size of the pictures at each epoch."""

from __future__ import annotations

import math

from bestiary.training.loop_settings import LoopSettings, Schedule

SIZE_STEP = 16  # pixels
GROWTH_FRACTION = 0.9  # of the epochs; the last ones have the final size


def lr_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Return the learning rate of a step as a share of its peak: up in a line, then down to nearly 0.

    Down along a line for "one-cycle" (Smith 2018, without the cycle in momentum), along half a cosine for "cosine", not
    at all for "constant".
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - progress if schedule == "one-cycle" else (1 + math.cos(math.pi * progress)) / 2


def progressive_size(epoch: int, settings: LoopSettings) -> int | None:
    """Return the side in pixels of the training pictures of an epoch (1 is the first), None for as they come.

    It grows along a line from `size_from` to `size_to`: small pictures cost less, and teach the same at first.
    """
    if settings.size_from is None or settings.size_to is None:
        return None
    progress = min(1.0, (epoch - 1) / max(1.0, GROWTH_FRACTION * (settings.epochs - 1)))
    size = settings.size_from + (settings.size_to - settings.size_from) * progress
    ends = sorted((settings.size_from, settings.size_to))
    return min(max(round(size / SIZE_STEP) * SIZE_STEP, ends[0]), ends[1])


def mean_progressive_size(settings: LoopSettings) -> int | None:
    """Return the side at which every epoch would cost what they cost on average: the cost goes with the pixels."""
    sizes = [progressive_size(epoch, settings) for epoch in range(1, settings.epochs + 1)]
    known = [size * size for size in sizes if size is not None]
    return round(math.sqrt(sum(known) / len(known))) if known else None

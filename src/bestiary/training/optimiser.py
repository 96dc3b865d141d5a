"""What moves the weights, and how fast at each step."""

from __future__ import annotations

import math
from typing import Any

import torch

from bestiary.models.networks import Network
from bestiary.training.loop_settings import LoopSettings, Schedule


def build_optimiser(network: Network, settings: LoopSettings) -> torch.optim.Optimizer:
    """Return the optimiser of the weights that learn; all others are frozen. Each group's "peak" is its highest rate.

    Biases and normalisation are not decayed.
    """
    below = list(reversed(network.stages()))
    parts = [list(network.head.parameters()), *below[: settings.unfreeze_stages]]
    network.requires_grad_(False)
    groups: list[dict[str, Any]] = []
    for depth, part in enumerate(parts):
        peak = settings.learning_rate * settings.stage_decay**depth
        matrices = [weight.requires_grad_() for weight in part if weight.ndim > 1]
        vectors = [weight.requires_grad_() for weight in part if weight.ndim <= 1]
        groups.append({"params": matrices, "peak": peak, "lr": peak, "weight_decay": settings.weight_decay})
        groups.append({"params": vectors, "peak": peak, "lr": peak, "weight_decay": 0.0})
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.momentum > 0)


def rate_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
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

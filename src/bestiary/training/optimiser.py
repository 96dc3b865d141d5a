"""Builds the optimiser and its parameter groups."""

from __future__ import annotations

from typing import Any

import torch

from bestiary.models.networks import Network
from bestiary.training.device import choose_precision
from bestiary.training.loop_settings import LoopSettings
from bestiary.training.muon import Muon

MUON_RATE = 0.15  # of learning_rate, for filters: their steps have a length of their own
MUON_REST_DECAY = 5e-4  # for what learns beside the filters


def build_optimiser(network: Network, settings: LoopSettings) -> torch.optim.Optimizer:
    """Return the optimiser of the trained weights; others are frozen. A group's "peak" is its maximum learning rate.

    The first group is the head's. Biases and normalisation have no weight decay.
    """
    below = list(reversed(network.stages()))
    heads = [network.head] if network.distillation is None else [network.head, network.distillation]
    parts = [[weight for head in heads for weight in head.parameters()], *below[: settings.unfreeze_stages]]
    network.requires_grad_(False)
    groups: list[dict[str, Any]] = []
    for depth, part in enumerate(parts):
        peak = settings.learning_rate * settings.stage_decay**depth
        matrices = [weight.requires_grad_() for weight in part if weight.ndim > 1]
        vectors = [weight.requires_grad_() for weight in part if weight.ndim <= 1]
        groups.append({"params": matrices, "peak": peak, "lr": peak, "weight_decay": settings.weight_decay})
        groups.append({"params": vectors, "peak": peak, "lr": peak, "weight_decay": 0.0})
    if settings.optimiser == "muon":
        return _muon(network, groups, settings)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.momentum > 0)


def _muon(network: Network, groups: list[dict[str, Any]], settings: LoopSettings) -> Muon:
    """Filters, but for the first convolution's, whose inputs are colours, make groups of their own."""
    first = next((weight for weight in network.parameters() if weight.ndim == 4), None)
    split: list[dict[str, Any]] = []
    for group in groups:
        filters = [weight for weight in group["params"] if weight.ndim == 4 and weight is not first]
        others = [weight for weight in group["params"] if weight.ndim != 4 or weight is first]
        peak, decay = group["peak"], min(group["weight_decay"], MUON_REST_DECAY)
        shared = {"momentum": settings.momentum}
        split.append({**shared, "params": others, "peak": peak, "lr": peak, "weight_decay": decay})
        peak *= MUON_RATE
        split.append({**shared, "params": filters, "peak": peak, "lr": peak, "weight_decay": group["weight_decay"]})
        split[-1]["orthogonal"] = True
    used = [group for group in split if group["params"]]
    is_half = choose_precision(settings.precision, network.mean.device) == "bfloat16"
    return Muon(used, precision=torch.bfloat16 if is_half else torch.float32)

"""How long and how fast each method learns when a recipe does not say: figures that were measured, see docs/log.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FINETUNE_EPOCHS = 5
PLAIN_EPOCHS = 20
RESNET_EPOCHS = 48

RATES = {  # the peak of the learning rate from scratch
    "resnet": {"sgd": 0.2, "muon": 0.2, "adamw": 0.002},
    "plain": {"sgd": 0.01, "muon": 0.01, "adamw": 0.001},
}
DECAYS = {"sgd": 5e-4, "muon": 0.1, "adamw": 0.05}  # weight decay from scratch
SCRATCH_AUGMENT = {"crop_min_area": 0.35, "colour_jitter": 0.3}


def train_defaults(method: str, network: str, size: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting of a recipe's `train` that has no fixed default.

    size: of the pictures, in pixels. given: what the recipe says; epochs and optimiser decide about other settings.
    """
    if method == "finetune":
        return _finetune(overrides.get("epochs", FINETUNE_EPOCHS)) | {"size_from": size, "size_to": size}
    if network == "plain":
        epochs = overrides.get("epochs", PLAIN_EPOCHS)
        warmup = {"warmup_epochs": epochs / 10, "size_from": size, "size_to": size}
        return _scratch(epochs, overrides.get("optimiser", "sgd"), "plain") | warmup
    epochs = overrides.get("epochs", RESNET_EPOCHS)
    warmup = {"warmup_epochs": epochs / 5, "size_from": size // 2, "size_to": size * 7 // 8}
    return _scratch(epochs, overrides.get("optimiser", "muon"), "resnet") | warmup


def _finetune(epochs: int) -> dict[str, Any]:
    rates = {"optimiser": "adamw", "learning_rate": 3e-4, "weight_decay": 0.01, "schedule": "cosine"}
    return rates | {"epochs": epochs, "warmup_epochs": epochs / 10, "patience_epochs": 3}


def _scratch(epochs: int, optimiser: str, network: str) -> dict[str, Any]:
    """From scratch the rate falls to the end of the schedule and the best epochs come last: patience is long."""
    rates = {"learning_rate": RATES[network][optimiser], "weight_decay": DECAYS[optimiser]}
    return rates | {"optimiser": optimiser, "epochs": epochs, "schedule": "one-cycle", "patience_epochs": 20}

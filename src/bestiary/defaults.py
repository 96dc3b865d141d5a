"""Default hyperparameters of each training method; for their measurements see docs/log.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FINETUNE_EPOCHS = 5
PLAIN_EPOCHS = 20
RESNET_EPOCHS = 48

RATES = {  # peak learning rate from scratch
    "resnet": {"sgd": 0.2, "muon": 0.2, "adamw": 0.002},
    "plain": {"sgd": 0.01, "muon": 0.01, "adamw": 0.001},
}
DECAYS = {"sgd": 5e-4, "muon": 0.1, "adamw": 0.05}  # weight decay from scratch
SCRATCH_AUGMENT = {"crop_min_area": 0.35, "colour_jitter": 0.3}


def augment_defaults(method: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe's `augment` whose default depends on the method or on the explicit settings.

    A policy changes colours itself, so that none are changed beside it.
    """
    defaults = SCRATCH_AUGMENT if method == "scratch" else {}
    return defaults | ({"colour_jitter": 0.0} if overrides.get("policy", "none") != "none" else {})


def train_defaults(method: str, network: str, size: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting of a recipe's `train` that has no fixed default.

    size: of the pictures, in pixels. overrides: the explicit settings; others depend on its epochs and optimiser.
    """
    if method == "finetune":
        epochs = overrides.get("epochs", FINETUNE_EPOCHS)
        rates = {"optimiser": "adamw", "learning_rate": 3e-4, "weight_decay": 0.01, "schedule": "cosine"}
        sizes = {"size_from": size, "size_to": size}
        return rates | sizes | {"epochs": epochs, "warmup_epochs": epochs / 10, "patience_epochs": 3}
    if network == "plain":
        epochs, optimiser = overrides.get("epochs", PLAIN_EPOCHS), overrides.get("optimiser", "sgd")
        sizes = {"warmup_epochs": epochs / 10, "size_from": size, "size_to": size}
    else:
        epochs, optimiser = overrides.get("epochs", RESNET_EPOCHS), overrides.get("optimiser", "muon")
        sizes = {"warmup_epochs": epochs / 5, "size_from": size // 2, "size_to": size * 7 // 8}
    rates = {"learning_rate": RATES[network][optimiser], "weight_decay": DECAYS[optimiser], "schedule": "one-cycle"}
    # From scratch the best epochs come last, when the learning rate is low: the patience is long.
    return rates | sizes | {"optimiser": optimiser, "epochs": epochs, "patience_epochs": 20}

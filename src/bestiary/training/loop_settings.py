"""What the training loop needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bestiary.errors import RecipeError
from bestiary.recipe import Balance, Optimiser, Schedule

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the loop needs to know. Times in epochs become steps once, in `fit`.

    optimiser: "sgd" with Nesterov `momentum`, "muon" (see `muon`), or "adamw" with `momentum` as its first beta.
    learning_rate is the head's; stage k below it learns with stage_decay ** k of it. unfreeze_stages: how many of the
    trunk's last stages learn, None for all. precision "auto": bfloat16 where the processor computes in it, else
    float32. The longest time between two checkpoints is checkpoint_seconds, give or take one step. size_from and
    size_to: the side in pixels of the training pictures in the first and the last epochs, None for as they are read.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    momentum: float
    label_smoothing: float
    schedule: Schedule
    warmup_epochs: float
    patience_epochs: int
    seed: int
    threads: int
    balance: Balance = "none"
    precision: Precision = "auto"
    optimiser: Optimiser = "sgd"
    unfreeze_stages: int | None = None
    stage_decay: float = 1.0
    checkpoint_seconds: float = 240.0
    size_from: int | None = None
    size_to: int | None = None

    def __post_init__(self) -> None:
        """Raise RecipeError for a warm-up that leaves no training."""
        if not 0 <= self.warmup_epochs < self.epochs:
            raise RecipeError(
                f"train.warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs; expected 0 or more, and fewer "
                "than train.epochs. Lower it, or train for longer."
            )

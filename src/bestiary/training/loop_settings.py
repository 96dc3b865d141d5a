"""Settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bestiary.errors import RecipeError
from bestiary.machine import world_size
from bestiary.recipe import ResolvedRecipe
from bestiary.recipe_sections import Balance, Optimiser, Schedule, SyncBatchNorm

Precision = Literal["auto", "float32", "bfloat16"]
FINETUNE_STAGE_DECAY = 0.5


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Settings of the training loop. Times in epochs become steps once, in `fit`.

    optimiser: "sgd" with Nesterov `momentum`, "muon" (see `muon`), or "adamw" with `momentum` as its first beta.
    learning_rate is that of the head; stage k below it has stage_decay ** k of it. unfreeze_stages: number of trained
    last stages of the backbone, None for all. precision "auto": bfloat16 where the processor computes in it, else
    float32. checkpoint_seconds: longest time between two checkpoints, give or take one step. size_from and size_to:
    size in pixels of the training pictures in the first and the last epochs, None to keep the size of the input.
    sync_batch_norm: see `ProcessGroup.wrap_network`.
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
    sync_batch_norm: SyncBatchNorm = "auto"

    @classmethod
    def from_recipe(cls, recipe: ResolvedRecipe, threads: int) -> LoopSettings:
        """Return the settings for scratch or finetune; threads: of all processes together."""
        values = recipe.train.model_dump(exclude={"views", "unfreeze_stages", "device", "distill", "distill_weight"})
        if recipe.model.method == "finetune":
            values |= {"unfreeze_stages": recipe.train.unfreeze_stages, "stage_decay": FINETUNE_STAGE_DECAY}
        return cls(**values, seed=recipe.seed, threads=max(1, threads // world_size()))

    def __post_init__(self) -> None:
        """Raise RecipeError for a warm-up that leaves no training."""
        if not 0 <= self.warmup_epochs < self.epochs:
            raise RecipeError(
                f"train.warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs; expected 0 or more, and fewer "
                "than train.epochs. Lower it, or train for longer."
            )

"""The teacher of a network from scratch: a bundled backbone, whose features it learns beside the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bestiary.training.task import TrainingTask

if TYPE_CHECKING:
    from bestiary.models.networks import Network


def distill_from_teacher(task: TrainingTask, network: Network) -> None:
    """Let the network learn the features of the recipe's teacher, if it has one; they are computed where missing."""
    from bestiary.models.distillation import FeatureDistillation

    if (cache := task.teacher_cache()) is None:
        return
    train = task.split("train")
    with task.context.timer.stage("cache"):
        cache.fill(train.paths, train.keys)
    features, weight = cache.load(train.keys), task.recipe.train.distill_weight
    channels = network.head.linear.in_features
    network.distillation = FeatureDistillation(channels, features, weight=weight, seed=task.recipe.seed)

"""The teacher of a network from scratch: a bundled backbone, whose features it learns beside the classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bestiary.models.backbone import Backbone
from bestiary.models.backbones import bundled_backbone
from bestiary.models.features import training_feature_cache
from bestiary.recipe import ResolvedRecipe
from bestiary.training.task import TrainingTask

if TYPE_CHECKING:
    from bestiary.models.networks import Network


def teacher_backbone(recipe: ResolvedRecipe) -> Backbone | None:
    """Return the backbone that a network is distilled from; None without distillation."""
    is_distilled = recipe.model.method == "scratch" and recipe.train.distill != "none"
    return bundled_backbone(recipe.train.distill) if is_distilled else None


def distill_from_teacher(task: TrainingTask, network: Network) -> None:
    """Let the network learn the features of the recipe's teacher, if it has one; they are computed where missing."""
    from bestiary.models.distillation import FeatureDistillation

    if (backbone := teacher_backbone(task.recipe)) is None:
        return
    train, preprocess = task.split("train"), replace(task.preprocess, size=backbone.facts.size)
    cache = training_feature_cache(backbone, preprocess, task.context)
    with task.context.timer.stage("cache"):
        cache.fill(train.paths, train.keys)
    features, weight = cache.load(train.keys), task.recipe.train.distill_weight
    channels = network.head.linear.in_features
    network.distillation = FeatureDistillation(channels, features, weight=weight, seed=task.recipe.seed)

"""The backbone of a run: its own input size, and the choice among several by the lowest loss on validation pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from bestiary.context import Context
from bestiary.errors import RecipeError
from bestiary.models.backbones import backbone_names, is_bundled, is_graph, recipe_backbone, weights_by_name
from bestiary.models.timm_export import HUB
from bestiary.recipe import Recipe
from bestiary.text import format_duration
from bestiary.training.budget import TrainingPlan, plan_training, usable_seconds
from bestiary.training.probe import fit_probe
from bestiary.training.recipe_checks import check_recipe_supported
from bestiary.training.task import make_task
from bestiary.training.time_estimate import MachineProfile, estimate_seconds, feature_seconds
from bestiary.tried_backbones import TriedBackbone


def settle_backbone(requested: Recipe, context: Context) -> Recipe:
    """Return the recipe with absolute paths, and with the backbone's own input size where it sets none.

    Of several backbones each has its own size, settled as it is tried. Raises as `check_recipe_supported` and
    `backbone_by_name` do.
    """
    check_recipe_supported(requested)
    model = requested.model
    if model.method == "scratch" or is_bundled(model.backbone):
        return requested
    names, weights = backbone_names(model.backbone), backbone_names(model.weights)
    paths = {
        "backbone": ",".join(_absolute(name) if is_graph(name) else name for name in names),
        "weights": ",".join(value if value in ("bundled", HUB) else _absolute(value) for value in weights),
    }
    settled = requested.override(
        {"model": {key: value for key, value in paths.items() if value != getattr(model, key)}}
    )
    if len(names) > 1 or requested.picture.size is not None:
        return settled
    return settled.override({"picture": {"size": own_size(settled, context)}})


def settle_single_backbone(requested: Recipe, context: Context) -> Recipe:
    """Return the recipe as `settle_backbone` does; raises RecipeError for several backbones: `train` chooses."""
    if requested.model.method == "probe" and len(names := backbone_names(requested.model.backbone)) > 1:
        raise RecipeError(
            f"Only train chooses among several backbones; got {', '.join(names)}. Name one, or search or compare them:"
            " a recipe each in study, model.backbone=[…] in tune."
        )
    return settle_backbone(requested, context)


def own_size(recipe: Recipe, context: Context) -> int:
    """Return the own input size of a recipe's backbone, in pixels. Raises as `backbone_by_name` does."""
    return recipe_backbone(recipe, context.require_cache()).size


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def plan_best_backbone(
    requested: Recipe, pictures: pl.DataFrame, budget_seconds: float | None, context: Context
) -> TrainingPlan:
    """Return the plan of `plan_training`; of several backbones in the recipe, for the best on the validation pictures.

    Only these are scored. Raises as `plan_training` and `backbone_by_name` do.
    """
    names = backbone_names(requested.model.backbone)
    if requested.model.method == "scratch" or len(names) == 1:
        return plan_training(requested, pictures, budget_seconds, context)
    candidates = [choose_candidate(requested, name, context) for name in names]
    tried = _fit_candidates(candidates, pictures, budget_seconds, context)
    best = min((entry for entry in tried if entry.val_loss is not None), key=lambda entry: entry.val_loss or 0.0)
    tried = [replace(entry, chosen=entry is best) for entry in tried]
    scores = "; ".join(entry.describe() for entry in tried)
    context.reporter.info(f"Backbones on the validation pictures: {scores}. The lowest loss: {best.backbone}.")
    plan = plan_training(candidates[tried.index(replace(best, chosen=True))], pictures, budget_seconds, context)
    return replace(plan, backbones=tuple(asdict(entry) for entry in tried))


def choose_candidate(requested: Recipe, name: str, context: Context) -> Recipe:
    """Return the recipe with one of its backbones, at that backbone's own input size where the recipe sets none."""
    model = {"backbone": name, "weights": weights_by_name(requested.model)[name]}
    recipe = requested.override({"model": model})
    if requested.picture.size is not None:
        return recipe
    return recipe.override({"picture": {"size": own_size(recipe, context)}})


def _fit_candidates(
    candidates: Sequence[Recipe], pictures: pl.DataFrame, budget_seconds: float | None, context: Context
) -> list[TriedBackbone]:
    """Fit a probe on each backbone for which there is time; at least one is fitted."""
    machine, tried, ahead = MachineProfile(), list[TriedBackbone](), 0.0
    for recipe in candidates:
        task = make_task(Path(), recipe.resolve(), pictures, context)
        entry = TriedBackbone(task.backbone.name, task.preprocess.size)
        if budget_seconds is not None:
            whole = estimate_seconds(task, machine).seconds(1)
            needed = max(whole, feature_seconds(task, machine) + ahead)  # if it loses, the best before it is trained
            if needed > usable_seconds(budget_seconds, context.timer.total):
                tried.append(replace(entry, skipped=f"not fitted, as it takes {format_duration(needed)}"))
                continue
        history = fit_probe(task).history
        best = min(history, key=lambda line: float(line["val_loss"]))
        entry = replace(entry, val_loss=float(best["val_loss"]), val_macro_f1=float(best["val_macro_f1"]))
        tried.append(entry)
        if budget_seconds is not None:
            ahead = max(ahead, estimate_seconds(task, machine).seconds(1))
    if not any(entry.val_loss is not None for entry in tried):
        raise RecipeError(
            f"--budget {format_duration(budget_seconds or 0)} is too short for any of the backbones:"
            f" {'; '.join(entry.describe() for entry in tried)}. Increase it, or name a smaller backbone."
        )
    return tried

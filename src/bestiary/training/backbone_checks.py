"""Checks backbone and weights of a recipe before any work is done."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from bestiary.errors import RecipeError
from bestiary.models.backbones import (
    backbone_names,
    bundled_backbone,
    full_name,
    is_bundled,
    is_graph,
    weights_by_name,
)
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.timm_backbone import check_model_name
from bestiary.models.timm_export import HUB, PREFIX
from bestiary.recipe import Recipe
from bestiary.recipe_sections import ModelConfig


def check_backbone(recipe: Recipe) -> None:
    """Raise RecipeError for a backbone, or weights, that the recipe's method does not take; nothing is loaded."""
    model = recipe.model
    if model.method == "scratch":
        return
    names = backbone_names(full_name(model))
    if not names or len(names) > 1:
        _check_several(recipe, names)
    for name in names:
        _check_name(model, name)
    weights = weights_by_name(model.model_copy(update={"backbone": ",".join(names)}))
    if model.weights != "bundled" and not any(name.startswith(PREFIX) for name in names):
        whose = "are bundled" if is_bundled(names[0]) else "are in the graph"
        raise RecipeError(
            f'model.weights = "{model.weights}" cannot be combined with "{model.backbone}", whose weights {whose}.'
            f" Leave it out, or choose a model of timm: {PREFIX}NAME."
        )
    for name, value in weights.items():
        if name.startswith(PREFIX) and value == "bundled":
            if find_spec("timm"):
                check_model_name(name.removeprefix(PREFIX))
            raise RecipeError(
                f'The weights of "{name}" are not bundled. Set model.weights to a file of weights, or to "hub" to'
                f" download them. Bundled: {', '.join(BACKBONES)}."
            )
        if name.startswith(PREFIX) and value != HUB and not Path(value).expanduser().is_file():
            raise RecipeError(f'model.weights = "{value}" is neither "hub" nor a file.')


def _check_several(recipe: Recipe, names: list[str]) -> None:
    if not names:
        raise RecipeError(f"model.backbone is empty. Bundled: {', '.join(BACKBONES)}.")
    if recipe.model.method != "probe":
        raise RecipeError(f"{recipe.model.method} takes one backbone; got {', '.join(names)}. Choose one of them.")
    if len(set(names)) < len(names):
        raise RecipeError(f"model.backbone names one backbone twice: {', '.join(names)}.")
    if recipe.data.folds:
        raise RecipeError(
            "With data.folds every picture is tested, and none are left to choose a backbone by. Name one backbone, or"
            " choose it in a run without folds."
        )


def _check_name(model: ModelConfig, name: str) -> None:
    if is_graph(name):
        if model.method == "finetune":
            raise RecipeError(f"{name} is a graph, which cannot be fine-tuned. Train a probe on it: --method probe.")
        if not Path(name).expanduser().is_file():
            raise RecipeError(f"There is no graph at {name}. Give the path of an .onnx file.")
    elif not name.startswith(PREFIX):
        bundled_backbone(name)

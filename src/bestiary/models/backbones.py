"""Backbones by name: `lite2`, `timm:NAME`, or the path of an ONNX graph; each is described by one `Backbone`."""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path

from bestiary.errors import RecipeError, did_you_mean
from bestiary.models.backbone import Backbone, BackboneFacts, Weights
from bestiary.models.efficientnet_lite import BACKBONES, GRAPH_VERSION, REDUCTION, build_backbone_graph
from bestiary.models.graph_cache import graph_folder
from bestiary.models.timm_export import PREFIX, timm_backbone
from bestiary.recipe import Recipe
from bestiary.recipe_sections import ModelConfig, OnnxConfig

LICENCE = "Apache-2.0"
GRAPH_SUFFIX = ".onnx"


def is_bundled(name: str) -> bool:
    """Return whether a backbone's weights come with bestiary."""
    return name in BACKBONES


def backbone_names(text: str) -> list[str]:
    """Return the names in `model.backbone`, which has several to choose from, separated by commas.

    >>> backbone_names("lite2, timm:resnet18")
    ['lite2', 'timm:resnet18']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def weights_by_name(model: ModelConfig) -> dict[str, str]:
    """Return `model.weights` by backbone: "bundled" but for timm's, which have one for all, or one each in their order.

    Raises RecipeError for another number.
    """
    names, weights = backbone_names(model.backbone), backbone_names(model.weights)
    timms = [name for name in names if name.startswith(PREFIX)]
    if len(weights) not in (1, len(timms)):
        raise RecipeError(
            f"model.weights has {len(weights)} values for {len(timms)} models of timm ({', '.join(timms)}); give one"
            " for all of them, or one for each, in their order."
        )
    by_timm = dict(zip(timms, weights * len(timms) if len(weights) == 1 else weights, strict=False))
    return {name: by_timm.get(name, "bundled") for name in names}


def is_graph(name: str) -> bool:
    """Return whether a name is the path of an ONNX graph."""
    return name.lower().endswith(GRAPH_SUFFIX)


def bundled_backbone(name: str) -> Backbone:
    """Return a bundled backbone; nothing is read. Raises RecipeError, with the valid names, for another name."""
    if not is_bundled(name):
        example = "" if difflib.get_close_matches(name, BACKBONES) else f", such as {PREFIX}{name}"
        raise RecipeError(
            f'No pretrained backbone is called "{name}". {did_you_mean(name, BACKBONES)} Others: {PREFIX}NAME for a'
            f" model of timm{example}, or the path of an {GRAPH_SUFFIX} file."
        )
    lite = BACKBONES[name]
    record = Weights(lite.weights.sha256, f"the package {lite.weights.distribution} (ImageNet)", LICENCE)
    facts = BackboneFacts(lite.size, lite.channels, "maps", "", record)
    return Backbone(name, facts, name, f"v{GRAPH_VERSION}", partial(build_backbone_graph, name), smallest=REDUCTION)


def backbone_by_name(
    name: str,
    cache: Path,
    *,
    weights: str = "bundled",
    onnx: OnnxConfig | None = None,
    size: int | None = None,
) -> Backbone:
    """Return the backbone of that name.

    cache: the cache folder. weights: of a timm model, a file or "hub". onnx, size: how a graph takes pictures, and the
    size of its input, needed where it takes any. A backbone that is not bundled is loaded once to be described, then
    its description is cached. Raises RecipeError for an unknown name, weights that are missing or do not fit, and a
    graph that cannot be used; MissingExtraError if torch is needed and not installed.
    """
    if is_graph(name):
        from bestiary.models.onnx_backbone import onnx_backbone

        return onnx_backbone(Path(name).expanduser(), onnx or OnnxConfig(), size, graph_folder(cache))
    if name.startswith(PREFIX):
        return timm_backbone(name, weights, graph_folder(cache))
    return bundled_backbone(name)


def recipe_backbone(recipe: Recipe, cache: Path, size: int | None = None) -> Backbone:
    """Return the backbone of a recipe. size: of its input, by default that of the recipe. Raises as `backbone_by_name`.

    The name of a timm model without its prefix, as `finetune` takes it, is one too.
    """
    model, pixels = recipe.model, size or recipe.picture.size
    return backbone_by_name(full_name(model), cache, weights=model.weights, onnx=recipe.onnx, size=pixels)


def full_name(model: ModelConfig) -> str:
    """Return the name of a recipe's backbone, with the prefix that `finetune` does without."""
    name = model.backbone
    is_complete = is_bundled(name) or is_graph(name) or name.startswith(PREFIX) or len(backbone_names(name)) != 1
    return name if is_complete or model.method != "finetune" else f"{PREFIX}{name}"


def timm_name(model: ModelConfig) -> str:
    """Return timm's own name of a recipe's backbone."""
    return full_name(model).removeprefix(PREFIX)


def teacher_backbone(recipe: Recipe) -> Backbone | None:
    """Return the backbone that a network is distilled from; None without distillation."""
    is_distilled = recipe.model.method == "scratch" and recipe.train.distill != "none"
    return bundled_backbone(recipe.train.distill) if is_distilled else None


def uses_features(recipe: Recipe) -> bool:
    """Return whether a recipe's learner uses features of its backbone: a probe does, and fine-tuning of a bundled one.

    Of several backbones none is the recipe's own yet.
    """
    model = recipe.model
    if model.method == "probe":
        return len(backbone_names(model.backbone)) == 1
    return model.method == "finetune" and is_bundled(model.backbone)

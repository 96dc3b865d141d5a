"""Recipe checks: rejects recipes that a method does not support, and settings that would have no effect."""

from __future__ import annotations

from typing import Any

from bestiary.errors import RecipeError, import_optional
from bestiary.machine import world_size
from bestiary.models.accelerators import require_accelerator
from bestiary.models.backbones import backbone_names, is_bundled, is_graph
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.onnx_surgery import STAGES, count_frozen_stages
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_sections import AugmentConfig
from bestiary.settings_reference import PRETRAINED, SCRATCH, setting_consumers
from bestiary.training.backbone_checks import check_backbone

BUNDLED = " or ".join([", ".join([*BACKBONES][:-1]), [*BACKBONES][-1]])


def check_no_unused_settings(recipe: Recipe) -> None:
    """Raise RecipeError for the first setting of the recipe that has no effect on its method.

    A value that equals the default passes, so that a recipe with every default spelled out can be used again.
    """
    overrides = recipe.overrides()
    unused = _unused_settings(recipe, overrides)
    rest = {
        section: {key: value for key, value in values.items() if (section, key) not in unused}
        if isinstance(values, dict)
        else values
        for section, values in overrides.items()
    }
    defaults = Recipe.of(rest).resolve().model_dump(mode="json")
    for section, key in unused:
        value, reason = overrides[section][key], _explain_unused(recipe, section, key)
        user = _describe_learner(recipe) if section != "onnx" else f"the backbone {recipe.model.backbone}"
        if value != defaults[section][key]:
            raise RecipeError(
                f"{section}.{key} = {value} has no effect with {user}; {reason}"
                " Leave it out, or choose another --method or network."
            )


def _unused_settings(recipe: Recipe, overrides: dict[str, Any]) -> list[tuple[str, str]]:
    learner, users = learner_name(recipe), setting_consumers()
    settings = [(section, key) for section, part in overrides.items() if isinstance(part, dict) for key in part]
    idle = _idle_finetune_settings(recipe) | _idle_graph_settings(recipe) | _idle_norm_settings(recipe)
    return [setting for setting in settings if learner not in users[setting] or setting in idle]


def _idle_finetune_settings(recipe: Recipe) -> set[tuple[str, str]]:
    """Return the fine-tuning settings without effect for this backbone and number of trained stages.

    Only a bundled backbone has a probe to start from. Cached activations have views, but one size, and only random
    views are augmented.
    """
    if recipe.model.method != "finetune":
        return set()
    idle = set() if is_bundled(recipe.model.backbone) else {("probe", "regularisation"), ("probe", "views")}
    if count_frozen_stages(recipe) is None:
        return idle | {("train", "views")}
    if recipe.train.views <= count_fixed_views(recipe.augment):
        idle |= {("augment", key) for key in AugmentConfig.model_fields}
    return idle | {("train", "size_from"), ("train", "size_to")}


def count_fixed_views(augment: AugmentConfig) -> int:
    """Return how many cached views are not random: the picture itself and, where mirroring is on, its mirror image.

    >>> count_fixed_views(AugmentConfig()), count_fixed_views(AugmentConfig(mirror=0))
    (2, 1)
    """
    return 2 if augment.mirror > 0 else 1


def _idle_graph_settings(recipe: Recipe) -> set[tuple[str, str]]:
    """Return the settings of a graph where no backbone is one."""
    has_graph = recipe.model.method == "probe" and any(map(is_graph, backbone_names(recipe.model.backbone)))
    return set() if has_graph else {setting for setting in setting_consumers() if setting[0] == "onnx"}


def _idle_norm_settings(recipe: Recipe) -> set[tuple[str, str]]:
    """Return the settings of batch normalisation where the network plain has none."""
    is_without = learner_name(recipe) == "plain" and not recipe.model.batch_norm
    return {("train", "sync_batch_norm")} if is_without else set()


def learner_name(recipe: Recipe) -> str:
    """Return the learner of a recipe, one of ALL."""
    return recipe.model.network if recipe.model.method == "scratch" else recipe.model.method


def _describe_learner(recipe: Recipe) -> str:
    model = recipe.model
    if model.method == "scratch":
        return f"scratch and its network {model.network}"
    return model.method if is_bundled(model.backbone) else f"{model.method} and the backbone {model.backbone}"


def _explain_unused(recipe: Recipe, section: str, key: str) -> str:
    if section == "onnx":
        return "it applies to a probe on a graph, --backbone FILE.onnx."
    if (section, key) in _idle_norm_settings(recipe):
        return "it applies to batch normalisation, which model.batch_norm = true adds."
    if (section, key) not in _idle_finetune_settings(recipe):
        return f"it applies to {_describe_consumers(setting_consumers()[section, key])}."
    if section == "augment":
        return (
            f"none of the views is random: of train.views = {recipe.train.views}, the first is the picture itself,"
            " the second its mirror image. Raise train.views."
        )
    if section == "probe":
        return f"fine-tuning starts from a probe with {BUNDLED} only."
    if key == "views":
        return f"augmented views are cached only where lower stages of {BUNDLED} are frozen."
    return f"progressive resizing needs all {STAGES} stages trained (train.unfreeze_stages)."


def _describe_consumers(users: tuple[str, ...]) -> str:
    """Describe the consumers of a setting.

    >>> _describe_consumers(("finetune", "resnet", "plain")), _describe_consumers(("plain",))
    ('finetune and scratch', 'the network plain')
    """
    methods = [name for name in users if name in PRETRAINED]
    networks = [name for name in users if name in SCRATCH]
    if len(networks) == len(SCRATCH):
        return " and ".join([*methods, "scratch"])
    return " and ".join([*methods, *(f"the network {name}" for name in networks)])


def check_recipe_supported(recipe: Recipe) -> None:
    """Raise RecipeError or MissingExtraError for what a method does not support, before any work is done."""
    model = recipe.model
    if recipe.features.device in ("cuda", "coreml"):
        require_accelerator(recipe.features.device)
    if model.method != "probe":
        import_optional("torch", extra="torch")
        if recipe.augment.policy != "none":
            import_optional("torchvision", extra="torch")
        from bestiary.training.device import choose_device

        choose_device(recipe.train.device)
        check_input_sizes(recipe.resolve())
    elif world_size() > 1:
        raise RecipeError("The probe is trained in one process, in seconds: start it without torchrun.")
    if world_size() > 1 and recipe.data.folds:
        raise RecipeError("Cross-validation (data.folds) runs in one process: start it without torchrun.")
    check_backbone(recipe)
    if model.method == "probe" and recipe.train.balance == "balanced-sampler":
        raise RecipeError(
            'train.balance = "balanced-sampler" is not supported by the probe, which is fitted on all pictures at once:'
            ' it would be the same as "class-weights". Use that.'
        )
    if (normalise := recipe.picture.normalise) is not None and (normalise == "backbone") == (model.method == "scratch"):
        possible = '"collection" or "none"' if model.method == "scratch" else '"backbone"'
        raise RecipeError(
            f'picture.normalise = "{normalise}" cannot be combined with {model.method}; choose {possible}.'
        )
    check_no_unused_settings(recipe)


def check_input_sizes(recipe: ResolvedRecipe) -> None:
    """Raise RecipeError for training sizes that the network does not support."""
    if recipe.model.method != "scratch":
        return
    sizes = {recipe.train.size_from, recipe.train.size_to}
    if recipe.model.network == "resnet":
        from bestiary.models.networks import RESNET_FILTERS

        stages = len(recipe.model.filters or RESNET_FILTERS)
        smallest = min(recipe.picture.size, *sizes)
        if (need := 2 ** (stages + 1)) > smallest:
            raise RecipeError(
                f"A resnet with {stages} stages reduces {smallest} pixels to none; expected {need} pixels or more."
                " Raise picture.size and train.size_from, or use fewer model.filters."
            )
    elif sizes != {recipe.picture.size}:
        raise RecipeError(
            f"A plain network has one input size, picture.size = {recipe.picture.size}; train.size_from and"
            f" train.size_to are {recipe.train.size_from} and {recipe.train.size_to}. Leave them out."
        )

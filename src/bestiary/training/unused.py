"""Settings that were asked for and would do nothing: refused, so that nobody believes that they did something."""

from __future__ import annotations

from bestiary.errors import RecipeError
from bestiary.recipe import METHODS, Recipe

LEARNED_IN_EPOCHS = ("finetune", "scratch")
PRETRAINED = ("probe", "finetune")

# Who uses a section, and the settings of it that fewer use. What stands in neither is used by every method.
SECTIONS: dict[str, tuple[str, ...]] = {"probe": PRETRAINED, "augment": LEARNED_IN_EPOCHS, "train": LEARNED_IN_EPOCHS}
SETTINGS: dict[str, tuple[str, ...]] = {
    "train.balance": METHODS,
    "train.unfreeze_stages": ("finetune",),
    "train.views": ("finetune",),
    "train.whole_epochs": ("finetune",),
    "model.backbone": PRETRAINED,
    "model.weights": PRETRAINED,
    **dict.fromkeys(
        (f"model.{name}" for name in ("network", "filters", "kernel_size", "batch_norm", "hidden", "dropout")),
        ("scratch",),
    ),
}
OF_PLAIN = ("kernel_size", "batch_norm", "hidden", "dropout")


def refuse_unused(recipe: Recipe) -> None:
    """Raise RecipeError for the first setting that was asked for and has no effect on the chosen method.

    A value that equals the default passes: a recipe with every default spelled out can be used again.
    """
    method = recipe.model.method
    defaults = Recipe.of({"model": {"method": method}}).resolved().model_dump(mode="json")
    for section, settings in recipe.asked().items():
        if not isinstance(settings, dict):
            continue
        for key, value in settings.items():
            name = f"{section}.{key}"
            users = SETTINGS.get(name, SECTIONS.get(section, METHODS))
            if method not in users and value != defaults[section][key]:
                raise RecipeError(
                    f"{name} = {value} has no effect with the method {method}; it is for {' and '.join(users)}."
                    " Leave it out, or choose another --method."
                )
    _refuse_of_plain(recipe)


def _refuse_of_plain(recipe: Recipe) -> None:
    model = recipe.model
    if model.method != "scratch" or model.network == "plain":
        return
    for name in OF_PLAIN:
        if getattr(model, name) != type(model).model_fields[name].default:
            raise RecipeError(
                f"model.{name} = {getattr(model, name)} has no effect on the network {model.network}; it is for plain."
                " Leave it out, or set model.network = plain."
            )

"""A recipe and named arguments beside it, such as `train(pictures, recipe=..., seed=1)`, combined without guessing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from bestiary.errors import RecipeError, did_you_mean
from bestiary.machine import Device
from bestiary.recipe import Recipe

SETTINGS = {
    "method": ("model", "method"),
    "backbone": ("model", "backbone"),
    "seed": ("", "seed"),
    "folds": ("data", "folds"),
    "group": ("data", "group"),
    "site": ("data", "site"),
    "crop": ("data", "crop"),
}  # of each argument: its section and key in a recipe

NO_MPS = (
    'The device "mps" trains networks (--method finetune or scratch). The features of a probe are computed on an Apple'
    ' accelerator by "coreml".'
)
NO_COREML = 'The device "coreml" trains no networks. With --method {} use "mps".'

RecipeLike = Recipe | Mapping[str, Any] | Path | str


def combine_recipe(recipe: RecipeLike | None, *, where: str = "the recipe", **arguments: str | int | None) -> Recipe:
    """Return the recipe with these arguments; None leaves the recipe's setting.

    recipe: a Recipe, its settings, a TOML file or the name of a built-in one. Raises RecipeError if an argument
    contradicts a setting that the recipe makes.

    >>> combine_recipe({"model": {"method": "probe"}}, seed=1).seed
    1
    """
    requested = Recipe.read(recipe) if isinstance(recipe, str | Path) else Recipe.of({} if recipe is None else recipe)
    device = arguments.pop("device", None)
    if device is not None:
        requested = _add_device(requested, str(device), str(arguments.get("method") or requested.model.method), where)
    passed = {argument: value for argument, value in arguments.items() if value is not None}
    if not passed:
        return requested
    values = requested.overrides()
    for argument, value in passed.items():
        section, key = SETTINGS[argument]
        settings = values.setdefault(section, {}) if section else values
        if settings.setdefault(key, value) != value:
            name = f"{section}.{key}".lstrip(".")
            raise RecipeError(
                f"{argument}={value!r} contradicts {where}, which has {name} = {settings[key]!r}. Give it only once."
            )
    return Recipe.of(values)


def device_settings(device: str, method: str) -> dict[str, str]:
    """Return the settings that make a training job compute on a device, by section: `{section: its device}`.

    It is the device of the job's main work: of the features of a probe, of the training of a network. The features that
    a network's job needs besides are computed where it is fastest. Raises RecipeError for a device that the method
    cannot use.
    """
    if device not in get_args(Device):
        raise RecipeError(f'There is no device "{device}". {did_you_mean(device, get_args(Device))}')
    if method == "probe":
        if device == "mps":
            raise RecipeError(NO_MPS)
        return {"features": device}
    if device == "coreml":
        raise RecipeError(NO_COREML.format(method))
    return {"features": device, "train": device} if device in ("auto", "cpu") else {"train": device}


def study_device_settings(device: str) -> list[str]:
    """Return the settings "section.device=value" of a study, each for the recipes that use it; none for "auto".

    >>> study_device_settings("mps")
    ['train.device="mps"']
    """
    if device == "auto":
        return []
    sections = {"coreml": ["features"], "mps": ["train"]}.get(device, ["features", "train"])
    return [f'{section}.device="{device}"' for section in sections]


def _add_device(requested: Recipe, device: str, method: str, where: str) -> Recipe:
    overrides = requested.overrides()
    for section, value in device_settings(device, method).items():
        if (before := overrides.get(section, {}).get("device", value)) != value:
            raise RecipeError(
                f"device={device!r} contradicts {where}, which has {section}.device = {before!r}. Give it only once."
            )
        requested = requested.override({section: {"device": value}})
    return requested

"""A recipe and named arguments beside it, such as `train(pictures, recipe=..., seed=1)`, combined without guessing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bestiary.errors import RecipeError
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

RecipeLike = Recipe | Mapping[str, Any] | Path | str


def combine_recipe(recipe: RecipeLike | None, *, where: str = "the recipe", **arguments: str | int | None) -> Recipe:
    """Return the recipe with these arguments; None leaves the recipe's setting.

    recipe: a Recipe, its settings, a TOML file or the name of a built-in one. Raises RecipeError if an argument
    contradicts a setting that the recipe makes.

    >>> combine_recipe({"model": {"method": "probe"}}, seed=1).seed
    1
    """
    requested = Recipe.read(recipe) if isinstance(recipe, str | Path) else Recipe.of({} if recipe is None else recipe)
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

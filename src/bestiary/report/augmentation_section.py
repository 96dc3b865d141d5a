"""Report section on augmentation: the sheet of augmented training pictures, and the settings in words."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.recipe import AugmentConfig, Recipe, ResolvedRecipe
from bestiary.text import format_percent
from bestiary.training.augmentation_sheet import SHEET_NAME
from bestiary.training.recipe_checks import count_fixed_views

VIEWS = {"mirror": "mirrored", "quarters": "turned by 90, 180 and 270 degrees"}


def augmentation_values(run: Path, resolved: str) -> dict[str, Any]:
    """Return the template context; run: the folder, resolved: its recipe as TOML. Empty without a sheet."""
    sheet = run / SHEET_NAME
    if not sheet.is_file():
        return {"augmentation_sheet": None}
    address = "data:image/jpeg;base64," + base64.b64encode(sheet.read_bytes()).decode("ascii")
    return {"augmentation_sheet": address, "augmentation": describe_augmentation(Recipe.of(tomllib.loads(resolved)))}


def describe_augmentation(recipe: Recipe) -> str:
    """Return how training changes its pictures, in sentences.

    >>> describe_augmentation(Recipe.of({"probe": {"views": "mirror"}}))
    'The head was fitted on each training picture as it is and mirrored.'
    """
    resolved = recipe if isinstance(recipe, ResolvedRecipe) else recipe.resolve()
    if resolved.model.method == "probe":
        return f"The head was fitted on each training picture as it is and {VIEWS[resolved.probe.views]}."
    changes = "; ".join(_iter_changes(resolved.augment))
    if count_frozen_stages(resolved) is None:
        return f"Each time that a training picture is shown, it is changed at random: {changes}."
    fixed, views = count_fixed_views(resolved.augment), resolved.train.views
    first = "The first view of a training picture is the picture itself"
    first += ", the second its mirror image." if fixed == 2 else "."
    rest = f" The other {views - fixed} are changed at random, once: {changes}." if views > fixed and changes else ""
    return f"{first}{rest}"


def _iter_changes(augment: AugmentConfig) -> Iterator[str]:
    """Yield what is done to a picture, in this order."""
    if augment.policy == "trivial":
        yield "one random operation of TrivialAugment"
    for name, probability in (
        ("mirrored", augment.mirror),
        ("turned upside down by a mirror", augment.vertical_mirror),
    ):
        if probability:
            yield f"{name} with probability {probability:g}"
    if augment.turn == "quarters":
        yield "turned by 0, 90, 180 or 270 degrees"
    if augment.turn == "any":
        yield "turned by any angle, with its reflection in the corners"
    if augment.crop_min_area < 1:
        yield f"cropped to {format_percent(augment.crop_min_area)} of its area or more"
    if augment.colour_jitter:
        yield f"saturation, brightness and contrast changed by up to {format_percent(augment.colour_jitter)}"
    if augment.erasing:
        yield f"a rectangle erased with probability {augment.erasing:g}"

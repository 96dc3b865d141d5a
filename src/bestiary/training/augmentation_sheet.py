"""Augmentation sheet: a few training pictures as training showed them, one picture file in the run folder.

Each row begins with the picture itself. For a probe and for cached activations the others are the views that were
computed; for other networks they are random draws like those of training, which new epochs repeat with other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from bestiary.array_types import Ints, Pixels
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.files import atomic_path
from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.preprocess import VerifiedFile
from bestiary.recipe import ResolvedRecipe
from bestiary.recipe_sections import AugmentConfig
from bestiary.run_folder import AUGMENTATION_SHEET
from bestiary.text import format_percent
from bestiary.training.probe import probe_views
from bestiary.training.recipe_checks import count_fixed_views
from bestiary.training.task import TrainingTask

VIEW_WORDS = {"mirror": "mirrored", "quarters": "turned by 90, 180 and 270 degrees"}
ROWS, DRAWS = 5, 6  # pictures, each of another class where there are as many; random versions of each
SIDE, GAP, JPEG_QUALITY = 112, 4, 85
PAPER = 255  # between the pictures

Sheet = list[list[Pixels]]  # rows of pictures, uint8 (size, size, 3)


def write_augmentation_sheet(task: TrainingTask) -> Path | None:
    """Write `augmentation.jpg` into the run folder and return its path; None if pictures are shown as they are.

    Raises SourceError if a picture of the sheet cannot be read any more.
    """
    train = task.split("train").take(_sheet_rows(task.split("train").labels))
    show = _choose_views(task)
    if show is None:
        return None
    files = [VerifiedFile.of(path, key) for path, key in zip(train.paths, train.keys, strict=True)]
    images = np.concatenate(list(iter_pixel_batches(files, task.preprocess, threads=task.context.threads)))
    path = task.run / AUGMENTATION_SHEET
    with atomic_path(path) as temporary:
        _draw_sheet(show(images, train.keys)).save(temporary, "JPEG", quality=JPEG_QUALITY)
    return path


def random_versions(images: Pixels, augmentation: AugmentConfig, *, seed: int, count: int = DRAWS) -> Sheet:
    """Return each picture of uint8 (n, size, size, 3), followed by `count` random versions. Needs torch."""
    import torch

    from bestiary.batches.augmentation import BatchRandom, augment

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    columns = [images]
    for number in range(count):
        entropy = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        changed = augment(pixels, augmentation, BatchRandom(torch.Generator().manual_seed(entropy)))
        columns.append(changed.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy())
    return [list(row) for row in zip(*columns, strict=True)]


def describe_augmentation(recipe: ResolvedRecipe) -> str:
    """Return how training changes its pictures, in sentences.

    >>> from bestiary.recipe import Recipe
    >>> describe_augmentation(Recipe.of({"probe": {"views": "mirror"}}).resolve())
    'The head was fitted on each training picture as it is and mirrored.'
    """
    if recipe.model.method == "probe":
        return f"The head was fitted on each training picture as it is and {VIEW_WORDS[recipe.probe.views]}."
    changes = "; ".join(_iter_changes(recipe.augment))
    if count_frozen_stages(recipe) is None:
        return f"Each time that a training picture is shown, it is changed at random: {changes}."
    fixed, views = count_fixed_views(recipe.augment), recipe.train.views
    first = "The first view of a training picture is the picture itself"
    first += ", the second its mirror image." if fixed == 2 else "."
    rest = f" The others are changed at random, once: {changes}." if views > fixed and changes else ""
    return f"{first}{rest}"


def _iter_changes(augment: AugmentConfig) -> Iterator[str]:
    """Yield what is done to a picture, in this order."""
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
    if augment.policy == "trivial":
        yield "one random operation of TrivialAugment"
    if augment.colour_jitter:
        yield f"saturation, brightness and contrast changed by up to {format_percent(augment.colour_jitter)}"
    if augment.erasing:
        yield f"a rectangle erased with probability {augment.erasing:g}"


def _choose_views(task: TrainingTask) -> Callable[[Pixels, list[str]], Sheet] | None:
    """Return the function from pictures and their SHA-256 to the sheet; None if there is nothing to show."""
    recipe = task.recipe
    if recipe.model.method == "probe":
        return _probe_sheet(task) if len(probe_views(recipe)) > 1 else None
    if count_frozen_stages(recipe) is not None:
        return _cached_sheet(task) if recipe.train.views > 1 else None
    if recipe.augment.is_off:
        return None
    return lambda images, keys: random_versions(images, recipe.augment, seed=recipe.seed)


def _probe_sheet(task: TrainingTask) -> Callable[[Pixels, list[str]], Sheet]:
    caches = [task.feature_cache("float32", **view) for view in probe_views(task.recipe)]
    return lambda images, keys: [list(row) for row in zip(*(cache.view(images) for cache in caches), strict=True)]


def _cached_sheet(task: TrainingTask) -> Callable[[Pixels, list[str]], Sheet]:
    from bestiary.training.activation_cache import AugmentedViews

    views = AugmentedViews(min(task.recipe.train.views, 1 + DRAWS), task.recipe.augment)
    return lambda images, keys: [
        [view[0] for view in views.iter_views(image[None], key)] for image, key in zip(images, keys, strict=True)
    ]


def _sheet_rows(labels: Ints) -> Ints:
    """Return the rows of up to `ROWS` pictures: the first of each class, for more than `ROWS` classes evenly spaced."""
    _, firsts = np.unique(labels, return_index=True)
    rows: Ints = firsts[np.linspace(0, len(firsts) - 1, min(ROWS, len(firsts))).round().astype(int)]
    return rows


def _draw_sheet(sheet: Sheet) -> Image.Image:
    step = SIDE + GAP
    canvas = Image.new("RGB", (step * len(sheet[0]) - GAP, step * len(sheet) - GAP), (PAPER, PAPER, PAPER))
    for top, row in enumerate(sheet):
        for left, pixels in enumerate(row):
            picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            canvas.paste(picture, (step * left, step * top))
    return canvas

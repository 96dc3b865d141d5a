"""The recipes of a study: loaded by name, with common settings, required to use the same pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bestiary.context import Context
from bestiary.errors import MissingExtraError, RecipeError, UserError, did_you_mean
from bestiary.evaluation.multi_seed import RecipePair
from bestiary.recipe import Recipe
from bestiary.recipe_files import apply_overrides, builtin_recipes, load_recipe_values
from bestiary.recipe_sections import METHODS
from bestiary.settings_reference import setting_consumers
from bestiary.training.backbone_choice import settle_single_backbone
from bestiary.training.recipe_checks import check_recipe_supported, learner_name

PRESETS = ("original", "crop")
LONGER_TIMES = 3  # factor of the epochs of the preset's longer recipe
NOT_OF_THE_PICTURES = ("suspects", "crop")  # settings of `data` that select no pictures; crop: `table.show_whole`
LIMITS = ("max_pixels", "max_bytes")  # of `picture`: larger files are left out

RecipeValues = dict[str, Any]


@dataclass(frozen=True)
class StudyRecipe:
    """A recipe of a study as requested, without a seed. about: a short description.

    against: the recipe it is compared with, None for the first of the study; epochs_times: factor of its epochs.
    """

    name: str
    overrides: RecipeValues
    about: str = ""
    against: str | None = None
    epochs_times: int = 1

    def recipe(self, seed: int = 0) -> Recipe:
        """Return the recipe with a seed; raises RecipeError, naming the entry."""
        with error_context(self.name):
            return Recipe.of({**self.overrides, "seed": seed})

    def with_epochs(self, epochs: int) -> StudyRecipe:
        """Return the entry with this number of epochs; see `Recipe.with_epochs`."""
        with error_context(self.name):
            new = Recipe.of(self.overrides).with_epochs(epochs).overrides().get("train", {})
            # In the order given, on which the name of a study's default folder depends.
            train = self.overrides.get("train", {}) | {
                key: new[key] for key in ("warmup_epochs", "epochs") if key in new
            }
            return replace(self, overrides={**self.overrides, "train": train}, epochs_times=1)


def settle_entry(entry: StudyRecipe, context: Context) -> StudyRecipe:
    """Return the entry with the own input size of its backbone; raises RecipeError, naming it, for several of them."""
    recipe = entry.recipe()
    with error_context(entry.name):
        settled = settle_single_backbone(recipe, context)
    if settled == recipe:
        return entry
    return replace(entry, overrides={key: part for key, part in settled.overrides().items() if key != "seed"})


@contextmanager
def error_context(name: str) -> Iterator[None]:
    """Prefix errors with the name of the recipe."""
    try:
        yield
    except (RecipeError, MissingExtraError) as error:
        raise type(error)(f'Recipe "{name}": {error}') from None


def read_study_recipes(names: Sequence[str], preset: str | None, settings: Sequence[str]) -> list[StudyRecipe]:
    """Return the recipes of a study, the preset's first, with the settings applied to each that uses them.

    names: methods (their defaults), built-in recipes, TOML files or run folders. Raises RecipeError or UserError,
    naming the recipe, if one is not supported.
    """
    if preset is not None and preset not in PRESETS:
        raise UserError(f'There is no preset "{preset}". {did_you_mean(preset, PRESETS)}')
    presets = {"original": original_project_preset, "crop": crop_preset}
    entries = [*(presets[preset]() if preset else []), *(_read_recipe(name) for name in names)]
    if len(entries) < 2:
        raise UserError(
            "A study compares two recipes or more, for example: bestiary study PICTURES probe scratch my.toml, or"
            " --preset original or --preset crop."
        )
    for name, times in Counter(entry.name for entry in entries).items():
        if times > 1:
            raise UserError(
                f'{times} recipes are called "{name}": a study tells them apart by the names of their files.'
                " Rename one."
            )
    entries = [_multiply_epochs(entry) for entry in _apply_settings(entries, settings)]
    for entry in entries:
        with error_context(entry.name):
            check_recipe_supported(entry.recipe())
    check_same_dataset_settings(entries)
    return entries


def original_project_preset() -> list[StudyRecipe]:
    """Return the recipes of the original project; each changes one thing of the recipe that it names."""
    first, second = load_recipe_values("original-v1"), load_recipe_values("original-v2")
    resized = apply_overrides(first, ["picture.fit=squash"])
    mirrored = apply_overrides(resized, ["train.balance=oversample", "augment.mirror=0.5"])
    normalised = apply_overrides(second, ["picture.normalise=collection"])
    longer = f"original-v2, {LONGER_TIMES} times as many epochs"
    return [
        StudyRecipe("crop", first, "the first version: the centre crop of each picture"),
        StudyRecipe("resize", resized, "the whole picture, resized", "crop"),
        StudyRecipe("mirrored", mirrored, "small classes oversampled with mirrored copies", "resize"),
        StudyRecipe("original-v2", second, "the second version: with dropout", "mirrored"),
        StudyRecipe(
            "normalised", normalised, "original-v2, normalised by the dataset's channel statistics", "original-v2"
        ),
        StudyRecipe("longer", second, longer, "original-v2", LONGER_TIMES),
        StudyRecipe("scratch", _method_defaults("scratch"), "bestiary's network, trained from scratch", "original-v2"),
        StudyRecipe(
            "probe",
            _method_defaults("probe"),
            "bestiary's default: a linear head on pretrained features",
            "original-v2",
        ),
        StudyRecipe("finetune", _method_defaults("finetune"), "the last stage of the backbone fine-tuned", "probe"),
    ]


def crop_preset() -> list[StudyRecipe]:
    """Return the recipes that compare whole pictures with crops: the rows of both are the boxes."""
    crops = {**_method_defaults("probe"), "data": {"crop": "boxes"}}
    return [
        StudyRecipe("whole", _method_defaults("probe"), "the whole picture, for each of its boxes"),
        StudyRecipe("crops", crops, "the box, with a margin", "whole"),
    ]


def comparison_pairs(entries: Sequence[StudyRecipe], against: str | None) -> list[RecipePair]:
    """Return the pairs to compare: all with one recipe, or as the recipes say."""
    names = [entry.name for entry in entries]
    if against is not None and against not in names:
        raise UserError(f'--against "{against}" is not one of the recipes. {did_you_mean(against, names)}')
    pairs = [RecipePair(entry.name, against or entry.against or names[0]) for entry in entries]
    return [pair for pair in pairs if pair.recipe != pair.against]


def check_same_dataset_settings(entries: Sequence[StudyRecipe]) -> None:
    """Raise UserError unless all recipes use and split the same pictures."""
    first, expected = entries[0], dict(_iter_dataset_settings(entries[0].recipe()))
    for entry in entries[1:]:
        for key, value in _iter_dataset_settings(entry.recipe()):
            if value != expected[key]:
                setting = _format_value(expected[key])
                raise UserError(
                    f'The recipes need different pictures: {key} is {setting} in "{first.name}" and'
                    f' {_format_value(value)} in "{entry.name}". Recipes are compared on the same pictures: set it for'
                    f" all (--set {key}={setting}), or make two studies."
                )
    if entries[0].recipe().data.folds:
        raise UserError(
            "A study repeats its splits by --seeds; data.folds (cross-validation) cannot be combined with it. Leave it"
            " out: --set data.folds=0."
        )


def recipe_diff(entry: StudyRecipe, reference: StudyRecipe) -> list[str]:
    """Return the settings in which a recipe differs from another, with every default spelled out."""
    new, old = (recipe.recipe().resolve().model_dump(mode="json") for recipe in (entry, reference))
    return [
        f"{section}.{key}: {_format_value(old[section][key])} → {_format_value(value)}"
        for section, values in new.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
        if value != old[section][key]
    ]


def _multiply_epochs(entry: StudyRecipe) -> StudyRecipe:
    if entry.epochs_times == 1:
        return entry
    return entry.with_epochs(entry.epochs_times * entry.recipe().resolve().train.epochs)


def _read_recipe(name: str) -> StudyRecipe:
    path = Path(name)
    if name in METHODS:
        return StudyRecipe(name, _method_defaults(name), "the method's defaults")
    if (path / "asked.toml").is_file():
        overrides = load_recipe_values(str(path / "asked.toml"))
    elif path.is_dir():
        raise RecipeError(
            f"{name} is a folder, but not a run. A recipe is a method, a name, a TOML file or a run folder."
        )
    elif name in builtin_recipes() or path.suffix or path.exists():
        overrides = load_recipe_values(name)
    else:
        raise RecipeError(f'There is no recipe "{name}". {did_you_mean(name, [*METHODS, *builtin_recipes()])}')
    overrides = {key: value for key, value in overrides.items() if key != "seed"}
    return StudyRecipe(path.stem if path.suffix == ".toml" else path.resolve().name, overrides)


def _method_defaults(name: str) -> RecipeValues:
    return {"model": {"method": name}}


def _apply_settings(entries: Sequence[StudyRecipe], settings: Sequence[str]) -> list[StudyRecipe]:
    """Return the recipes with each setting applied where it has an effect."""
    results, consumers = list(entries), setting_consumers()
    for setting in settings:
        section, key = _parse_setting(setting)
        learners = consumers[section, key]
        has_effect = [learner_name(entry.recipe()) in learners for entry in results]
        if not any(has_effect):
            raise RecipeError(
                f"--set {setting} has no effect on any of the recipes: it applies to {', '.join(learners)}."
            )
        results = [
            replace(entry, overrides=apply_overrides(entry.overrides, [setting])) if applies else entry
            for entry, applies in zip(results, has_effect, strict=True)
        ]
    return results


def _parse_setting(setting: str) -> tuple[str, str]:
    """Return section and key of a setting. Raises RecipeError if it does not exist, or is the seed."""
    overrides = apply_overrides({}, [setting])
    if "seed" in overrides:
        raise RecipeError(f"--set {setting}: the seeds of a study are given by --seeds.")
    Recipe.of(overrides)
    ((section, values),) = overrides.items()
    (key,) = values
    return section, key


def _iter_dataset_settings(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    whole = recipe.model_dump(mode="json")
    yield from ((f"data.{key}", value) for key, value in whole["data"].items() if key not in NOT_OF_THE_PICTURES)
    yield from ((f"picture.{key}", whole["picture"][key]) for key in LIMITS)


def _format_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

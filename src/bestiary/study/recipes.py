"""The recipes of a study: read by their names, given the same settings, and held to the same pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bestiary.errors import MissingExtraError, RecipeError, UserError, did_you_mean
from bestiary.evaluation.multi_seed import RecipePair
from bestiary.recipe import METHODS, Recipe, apply_overrides, builtin_recipes, load_recipe_values
from bestiary.training.recipe_checks import check_recipe_supported, learner_name, setting_consumers

PRESETS = ("original",)
LONGER_TIMES = 3  # the epochs of the preset's recipe that trains for longer
NOT_OF_THE_PICTURES = ("suspects",)  # the only setting of `data` that decides about no picture
LIMITS = ("max_pixels", "max_bytes")  # of `picture`: larger files are left out

RecipeValues = dict[str, Any]


@dataclass(frozen=True)
class StudyRecipe:
    """A recipe of a study as it was asked for, without a seed. about: what it is, in a few words.

    against: the recipe it is held against, None for the first of the study; epochs_times: how many times as many
    epochs as its settings say.
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
            return replace(self, overrides=Recipe.of(self.overrides).with_epochs(epochs).overrides(), epochs_times=1)


@contextmanager
def error_context(name: str) -> Iterator[None]:
    """Say which recipe an error inside is about."""
    try:
        yield
    except (RecipeError, MissingExtraError) as error:
        raise type(error)(f'Recipe "{name}": {error}') from None


def read_study_recipes(names: Sequence[str], preset: str | None, settings: Sequence[str]) -> list[StudyRecipe]:
    """Return the recipes of a study, the preset's first, with the settings laid over each that can use them.

    names: a method for its defaults, a recipe that comes with the package, a TOML file, or a run folder.
    Raises RecipeError or UserError, naming the recipe, for whatever cannot be studied.
    """
    if preset is not None and preset not in PRESETS:
        raise UserError(f'There is no preset "{preset}". {did_you_mean(preset, PRESETS)}')
    entries = [*(original_project_preset() if preset else []), *(_read_recipe(name) for name in names)]
    if len(entries) < 2:
        raise UserError(
            "A study compares two recipes or more. Name them: bestiary study PICTURES probe scratch my.toml, or take"
            " --preset original."
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
    """Return the story of the project that bestiary grew from: each step changes one thing of the one it names."""
    first, second = load_recipe_values("original-v1"), load_recipe_values("original-v2")
    resized = apply_overrides(first, ["picture.fit=squash"])
    mirrored = apply_overrides(resized, ["train.balance=oversample", "augment.mirror=0.5"])
    normalised = apply_overrides(second, ["picture.normalise=collection"])
    longer = f"original-v2, {LONGER_TIMES} times as many epochs"
    return [
        StudyRecipe("crop", first, "the first version: the middle of each picture"),
        StudyRecipe("resize", resized, "the whole picture, squashed", "crop"),
        StudyRecipe("mirrored", mirrored, "small classes filled up with mirrored copies", "resize"),
        StudyRecipe("original-v2", second, "the second version: dropout as well", "mirrored"),
        StudyRecipe("normalised", normalised, "original-v2, normalised by the collection's colours", "original-v2"),
        StudyRecipe("longer", second, longer, "original-v2", LONGER_TIMES),
        StudyRecipe("scratch", _method_defaults("scratch"), "bestiary's network from nothing", "original-v2"),
        StudyRecipe(
            "probe", _method_defaults("probe"), "bestiary's default: a head on pretrained features", "original-v2"
        ),
        StudyRecipe("finetune", _method_defaults("finetune"), "the last stage of the backbone learns as well", "probe"),
    ]


def comparison_pairs(entries: Sequence[StudyRecipe], against: str | None) -> list[RecipePair]:
    """Return which recipe is held against which: all against one, or as the entries say."""
    names = [entry.name for entry in entries]
    if against is not None and against not in names:
        raise UserError(f'--against "{against}" is none of the recipes. {did_you_mean(against, names)}')
    pairs = [RecipePair(entry.name, against or entry.against or names[0]) for entry in entries]
    return [pair for pair in pairs if pair.recipe != pair.against]


def check_same_dataset_settings(entries: Sequence[StudyRecipe]) -> None:
    """Raise UserError unless all recipes take and split the same pictures."""
    first, wanted = entries[0], dict(_iter_dataset_settings(entries[0].recipe()))
    for entry in entries[1:]:
        for key, value in _iter_dataset_settings(entry.recipe()):
            if value != wanted[key]:
                raise UserError(
                    f'The recipes need different pictures: {key} is {_format_value(wanted[key])} in "{first.name}" and'
                    f' {_format_value(value)} in "{entry.name}". Recipes are compared on the same pictures: set it for all'
                    f" (--set {key}={_format_value(wanted[key])}), or make two studies."
                )
    if entries[0].recipe().data.folds:
        raise UserError(
            "A study repeats its splits by --seeds; data.folds (cross-validation) does not go with it. Leave it out:"
            " --set data.folds=0."
        )


def recipe_diff(entry: StudyRecipe, reference: StudyRecipe) -> list[str]:
    """Return the settings in which a recipe differs from another, with every default spelled out."""
    these, those = (one.recipe().resolve().model_dump(mode="json") for one in (entry, reference))
    return [
        f"{section}.{key}: {_format_value(those[section][key])} → {_format_value(value)}"
        for section, part in these.items()
        if isinstance(part, Mapping)
        for key, value in part.items()
        if value != those[section][key]
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
        asked = load_recipe_values(str(path / "asked.toml"))
    elif path.is_dir():
        raise RecipeError(f"{name} is a folder and no run. A recipe is a method, a name, a TOML file or a run folder.")
    elif name in builtin_recipes() or path.suffix or path.exists():
        asked = load_recipe_values(name)
    else:
        raise RecipeError(f'There is no recipe "{name}": no file. {did_you_mean(name, [*METHODS, *builtin_recipes()])}')
    asked = {key: value for key, value in asked.items() if key != "seed"}
    return StudyRecipe(path.stem if path.suffix == ".toml" else path.resolve().name, asked)


def _method_defaults(name: str) -> RecipeValues:
    return {"model": {"method": name}}


def _apply_settings(entries: Sequence[StudyRecipe], settings: Sequence[str]) -> list[StudyRecipe]:
    """Return the entries with each setting laid over those of them that it has an effect on."""
    found, users = list(entries), setting_consumers()
    for setting in settings:
        section, key = _parse_setting(setting)
        using = users[section, key]
        changed = [learner_name(entry.recipe()) in using for entry in found]
        if not any(changed):
            raise RecipeError(f"--set {setting} has no effect on any of the recipes: it is for {', '.join(using)}.")
        found = [
            replace(entry, overrides=apply_overrides(entry.overrides, [setting])) if one else entry
            for entry, one in zip(found, changed, strict=True)
        ]
    return found


def _parse_setting(setting: str) -> tuple[str, str]:
    """Return section and key of a setting; raises RecipeError for one that does not exist, or that a study sets."""
    asked = apply_overrides({}, [setting])
    if "seed" in asked:
        raise RecipeError(f"--set {setting}: the seeds of a study are given by --seeds.")
    Recipe.of(asked)
    ((section, values),) = asked.items()
    (key,) = values
    return section, key


def _iter_dataset_settings(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    whole = recipe.model_dump(mode="json")
    yield from ((f"data.{key}", value) for key, value in whole["data"].items() if key not in NOT_OF_THE_PICTURES)
    yield from ((f"picture.{key}", whole["picture"][key]) for key in LIMITS)


def _format_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

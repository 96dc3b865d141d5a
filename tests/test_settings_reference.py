"""The reference of settings: every setting, with the defaults and the limits that a recipe has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from bestiary.errors import RecipeError
from bestiary.recipe import Recipe
from bestiary.recipe_sections import METHODS
from bestiary.settings_reference import ALL, Setting, describe_sections, list_settings

SETTINGS = {setting.name: setting for setting in list_settings()}
LIMITS = {  # a value beyond each limit that the texts name
    "data.label_depth": 11,
    "data.val_fraction": 0.5,
    "picture.size": 1025,
    "model.kernel_size": [4],
    "model.filters": [0],
    "onnx.std": [0.0],
    "train.epochs": 10_001,
    "train.learning_rate": 0.0,
    "evaluate.resamples": 99,
}


def nest(name: str, value: Any) -> dict[str, Any]:
    section, dot, key = name.rpartition(".")
    return {section: {key: value}} if dot else {name: value}


def test_every_setting_is_listed_with_a_meaning() -> None:
    sections = {name: field.annotation for name, field in Recipe.model_fields.items()}
    names = [
        f"{name}.{key}"
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, BaseModel)
        for key in section.model_fields
    ]
    assert list(SETTINGS) == ["seed", *names]
    assert [setting.name for setting in SETTINGS.values() if len(setting.meaning) < 10] == []
    assert [*describe_sections()] == [section for section in sections if section != "seed"]


def test_texts_stand_by_themselves() -> None:
    """A meaning that begins with "of" or "for" needs the name beside it to be read."""
    starts = ("of ", "for ", "that ", "in ", "by ")
    assert [setting.name for setting in SETTINGS.values() if setting.meaning.startswith(starts)] == []
    assert [setting.name for setting in SETTINGS.values() if setting.meaning.endswith(".")] == []


@pytest.mark.parametrize("learner", ALL)
def test_the_defaults_are_those_of_a_resolved_recipe(learner: str) -> None:
    model = {"method": learner} if learner in METHODS else {"method": "scratch", "network": learner}
    resolved = Recipe.of({"model": model}).resolve().model_dump(mode="json")
    for setting in SETTINGS.values():
        if learner in setting.defaults and setting.name not in ("model.method", "model.network"):
            section = resolved[setting.section] if setting.section else resolved
            assert setting.defaults[learner] == section[setting.name.rpartition(".")[2]], setting.name


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_every_default_is_a_value_that_the_recipe_takes(setting: Setting) -> None:
    for value in setting.defaults.values():
        assert json.loads(json.dumps(value)) == value
        Recipe.of(nest(setting.name, value))


@pytest.mark.parametrize(("name", "value"), LIMITS.items())
def test_the_named_limits_are_those_of_the_recipe(name: str, value: Any) -> None:
    with pytest.raises(RecipeError):
        Recipe.of(nest(name, value))


def test_ranges_and_defaults_in_words() -> None:
    described = {name: (setting.values, setting.default, setting.users) for name, setting in SETTINGS.items()}
    assert described["train.epochs"] == (
        "integer, 1 to 10,000",
        "5 (finetune), 48 (resnet), 20 (plain)",
        "finetune, scratch",
    )
    assert described["model.kernel_size"][0] == "list: integer, 1 to 11, odd numbers, so that a kernel has a centre"
    assert described["model.kernel_size"][2] == "scratch (plain)"
    assert described["picture.fit"] == ("squash, letterbox, crop", '"squash"', "all")
    assert described["train.schedule"][1] == '"cosine" (finetune), "one-cycle" (scratch)'
    assert described["data.val_fraction"][0] == "number, above 0 and below 0.5"
    assert described["picture.size"][:2] == (
        "integer, 32 to 1,024",
        "260 (probe, finetune), 128 (scratch); 224 with lite0, 240 with lite1, 260 with lite2; with another backbone"
        " its own",
    )

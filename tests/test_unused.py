"""A setting that was asked for and has no effect is refused; spelled-out defaults are not."""

from __future__ import annotations

from typing import Any

import pytest

from bestiary.errors import RecipeError
from bestiary.recipe import METHODS, Recipe
from bestiary.training.unused import SECTIONS, SETTINGS, refuse_unused


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"train": {"epochs": 7}},
            "train.epochs = 7 has no effect with the method probe; it is for finetune and scratch",
        ),
        ({"augment": {"erasing": 0.3}}, "augment.erasing = 0.3 has no effect with the method probe"),
        ({"train": {"views": 2}, "model": {"method": "scratch"}}, "train.views = 2 .* scratch; it is for finetune"),
        ({"probe": {"regularisation": [0.1]}, "model": {"method": "scratch"}}, "probe.regularisation .* scratch"),
        ({"model": {"method": "scratch", "backbone": "lite0"}}, "model.backbone = lite0 has no effect"),
        ({"model": {"method": "finetune", "filters": [8, 16]}}, "model.filters .* finetune; it is for scratch"),
        ({"model": {"method": "scratch", "batch_norm": True}}, "batch_norm = True .* network resnet; it is for plain"),
    ],
)
def test_what_has_no_effect_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        refuse_unused(Recipe.of(asked))


@pytest.mark.parametrize(
    "asked",
    [
        {"train": {"balance": "oversample"}, "probe": {"regularisation": [0.1]}},
        {"model": {"method": "scratch", "filters": [8, 16]}, "train": {"epochs": 7}, "augment": {"erasing": 0.3}},
        {"model": {"method": "scratch", "network": "plain", "batch_norm": True}},
        {"model": {"method": "finetune", "backbone": "lite0"}, "probe": {"regularisation": [0.1]}},
    ],
)
def test_what_has_an_effect_passes(asked: dict[str, Any]) -> None:
    refuse_unused(Recipe.of(asked))


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_with_every_default_spelled_out_can_be_used_again(method: str) -> None:
    spelled_out = Recipe.of({"model": {"method": method}}).resolved()
    refuse_unused(Recipe.of(spelled_out.model_dump(mode="json")))


def test_the_names_are_those_of_the_recipe() -> None:
    assert SECTIONS.keys() <= Recipe.model_fields.keys()
    known = Recipe().resolved().model_dump()
    for name in SETTINGS:
        section, key = name.split(".")
        assert key in known[section]

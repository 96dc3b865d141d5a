"""A setting that was asked for and has no effect is refused; spelled-out defaults are not."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pydantic import BaseModel

from bestiary.errors import MissingExtraError, RecipeError
from bestiary.recipe import Recipe
from bestiary.recipe_files import builtin_recipes, read_toml
from bestiary.recipe_sections import METHODS
from bestiary.settings_reference import SETTING_CONSUMERS, setting_consumers
from bestiary.training.recipe_checks import (
    check_no_unused_settings,
    check_recipe_supported,
)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"train": {"epochs": 7}}, "train.epochs = 7 has no effect with probe; it applies to finetune and scratch"),
        ({"augment": {"erasing": 0.3}}, "augment.erasing = 0.3 has no effect with probe"),
        (
            {"augment": {"turn": "any"}},
            "augment.turn = any has no effect with probe; it applies to finetune and scratch",
        ),
        ({"augment": {"policy": "trivial"}}, "augment.policy = trivial has no effect with probe"),
        (
            {"probe": {"views": "quarters"}, "model": {"method": "scratch"}},
            "probe.views = quarters has no effect with scratch .* it applies to probe and finetune",
        ),
        (
            {"probe": {"views": "mirror"}, "model": {"method": "finetune", "backbone": "resnet18"}},
            "probe.views .* starts from a probe with lite0, lite1 or lite2 only",
        ),
        (
            {"augment": {"turn": "quarters"}, "train": {"views": 2}, "model": {"method": "finetune"}},
            "augment.turn = quarters has no effect with finetune; none of the views is random: of train.views = 2",
        ),
        (
            {"augment": {"mirror": 0.0}, "train": {"views": 1}, "model": {"method": "finetune"}},
            "augment.mirror = 0.0 has no effect with finetune; none of the views is random",
        ),
        (
            {"train": {"unfreeze_stages": 3}, "model": {"method": "scratch"}},
            "train.unfreeze_stages = 3 .* scratch and its network resnet; it applies to finetune",
        ),
        ({"probe": {"regularisation": [0.1]}, "model": {"method": "scratch"}}, "probe.regularisation .* scratch"),
        (
            {"probe": {"regularisation": [0.1]}, "model": {"method": "finetune", "backbone": "resnet18"}},
            "probe.regularisation .* finetune and the backbone resnet18",
        ),
        (
            {"train": {"views": 2}, "model": {"method": "finetune", "backbone": "resnet18"}},
            "train.views .* where lower stages of lite0, lite1 or lite2 are frozen",
        ),
        ({"train": {"views": 2, "unfreeze_stages": 7}, "model": {"method": "finetune"}}, "train.views .* are frozen"),
        ({"train": {"size_from": 96}, "model": {"method": "finetune"}}, "size_from .* needs all 7 stages trained"),
        ({"model": {"method": "scratch", "backbone": "lite0"}}, "model.backbone = lite0 has no effect"),
        ({"model": {"method": "finetune", "filters": [8, 16]}}, "model.filters .* finetune; it applies to scratch"),
        (
            {"onnx": {"white": 255}},
            "onnx.white = 255.0 has no effect with the backbone lite2; it applies to a probe on a graph",
        ),
        (
            {"model": {"method": "scratch", "batch_norm": True}},
            "batch_norm = True .* network resnet; it applies to the network plain",
        ),
        (
            {"model": {"method": "scratch", "network": "plain", "mirror_mean": False}},
            "mirror_mean = False .* network plain; it applies to the network resnet",
        ),
        (
            {"model": {"method": "finetune"}, "train": {"sync_batch_norm": "on"}},
            "sync_batch_norm = on has no effect with finetune; it applies to scratch",
        ),
        (
            {"model": {"method": "scratch", "network": "plain"}, "train": {"sync_batch_norm": "on"}},
            "sync_batch_norm = on .* network plain; it applies to batch normalisation, which model.batch_norm = true",
        ),
    ],
)
def test_what_has_no_effect_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_no_unused_settings(Recipe.of(asked))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"seed": 3, "train": {"balance": "oversample"}, "probe": {"regularisation": [0.1]}},
        {"model": {"method": "scratch", "filters": [8, 16]}, "train": {"epochs": 7}, "augment": {"erasing": 0.3}},
        {"model": {"method": "scratch", "network": "plain", "batch_norm": True}},
        {"model": {"method": "finetune", "backbone": "lite0"}, "probe": {"regularisation": [0.1], "views": "mirror"}},
        {"model": {"method": "finetune"}, "augment": {"turn": "any"}},
        {"model": {"method": "finetune"}, "augment": {"mirror": 0.0, "turn": "any"}, "train": {"views": 2}},
        {"model": {"method": "finetune"}, "augment": {"turn": "any"}, "train": {"unfreeze_stages": 7}},
        {"model": {"method": "scratch"}, "augment": {"turn": "any", "policy": "trivial", "vertical_mirror": 0.5}},
        {"model": {"method": "scratch"}, "train": {"sync_batch_norm": "on"}},
        {"model": {"method": "scratch", "network": "plain", "batch_norm": True}, "train": {"sync_batch_norm": "off"}},
        {"probe": {"views": "quarters"}},
        *(read_toml(path) for path in builtin_recipes().values()),
    ],
)
def test_what_has_an_effect_passes(asked: dict[str, Any]) -> None:
    check_no_unused_settings(Recipe.of(asked))


@pytest.mark.parametrize("network", ["resnet", "plain"])
@pytest.mark.parametrize("backbone", ["lite0", "lite2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_with_every_default_spelled_out_can_be_used_again(method: str, backbone: str, network: str) -> None:
    model = {"method": method} | ({"network": network} if method == "scratch" else {"backbone": backbone})
    spelled_out = Recipe.of({"model": model, "picture": {"size": 96}}).resolve()
    check_no_unused_settings(Recipe.of(spelled_out.model_dump(mode="json")))


def test_every_setting_of_a_recipe_has_its_users() -> None:
    settings = [
        (section, key)
        for section, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    ]
    assert sorted(setting_consumers()) == sorted(settings)
    named = [key for sections in SETTING_CONSUMERS.values() for keys in sections.values() for key in keys.split()]
    assert len(named) == len(settings)  # each is named once


def test_a_policy_without_torchvision_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    recipe = Recipe.of({"model": {"method": "scratch"}, "augment": {"policy": "trivial"}})
    monkeypatch.setitem(sys.modules, "torchvision", None)
    check_recipe_supported(Recipe.of({"model": {"method": "scratch"}}))
    with pytest.raises(MissingExtraError, match='This needs "torchvision", which is not installed'):
        check_recipe_supported(recipe)

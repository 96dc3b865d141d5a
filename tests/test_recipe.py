from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from bestiary.errors import RecipeError
from bestiary.picture import DecodeLimits
from bestiary.preprocess import Preprocessing
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_files import apply_overrides, builtin_recipes, load_recipe_values, read_toml, write_toml
from bestiary.recipe_sections import METHODS


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"train": {"epochz": 3}},
            r'Unknown setting "train\.epochz"\. Did you mean "train\.epochs"\? Known: balance, batch_size',
        ),
        ({"modle": {"method": "probe"}}, r'Unknown setting "modle"\. Did you mean "model"\? Known: augment, data'),
        ({"train": {"zzz": 3}}, r'Unknown setting "train\.zzz"\. Known: balance'),
        ({"train": 3}, r'"train" is a section; give its keys, for example train\.epochs\.'),
        ({"train": {"epochs": "many"}}, r"Setting \"train\.epochs\": expected a whole number; got 'many'\."),
        ({"train": {"epochs": 0}}, r'Setting "train\.epochs": expected at least 1; got 0\.'),
        ({"model": {"method": "prob"}}, r"Setting \"model\.method\": .*'probe', 'finetune' or 'scratch'; got 'prob'\."),
        (
            {"picture": {"fit": "stretch"}},
            r"Setting \"picture\.fit\": .*'squash', 'letterbox' or 'crop'; got 'stretch'",
        ),
        (
            {"probe": {"regularisation": [0.1, -1]}},
            r'Setting "probe\.regularisation": .*numbers above 0; got \[0\.1, -1\]',
        ),
        ({"data": {"classes": "cat"}}, r'Setting "data\.classes": .*a list, such as .*; got \'cat\''),
        ({"data": {"val_fraction": 0.46, "test_fraction": 0.46}}, r"data\.test_fraction = 0\.92 leaves too little"),
        ({"train": {"learning_rate": float("inf")}}, r'Setting "train\.learning_rate": .*finite'),
        ({"seed": -1}, r'Setting "seed": expected at least 0; got -1\.'),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_what_was_expected(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.of(asked)


@pytest.mark.parametrize("method", METHODS)
def test_a_resolved_recipe_has_no_gaps_and_comes_back_from_its_toml(method: str, tmp_path: Path) -> None:
    recipe = Recipe.of({"model": {"method": method}, "data": {"classes": ["cat", 'a "b" \\ c', "кот"]}}).resolve()
    for section in recipe.model_dump().values():
        assert section is not None
        assert not isinstance(section, dict) or None not in section.values()
    path = tmp_path / "resolved.toml"
    path.write_text(recipe.toml(), encoding="utf-8")
    assert Recipe.read(path).model_dump() == recipe.model_dump()
    assert Recipe.read(path).resolve() == recipe


NETWORKS = ("resnet", "plain")
OPTIMISERS = (None, "sgd", "adamw", "muon")


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_no_field_of_a_resolved_recipe_is_none_and_resolving_is_idempotent(
    method: str, network: str, optimiser: str | None
) -> None:
    model = {"method": method, "network": network}
    recipe = Recipe.of({"model": model, "train": {"optimiser": optimiser}, "picture": {"fit": "crop"}})
    resolved = recipe.resolve()
    assert isinstance(resolved, ResolvedRecipe)
    assert list(resolved.model_dump()) == list(recipe.model_dump())
    for name, section in resolved.model_dump().items():
        assert section is not None
        if isinstance(section, dict):
            assert None not in section.values()
            assert list(section) == list(recipe.model_dump()[name])
    assert resolved.resolve() == resolved
    assert resolved.resolve().resolve().toml() == resolved.toml()
    assert Recipe.of(resolved.overrides()).resolve() == resolved
    assert (recipe.asked(), recipe.resolved()) == (recipe.overrides(), resolved)


def test_a_resolved_recipe_says_how_pictures_are_read() -> None:
    recipe = Recipe.of({"picture": {"size": 64, "fit": "crop", "max_bytes": 10, "max_pixels": 20}}).resolve()
    assert recipe.limits == DecodeLimits(max_bytes=10, max_pixels=20)
    assert recipe.preprocessing == Preprocessing(64, "crop", recipe.limits)


def test_a_number_of_epochs_scales_the_warm_up_that_was_set() -> None:
    recipe = Recipe.of({"model": {"method": "scratch"}, "train": {"warmup_epochs": 12.0}})
    assert recipe.with_epochs(None) is recipe
    assert recipe.with_epochs(48) is recipe
    assert recipe.with_epochs(24).train.model_dump(exclude_unset=True) == {"warmup_epochs": 6.0, "epochs": 24}
    free = Recipe.of({"model": {"method": "scratch"}})
    assert free.with_epochs(24).overrides() == {"model": {"method": "scratch"}, "train": {"epochs": 24}}


def test_one_strength_may_stand_for_a_list() -> None:
    assert Recipe.of({"probe": {"regularisation": 0.01}}).probe.regularisation == (0.01,)


plain_values: st.SearchStrategy[Any] = (
    st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1) | st.booleans()
)
plain_values |= st.floats(allow_nan=False, allow_infinity=False)


@example(value="".join(map(chr, range(256))))
@given(value=plain_values | st.lists(plain_values, max_size=3))
def test_any_plain_value_comes_back_from_toml(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(write_toml({"seed": value, "empty": {}, "section": {"key": value}}).encode())
    assert read_toml(path) == {"seed": value, "section": {"key": value}}


def test_asked_keeps_only_what_was_set_and_comes_back() -> None:
    asked = {"seed": 7, "model": {"method": "scratch"}, "data": {"classes": ["cat", "dog"]}}
    assert Recipe.of(asked).overrides() == asked
    assert Recipe.of(Recipe.of(asked).overrides()) == Recipe.of(asked)
    assert Recipe().overrides() == {}


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, 260),
        ({"backbone": "lite0"}, 224),
        ({"backbone": "lite2", "method": "finetune"}, 260),
        ({"backbone": "resnet18", "method": "finetune"}, 224),
        ({"method": "scratch"}, 128),
        ({"method": "scratch", "backbone": "lite0"}, 128),
    ],
)
def test_the_size_of_a_picture_follows_from_the_model(asked: dict[str, Any], size: int) -> None:
    assert Recipe.of({"model": asked}).resolve().picture.size == size
    assert Recipe.of({"model": asked, "picture": {"size": 96}}).resolve().picture.size == 96


def test_training_settings_follow_from_the_method_and_what_was_set_stays() -> None:
    def train(model: dict[str, Any], **settings: Any) -> Any:
        return Recipe.of({"model": model, "train": settings}).resolve().train

    assert (train({"method": "scratch"}).learning_rate, train({"method": "scratch"}).schedule) == (0.2, "one-cycle")
    assert train({"method": "scratch", "network": "plain"}).learning_rate == 0.01
    assert (train({"method": "finetune"}).epochs, train({"method": "finetune"}).schedule) == (5, "cosine")
    changed = train({"method": "finetune"}, epochs=9, weight_decay=0.0)
    assert (changed.epochs, changed.weight_decay, changed.learning_rate) == (9, 0.0, 3e-4)


def test_settings_are_laid_over_what_was_asked_without_changing_it() -> None:
    asked = {"seed": 1, "train": {"epochs": 3, "batch_size": 8}}
    settings = ["train.epochs=30", "seed = 5", "picture.fit=crop", 'data.classes=["cat", "dog"]', "model.backbone='x'"]
    merged = apply_overrides(asked, settings)
    assert merged["train"] == {"epochs": 30, "batch_size": 8}
    assert (merged["seed"], merged["picture"], merged["model"]) == (5, {"fit": "crop"}, {"backbone": "x"})
    assert merged["data"] == {"classes": ["cat", "dog"]}
    assert asked == {"seed": 1, "train": {"epochs": 3, "batch_size": 8}}
    assert Recipe.of(merged).train.epochs == 30


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epochs", r'--set takes section\.key=value, .*; got "train\.epochs"'),
        ("=3", r'got "=3"'),
        ("seed.x=3", r'"seed" is not a section of the recipe; got "seed\.x=3"'),
    ],
)
def test_a_setting_that_is_no_setting_is_shown(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        apply_overrides({"seed": 1}, [setting])


def test_a_misspelt_setting_from_the_command_line_is_named() -> None:
    with pytest.raises(RecipeError, match=r'"train\.epochs\.more"'):
        Recipe.of(apply_overrides({}, ["train.epochs.more=3"]))


def test_a_recipe_that_cannot_be_read_is_named_with_the_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("seed = 1\n[train]\nepochs = = 3\n")
    with pytest.raises(RecipeError, match=r"bad\.toml is not valid TOML: .*line 3"):
        Recipe.read(bad)
    with pytest.raises(RecipeError, match=r"There is no recipe at .*missing\.toml"):
        Recipe.read(tmp_path / "missing.toml")
    bad.write_bytes(b"seed = 1 # \xff\n")
    with pytest.raises(RecipeError, match=r"bad\.toml cannot be read"):
        Recipe.read(bad)
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.read(tmp_path)


def test_a_recipe_is_made_of_settings_of_a_recipe_or_of_a_name() -> None:
    recipe = Recipe.of({"seed": 3})
    assert Recipe.of(recipe) is recipe
    assert Recipe.read("original-v2").train.epochs == 4
    with pytest.raises(RecipeError, match="A recipe is nested settings, .*; got 'original-v2'"):
        Recipe.of(cast("Any", "original-v2"))


def test_a_recipe_is_frozen() -> None:
    recipe = Recipe()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.epochs = 3  # type: ignore[misc]


def test_the_recipes_that_ship_can_be_asked_for_by_name() -> None:
    assert sorted(builtin_recipes()) == ["original-v1", "original-v2"]
    first, second = (Recipe.of(load_recipe_values(name)).resolve() for name in ("original-v1", "original-v2"))
    assert (first.picture.fit, second.picture.fit) == ("crop", "squash")
    assert (first.train.balance, second.train.balance) == ("none", "oversample")
    for recipe in (first, second):
        assert (recipe.picture.size, recipe.picture.normalise, recipe.train.epochs) == (150, "none", 4)
        assert recipe.model.network == "plain"


def test_a_recipe_that_is_neither_a_file_nor_known_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match='no recipe "orginal-v2": neither a file, nor one of original-v1, '):
        load_recipe_values("orginal-v2")
    with pytest.raises(RecipeError, match=r"no recipe at .*mine\.toml"):
        load_recipe_values(str(tmp_path / "mine.toml"))


def test_one_number_or_several_may_be_given_for_the_stages_of_plain() -> None:
    one, several = ({"model": {"kernel_size": 5, "hidden": 64}}, {"model": {"kernel_size": [5], "hidden": [64]}})
    assert Recipe.of(one) == Recipe.of(several)
    with pytest.raises(RecipeError, match=r"kernel_size.*odd numbers"):
        Recipe.of({"model": {"kernel_size": [3, 4]}})
    with pytest.raises(RecipeError, match=r"hidden.*one or more widths"):
        Recipe.of({"model": {"hidden": []}})


def test_sizes_and_rates_follow_network_and_optimiser() -> None:
    resnet = Recipe.of({"model": {"method": "scratch"}}).resolve()
    assert (resnet.train.optimiser, resnet.train.size_from, resnet.train.size_to) == ("muon", 64, 112)
    assert resnet.augment.crop_min_area == 0.35
    assert Recipe.of({"augment": {"mirror": 0.0}}).resolve().augment.crop_min_area == 0.5
    by_sgd = Recipe.of({"model": {"method": "scratch"}, "train": {"optimiser": "sgd"}}).resolve()
    assert (by_sgd.train.learning_rate, by_sgd.train.weight_decay) == (0.2, 5e-4)
    plain = Recipe.of({"model": {"method": "scratch", "network": "plain"}, "picture": {"size": 64}}).resolve()
    assert (plain.train.optimiser, plain.train.size_from, plain.train.size_to) == ("sgd", 64, 64)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"augment": {"policy": "trivail"}}, r"'none' or 'trivial'; got 'trivail'\. Did you mean \"trivial\"\?"),
        ({"augment": {"turn": "quarter"}}, r"'none', 'quarters' or 'any'; got 'quarter'\. Did you mean \"quarters\"\?"),
        ({"augment": {"policy": "randaugment"}}, r"got 'randaugment'\.$"),
        ({"augment": {"turn": 90}}, r'Setting "augment\.turn": .*got 90\.$'),
        ({"augment": {"vertical_mirror": 2}}, r'Setting "augment\.vertical_mirror": expected at most 1'),
        ({"probe": {"views": "mirrored"}}, r"got 'mirrored'\. Did you mean \"mirror\"\?"),
        ({"augment": {"rotate": "any"}}, r'Unknown setting "augment\.rotate"\.'),
    ],
)
def test_wrong_augmentation_is_named_with_the_nearest_right_one(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.of(asked)


def test_augmentation_survives_its_file(tmp_path: Path) -> None:
    settings = {"turn": "quarters", "vertical_mirror": 0.5, "policy": "trivial"}
    recipe = Recipe.of({"model": {"method": "scratch"}, "augment": settings, "probe": {"views": "quarters"}})
    path = tmp_path / "recipe.toml"
    for values in (recipe.overrides(), recipe.resolve().model_dump(mode="json")):
        path.write_text(write_toml(values), encoding="utf-8")
        assert Recipe.read(path).resolve() == recipe.resolve()


def test_a_policy_leaves_colours_to_itself_unless_both_are_set() -> None:
    scratch = {"model": {"method": "scratch"}, "augment": {"policy": "trivial"}}
    augment = Recipe.of(scratch).resolve().augment
    assert (augment.colour_jitter, augment.crop_min_area, augment.mirror) == (0, 0.35, 0.5)
    both = {"model": {"method": "scratch"}, "augment": {"policy": "trivial", "colour_jitter": 0.1}}
    assert Recipe.of(both).resolve().augment.colour_jitter == 0.1
    assert Recipe.of({"model": {"method": "scratch"}}).resolve().augment.colour_jitter == 0.3


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000])
def test_a_number_of_thousands_of_digits_and_deep_nesting_are_an_error(tmp_path: Path, value: str) -> None:
    (tmp_path / "recipe.toml").write_text(f"[train]\nepochs = {value}\n")
    with pytest.raises(RecipeError, match=r"recipe\.toml is not valid TOML"):
        Recipe.read(tmp_path / "recipe.toml")

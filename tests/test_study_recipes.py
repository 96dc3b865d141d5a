"""What a study is made of: recipes by name, refused in one sentence where they cannot be studied; time; cells."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

pytest.importorskip("sklearn")

from bestiary.context import Context
from bestiary.data.dataset import DataSource
from bestiary.errors import RecipeError, RunError, SourceError, UserError
from bestiary.recipe import Recipe
from bestiary.recipe_files import builtin_recipes
from bestiary.study.plan import (
    RunEstimate,
    describe_plan,
    epoch_fraction_within_budget,
    scale_epoch_count,
    scale_epochs,
    total_seconds,
)
from bestiary.study.plots import seconds_plot
from bestiary.study.recipes import (
    StudyRecipe,
    comparison_pairs,
    error_context,
    original_project_preset,
    read_study_recipes,
    recipe_diff,
)
from bestiary.study.runs import list_runs
from bestiary.study.study import StudyOptions, StudyRequest, check_enough_validation, study
from bestiary.training.time_estimate import TimeEstimate

# ---- Recipes -------------------------------------------------------------------------------------------------------


def test_the_preset_changes_one_thing_at_a_time() -> None:
    entries = {entry.name: entry for entry in read_study_recipes([], "original", [])}
    told = {
        name: recipe_diff(entry, entries[entry.against])
        for name, entry in entries.items()
        if entry.against and name not in ("scratch", "probe", "finetune")
    }
    assert told == {
        "resize": ["picture.fit: \"crop\" → \"squash\""],
        "mirrored": ["augment.mirror: 0.0 → 0.5", 'train.balance: "none" → "oversample"'],
        "original-v2": ["model.dropout: 0.0 → 0.5"],
        "normalised": ['picture.normalise: "none" → "collection"'],
        "longer": ["train.epochs: 4 → 12"],
    }  # fmt: skip
    assert entries["crop"].recipe().resolve() == Recipe.read(builtin_recipes()["original-v1"]).resolve()
    assert entries["original-v2"].recipe().resolve() == Recipe.read(builtin_recipes()["original-v2"]).resolve()
    methods = [entries[name].recipe().model.method for name in ("scratch", "probe", "finetune")]
    assert methods == ["scratch", "probe", "finetune"]


def test_a_setting_is_laid_over_those_that_can_use_it() -> None:
    entries = {entry.name: entry for entry in read_study_recipes([], "original", ["train.epochs=2", "picture.size=64"])}
    epochs = {name: entry.recipe().train.epochs for name, entry in entries.items()}
    assert epochs == {
        **dict.fromkeys(("crop", "resize", "mirrored", "original-v2", "normalised", "scratch", "finetune"), 2),
        **{"longer": 6, "probe": None},
    }
    assert {entry.recipe().picture.size for entry in entries.values()} == {64}


BAD_RECIPES: list[tuple[list[str], list[str], str]] = [
    (["probe"], [], "two recipes or more"),
    (["probe", "prob"], [], 'no recipe "prob".*Did you mean "probe"'),
    (["probe", "missing.toml"], [], "no recipe at missing.toml"),
    (["probe", "probe"], [], '2 recipes are called "probe"'),
    (["probe", "finetune"], ["seed=3"], "given by --seeds"),
    (["probe", "finetune"], ["model.kernel_size=5"], "no effect on any of the recipes"),
    (["probe", "finetune"], ["train.epoch=5"], 'Unknown setting "train.epoch"'),
    (["probe", "finetune"], ["data.folds=3"], "data.folds"),
    (["probe", "finetune"], ["model.backbone=lite9"], 'Recipe "probe": No pretrained backbone is called "lite9"'),
    (["probe", "other-classes.toml"], [], r'data.classes is \[\] in "probe" and \["cat"\] in "other-classes"'),
    (["probe", "other-split.toml"], [], r'data.test_fraction is 0.15 in "probe" and 0.3.*make two studies'),
]


@pytest.mark.parametrize(("names", "settings", "message"), BAD_RECIPES, ids=[case[2][:20] for case in BAD_RECIPES])
def test_recipes_that_cannot_be_studied(
    names: list[str], settings: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other-classes.toml").write_text('[data]\nclasses = ["cat"]\n')
    Path("other-split.toml").write_text("[data]\ntest_fraction = 0.3\n")
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_study_recipes(names, None, settings)


def test_a_folder_that_is_no_run_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder, but not a run"):
        read_study_recipes(["probe", str(tmp_path)], None, [])


def test_unknown_presets_and_others_to_be_held_against() -> None:
    with pytest.raises(UserError, match='no preset "orignal".*original'):
        read_study_recipes([], "orignal", [])
    with pytest.raises(UserError, match='--against "prob" is not one of the recipes. Did you mean "probe"'):
        comparison_pairs(read_study_recipes(["probe", "finetune"], None, []), "prob")


@pytest.mark.parametrize(("seeds", "message"), [((), "one seed or more"), ((0, 1, 0), "0 twice"), ((-1,), "seed")])
def test_seeds_that_cannot_be(seeds: tuple[int, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        study(DataSource(tmp_path), StudyOptions(["probe", "finetune"], seeds=seeds), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is no study"):
        study(DataSource(tmp_path / "none"), StudyOptions(["probe", "finetune"]), out=tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(RunError, match="made by another version"):
        study(DataSource(tmp_path / "none"), StudyOptions(["probe", "finetune"]), out=tmp_path)


def test_fewer_validation_pictures_than_classes() -> None:
    shown = pl.DataFrame({"label": ["a", "b", "c", "a", "b"], "split": ["train"] * 3 + ["val"] * 2})
    with pytest.raises(SourceError, match="2 validation pictures of 3 classes"):
        check_enough_validation(shown, 0)
    check_enough_validation(shown.with_columns(label=pl.lit("a")), 0)


# ---- Time ----------------------------------------------------------------------------------------------------------


def forecast_of(seconds: float, epochs: int | None = None) -> RunEstimate:
    return RunEstimate(TimeEstimate(10.0, seconds, 0.0), epochs)


def test_a_budget_cuts_the_epochs_of_all_recipes_by_the_same_share() -> None:
    forecasts = [forecast_of(10, epochs=40), forecast_of(10, epochs=4), forecast_of(0)]
    whole = total_seconds(forecasts, 2)
    assert whole == 2 * (3 * 10 + 440)
    assert epoch_fraction_within_budget(forecasts, 2, 1.06 * whole, 0) == 1
    share = epoch_fraction_within_budget(forecasts, 2, whole / 2, 10)
    assert 0.3 < share < 0.6
    assert total_seconds(forecasts, 2, share) <= whole / 2
    entry = StudyRecipe("long", {"train": {"epochs": 40, "warmup_epochs": 8}, "model": {"method": "scratch"}})
    cut = scale_epochs(entry, forecasts[0], 0.25).recipe().resolve().train
    assert (cut.epochs, cut.warmup_epochs) == (10, 2)
    assert [scale_epoch_count(4, 0.01), scale_epoch_count(4, 0.5)] == [1, 2]
    with pytest.raises(
        RecipeError,
        match="--budget 5 s is too short: .* 6 training runs take 1 min 40 s, and 3 s are used already. Give",
    ):
        epoch_fraction_within_budget(forecasts, 2, 5, 3)


def test_what_is_ahead_is_said() -> None:
    words = describe_plan({"long": 2, "probe": 1}, {"long": forecast_of(10, 40), "probe": forecast_of(0)}, 0.5)
    assert words.startswith("3 training runs to do; finished at about ")
    assert "(in 7 min 10 s)" in words
    assert "long 3 min 30 s, probe 10 s" in words
    assert "50\u00a0% of their epochs" in words


def test_epochs_that_are_set_leave_the_rest_alone() -> None:
    entry = original_project_preset()[-3]
    assert entry.with_epochs(6).overrides == {"model": {"method": "scratch"}, "train": {"epochs": 6}}


def test_an_error_inside_says_which_recipe_it_is_about() -> None:
    with pytest.raises(RecipeError, match=r'^Recipe "mine": too small$'), error_context("mine"):
        raise RecipeError("too small")
    with pytest.raises(SourceError, match="^no pictures$"), error_context("mine"):
        raise SourceError("no pictures")


def test_cells_are_run_seed_by_seed(tmp_path: Path) -> None:
    cells = list_runs(tmp_path, [StudyRecipe("a", {}), StudyRecipe("b", {})], (3, 4))
    assert [str(cell) for cell in cells] == ["a, seed 3", "b, seed 3", "a, seed 4", "b, seed 4"]


def test_names_in_the_plot_of_seconds_do_not_cover_each_other() -> None:
    recipes = [
        {"recipe": f"recipe {at}", "train_seconds": 60.0 + at, "macro_f1": {"mean": 0.5 + at / 1000}} for at in range(5)
    ]
    drawn = seconds_plot([*recipes, recipes[0] | {"train_seconds": 600.0}], "macro_f1", "Macro-F1")
    places = re.findall(r'<text class="start small" x="([^"]*)" y="([^"]*)">recipe ', drawn)
    assert len(set(places)) == len(places) == len(recipes) + 1


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        (("onnxruntime", "onnxruntime"), "onnxruntime"),
        (("onnxruntime", "openvino"), "auto"),
        (("auto", "auto"), "auto"),
    ],
)
def test_the_label_check_computes_features_as_the_recipes_ask(engines: tuple[str, ...], expected: str) -> None:
    entries = [StudyRecipe(str(at), {"features": {"engine": engine}}) for at, engine in enumerate(engines)]
    request = StudyRequest(DataSource("pictures"), entries, (0,), None, Context(threads=1))
    assert request.data_recipe().features.engine == expected

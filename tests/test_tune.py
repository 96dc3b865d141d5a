"""Hyperparameter search: trials, choice, sharing, pruning and resuming; and requests that are rejected."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import polars as pl
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("optuna")

import optuna
from optuna.trial import TrialState

from bestiary import files, flow, run_folder
from bestiary.data import dataset as dataset_module
from bestiary.data.dataset import DataSource
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import InterruptedRun, MachineError, RecipeError, RunError, SourceError, UserError
from bestiary.models.features import LabelledFeatures
from bestiary.progress import Reporter
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_files import write_toml
from bestiary.training import probe
from bestiary.training.time_estimate import TimeEstimate
from bestiary.tune import finish, importance, objective, sampler, search_space, selection_bias
from bestiary.tune import page as tune_page
from bestiary.tune import plan as planning
from bestiary.tune import storage as search_storage
from bestiary.tune import trial as search_trial
from bestiary.tune.objective import TrialScore
from bestiary.tune.storage import TrialStorage
from bestiary.tune.tune import SearchRequest, tune
from listening import Listening

CLASSES = ["bird", "fish", "spider"]
PROBE: dict[str, Any] = {
    "data": {"classes": CLASSES, "suspects": False},
    "picture": {"size": 64},
    "model": {"backbone": "lite0"},
    "evaluate": {"resamples": 100},
}
SCRATCH: dict[str, Any] = {
    "data": {"classes": CLASSES, "suspects": False},
    "picture": {"size": 32},
    "model": {"method": "scratch", "filters": [8]},
    "train": {"epochs": 9, "batch_size": 16, "precision": "float32"},
    "evaluate": {"resamples": 100},
}


def run_tune(
    pictures: Path, *, out: Path, storage: Path | None = None, reporter: Reporter | None = None, **options: Any
) -> dict[str, Any]:
    request = SearchRequest(**options)
    return tune(DataSource(pictures), request, out=out, storage=storage, threads=1, reporter=reporter)


@pytest.fixture(scope="module")
def searched(collection: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search with a probe, by the validation split. Shared: copy what you change."""
    out = tmp_path_factory.mktemp("search") / "search"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "RESAMPLES", 4)
        run_tune(
            collection.folder,
            recipe=Recipe.of(PROBE),
            search=('picture.fit=["squash", "crop"]',),
            trials=11,
            inner_folds=0,
            fresh_seeds=2,
            out=out,
        )
    return out


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Fast fakes: a score computed from the recipe alone, and a winner without training."""
    counts = {"scored": 0, "trained": 0}

    def score(recipe: Recipe, *args: Any, **kwargs: Any) -> TrialScore:
        counts["scored"] += 1
        strengths = recipe.probe.regularisation
        return TrialScore(0.9 - abs(strengths[0] - 0.5) / 100 if strengths else 0.8, 0.5)

    def begin(out: Path, recipe: Recipe, *args: Any, **kwargs: Any) -> None:
        out.mkdir()
        (out / "asked.toml").write_text(write_toml(recipe.overrides()), encoding="utf-8")
        files.write_json(out / "environment.json", {})

    def resume(out: Path, **kwargs: Any) -> None:
        counts["trained"] += 1
        measure = {"value": 0.9, "low": 0.8, "high": 1.0}
        metrics = {"test_scored": 1, "accuracy": measure, "macro_f1": measure, "log_loss": measure}
        files.write_json(out / "metrics.json", metrics)
        (out / "report.html").write_text("a report", encoding="utf-8")

    for module in (search_trial, finish):
        monkeypatch.setattr(module, "evaluate_recipe", score)
    monkeypatch.setattr(finish, "create_run", begin)
    monkeypatch.setattr(flow, "resume", resume)
    monkeypatch.setattr(finish, "write_report", lambda run, **_: None)
    monkeypatch.setattr(importance, "RESAMPLES", 1)
    return counts


def result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "tune.json").read_text(encoding="utf-8"))
    return found


def study_of(out: Path, method: str = "probe") -> Any:
    return TrialStorage(out / "tune.db", f"tune-{method}").study


def test_the_default_comes_first_and_the_winner_is_never_worse(searched: Path) -> None:
    found = result(searched)
    first, *others = found["history"]
    assert first["default"]
    assert first["trial"] == 1
    assert not any(line["default"] for line in others)
    assert len(found["history"]) == 11
    winner, default = found["winner"], found["default"]
    assert (winner["macro_f1"], -winner["loss"]) >= (default["macro_f1"], -default["loss"])
    assert winner["macro_f1"] == max(line["macro_f1"] for line in found["history"])


def test_importance_lines_are_explained_and_the_retrain_command_uses_the_winning_recipe(searched: Path) -> None:
    found = result(searched)
    first, *shares = tune_page.importance_lines(found["importance"]).splitlines()
    assert "that each explains" in first
    assert len(shares) == len(found["importance"]["settings"])
    assert all(" % (" in line for line in shares)
    words = shlex.split(tune_page.retrain_winner_command(found))
    assert words[:2] == ["bestiary", "train"]
    assert Path(words[words.index("--recipe") + 1]) == (searched / "winner.toml").resolve()


def test_the_default_trial_scores_like_train(searched: Path, collection: SyntheticDataset, tmp_path: Path) -> None:
    """The score of a trial is that of a run by the same recipe: the same split, features and head."""
    run = flow.train(collection.folder, recipe=Recipe.of(PROBE), out=tmp_path / "run", threads=1).path
    chosen = next(line for line in run_folder.read_history(run) if line.get("chosen"))
    assert result(searched)["default"]["macro_f1"] == pytest.approx(chosen["val_macro_f1"], abs=1e-9)
    assert result(searched)["default"]["strength"] == chosen["regularisation"]


def test_the_winner_is_an_ordinary_run_of_the_written_recipe(searched: Path) -> None:
    found = result(searched)
    run = Path(found["run"])
    assert (run / "report.html").exists()
    assert files.read_json(run / "metrics.json")["test_scored"] == 1
    assert found["test"]["macro_f1"] == files.read_json(run / "metrics.json")["macro_f1"]
    written = Recipe.read(Path(found["recipe"]))
    assert written == run_folder.load_recipe(run)
    assert written.overrides()["data"] == PROBE["data"]
    chosen = max(line["val_macro_f1"] for line in run_folder.read_history(run) if line.get("chosen"))
    assert chosen == pytest.approx(found["winner"]["macro_f1"], abs=1e-9)


def test_page_and_history_plot(searched: Path) -> None:
    found, page = result(searched), (searched / "tune.html").read_text(encoding="utf-8")
    assert found["luck"]["sentence"].split(".")[0] in page.replace("&#39;", "'")
    assert "http" not in page.replace("http-equiv", "")
    assert "winner/report.html" in page
    pictures = files.read_json(Path(found["run"]) / "environment.json")["pictures"]
    assert f"<code>bestiary train {pictures} --recipe {(searched / 'winner.toml').resolve()}</code>" in page
    dots = ElementTree.parse(searched / "history.svg").getroot().findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 11
    settings = {one["setting"]: one for one in found["importance"]["settings"]}
    assert settings.keys() == {"picture.fit", "probe.regularisation", "train.balance"}
    assert all(0 <= one["low"] <= one["median"] <= one["high"] <= 1 for one in settings.values())


def test_second_scores_are_on_pictures_that_took_no_part_in_the_choice(collection: SyntheticDataset) -> None:
    recipe = Recipe.of(PROBE)
    found = flow.audit(collection.folder, recipe=recipe, threads=1)
    from bestiary.data.assign_splits import assign_splits

    pictures, _ = assign_splits(found, recipe.data, seed=0)
    division = objective.resample_validation(pictures, 0, seed=1)
    val_before = set(pictures.filter(pl.col("split") == "val")["row_id"])
    val_now = set(division.filter(pl.col("split") == "val")["row_id"])
    test = set(pictures.filter(pl.col("split") == "test")["row_id"])
    assert val_now
    assert not val_now & (val_before | test)
    assert set(division.filter(pl.col("split") == "test")["row_id"]) == test
    assert val_before <= set(division.filter(pl.col("split") == "train")["row_id"])
    groups = division.filter(pl.col("split") != "test").group_by("group").agg(pl.col("split").n_unique())
    assert groups["split"].max() == 1


def test_inner_folds_validate_every_picture_once_and_never_a_test_picture(collection: SyntheticDataset) -> None:
    from bestiary.data.assign_splits import assign_splits

    recipe = Recipe.of(PROBE)
    pictures, _ = assign_splits(flow.audit(collection.folder, recipe=recipe, threads=1), recipe.data, seed=0)
    assert objective.count_inner_folds(None, pictures) == objective.AUTO_FOLDS  # few validation pictures
    parts = objective.inner_splits(pictures, 3, seed=0)
    validated = pl.concat([part.filter(pl.col("split") == "val")["row_id"] for part in parts]).to_list()
    learned = pictures.filter(pl.col("split").is_in(["train", "val"]))["row_id"].to_list()
    assert sorted(validated) == sorted(learned)


def test_the_same_call_again_reuses_all_results(
    searched: Path, collection: SyntheticDataset, quick: dict[str, int]
) -> None:
    before = result(searched)
    again = run_tune(
        collection.folder,
        recipe=Recipe.of(PROBE),
        search=('picture.fit=["squash", "crop"]',),
        trials=11,
        inner_folds=0,
        out=searched,
    )
    assert again == before
    assert quick == {"scored": 0, "trained": 0}


def test_a_resumed_search_counts_the_test_evaluations(
    collection: SyntheticDataset, tmp_path: Path, quick: dict[str, int]
) -> None:
    def go(trials: int) -> dict[str, Any]:
        return run_tune(collection.folder, recipe=Recipe.of(PROBE), trials=trials, out=tmp_path / "search")

    assert go(1)["winner"]["default"]
    found = go(6)
    assert not found["winner"]["default"]
    assert found["test scored"] == 2
    assert files.read_json(Path(found["run"]) / "metrics.json")["test_scored"] == 2
    assert quick["trained"] == 2
    assert len(found["history"]) == 6


def test_ctrl_c_loses_no_trial(
    collection: SyntheticDataset, tmp_path: Path, quick: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> TrialScore:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search_trial, "evaluate_recipe", interrupt)
        with pytest.raises(InterruptedRun, match="the same command resumes the search in"):
            try_search(collection, tmp_path / "search", trials=5)
    with monkeypatch.context() as patch:
        seconds = iter([60.0, 60.0])  # for two trials; then the winner is being made, which is not chosen again
        patch.setattr(planning.Deadlines, "room", lambda self: next(seconds, -1.0))
        patch.setattr(flow, "resume", interrupt)
        with pytest.raises(InterruptedRun):
            try_search(collection, tmp_path / "search", trials=5)
    with monkeypatch.context() as patch:
        patch.setattr(finish, "importances", interrupt)  # the winner is made, and tested
        with pytest.raises(InterruptedRun):
            try_search(collection, tmp_path / "search", trials=5)
    rooms = iter([60.0])  # then the time is up, in the middle of the first second score
    monkeypatch.setattr(planning.Deadlines, "rescoring_room", lambda self: next(rooms, -1.0))
    monkeypatch.setattr(finish, "evaluate_recipe", lambda *_, report_epoch, **__: report_epoch(1, []))
    found = try_search(collection, tmp_path / "search", trials=5)
    assert [row["fresh"] for row in found["luck"]["trials"]] == [None, None]
    assert [line["default"] for line in found["history"]] == [True, False]
    assert quick["trained"] == found["test scored"] == 1


def test_a_recipe_that_fails_on_a_fresh_split_does_not_end_the_search(
    collection: SyntheticDataset, tmp_path: Path, quick: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish.evaluate_recipe

    def fail_on_the_first(recipe: ResolvedRecipe, *args: Any, **kwargs: Any) -> TrialScore:
        if recipe.seed == 1000:
            raise RecipeError("The loss is no number.")
        return whole(recipe, *args, **kwargs)

    monkeypatch.setattr(finish, "evaluate_recipe", fail_on_the_first)
    reporter = Listening()
    found = try_search(collection, tmp_path / "search", trials=3, fresh_seeds=2, reporter=reporter)
    assert found["luck"]["seeds"] == 1
    assert any("has no score on fresh split 1: The loss is no number." in line for line in reporter.said)


def test_a_trial_that_timed_out_is_the_first_of_the_next_call(
    collection: SyntheticDataset, tmp_path: Path, quick: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search_trial.evaluate_recipe

    def late(*args: Any, **kwargs: Any) -> TrialScore:
        if quick["scored"] == 1:
            raise search_trial.SearchTimeoutError
        return whole(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(search_trial, "evaluate_recipe", late)
        found = try_search(collection, tmp_path / "search", trials=3)
    assert [line["trial"] for line in found["history"]] == [1]
    waiting = [one for one in study_of(tmp_path / "search").trials if one.state == TrialState.WAITING]
    assert len(waiting) == 1
    found = try_search(collection, tmp_path / "search", trials=3)
    assert [line["trial"] for line in found["history"]] == [1, 2, 4]  # 3 was the number of the second try
    done = study_of(tmp_path / "search").trials[2]
    assert done.params == waiting[0].system_attrs["fixed_params"]


def test_unpromising_trials_are_pruned_but_never_the_default(
    collection: SyntheticDataset, tmp_path: Path, quick: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")

    def score(
        recipe: Recipe,
        splits: Any,
        folder: Path,
        context: Any,
        *,
        report_epoch: objective.EpochCallback = lambda *_: None,
        **_: Any,
    ) -> TrialScore:
        """Learn the better the higher the rate; the default is the worst."""
        rate = recipe.train.learning_rate or 0.0
        quality = rate if recipe.train.label_smoothing != 0.1 else 0.0
        epochs: list[dict[str, Any]] = []
        (folder / "1").mkdir(parents=True, exist_ok=True)
        for epoch in range(1, 10):
            epochs.append({"epoch": epoch, "val_macro_f1": quality * epoch / 10, "val_loss": 1.0, "seconds": 1.0})
            run_folder.write_history(folder / "1", epochs)
            if epoch < 9:
                report_epoch(1, epochs)
        return TrialScore(quality, 1.0)

    for module in (search_trial, finish):
        monkeypatch.setattr(module, "evaluate_recipe", score)
    found = run_tune(collection.folder, recipe=Recipe.of(SCRATCH), trials=12, out=tmp_path / "search")
    ended = [line["ended"] for line in found["history"]]
    assert ended[0] == "complete"
    assert ended.count("pruned") >= 3
    default = study_of(tmp_path / "search", "scratch").trials[0]
    assert any(name.startswith("completed_rung") for name in default.system_attrs), "others are pruned by its scores"
    stopped = [line for line in found["history"] if line["ended"] == "pruned"]
    assert all(line["epochs"] < 9 for line in stopped)
    assert found["winner"]["macro_f1"] == max(line["macro_f1"] or 0 for line in found["history"])


def test_pruning_starts_after_an_eighth_of_the_epochs() -> None:
    pruners: list[Any] = [sampler.make_pruner(epochs) for epochs in (2, 5, 12, 48)]
    assert [pruner._min_resource for pruner in pruners] == [1, 1, 2, 6]


@pytest.mark.parametrize(("budget", "stopped"), [(None, False), (600.0, True)])
def test_within_a_budget_a_slow_trial_is_pruned(budget: float | None, stopped: bool) -> None:
    took = {"seconds": 9.0, "epochs": 3, "training": 6.0, "each epoch": [1.0, 2.0, 3.0]}
    study = optuna.create_study()
    study.enqueue_trial({}, user_attrs={"default": True})
    default = study.ask()
    default.set_user_attr("took", took)
    study.tell(default, 0.5)
    deadlines = planning.Deadlines() if budget is None else planning.Deadlines(time.monotonic() + budget, budget)
    search = cast(
        search_trial.SearchContext, SimpleNamespace(storage=SimpleNamespace(study=study), deadlines=deadlines)
    )
    watch = search_trial._make_epoch_callback(search, study.ask())
    as_fast = [{"epoch": 1, "seconds": 2.4, "val_macro_f1": 0.5}]
    watch(1, as_fast)  # 2.4 times as long as the default's first
    with pytest.raises(optuna.TrialPruned, match="3.1 times as long") if stopped else contextlib.nullcontext():
        watch(1, [*as_fast, {"epoch": 2, "seconds": 7.0, "val_macro_f1": 0.6}])


@pytest.mark.parametrize(
    ("fresh", "words"),
    [
        ({7: [0.95, 0.95, 0.95], 1: [0.90, 0.91, 0.90]}, "The gain is significant, but 5.3"),
        (
            {7: [0.95, 0.90, 0.85], 1: [0.90, 0.91, 0.90]},
            "The gain is not significant: all of it may be selection bias",
        ),
        (
            {7: [0.80, 0.81, 0.80], 1: [0.90, 0.91, 0.90]},
            "The gain was selection bias, and the default is the better",
        ),
        ({7: [1.00, 1.00, 1.00], 1: [0.85, 0.86, 0.85]}, "The gain is confirmed"),
        ({7: [0.95], 1: [0.90]}, "one fresh split is too few"),
        ({}, "It was not scored again"),
    ],
)
def test_selection_bias_sentence(fresh: dict[int, list[float]], words: str) -> None:
    scores = {trial: dict(enumerate(values)) for trial, values in fresh.items()}
    found = selection_bias.selection_bias_report({7: 1.0, 1: 0.9}, scores, 7, 1, val_train_ratio=0.2, wanted=3)
    assert found["gain"] == pytest.approx(0.1)
    assert "10.00 points above the default's" in found["sentence"]
    assert words in found["sentence"]


def test_selection_bias_sentence_without_a_gain_or_a_second_score() -> None:
    def words(first: dict[int, float], winner: int, wanted: int = 3) -> str:
        return str(
            selection_bias.selection_bias_report(first, {}, winner, 1, val_train_ratio=0.2, wanted=wanted)["sentence"]
        )

    assert "no selection bias" in words({1: 0.9, 7: 0.8}, 1)
    assert "only a lower loss: there is no gain" in words({7: 0.9, 1: 0.9}, 7)
    assert "It was not scored again (--fresh-seeds 0)" in words({7: 1.0, 1: 0.9}, 7, wanted=0)


def test_pruning_savings_are_counted_by_epochs() -> None:
    def ended(state: TrialState, seconds: float, epochs: int) -> Any:
        took = {"took": {"seconds": seconds + 5, "epochs": epochs, "training": seconds}}
        return optuna.trial.create_trial(state=state, user_attrs=took, value=0.5, intermediate_values={epochs: 0.5})

    trials = [ended(TrialState.COMPLETE, 90, 9), ended(TrialState.PRUNED, 10, 1), ended(TrialState.PRUNED, 30, 3)]
    assert finish.pruning_savings(trials, 9) == {"seconds": 130.0, "seconds without": 270.0, "share saved": 0.5185}
    assert finish.pruning_savings(trials, None) is None


# ---- Rejected requests -----------------------------------------------------------------------------------------------


def try_search(collection: SyntheticDataset, out: Path, **kwargs: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"recipe": Recipe.of(PROBE), "trials": 4}
    return run_tune(collection.folder, out=out, **{**options, **kwargs})


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("probe.regularisation=[0.1, -1]", "numbers above 0"),
        ("picture.fit=[5]", "picture.fit = 5"),
        ("train.momentum=[0.5, 0.9]", "has no effect with probe"),
        ("data.test_fraction=[0.1, 0.2]", "data.test_fraction cannot be searched"),
        ("evaluate.coverage=0.5..0.9", "evaluate.coverage cannot be searched"),
        ('model.method=["probe", "scratch"]', "model.method cannot be searched"),
        ("picture.max_pixels=[1000, 2000]", "picture.max_pixels cannot be searched"),
        ("train.epochs=[3, 5]", "train.epochs cannot be searched"),
        ("picture.size=96..128", "Give values: picture.size=[96, 128]"),
        ("train.balence=[1]", 'Did you mean "train.balance"'),
        ("picture.size=[64]", "both set and searched"),
        ("train.momentum=0.9..0.1", "a low end below the high end"),
        ("train.momentum=a..b", "expected two numbers"),
        ("train.momentum=0.9", "expected low..high, or a list"),
        ("momentum", "--search takes section.key=low..high"),
    ],
)
def test_an_impossible_search_is_rejected_before_pictures_are_read(
    collection: SyntheticDataset, tmp_path: Path, wish: str, words: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        run_tune(tmp_path / "there are no pictures", recipe=Recipe.of(PROBE), search=(wish,), out=tmp_path / "search")
    assert words in str(refused.value)


def test_augmentation_can_be_searched() -> None:
    requests = ['augment.turn=["none", "quarters", "any"]', 'augment.policy=["none", "trivial"]']
    requests += ["augment.vertical_mirror=0..0.5"]
    recipe = Recipe.of({"model": {"method": "scratch"}})
    space = search_space.build_search_space(recipe, 1000, requests)
    assert space["augment.turn"] == search_space.Categorical(('"none"', '"quarters"', '"any"'))
    assert space["augment.vertical_mirror"] == search_space.Range(0.0, 0.5)
    params = search_space.default_params(space, recipe)
    assert (params["augment.turn"], params["augment.policy"], params["augment.vertical_mirror"]) == (
        '"none"',
        '"none"',
        0,
    )
    chosen = search_space.apply_params(recipe, params | {"augment.turn": '"any"', "augment.policy": '"trivial"'})
    assert (chosen.augment.turn, chosen.augment.policy) == ("any", "trivial")
    for request in ('augment.turn=["quarter"]', 'probe.views=["none", "quarters"]'):
        with pytest.raises(
            RecipeError, match='The search cannot try .* (Did you mean "quarters"|no effect with scratch)'
        ):
            search_space.build_search_space(recipe, 1000, [request])


def test_inner_folds_fit_a_probe_on_the_views_that_are_set(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list[int]()
    fit = probe.fit_head

    def watched(train: LabelledFeatures, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(train.labels))
        return fit(train, *args, **kwargs)

    monkeypatch.setattr(probe, "fit_head", watched)
    monkeypatch.setattr(objective, "fit_head", lambda *_, **__: pytest.fail("fitted without views"))
    recipe = Recipe.of(PROBE | {"probe": {"regularisation": [0.01], "views": "quarters"}})
    options: dict[str, Any] = {"trials": 1, "inner_folds": 2, "fresh_seeds": 0}
    run_tune(collection.folder, recipe=recipe, out=tmp_path / "search", **options)
    pictures = pl.read_parquet(tmp_path / "search" / "winner" / "pictures.parquet")
    used = pictures.filter(pl.col("split").is_in(["train", "val"])).height
    assert sum(rows[:2]) == 4 * used  # the two folds train on each picture once, in four views


@pytest.mark.parametrize(("size", "most"), [(32, 3), (128, 4)])
def test_small_pictures_limit_the_number_of_stages(size: int, most: int) -> None:
    recipe = Recipe.of({"model": {"method": "scratch"}, "picture": {"size": size}})
    filters = search_space.default_space(recipe, 1000)["model.filters"]
    assert isinstance(filters, search_space.Categorical)
    assert max(len(json.loads(value)) for value in filters.values) == most


def test_trials_of_few_epochs_warm_up_for_fewer() -> None:
    pytest.importorskip("torch")
    recipe = Recipe.of({**SCRATCH, "train": {"epochs": 48, "warmup_epochs": 12}})
    plan = planning.SearchPlan({}, 0, 4, 48)
    train = search_trial.recipe_for_trial(recipe, plan, {"train.learning_rate": 0.1}).train
    assert (train.epochs, train.warmup_epochs, train.learning_rate) == (4, 1, 0.1)
    assert recipe.with_epochs(48) is recipe


def test_three_failed_trials_without_a_success_end_the_search(
    collection: SyntheticDataset, tmp_path: Path, quick: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    causes = iter(
        [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RecipeError("No number.")]
    )

    def fail(*args: Any, **kwargs: Any) -> TrialScore:
        raise next(causes)

    monkeypatch.setattr(search_trial, "evaluate_recipe", fail)
    with pytest.raises(RecipeError, match=r"3 trials failed, and none succeeded.*No number"):
        try_search(collection, tmp_path / "search", trials=20)
    assert len(study_of(tmp_path / "search").trials) == 3


def test_fewer_validation_pictures_than_classes(collection: SyntheticDataset, tmp_path: Path) -> None:
    rows = [
        {"path": str(path), "label": path.parent.name, "split": part}
        for name in CLASSES
        for number, path in enumerate(sorted((collection.folder / name).iterdir()))
        for part in ["test" if number == 0 else "val" if number == 1 and name == "bird" else "train"]
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "pictures.csv")
    with pytest.raises(SourceError, match="1 validation pictures for 3 classes.*--inner-folds 5"):
        run_tune(tmp_path / "pictures.csv", recipe=Recipe.of(PROBE), inner_folds=0, out=tmp_path / "search")


def test_a_budget_too_short_for_one_trial(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The check before refuses the budget on a busy machine, where listing the pictures takes longer than it.
    monkeypatch.setattr(sys.modules[SearchRequest.__module__], "budget_check", lambda *_: None)
    with pytest.raises(RecipeError, match="too short for one trial"):
        try_search(collection, tmp_path / "search", trials=None, budget_seconds=2.0)


def test_a_hopeless_budget_is_refused_before_the_pictures_are_read(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "scan_pictures", lambda *_: pytest.fail("The pictures were read."))
    with pytest.raises(RecipeError, match=r"--budget 2 s is too short: reading \d+ pictures"):
        try_search(collection, tmp_path / "search", trials=None, budget_seconds=2.0)


def test_budget_allocation() -> None:
    scratch = Recipe.of({"model": {"method": "scratch"}})
    pace = TimeEstimate(before=10.0, epoch=5.0, after=20.0)
    roomy = planning.allocate_budget(scratch, pace, 4000.0, 0)
    assert (roomy.epochs, roomy.final_epochs) == (48, 48)  # the winner's training is a trial's
    tight = planning.allocate_budget(scratch, pace, 900.0, 0)
    assert tight.epochs is not None
    assert tight.final_epochs is not None
    assert tight.epochs < tight.final_epochs == 48
    assert tight.search >= planning.MIN_TRIALS * tight.epochs * pace.epoch
    for sharing, room in ((roomy, 4000.0), (tight, 900.0)):
        anew = 0 if sharing is roomy else 48 * pace.epoch
        assert pace.before + pace.after + anew + sharing.search + sharing.rescoring <= room
    folded = planning.allocate_budget(scratch, pace, 4000.0, 5)
    assert folded.epochs is not None
    assert folded.search >= planning.MIN_TRIALS * folded.epochs * 5 * pace.epoch
    with pytest.raises(RecipeError, match="too short"):
        planning.allocate_budget(scratch, pace, 120.0, 0)
    begun = planning.SearchPlan({}, 0, 8, 32)  # with another budget
    onward = planning.allocate_budget(scratch, pace, 400.0, 0, begun)
    assert (onward.epochs, onward.final_epochs) == (8, 32)
    assert pace.before + pace.after + 32 * pace.epoch + onward.search + onward.rescoring <= 400
    with pytest.raises(RecipeError, match="too short"):
        planning.allocate_budget(scratch, pace, 200.0, 0, begun)
    fixed = Recipe.of({"model": {"method": "scratch"}, "train": {"epochs": 48}})
    with pytest.raises(RecipeError, match="too short"):
        planning.allocate_budget(fixed, pace, 250.0, 0)


def test_another_recipe_does_not_resume_a_search(
    collection: SyntheticDataset, tmp_path: Path, quick: dict[str, int]
) -> None:
    try_search(collection, tmp_path / "search", trials=1)
    other = Recipe.of({**PROBE, "seed": 7})
    with pytest.raises(RunError, match="contains a search with another (split|recipe)"):
        try_search(collection, tmp_path / "search", recipe=other, trials=1)
    assert len(study_of(tmp_path / "search").trials) == 1


def test_a_folder_with_other_files(collection: SyntheticDataset, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("Dear", encoding="utf-8")
    TrialStorage(tmp_path / "shared.db", "tune-probe")  # excuses no folder but its own
    for storage in (None, tmp_path / "shared.db"):
        with pytest.raises(RunError, match="contains files that do not belong to a search"):
            try_search(collection, tmp_path / "letters", storage=storage)


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database " * 100)


def other_version(path: Path) -> None:
    TrialStorage(path, "tune-probe")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE version_info SET schema_version = 3, library_version = '1.0.0'")
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "words"), [(no_database, "is no storage of a search"), (other_version, "another version of Optuna")]
)
def test_a_storage_that_cannot_be_used(
    collection: SyntheticDataset, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(tmp_path / "shared.db")
    before = (tmp_path / "shared.db").read_bytes()
    with pytest.raises(UserError) as refused:
        try_search(collection, tmp_path / "search", storage=tmp_path / "shared.db")
    assert words in str(refused.value)
    assert (tmp_path / "shared.db").read_bytes() == before


def test_a_locked_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_storage, "BUSY_SECONDS", 0.1)
    own = TrialStorage(tmp_path / "tune.db", "tune-probe")
    other = sqlite3.connect(tmp_path / "tune.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="locked by another program"), search_storage.storage_errors(own.path):
        own.study.enqueue_trial({})
    other.execute("ROLLBACK")
    other.close()
    own.study.enqueue_trial({})
    assert len(own.trials()) == 1


def test_a_storage_that_cannot_be_written(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, connect = tmp_path / "shared.db", sqlite3.connect
    TrialStorage(path, "tune-probe")
    monkeypatch.setattr(sqlite3, "connect", lambda file, **kwargs: connect(f"file:{file}?mode=ro", uri=True, **kwargs))
    with pytest.raises(MachineError, match=r"shared\.db cannot be written"):
        try_search(collection, tmp_path / "search", storage=path)


def test_a_killed_trial_is_queued_again_with_its_values(tmp_path: Path) -> None:
    own = TrialStorage(tmp_path / "tune.db", "tune-probe")
    own.study.enqueue_trial({"x": 0.25}, user_attrs={"default": True})
    dead = own.study.ask()  # nobody holds its folder
    dead.suggest_float("x", 0, 1)
    with own.trial_claim(5) as trial:
        assert trial is not None
        assert trial.user_attrs["default"]
        assert trial.suggest_float("x", 0, 1) == 0.25
        assert own.trial_folder(trial) == own.folder / str(dead.number)
        assert own.requeue_killed() == []  # this one is held
        assert own.n_started() == 1
    assert own.trials(TrialState.FAIL)[0].number == dead.number
    own.requeue_killed()
    assert not search_storage.is_abandoned(own.study.ask())
    own.requeue_killed()
    assert search_storage.is_abandoned(own.study.ask()), "it was tried often enough, which is entered as its cause"
    assert own.n_started() == 1


def test_a_killed_trial_is_marked_as_failed_before_the_next_values_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is running, the constant liar keeps the sampler away from its values."""
    own = TrialStorage(tmp_path / "tune.db", "tune-probe")
    own.use(None, seed=0)
    own.study.ask().suggest_float("x", 0, 1)  # nobody holds its folder
    states, ask = list[list[TrialState]](), own.study.ask

    def ask_and_note() -> optuna.Trial:
        states.append([trial.state for trial in own.trials()])
        return ask()

    monkeypatch.setattr(own.study, "ask", ask_and_note)
    with own.trial_claim(5), own.trial_claim(5):
        pass
    assert states[0] == [TrialState.FAIL, TrialState.WAITING]
    assert states[1] == [TrialState.FAIL, TrialState.RUNNING]  # this one is held by a process


def test_the_sampler_is_that_of_optuna_5_under_each_version(tmp_path: Path) -> None:
    """Warnings are errors here: under Optuna 4 both options are experimental, which nobody needs to read."""
    own = TrialStorage(tmp_path / "tune.db", "tune-probe")
    assert own.use(None, seed=0) is None
    chosen: Any = own.study.sampler
    assert (chosen._multivariate, chosen._constant_liar, chosen._group) == (True, True, False)

    distributions: Any = {"x": optuna.distributions.FloatDistribution(0, 20)}

    def next_values(*, is_running: bool) -> list[float]:
        study = optuna.create_study(direction="maximize", sampler=sampler.make_sampler(seed=3))
        for _ in range(20):
            trial = study.ask(distributions)
            study.tell(trial, -abs(trial.params["x"] - 10))
        values = []
        for seed in range(10):
            study.sampler = sampler.make_sampler(seed)
            trial = study.ask(distributions)
            values.append(trial.params["x"])
            if not is_running:
                study.tell(trial, state=TrialState.FAIL)
        return values

    assert next_values(is_running=False) == next_values(is_running=False)
    assert next_values(is_running=True) != next_values(is_running=False)


def test_a_search_resumed_under_another_major_version_of_optuna_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = TrialStorage(tmp_path / "tune.db", "tune-probe")
    monkeypatch.setattr(optuna, "__version__", "4.8.0")
    assert own.use(None, seed=0) is None
    monkeypatch.setattr(optuna, "__version__", "4.9.0")
    assert own.use(None, seed=0) is None
    monkeypatch.setattr(optuna, "__version__", "5.0.0")
    notice = own.use(None, seed=0)
    assert notice is not None
    assert "Optuna 4.9.0 and goes on with 5.0.0" in notice
    assert own.use(None, seed=0) is None
    assert own.study.user_attrs["optuna versions"] == ["4.8.0", "4.9.0", "5.0.0"]


def test_the_notice_of_another_version_reaches_the_user(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: dict[str, int]
) -> None:
    listening = Listening()
    for version in ("4.8.0", "5.0.0"):
        monkeypatch.setattr(optuna, "__version__", version)
        run_tune(collection.folder, recipe=Recipe.of(PROBE), trials=1, out=tmp_path / "search", reporter=listening)
    assert [line for line in listening.said if "goes on with 5.0.0" in line]


def test_an_interrupted_trial_is_queued_again_without_counting_an_attempt(tmp_path: Path) -> None:
    own = TrialStorage(tmp_path / "tune.db", "tune-probe")
    own.study.enqueue_trial({"x": 0.25}, user_attrs={"default": True})
    for error in [KeyboardInterrupt(), MachineError("The disk is full."), ValueError("a bug")] * 2:
        with pytest.raises(type(error)), own.trial_claim(1) as trial:
            assert trial is not None
            assert trial.suggest_float("x", 0, 1) == 0.25
            raise error
    (waiting,) = own.trials(TrialState.WAITING)
    assert waiting.user_attrs["default"]
    assert not search_storage.is_abandoned(waiting)
    assert own.n_started() == 0


def test_processes_that_start_together_sample_different_values(tmp_path: Path) -> None:
    both = [TrialStorage(tmp_path / "tune.db", "tune-probe") for _ in range(2)]
    with both[0].session(), both[1].session():
        for own in both:
            own.use(None, seed=0)
        drawn = {own.study.ask().suggest_float("x", 0, 1) for own in both}
    assert len(drawn) == 2


def test_no_more_trials_than_requested_are_started(tmp_path: Path) -> None:
    own, other = (TrialStorage(tmp_path / "tune.db", "tune-probe") for _ in range(2))
    with own.trial_claim(2) as first, other.trial_claim(2) as second, own.trial_claim(2) as third:
        assert first is not None
        assert second is not None
        assert first.number != second.number
        assert third is None


def test_clear_keeps_the_folder_of_the_best_trial(tmp_path: Path) -> None:
    own = TrialStorage(tmp_path / "tune.db", "tune-probe")
    for score in (0.5, 0.9, 0.7):
        with own.trial_claim(None) as trial:
            assert trial is not None
            trial.set_user_attr("score", {"macro_f1": score, "loss": 1.0, "strength": None})
            own.study.tell(trial, score)
        if score == 0.5:
            own.claim_finish(None)  # of another process, which goes on from this one's checkpoint
    own.clear()
    assert sorted(path.name for path in own.folder.iterdir() if path.is_dir()) == ["0", "1"]
    own.study.set_user_attr(search_storage.FINISHED, {"taken": 1})
    own.clear()
    assert [path.name for path in own.folder.iterdir() if path.is_dir()] == ["1"]
    shutil.rmtree(own.folder)


def test_affordable_epochs_of_the_winner() -> None:
    plan = planning.SearchPlan({}, 0, epochs=6, final_epochs=32)
    deadlines = planning.Deadlines(search=0.0, rescoring=time.monotonic() + 130.0, besides=30.0)
    search = cast(search_trial.SearchContext, SimpleNamespace(plan=plan, deadlines=deadlines))
    assert finish.affordable_epochs(search, {"training": 12.0, "epochs": 6}) == 32
    assert finish.affordable_epochs(search, {"training": 60.0, "epochs": 6}) in (8, 9)
    assert finish.affordable_epochs(search, {"training": 6000.0, "epochs": 6}) == 1

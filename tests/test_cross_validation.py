"""Cross-validation: each picture is tested once, by a model trained on neither it nor its duplicates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")

from bestiary import files, flow, run_folder, table
from bestiary.context import Context
from bestiary.data.assign_splits import select_fold
from bestiary.data.dataset import AuditedDataset
from bestiary.demo.dataset import SyntheticDataset, draw_creature
from bestiary.errors import InterruptedRun, RecipeError, RunError, SourceError
from bestiary.evaluation import cross_validation
from bestiary.evaluation.cross_validation import classes_with_few_groups, concat_folds, cross_validate, fold_scores
from bestiary.export import finalize
from bestiary.inference.predictor import Predictor
from bestiary.recipe import Recipe
from bestiary.recipe_sections import DataConfig, FeaturesConfig
from bestiary.training.task import TrainedModel, TrainingTask, make_task
from listening import Listening

FOLDS = 2
ASKED: dict[str, Any] = {
    "data": {"classes": ["bird", "fish", "spider", "rabbit"]},
    "picture": {"size": 64},
    "model": {"backbone": "lite0"},
    "probe": {"regularisation": [0.01]},
    "evaluate": {"resamples": 100},
}


@pytest.fixture(scope="module")
def run(faulty: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> flow.Run:
    out = tmp_path_factory.mktemp("runs") / "folds"
    return flow.train(faulty.folder, recipe=Recipe.of(ASKED), folds=FOLDS, out=out, threads=2)


def pictures(run: flow.Run) -> pl.DataFrame:
    return table.read(run.path / "pictures.parquet", table.PICTURES)


def predictions(run: flow.Run) -> pl.DataFrame:
    return table.read(run.path / "predictions.parquet", table.PREDICTIONS)


def test_every_picture_is_tested_once(run: flow.Run) -> None:
    used = pictures(run).filter(pl.col("split").is_not_null())
    assert sorted(predictions(run)["row_id"]) == sorted(used["row_id"])
    assert set(predictions(run)["split"]) == {"test"}
    assert run.metrics["n"] == used.height
    assert set(used["split"]) == {"train", "val"}
    assert set(used["fold"]) == {1, 2}


def test_no_model_saw_what_it_was_tested_on(run: flow.Run) -> None:
    shown = pictures(run)
    for number in range(1, FOLDS + 1):
        place = run.path / "folds" / str(number)
        own = table.read(place / "pictures.parquet", table.PICTURES)
        assert own.equals(select_fold(shown, number, DataConfig(folds=FOLDS), seed=0))
        tested = table.read(place / "predictions.parquet", table.PREDICTIONS)
        assert sorted(tested["row_id"]) == sorted(own.filter(pl.col("split") == "test")["row_id"])
        used = own.filter(pl.col("split").is_not_null())
        assert used.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
        for part in table.SPLITS:
            assert set(used.filter(pl.col("split") == part)["label"]) == set(ASKED["data"]["classes"])
        pooled = predictions(run).filter(pl.col("row_id").is_in(tested["row_id"].implode()))
        assert pooled["probability"].to_list() == tested.sort("row_id")["probability"].to_list()
        assert not (place / "model.onnx").exists()


def test_metrics_say_what_they_are(run: flow.Run) -> None:
    metrics = files.read_json(run.path / "metrics.json")
    assert metrics["split"] == "folds"
    right = predictions(run)["label"] == predictions(run)["predicted"]
    assert metrics["accuracy"]["value"] == pytest.approx(right.mean())
    assert metrics["accuracy"]["low"] < metrics["accuracy"]["value"] < metrics["accuracy"]["high"]
    folds = metrics["folds"]
    assert folds["k"] == FOLDS
    for name in ("accuracy", "macro_f1"):
        assert folds[name]["mean"] == pytest.approx(np.mean(folds[name]["values"]))
        assert folds[name]["sd"] == pytest.approx(np.std(folds[name]["values"], ddof=1))
    weights = predictions(run).join(pictures(run), on="row_id").group_by("fold").len().sort("fold")["len"]
    assert metrics["accuracy"]["value"] == pytest.approx(np.average(folds["accuracy"]["values"], weights=weights))
    for file in ("classification_report.txt", "report.html"):
        text = " ".join((run.path / file).read_text(encoding="utf-8").split())
        assert "cross-validated estimates" in text
        assert "on 1/2 of the pictures" in text


def test_the_model_that_ships_was_trained_on_all_folds(run: flow.Run, faulty: SyntheticDataset) -> None:
    assert set(pictures(run).filter(pl.col("split") == "train")["fold"]) == {1, 2}
    assert Predictor(run.path).classes == ("bird", "fish", "rabbit", "spider")
    assert json.loads((run.path / "bundle.json").read_text())["parity"]["pictures"] > 0
    assert run_folder.load_recipe(run.path).data.folds == FOLDS


def test_it_cannot_be_scored_on_test_pictures_that_it_does_not_have(run: flow.Run) -> None:
    with pytest.raises(RunError, match="cross-validated: it has no test split of its own"):
        flow.evaluate(run.path, Context())


def test_finished_folds_are_kept_when_a_run_is_resumed(
    run: flow.Run, faulty: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, learnt = finalize.TRAINERS["probe"], list[str]()

    def until_the_second(task: TrainingTask) -> TrainedModel:
        if task.run.name == "2" and "2" not in learnt:
            learnt.append("2")
            raise KeyboardInterrupt
        learnt.append(task.run.name)
        return learn(task)

    monkeypatch.setitem(finalize.TRAINERS, "probe", until_the_second)
    with pytest.raises(InterruptedRun):
        flow.train(faulty.folder, recipe=Recipe.of(ASKED), folds=FOLDS, out=tmp_path / "run", threads=2)
    resumed = flow.resume(tmp_path / "run", threads=2)
    assert learnt == ["1", "2", "2", "run"]
    assert resumed.metrics["accuracy"] == pytest.approx(run.metrics["accuracy"])
    for name, value in run.metrics["folds"]["accuracy"].items():
        assert resumed.metrics["folds"]["accuracy"][name] == pytest.approx(value)


@pytest.mark.slow
def test_a_network_can_be_cross_validated(collection: SyntheticDataset, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    asked = {
        "data": {"classes": ["bird", "fish", "spider"], "suspects": False},
        "picture": {"size": 32},
        "model": {"method": "scratch", "filters": [8, 16]},
        "train": {"epochs": 1, "batch_size": 16, "precision": "float32"},
        "evaluate": {"resamples": 100},
    }
    run = flow.train(collection.folder, recipe=Recipe.of(asked), folds=2, out=tmp_path / "run", threads=1)
    assert run.metrics["folds"]["k"] == 2
    assert not list((tmp_path / "run" / "folds").rglob("*.pt"))


# ---- How folds are dealt, and what they cannot do --------------------------------------------------------------------


def drawn(folder: Path, **sizes: int) -> Path:
    for label, size in sizes.items():
        (folder / label).mkdir(parents=True)
        for number in range(size):
            picture = draw_creature("crab", np.random.default_rng([number, ord(label[0]), len(label)]))
            picture.resize((60, 60)).save(folder / label / f"{number:02d}.png")
    return folder


def dealt(folder: Path, *, seed: int = 0, **data: Any) -> dict[str, int]:
    found = flow.audit(folder, recipe=Recipe.of({"data": data}), threads=1)
    shown, _ = flow.assign_splits(found, DataConfig.model_validate(data), seed=seed)
    return {sha256: fold for sha256, fold in shown.select("sha256", "fold").iter_rows() if fold is not None}


def test_folds_are_stratified_and_do_not_depend_on_names(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "one", cat=23, dog=15)
    found = flow.audit(folder, threads=1)
    shown, digest = flow.assign_splits(found, DataConfig(folds=5), seed=0)
    counts = shown.group_by("label", "fold").len()
    assert set(counts.filter(pl.col("label") == "cat")["len"]) <= {4, 5}
    assert set(counts.filter(pl.col("label") == "dog")["len"]) == {3}
    renamed = tmp_path / "other"
    for label in ("cat", "dog"):
        (renamed / label).mkdir(parents=True)
        for number, path in enumerate(sorted((folder / label).iterdir(), reverse=True)):
            shutil.copy(path, renamed / label / f"new{number:03d}.png")
    assert dealt(renamed, folds=5) == dealt(folder, folds=5)
    assert dealt(
        folder,
        folds=5,
    ) != dealt(folder, folds=5, seed=1)
    assert flow.assign_splits(found, DataConfig(folds=5), seed=0)[1] == digest


def predict_cats(task: TrainingTask, *_: object) -> pl.DataFrame:
    """Return predictions for the test pictures of a fold, all of them cats."""
    tested = task.pictures.filter(pl.col("split") == "test")
    predictions = tested.select("row_id", "path", "split", "label", predicted=pl.lit("cat"), probability=pl.lit(1.0))
    return predictions.with_columns(unknown=pl.lit(False), familiarity=pl.lit(0.5))


def test_a_class_with_fewer_different_pictures_than_folds_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drawn(tmp_path / "few", cat=12, dog=4)
    for number in range(6):  # copies are not different pictures
        shutil.copy(folder / "dog" / "00.png", folder / "dog" / f"copy{number}.png")
    shown, _ = flow.assign_splits(flow.audit(folder, threads=1), DataConfig(folds=5), seed=0)
    assert classes_with_few_groups(shown, 5) == {"dog": 4}
    listening = Listening()
    monkeypatch.setattr(cross_validation, "train_and_finalize", lambda task: (None, None))
    monkeypatch.setattr(cross_validation, "test_predictions", predict_cats)
    recipe = Recipe.of({"data": {"folds": 5}}).resolve()
    tables = cross_validate(make_task(tmp_path / "run", recipe, shown, Context(1, listening)))
    assert (
        "Classes with fewer distinct pictures than folds: dog (4). Some folds do not test these classes."
        in listening.said
    )
    assert concat_folds(tables)["label"].to_list().count("dog") == 10
    scores = fold_scores(tables, shown, ["cat", "dog"])
    assert scores["classes not in every fold"] == ["dog"]
    assert scores["accuracy"]["values"] == [float((one["label"] == "cat").sum()) / one.height for one in tables]
    assert max(scores["macro_f1"]["values"]) == 1.0  # a fold without dogs is judged by cats alone


def test_folds_compute_features_as_their_run_has_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the folds of a run that is resumed on another processor are compared with those of the first."""
    tasks = list[TrainingTask]()

    def remember(task: TrainingTask) -> tuple[None, None]:
        tasks.append(task)
        return None, None

    monkeypatch.setattr(cross_validation, "train_and_finalize", remember)
    monkeypatch.setattr(cross_validation, "test_predictions", predict_cats)
    recorded = FeaturesConfig(engine="openvino", precision="bfloat16")
    recipe = Recipe.of({"data": {"folds": FOLDS}}).resolve()
    dataset = flow.audit(drawn(tmp_path / "pictures", cat=12, dog=12), recipe={"data": {"suspects": False}}, threads=1)
    split_table, _ = flow.assign_splits(dataset, recipe.data, seed=0)
    cross_validate(make_task(tmp_path / "run", recipe, split_table, Context(threads=1, features=recorded)))
    assert [fold.context.features for fold in tasks] == [recorded] * FOLDS


def test_too_few_different_pictures_for_any_folds_are_told(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "two", cat=12, dog=2)
    for number in range(9):
        shutil.copy(folder / "dog" / "00.png", folder / "dog" / f"copy{number}.png")
    with pytest.raises(
        SourceError, match='Class "dog" has 2 different pictures, duplicates counted once; cross-validation needs 3'
    ):
        dealt(folder, folds=3)


def test_folds_that_would_leave_too_few_to_learn_from_are_told_before_any_is_trained(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "lopsided", cat=12, dog=3)
    for number in range(7):  # one picture eight times: the other two lie in one fold, and it alone is left
        shutil.copy(folder / "dog" / "00.png", folder / "dog" / f"copy{number}.png")
    with pytest.raises(
        SourceError, match=r'With fold \d of 2 as the test split: Class "dog" has \d+ pictures?, too few'
    ):
        dealt(folder, folds=2)
    assert set(dealt(folder, folds=3).values()) == {1, 2, 3}


@pytest.mark.parametrize("folds", [1, -2, 51])
def test_a_number_of_folds_that_makes_no_sense_is_refused(folds: int, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.folds"):
        flow.train(tmp_path, folds=folds)


def test_a_split_that_the_source_brings_does_not_go_with_folds(tmp_path: Path) -> None:
    drawn(tmp_path / "split" / "train", cat=12, dog=12)
    for label in ("cat", "dog"):
        shutil.copytree(tmp_path / "split" / "train" / label, tmp_path / "split" / "test" / label)
    with pytest.raises(SourceError, match="are split already"):
        dealt(tmp_path / "split", folds=3)


def test_dropped_pictures_move_nobody_between_folds(tmp_path: Path) -> None:
    from bestiary.data.corrections import append, make_correction

    folder = drawn(tmp_path / "one", cat=20, dog=20)
    before = dealt(folder, folds=4)
    gone = sorted(before)[:5]
    append(tmp_path / "c.csv", [make_correction(sha256, "drop") for sha256 in gone])
    found: AuditedDataset = flow.audit(folder, corrections=tmp_path / "c.csv", threads=1)
    shown, _ = flow.assign_splits(found, DataConfig(folds=4), seed=0)
    after = {sha256: fold for sha256, fold in shown.select("sha256", "fold").iter_rows() if fold is not None}
    assert after == {sha256: fold for sha256, fold in before.items() if sha256 not in gone}


def test_corrections_move_nobody_within_a_fold(tmp_path: Path) -> None:
    from bestiary.data.corrections import append, make_correction

    folder, data = drawn(tmp_path / "one", cat=20, dog=20), DataConfig(folds=3, val_fraction=0.3)

    def parts(corrections: Path | None) -> dict[tuple[int, str], str]:
        found = flow.audit(folder, corrections=corrections, threads=1)
        shown, _ = flow.assign_splits(found, data, seed=0)
        every = [(fold, select_fold(shown, fold, data, seed=0)) for fold in (1, 2, 3)]
        return {(fold, row["sha256"]): row["split"] for fold, one in every for row in one.iter_rows(named=True)}

    before = parts(None)
    hashes = sorted({sha256 for _, sha256 in before})
    made = [
        *(make_correction(one, "drop") for one in hashes[:4]),
        *(make_correction(one, "relabel", "cat") for one in hashes[4:8]),
    ]
    append(tmp_path / "c.csv", made)
    after = parts(tmp_path / "c.csv")
    assert {key: part for key, part in after.items() if key[1] not in hashes[:4]} == {
        key: part for key, part in before.items() if key[1] not in hashes[:4]
    }
    assert {part for key, part in after.items() if key[1] in hashes[:4]} == {None}

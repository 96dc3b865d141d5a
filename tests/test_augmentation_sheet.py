"""The sheet of augmented pictures in a run folder, and what the report says about it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from bestiary import flow
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.files import read_json, write_json
from bestiary.preprocess import Preprocessing
from bestiary.recipe import Recipe
from bestiary.report.learning_curve_section import augmentation_values
from bestiary.report.run_report import write_report
from bestiary.training.augmentation_sheet import (
    DRAWS,
    GAP,
    SIDE,
    describe_augmentation,
    random_versions,
    write_augmentation_sheet,
)
from bestiary.training.task import TrainingTask

SIZE = 64
OFF = {"mirror": 0.0, "crop_min_area": 1.0, "colour_jitter": 0.0}


def make_task(settings: dict[str, Any], collection: SyntheticDataset, folder: Path) -> TrainingTask:
    """A task of two classes of six training pictures each."""
    paths = sorted(collection.kinds)[:12]
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    columns = {"path": [str(path) for path in paths], "label": ["a"] * 6 + ["b"] * 6, "sha256": keys}
    pictures = pl.DataFrame(columns | {"split": ["train"] * 12})
    recipe = Recipe.of(settings).resolve()
    return TrainingTask(recipe, pictures, ("a", "b"), Preprocessing(SIZE), folder, Context(1, cache=folder))


def cell(sheet: Path, row: int, column: int) -> np.ndarray[Any, Any]:
    """Return one picture of a sheet."""
    top, left = row * (SIDE + GAP), column * (SIDE + GAP)
    return np.asarray(Image.open(sheet)).astype(int)[top : top + SIDE, left : left + SIDE]


def similarity(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Return the correlation of two pictures."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_the_sheet_of_a_probe_shows_its_views(collection: SyntheticDataset, tmp_path: Path) -> None:
    task = make_task({"model": {"backbone": "lite0"}, "probe": {"views": "quarters"}}, collection, tmp_path)
    sheet = write_augmentation_sheet(task)
    assert sheet == tmp_path / "augmentation.jpg"
    with Image.open(sheet) as picture:
        assert picture.size == (4 * (SIDE + GAP) - GAP, 2 * (SIDE + GAP) - GAP)  # a row for each class
    for row in range(2):
        first = cell(sheet, row, 0)
        for number in range(4):
            assert similarity(cell(sheet, row, number), np.rot90(first, number)) > 0.98
    assert similarity(cell(sheet, 0, 1), cell(sheet, 0, 0)) < 0.98


def test_pictures_that_are_shown_as_they_are_need_no_sheet(collection: SyntheticDataset, tmp_path: Path) -> None:
    scratch = {"model": {"method": "scratch"}, "augment": OFF}
    cached = {"model": {"method": "finetune"}, "train": {"views": 1}}
    for settings in ({}, scratch, cached):
        assert write_augmentation_sheet(make_task(settings, collection, tmp_path)) is None
    assert not (tmp_path / "augmentation.jpg").exists()
    assert augmentation_values(tmp_path, {}) == {"augmentation_sheet": None}


def test_the_sheet_of_a_network_shows_random_versions(collection: SyntheticDataset, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    settings = {"model": {"method": "scratch"}, "augment": OFF | {"turn": "quarters"}, "picture": {"size": SIZE}}
    sheet = write_augmentation_sheet(make_task(settings, collection, tmp_path))
    assert sheet is not None
    with Image.open(sheet) as picture:
        assert picture.size[0] == (1 + DRAWS) * (SIDE + GAP) - GAP
    first = cell(sheet, 0, 0)
    for column in range(1 + DRAWS):
        assert max(similarity(cell(sheet, 0, column), np.rot90(first, number)) for number in range(4)) > 0.98


def test_the_sheet_of_cached_views_shows_those_that_were_computed(collection: SyntheticDataset, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from bestiary.training.activation_cache import AugmentedViews

    settings = {"model": {"method": "finetune", "backbone": "lite0"}, "train": {"views": 4}}
    task = make_task(settings, collection, tmp_path)
    sheet = write_augmentation_sheet(task)
    assert sheet is not None
    train = task.split("train")
    picture = task.preprocess.load_pixels(Path(str(train.paths[0])))[None]
    for column, view in enumerate(AugmentedViews(4, task.recipe.augment).iter_views(picture, train.keys[0])):
        resized = np.asarray(Image.fromarray(view[0]).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        assert similarity(cell(sheet, 0, column), resized) > 0.98


def test_random_versions_are_decided_by_the_seed() -> None:
    pytest.importorskip("torch")
    import torch

    augment = Recipe.of({"model": {"method": "scratch"}}).resolve().augment
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    state = torch.get_rng_state()
    first, again, other = (random_versions(images, augment, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal([row[0] for row in first], images)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"probe": {"views": "quarters"}}, "as it is and turned by 90, 180 and 270 degrees."),
        ({"model": {"method": "scratch"}, "augment": {"turn": "any"}}, "turned by any angle, with its reflection"),
        ({"model": {"method": "scratch"}, "augment": {"policy": "trivial"}}, "of its area or more; one random"),
        ({"model": {"method": "scratch"}, "augment": OFF | {"erasing": 0.5}}, "at random: a rectangle erased with"),
        ({"model": {"method": "finetune"}}, "the second its mirror image. The others are changed at random, once: "),
        ({"model": {"method": "finetune"}, "train": {"views": 2}}, "the second its mirror image."),
        (
            {"model": {"method": "finetune"}, "augment": {"mirror": 0.0}},
            "is the picture itself. The others are changed",
        ),
    ],
)
def test_the_report_says_what_was_done_to_the_pictures(settings: dict[str, Any], words: str) -> None:
    assert words in describe_augmentation(Recipe.of(settings).resolve())


def test_the_report_of_a_run_shows_the_sheet(probed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(probed, run)
    assert "<h3>Augmentation</h3>" not in (run / "report.html").read_text(encoding="utf-8")
    (run / "augmentation.jpg").write_bytes(b"a picture")
    lessons = read_json(run / "learning_curve.json")
    assert "augmentation" not in lessons
    write_json(run / "learning_curve.json", lessons | {"augmentation": "Each was mirrored."})
    page = write_report(run, threads=1).read_text(encoding="utf-8")
    assert "<h3>Augmentation</h3>" in page
    assert 'src="data:image/jpeg;base64,YSBwaWN0dXJl"' in page
    assert "Each was mirrored. Each row begins with the picture itself." in page


def test_a_probe_with_views_writes_its_sheet_and_tests_the_pictures_alone(
    collection: SyntheticDataset, tmp_path: Path
) -> None:
    settings = {
        "data": {"classes": ["bird", "fish"], "suspects": False},
        "picture": {"size": SIZE},
        "model": {"backbone": "lite0"},
        "probe": {"views": "mirror", "regularisation": [0.01]},
        "evaluate": {"resamples": 100, "learning_curve": "off"},
    }
    run = flow.train(collection.folder, recipe=Recipe.of(settings), out=tmp_path / "run", threads=2).path
    assert (run / "augmentation.jpg").is_file()
    assert "as it is and mirrored." in (run / "report.html").read_text(encoding="utf-8")
    split = pl.read_parquet(run / "pictures.parquet")["split"]
    predictions = pl.read_parquet(run / "predictions.parquet")["split"]
    assert [(predictions == name).sum() for name in ("val", "test")] == [
        (split == name).sum() for name in ("val", "test")
    ]

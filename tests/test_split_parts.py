"""What a source's own split is used for: judged by the names of its parts, before a picture is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bestiary import flow, table
from bestiary.context import Context
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import DataSource, load_dataset
from bestiary.data.notices import NESTED, SPLIT_FOLDERS, SourceNotice
from bestiary.data.sources import PictureEntry, PictureList
from bestiary.data.split_parts import choose_split_parts, require_trainable_parts
from bestiary.errors import SourceError
from bestiary.recipe import Recipe
from bestiary.recipe_sections import DataConfig

Parts = dict[str, int]


def listing_of(*parts: str | None) -> PictureList:
    return PictureList([PictureEntry(Path(f"{row}.png"), "cat", part) for row, part in enumerate(parts)])


def splits(listing: PictureList) -> list[str | None]:
    return [picture.split for picture in listing.pictures]


@pytest.mark.parametrize(
    ("parts", "setting", "expected", "says"),
    [
        (("train", "val"), "auto", ["train", "test"], "val is used as the test split"),
        (("train", "train"), "auto", [None, None], "train split only"),
        (("train", "val", "test"), "auto", ["train", "val", "test"], None),
        (("train", "test"), "auto", ["train", "test"], None),
        ((None, None), "auto", [None, None], None),
        (("train", "val"), "keep", ["train", "val"], None),
        (("train", "val"), "draw-test", ["train", "val"], None),
        (("train", "val", "test"), "resplit", [None, None, None], "not used"),
        ((None, None), "resplit", [None, None], None),
    ],
)
def test_the_parts_are_used_as_the_setting_says(
    parts: tuple[str | None, ...], setting: str, expected: list[str | None], says: str | None
) -> None:
    listing = choose_split_parts(listing_of(*parts), Recipe.of({"data": {"split": setting}}).data)
    assert splits(listing) == expected
    assert [notice.message for notice in listing.notices if says and says in notice.message] == [
        notice.message for notice in listing.notices
    ]
    assert len(listing.notices) == (says is not None)


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        (("test", "val"), {}, r"no train split, only test and val\. .*--split resplit"),
        (("val",), {}, "no test and no train split"),
        (("train", "val"), {"split": "keep"}, "no test split, only train and val"),
        (("train", None), {}, "1 of 2 pictures have no split"),
        (
            ("train", "val", "test"),
            {"split": "draw-test"},
            r"have a test split already, .*--split resplit",
        ),
        (("train", "test"), {"folds": 5}, "--split resplit"),
    ],
)
def test_parts_that_cannot_be_trained_on_are_refused(
    parts: tuple[str | None, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        require_trainable_parts(parts, DataConfig(**settings))


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        (
            ("train", "test"),
            {"folds": 5},
            "The pictures are split already, and cross-validation would ignore that. Remove --folds to use the given"
            " split, or add --split resplit.",
        ),
        (
            (*["train"] * 1000, None),
            {},
            "1 of 1,001 pictures have no split. Give all pictures a split, or none.",
        ),
        (
            ("train", "val", "test"),
            {"split": "draw-test"},
            "The pictures have a test split already, so --split draw-test would draw none. Leave --split out to use it;"
            " --split resplit re-splits all pictures.",
        ),
        (
            ("val",),
            {"split": "keep"},
            "The given split has no test and no train split, only val. Add one, or re-split:"
            " --split resplit re-splits all pictures.",
        ),
        (
            ("test", "val"),
            {"split": "keep"},
            "The given split has no train split, only test and val. Add one, or re-split: --split resplit re-splits all"
            " pictures.",
        ),
        (
            ("val",),
            {"split": "draw-test"},
            "The given split has no train split, only val. Add one, or re-split:"
            " --split resplit re-splits all pictures.",
        ),
    ],
)
def test_the_messages_about_parts_in_full(
    parts: tuple[str | None, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError) as refused:
        require_trainable_parts(parts, DataConfig(**settings))
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("parts", "setting", "expected", "message"),
    [
        (("train", None), "resplit", [None, None], "The given split is not used: all pictures are re-split."),
        (
            ("train",),
            "auto",
            [None],
            "The pictures have a train split only: the validation and test splits are drawn from it.",
        ),
        (
            ("val", "train"),
            "auto",
            ["test", "train"],
            "The pictures have the splits train and val, and no test split: val is used as the test split, and a"
            " validation split is drawn from train. Alternatives: --split draw-test draws the test split from train,"
            " --split resplit re-splits all pictures.",
        ),
    ],
)
def test_a_changed_split_is_a_notice_beside_those_of_the_source(
    parts: tuple[str | None, ...], setting: str, expected: list[str | None], message: str
) -> None:
    """Not one that needs attention; nothing else of a picture changes."""
    before = replace(listing_of(*parts), notices=[SourceNotice(NESTED, "Two folders are one class.")])
    listing = choose_split_parts(before, Recipe.of({"data": {"split": setting}}).data)
    assert listing.pictures == [
        replace(picture, split=split) for picture, split in zip(before.pictures, expected, strict=True)
    ]
    assert listing.notices == [*before.notices, SourceNotice(SPLIT_FOLDERS, message, is_issue=False)]
    assert splits(before) == list(parts)


@pytest.mark.parametrize("parts", [("train", None), ("val",), ("val", "test")])
def test_other_parts_stay_as_they_are_without_a_notice(parts: tuple[str | None, ...]) -> None:
    listing = listing_of(*parts)
    for setting in ("auto", "keep", "draw-test"):
        assert choose_split_parts(listing, Recipe.of({"data": {"split": setting}}).data) == listing


def test_parts_that_can_be_trained_on_pass() -> None:
    require_trainable_parts(["train", "test"], DataConfig())
    require_trainable_parts(["train", "val"], DataConfig(split="draw-test"))
    require_trainable_parts([None, None], DataConfig(folds=5))


def draw_parts(folder: Path, **parts: int) -> Path:
    """Pictures of noise, so many of each class in each part."""
    rng = np.random.default_rng(0)
    for part, count in parts.items():
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / part / label / f"{number}.png")
    return folder


def split_counts(folder: Path, cache: Path, **data: Any) -> Counter[tuple[str, str]]:
    recipe = Recipe.of({"data": {"suspects": False, **data}}).resolve()
    dataset = load_dataset(DataSource(folder), recipe, Context(threads=1, cache=cache), for_training=True)
    pictures, _ = assign_splits(dataset, recipe.data, seed=0)
    return Counter((Path(path).parts[-3], split) for path, split in pictures.select("path", "split").iter_rows())


def test_train_and_val_become_training_validation_and_test(tmp_path: Path) -> None:
    folder = draw_parts(tmp_path / "pictures", train=20, val=5)
    auto = split_counts(folder, tmp_path / "cache", val_fraction=0.2)
    assert auto == {("train", "train"): 32, ("train", "val"): 8, ("val", "test"): 10}
    drawn = split_counts(folder, tmp_path / "cache", split="draw-test", test_fraction=0.2)
    assert drawn == {("train", "train"): 32, ("train", "test"): 8, ("val", "val"): 10}
    again = split_counts(folder, tmp_path / "cache", split="resplit")
    assert {split for _, split in again} == set(table.SPLITS)
    assert sum(count for (part, _), count in again.items() if part == "val") == 10
    assert len({split for part, split in again if part == "train"}) == 3


def test_a_layout_is_refused_before_a_picture_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_parts(tmp_path / "pictures", val=12, test=12)
    monkeypatch.setattr("bestiary.data.dataset.scan_pictures", lambda *_: pytest.fail("read a picture"))
    with pytest.raises(SourceError, match="no train split"):
        flow.train(folder, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_audit_says_what_val_is_used_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))
    folder = draw_parts(tmp_path / "pictures", train=12, val=6)
    findings = flow.audit(folder, recipe={"data": {"suspects": False}}, threads=1).findings
    [message] = findings.filter(findings["check"] == "split-folders")["message"]
    assert "val is used as the test split" in message
    assert "--split draw-test" in message

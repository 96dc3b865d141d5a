"""Shortcuts: a property of the files that tells the class is found and named; chance and few pictures prove nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("sklearn")

from bestiary import table
from bestiary.data.measure import measure_file
from bestiary.data.shortcuts import MAX_PICTURES, PROPERTIES, find_shortcuts
from bestiary.data.split import stratified_group_folds
from bestiary.picture import LIMITS

LABELS = ("cat", "dog", "horse", "spider")


def measured(count: int = 600, *, seed: int = 0) -> pl.DataFrame:
    """Measurements that say nothing about the class."""
    rng = np.random.default_rng(seed)
    width, height = rng.integers(200, 400, count), rng.integers(200, 400, count)
    colours = ("red", "green", "blue", "border_red", "border_green", "border_blue", "luma", "saturation")
    return pl.DataFrame(
        {
            "path": [f"pictures/{number}.jpg" for number in range(count)],
            "label": rng.choice(LABELS, count),
            "group": np.arange(count),
            "error": pl.Series([None] * count, dtype=pl.String),
            "width": width,
            "height": height,
            "bytes": (width * height * rng.uniform(0.1, 0.3, count)).astype(np.int64),
            "format": rng.choice(["JPEG", "PNG"], count, p=[0.9, 0.1]),
            "quantisation": rng.integers(100, 2000, count),
            "subsampling": rng.integers(0, 3, count),
            **{name: rng.uniform(0, 1, count) for name in colours},
        }
    )


def changed(pictures: pl.DataFrame, label: str, **values: object) -> pl.DataFrame:
    """The same pictures, but those of one label have this in common."""
    of_label = pl.col("label") == label
    return pictures.with_columns(
        pl.when(of_label).then(pl.lit(value)).otherwise(pl.col(name)).cast(pictures.schema[name]).alias(name)
        for name, value in values.items()
    )


def test_no_shortcut_no_finding() -> None:
    found = find_shortcuts(measured())
    assert found.height == 0
    assert dict(found.schema) == table.FINDINGS


def test_a_width_that_tells_every_class_is_found_and_named() -> None:
    pictures = measured()
    place = pl.col("label").replace_strict({label: at for at, label in enumerate(LABELS)}, return_dtype=pl.Int64)
    pictures = pictures.with_columns(width=200 + 60 * place + pl.col("width") % 50)
    found = find_shortcuts(pictures)
    assert dict(found.schema) == table.FINDINGS
    assert found["check"].to_list() == ["shortcut"]  # bytes and shape follow from the width: one cause, one finding
    one = found.row(0, named=True)
    assert one["message"].startswith("The files' width alone predicts the label with ")
    assert "% mean recall (chance: 25 %)" in one["message"]
    assert one["score"] < 0.05
    assert one["is_issue"]
    assert one["row_id"] is None
    assert one["path"] is None


def test_half_a_shortcut_says_which_classes() -> None:
    pictures = changed(changed(measured(), "dog", width=640), "spider", width=320)
    message = find_shortcuts(pictures)["message"][0]
    assert "strongest for dog and spider." in message or "strongest for spider and dog." in message


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        ({"format": "PNG"}, "format"),
        ({"quantisation": 50}, "JPEG quality"),
        ({"border_red": 1.0, "border_green": 1.0, "border_blue": 1.0}, "border colour"),
        ({"luma": 0.95}, "brightness"),
        ({"path": "pictures/one.webp"}, "extension"),
    ],
)
def test_one_class_that_is_given_away_is_named(values: dict[str, object], subject: str) -> None:
    found = find_shortcuts(changed(measured(), "horse", **values))
    assert found.height == 1
    message = found["message"][0]
    assert message.startswith(f"The files' {subject} alone predicts horse: recall 100 %, false positive rate ")


def test_a_colour_may_be_the_thing_itself() -> None:
    found = find_shortcuts(changed(measured(), "horse", saturation=0.01))
    assert "If colour does not distinguish the classes" in found["message"][0]


def test_properties_that_give_away_only_together_are_found() -> None:
    pictures = measured(1200)
    bright, wide = pl.col("luma") > 0.5, pl.col("border_red") > 0.5
    label = pl.when(bright == wide).then(pl.lit("cat")).otherwise(pl.lit("dog"))
    found = find_shortcuts(pictures.with_columns(label=label))
    assert found.height == 1
    assert found["message"][0].startswith("Size, format and colours of the files together predict the label with ")


def test_duplicates_do_not_make_a_shortcut() -> None:
    """A hundred different pictures, six copies of each: who has seen the others knows the label by the width."""
    one = measured(100).with_columns(width=pl.int_range(100, 200), height=pl.lit(100), bytes=pl.lit(5000))
    copies = pl.concat([one] * 6)
    assert find_shortcuts(copies).height == 0
    assert find_shortcuts(copies.with_columns(group=pl.int_range(600))).height > 0


def test_a_few_pictures_prove_nothing() -> None:
    pictures = measured(300).filter(pl.col("label") != "spider")
    rare = measured(4, seed=1).with_columns(label=pl.lit("spider"), width=pl.lit(999, pl.Int64))
    assert find_shortcuts(pl.concat([pictures, rare])).height == 0


def test_what_cannot_be_judged_has_no_finding() -> None:
    pictures = measured(80)
    assert find_shortcuts(pictures.filter(pl.col("label") == "cat")).height == 0
    assert find_shortcuts(pictures.head(0)).height == 0
    assert find_shortcuts(pictures.head(2)).height == 0
    assert find_shortcuts(pictures.with_columns(error=pl.lit("damaged"))).height == 0


def test_a_property_that_was_not_measured_is_left_out() -> None:
    pictures = changed(measured(), "horse", format="PNG").drop("quantisation", "luma", "red", "border_blue")
    assert find_shortcuts(pictures).height == 1


def test_the_same_pictures_give_the_same_findings() -> None:
    pictures = changed(measured(), "dog", format="PNG", saturation=0.5)
    first, again = find_shortcuts(pictures, seed=4), find_shortcuts(pictures, seed=4)
    assert first.height == 2
    assert first.equals(again)


def test_of_many_pictures_a_part_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bestiary.data.shortcuts.MAX_PICTURES", 200)
    seen: list[int] = []

    def counted(labels: NDArray[np.int64], groups: NDArray[np.int64], **named: int) -> NDArray[np.int64]:
        seen.append(len(labels))
        return stratified_group_folds(labels, groups, **named)

    monkeypatch.setattr("bestiary.data.shortcuts.stratified_group_folds", counted)
    assert find_shortcuts(changed(measured(), "dog", format="PNG")).height == 1
    assert seen == [200]
    assert MAX_PICTURES >= 10_000


def test_what_shortcuts_look_at_is_measured(tmp_path: Path) -> None:
    pixels = np.full((64, 96, 3), (200, 100, 50), np.uint8)
    pixels[8:-8, 8:-8] = 0
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "fine.jpg", quality=95, subsampling=0)
    picture.save(tmp_path / "coarse.jpg", quality=30)
    picture.save(tmp_path / "lossless.png")
    fine, coarse, lossless = (
        measure_file(tmp_path / name, LIMITS) for name in ("fine.jpg", "coarse.jpg", "lossless.png")
    )
    needed = {column for one in PROPERTIES for column in one.columns}
    assert needed <= set(asdict(fine))
    assert 0 < fine.quantisation < coarse.quantisation
    assert (fine.subsampling, coarse.subsampling) == (0, 2)
    assert (lossless.quantisation, lossless.subsampling) == (0, -1)
    border = (lossless.border_red, lossless.border_green, lossless.border_blue)
    assert border == pytest.approx((200 / 255, 100 / 255, 50 / 255), abs=1e-3)
    assert lossless.red == pytest.approx(200 / 255 * (1 - 48 * 80 / (64 * 96)), abs=1e-3)


def test_size_and_bytes_of_crops_are_no_shortcut() -> None:
    pictures = changed(measured(), "horse", width=1000, bytes=10**6)
    assert find_shortcuts(pictures).height
    crops = pictures.with_columns(crop_left=pl.when(pl.col("label") == "horse").then(None).otherwise(pl.lit(0)))
    assert find_shortcuts(crops).height == 0
    assert find_shortcuts(changed(crops, "horse", quantisation=1)).height, "how a file was written still is"

"""Boxes: the region of a box, one decoding for all boxes of a picture, a run on crops, predictions of boxes."""

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from bestiary import api, preprocess, table
from bestiary import crops as crops_module
from bestiary.api_predict import predict
from bestiary.batches.decoding import decode_ahead
from bestiary.box import Box, Crop, Region, content_key, find_region, format_reference, parse_box, parse_reference
from bestiary.context import Context
from bestiary.crops import decode_file, open_for_parts
from bestiary.data import measure
from bestiary.data.dataset import DataSource, audit_sources, load_dataset
from bestiary.data.measure import measure_boxes, measure_file
from bestiary.decode_rules import RULES
from bestiary.errors import SourceError
from bestiary.evaluation.external import evaluate_external
from bestiary.export.verify import export
from bestiary.flow import train
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.orientation import TRANSPOSITIONS
from bestiary.picture import LIMITS
from bestiary.preprocess import Preprocessing, VerifiedFile
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe
from bestiary.study.study import StudyOptions
from bestiary.study.study import study as run_study
from boxed_pictures import KINDS, write_coco
from commands import Call

SETTINGS: dict[str, Any] = {
    "data": {"crop": "boxes"},
    "picture": {"size": 64},
    "model": {"backbone": "lite0"},
    "probe": {"regularisation": [0.01, 0.1]},
    "evaluate": {"resamples": 200},
}
SCENES = 40


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The COCO file of scenes with three boxes each."""
    return write_coco(tmp_path_factory.mktemp("scenes"), SCENES)


@pytest.fixture(scope="module")
def cropped_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(scenes, recipe=SETTINGS, out=tmp_path_factory.mktemp("runs") / "cropped", threads=2).path


# ---- The region of a box ---------------------------------------------------------------------------------------------


def test_a_region_is_the_box_with_a_tenth_of_its_longer_side_around_it() -> None:
    assert find_region(Box(100, 200, 300, 100, "pixels"), 4000, 3000) == Region(70, 170, 360, 160)
    assert find_region(Box(0.25, 0.5, 0.5, 0.25), 400, 400) == Region(80, 180, 240, 140)


def test_a_region_ends_with_the_picture() -> None:
    assert find_region(Box(0, 0, 100, 100, "pixels"), 105, 400) == Region(0, 0, 105, 110)
    assert find_region(Box(-0.01, 0.5, 0.5, 0.51), 100, 100) == Region(0, 44, 55, 56)


def test_a_region_has_32_pixels_where_the_picture_has_them() -> None:
    assert find_region(Box(500, 500, 4, 4, "pixels"), 1000, 1000) == Region(486, 486, 32, 32)
    assert find_region(Box(998, 0, 2, 2, "pixels"), 1000, 1000) == Region(968, 0, 32, 32)
    assert find_region(Box(5, 5, 2, 2, "pixels"), 20, 10) == Region(0, 0, 20, 10)


def test_a_box_has_one_region_in_pixels_and_in_fractions() -> None:
    for left, width in ((57, 290), (331, 40), (113, 70), (7, 1990)):
        in_pixels = find_region(Box(left, left, width, width, "pixels"), 4032, 3024)
        fractions = Box(left / 4032, left / 3024, width / 4032, width / 3024)
        assert find_region(fractions, 4032, 3024) == in_pixels


STORED = Box(500, 60, 200, 100, "pixels", (800, 600))  # of a picture that is stored with 800 x 600 pixels


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, Box(500, 60, 200, 100, "pixels")),
        (5, Box(60, 500, 100, 200, "pixels")),
        (6, Box(440, 500, 100, 200, "pixels")),
        (7, Box(440, 100, 100, 200, "pixels")),
        (8, Box(60, 100, 100, 200, "pixels")),
    ],
)
def test_a_box_of_the_stored_picture_is_turned_with_it(orientation: int, upright: Box) -> None:
    size = (600, 800) if orientation >= 5 else (800, 600)
    assert find_region(STORED, *size, orientation) == find_region(upright, *size)
    picture = Image.new("RGB", (800, 600))
    picture.paste((255, 255, 255), (500, 60, 700, 160))
    if orientation in TRANSPOSITIONS:
        picture = picture.transpose(TRANSPOSITIONS[orientation])
    left, top, right, bottom = picture.convert("L").getbbox() or (0, 0, 0, 0)
    assert (left, top, right - left, bottom - top) == (upright.left, upright.top, upright.width, upright.height)


def test_a_box_of_a_larger_original_is_scaled_to_its_copy() -> None:
    assert find_region(STORED, 400, 300) == find_region(Box(250, 30, 100, 50, "pixels"), 400, 300)
    assert find_region(STORED, 267, 200) == Region(160, 13, 81, 48)
    assert find_region(STORED, 300, 400, 6) == find_region(Box(220, 250, 50, 100, "pixels"), 300, 400)
    assert parse_box(str(STORED)) == STORED


@pytest.mark.parametrize(("size", "orientation"), [((800, 560), 1), ((600, 800), 1), ((560, 800), 6)])
def test_a_box_of_a_picture_of_another_shape_is_refused(size: tuple[int, int], orientation: int) -> None:
    with pytest.raises(
        ValueError, match=r"^is of a picture of 800 x 600 pixels, and the file has .* it is no copy of it"
    ):
        find_region(STORED, *size, orientation)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (Box(1200, 10, 50, 50, "pixels"), "lies outside the picture of 1,000 x 800 pixels"),
        (Box(-60, 10, 50, 50, "pixels"), "lies outside the picture of 1,000 x 800 pixels"),
        (Box(900, 10, 200, 50, "pixels"), "reaches beyond the picture of 1,000 x 800 pixels"),
        (Box(0.5, 0.5, 0.6, 0.2), "reaches beyond the picture of 1,000 x 800 pixels"),
        (Box(10, 10, 0, 50, "pixels"), "has no area"),
        (Box(0.1, 0.1, 0.2, -0.1), "has no area"),
        (Box(math.nan, 0.1, 0.2, 0.1), "is not four numbers"),
        (Box(0.1, 0.1, math.inf, 0.1), "is not four numbers"),
        (Box(100, 100, 200, 200), "is in pixels, where fractions of the width and height are expected"),
        (Box(0.1, 0.1, 0.2, 0.2, "pixels"), "is in fractions of the width and height, where pixels are expected"),
    ],
)
def test_a_box_that_is_not_in_its_picture_is_refused_with_the_reason(box: Box, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        find_region(box, 1000, 800)


def test_texts_of_boxes_and_references_are_read_back() -> None:
    box, crop = Box(0.1, 1 / 3, 0.25, 1e-3), Crop(Path("a#xywh=1.jpg"), Region(1, 2, 30, 40))
    assert parse_box(str(box)) == box
    assert crop.part == Region(1, 2, 30, 40)
    assert parse_reference(format_reference("a#xywh=1.jpg", Region(1, 2, 30, 40))) == crop
    assert parse_reference("plain.jpg") == Path("plain.jpg")


def test_a_file_named_like_a_reference_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg#xywh=1,2,3,4"
    path.touch()
    assert parse_reference(str(path)) == path


# ---- Decoding --------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A JPEG of 2400 x 1600 pixels, its left half striped, stored on its side with an EXIF orientation."""
    upright = Image.new("RGB", (2400, 1600), (40, 90, 160))
    stripes = np.zeros((1600, 1200, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    upright.paste(Image.fromarray(stripes), (0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "large.jpg", quality=95, exif=exif)
    return tmp_path / "large.jpg"


def test_a_crop_is_of_the_upright_picture(large: Path) -> None:
    pixels = np.asarray(decode_file(Crop(large, Region(1500, 100, 400, 300)), 64))
    assert np.abs(pixels.astype(int) - (40, 90, 160)).max() < 8
    assert np.asarray(decode_file(Crop(large, Region(100, 100, 400, 300)), 400)).std() > 60


def test_a_small_box_is_decoded_at_full_scale_and_a_large_one_is_not(large: Path) -> None:
    def width(*parts: Region | None) -> int:
        return open_for_parts(large, parts, lambda *size: min(128, *size), LIMITS, RULES).image.width

    small, half = Region(10, 10, 130, 140), Region(0, 0, 1200, 1600)
    assert width(None) == 300
    assert width(half) == 300
    assert width(Region(0, 0, 300, 600)) == 1200
    assert width(half, small) == 2400, "the smallest part decides"


def test_the_boxes_of_a_file_are_cut_from_one_decoding(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def noting(source: Any, parts: Any, *rest: Any) -> Any:
        opened.append(len(parts))
        return open_for_parts(source, parts, *rest)

    monkeypatch.setattr(crops_module, "open_for_parts", noting)
    crops = [Crop(large, Region(300 * number, 0, 300, 300)) for number in range(3)]
    sources: list[preprocess.Source] = [*crops, large, *crops[:2], large.read_bytes()]
    images = list(decode_ahead(sources, Preprocessing(32), threads=2, ahead=2))
    assert opened == [3, 2]
    assert [image.position for image in images] == list(range(7))
    assert all(image.error is None for image in images)
    alone = Preprocessing(32).load_pixels(crops[2])
    assert images[2].pixels is not None
    assert np.array_equal(images[2].pixels, alone)


def test_what_a_model_sees_of_a_box_depends_on_no_other_box(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small box needs the full scale, a large one of the same picture does not."""
    preprocessing = Preprocessing(160)
    parts: list[Box | Region] = [
        Box(0, 0, 1, 1),
        Region(0, 0, 40, 40),
        Region(0, 0, 2400, 1600),
        Box(0.1, 0.1, 0.2, 0.2),
    ]
    monkeypatch.setattr(preprocess, "reduced_side", lambda *size: min(400, *size))
    alone = [preprocessing.load_pixels(Crop(large, part)) for part in parts]
    together = list(decode_ahead([Crop(large, part) for part in parts], preprocessing, threads=1))
    for own, image in zip(alone, together, strict=True):
        assert image.pixels is not None
        assert np.array_equal(own, image.pixels)
    full = decode_file(Crop(large, Region(0, 0, 2400, 1600)), 1600).resize((160, 160), Image.Resampling.BICUBIC)
    assert not np.array_equal(np.asarray(full), alone[0]), "the large box is reduced"
    assert np.array_equal(alone[0], alone[2])


def test_a_box_that_is_not_in_its_picture_fails_alone(large: Path) -> None:
    crops = [Crop(large, Box(0.1, 0.1, 0.2, 0.2)), Crop(large, Box(0.1, 0.1, 0, 0.2))]
    first, second = decode_ahead(crops, Preprocessing(32), threads=1)
    assert first.pixels is not None
    assert str(second.error) == f"The box 0.1,0.1,0,0.2,fraction of {large} has no area."


def test_an_unreadable_file_fails_all_its_boxes(tmp_path: Path) -> None:
    path = tmp_path / "not.jpg"
    path.write_text("text")
    crops = [Crop(path, Box(0, 0, 0.5, 0.5)), Crop(path, Box(0.5, 0, 0.5, 0.5))]
    errors = [image.error for image in decode_ahead(crops, Preprocessing(32), threads=1)]
    assert [str(error).startswith(f"{path} is not a picture") for error in errors] == [True, True]


def test_a_verified_crop_must_not_change(large: Path) -> None:
    region = Region(0, 0, 300, 300)
    [measured] = measure_boxes(large, [str(Box(30, 30, 240, 240, "pixels"))], LIMITS)
    crop = Region(*(getattr(measured, f"crop_{name}") for name in ("left", "top", "width", "height")))
    verified = VerifiedFile.of(Crop(large, crop), measured.sha256)
    assert Preprocessing(32).load_pixels(verified).shape == (32, 32, 3)
    with pytest.raises(SourceError, match="was changed after it was measured"):
        Preprocessing(32).load_pixels(VerifiedFile.of(Crop(large, region), "0" * 64))


# ---- Measuring and the table -----------------------------------------------------------------------------------------


def test_measurements_are_those_of_the_region(large: Path) -> None:
    boxes = [str(Box(1500, 300, 200, 100, "pixels")), str(Box(100, 300, 200, 100, "pixels")), str(Box(9, 9, 1, 1))]
    plain, striped, outside = measure_boxes(large, boxes, LIMITS)
    whole = measure_file(large, LIMITS)
    assert (plain.width, plain.height) == (240, 140)
    assert plain.contrast < 0.05 < 0.5 < striped.contrast
    assert plain.file_sha256 == striped.file_sha256 == whole.sha256 == whole.file_sha256
    assert len({plain.sha256, striped.sha256, whole.sha256}) == 3
    assert plain.sha256 == content_key(whole.sha256, Region(1480, 280, 240, 140))
    assert (outside.check, whole.crop_left) == ("box", None)
    assert str(outside.error).endswith("is in pixels, where fractions of the width and height are expected.")


def test_each_file_is_measured_once_for_all_its_boxes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def noting(source: Any, parts: Any, *rest: Any) -> Any:
        opened.append(len(parts))
        return open_for_parts(source, parts, *rest)

    monkeypatch.setattr(measure, "open_for_parts", noting)
    recipe, context = Recipe.of(SETTINGS).resolve(), Context(threads=1, cache=tmp_path)
    dataset = load_dataset(DataSource(scenes), recipe, context)
    assert opened == [3] * SCENES
    again = load_dataset(DataSource(scenes), recipe, context)
    assert len(opened) == SCENES, "measurements of boxes are cached"
    assert again.pictures.equals(dataset.pictures)


def test_rows_keep_their_picture_and_those_of_one_picture_their_group(scenes: Path, cropped_run: Path) -> None:
    pictures = table.read(cropped_run / "pictures.parquet", table.PICTURES | table.CROPS)
    assert pictures.height == 3 * SCENES
    assert pictures["path"].n_unique() == pictures["file_sha256"].n_unique() == SCENES
    assert pictures["sha256"].n_unique() == 3 * SCENES
    by_file = pictures.group_by("path").agg(pl.col("group", "split").n_unique(), pl.col("duplicate_group").n_unique())
    assert by_file.select(pl.col("group", "split").max()).row(0) == (1, 1)
    assert by_file["duplicate_group"].min() == 3, "boxes of a picture are no duplicates of each other"
    assert str(scenes.parent / "scene-000.jpg") in set(pictures["path"])


def test_duplicates_are_looked_for_among_crops(tmp_path: Path) -> None:
    """A crop that occurs in two pictures joins them; the pictures themselves are no duplicates."""
    coco = json.loads(write_coco(tmp_path, 12).read_text())
    boxes = [annotation["bbox"] for annotation in coco["annotations"]]
    first, second = (Image.open(tmp_path / f"scene-{number:03d}.jpg") for number in (0, 3))
    left, top, width, height = boxes[0]
    copied = first.crop((left, top, left + width, top + height))
    second.paste(copied.resize(boxes[9][2:]), tuple(boxes[9][:2]))
    second.save(tmp_path / "scene-003.jpg", quality=95)
    data = Recipe.of({"data": {"crop": "boxes", "min_per_class": 3, "suspects": False}}).data
    dataset = audit_sources([tmp_path / "annotations.json"], None, data, LIMITS, Context(threads=1))
    names = dataset.pictures.with_columns(name=pl.col("path").str.slice(-7, 3))
    groups = {name: set(rows["group"]) for (name,), rows in names.group_by("name")}
    assert groups["000"] == groups["003"]
    assert len({frozenset(group) for group in groups.values()}) == 11
    found = dataset.findings.filter(pl.col("check") == "near-duplicate")["message"].to_list()
    assert len(found) == 1
    assert "scene-000.jpg#xywh=" in found[0] or "scene-003.jpg#xywh=" in found[0]


def test_boxes_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path) -> None:
    path = write_coco(tmp_path, 12)
    coco = json.loads(path.read_text())
    for image in coco["images"]:
        del image["width"], image["height"]
    coco["annotations"][0]["bbox"] = [10, 10, 0, 20]
    coco["annotations"][1]["bbox"] = [9000, 10, 50, 50]
    coco["annotations"][2]["bbox"] = [10, 10, 5000, 20]
    coco["annotations"][3]["bbox"] = [1, 2, 3]
    path.write_text(json.dumps(coco))
    data = Recipe.of({"data": {"crop": "boxes", "min_per_class": 3, "suspects": False}}).data
    dataset = audit_sources([path], None, data, LIMITS, Context(threads=1))
    failed = dataset.pictures.filter(pl.col("error").is_not_null())
    assert failed.height == 2
    assert set(failed["path"].str.slice(-13)) == {"scene-000.jpg"}
    assert any("lies outside the picture of 696 x 248 pixels" in error for error in failed["error"])
    assert any("reaches beyond the picture of 696 x 248 pixels" in error for error in failed["error"])
    assert dataset.findings.filter(pl.col("check") == "box").height == 2
    assert dataset.passed_over["box without area"] == 1
    assert dataset.passed_over["box is not four numbers"] == 1


def test_pictures_without_boxes_are_refused(collection: Any) -> None:
    data = Recipe.of({"data": {"crop": "boxes"}}).data
    with pytest.raises(SourceError, match="--crop boxes looks at boxes, and the pictures have none"):
        audit_sources([collection.folder], None, data, LIMITS, Context(threads=1))


def test_a_table_has_boxes_in_named_columns(tmp_path: Path, scenes: Path) -> None:
    from bestiary.data.formats.read_options import make_read_options

    coco = json.loads(scenes.read_text())
    with (tmp_path / "boxes.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["file", "species", "x", "y", "w", "h"])
        for annotation in coco["annotations"]:
            name = coco["images"][annotation["image_id"]]["file_name"]
            rows.writerow([name, KINDS[annotation["category_id"]], *annotation["bbox"]])
    reading = make_read_options(None, "path=file,label=species,box=x+y+w+h", scenes.parent)
    source = DataSource(tmp_path / "boxes.csv", reading=reading)
    recipe, context = Recipe.of(SETTINGS).resolve(), Context(threads=1)
    from_table = load_dataset(source, recipe, context).pictures
    from_coco = load_dataset(DataSource(scenes), recipe, context).pictures
    assert from_table.select("label", *table.CROPS).equals(from_coco.select("label", *table.CROPS))


# ---- A run on crops --------------------------------------------------------------------------------------------------


def test_a_run_on_crops_tells_apart_what_is_in_one_picture(cropped_run: Path) -> None:
    metrics = json.loads((cropped_run / "metrics.json").read_text())
    assert metrics["n"] % 3 == 0
    assert metrics["accuracy"]["value"] > 0.5, "of three kinds that occur in every picture"
    assert read_bundle(cropped_run).crop == "boxes"
    assert "not on whole pictures" in (cropped_run / "README.md").read_text()
    assert "#xywh=" in (cropped_run / "report.html").read_text()


def test_a_bundle_of_whole_pictures_has_no_field_that_older_versions_refuse(probed: Path) -> None:
    assert "crop" not in json.loads((probed / "bundle.json").read_text())
    assert read_bundle(probed).crop == "none"


def test_predictions_of_boxes_are_those_of_the_test(cropped_run: Path) -> None:
    pictures = table.read(cropped_run / "pictures.parquet", table.PICTURES | table.CROPS)
    tested = table.read(cropped_run / "predictions.parquet", table.PREDICTIONS).filter(pl.col("split") == "test")
    rows = tested.join(pictures.select("row_id", *table.CROPS), on="row_id", how="left", maintain_order="left")
    predicted = list(Predictor(cropped_run, threads=1).predict_many(table.list_files(rows)))
    assert [prediction.label for prediction in predicted] == tested["predicted"].to_list()
    assert np.allclose([prediction.probability for prediction in predicted], tested["probability"], atol=1e-4)


def test_an_export_keeps_that_it_looks_at_boxes(cropped_run: Path, tmp_path: Path) -> None:
    target, _ = export(
        cropped_run, "onnx", out=tmp_path / "exported", force=False, threads=1, reporter=SilentReporter()
    )
    assert read_bundle(target).crop == "boxes"


def test_other_boxes_of_a_training_picture_are_copies(cropped_run: Path, scenes: Path, tmp_path: Path) -> None:
    coco = json.loads(scenes.read_text())
    for annotation in coco["annotations"]:
        left, top, width, height = annotation["bbox"]
        annotation["bbox"] = [left + width // 2, top + height // 2, width // 2, height // 2]
    other = scenes.with_name("halves.json")
    other.write_text(json.dumps(coco))
    splits = table.read(cropped_run / "pictures.parquet", table.PICTURES)["split"].value_counts()
    counts = dict(splits.iter_rows())
    metrics = evaluate_external(cropped_run, DataSource(other), Context.create(1), name="halves").metrics
    assert metrics["copies"] == {"train": counts["train"], "val": counts["val"], "test": counts["test"]}
    assert metrics["pictures"] == counts["test"]


# ---- The commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def detections(scenes: Path, tmp_path: Path) -> Path:
    """MegaDetector results of three scenes: two boxes, one box outside its picture, and none."""
    images = [
        {"file": "scene-000.jpg", "detections": [detection(0.03, 0.1, 0.29, 0.8), detection(0.36, 0.2, 0.28, 0.5)]},
        {"file": "scene-001.jpg", "detections": [detection(0.03, 0.1, 0.29, 0.8)]},
        {"file": "scene-002.jpg", "detections": []},
    ]
    results = {
        "info": {"format_version": "1.6", "detector": "md_v5a"},
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
        "images": images,
    }
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(results))
    return path


def detection(*box: float) -> dict[str, Any]:
    return {"category": "1", "conf": 0.9, "bbox": list(box)}


def test_predict_answers_for_each_box(bestiary: Call, cropped_run: Path, detections: Path, scenes: Path) -> None:
    code, out, err = bestiary("predict", cropped_run, detections, "--pictures", scenes.parent, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [Path(row["path"]).name for row in rows] == [f"scene-00{number}.jpg" for number in (0, 0, 1, 2)]
    assert [row["box_left"] for row in rows] == ["0.03", "0.36", "0.03", ""]
    assert [row["box_unit"] for row in rows] == ["fraction"] * 3 + [""]
    assert "1 picture has no box: it is looked at as a whole." in err
    first = Predictor(cropped_run, threads=1).predict(Crop(Path(rows[0]["path"]), Box(0.03, 0.1, 0.29, 0.8)))
    assert (first.label, first.box) == (rows[0]["label"], Box(0.03, 0.1, 0.29, 0.8))
    assert float(rows[0]["probability"]) == pytest.approx(first.probability, abs=1e-4)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_boxes_are_columns_of_every_file(
    bestiary: Call, cropped_run: Path, detections: Path, scenes: Path, tmp_path: Path, form: str
) -> None:
    out = tmp_path / f"predictions.{form}"
    code, _, _ = bestiary("predict", cropped_run, detections, "--pictures", scenes.parent, "--out", out)
    rows = pl.read_parquet(out) if form == "parquet" else pl.read_ndjson(out)
    assert code == 0
    assert rows["box_left"].to_list() == [0.03, 0.36, 0.03, None]
    assert rows["box_unit"].to_list() == ["fraction", "fraction", "fraction", None]


def test_predictions_of_boxes_are_resumed(
    bestiary: Call, cropped_run: Path, detections: Path, scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    arguments = ("predict", cropped_run, detections, "--pictures", scenes.parent, "--out", out)
    assert bestiary(*arguments)[0] == 0
    whole = out.read_text()
    out.write_text("\n".join(whole.splitlines()[:2]) + "\n")  # killed after the first of two boxes
    assert bestiary(*arguments, "--resume")[0] == 0
    assert out.read_text() == whole
    detections.write_text(detections.read_text().replace("0.36", "0.35"))
    code, _, err = bestiary(*arguments, "--resume")
    assert code == 2
    assert "boxes of the pictures" in err


def test_resuming_with_other_columns_of_boxes_is_refused(
    bestiary: Call, cropped_run: Path, scenes: Path, tmp_path: Path
) -> None:
    """The file is the same, and what is read from it is not."""
    (tmp_path / "boxes.csv").write_text("path,label,x,y,w,h,v\nscene-000.jpg,a,24,24,90,90,200\n")
    arguments = ("--pictures", scenes.parent, "--out", tmp_path / "out.csv")
    command = ("predict", cropped_run, tmp_path / "boxes.csv")
    assert bestiary(*command, "--columns", "box=x+y+w+h", *arguments)[0] == 0
    assert bestiary(*command, "--columns", "box=x+y+w+h", *arguments, "--resume")[0] == 0
    code, _, err = bestiary(*command, "--columns", "box=x+y+v+h", *arguments, "--resume")
    assert code == 2
    assert "boxes of the pictures" in err


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_events_count_the_boxes_of_an_earlier_command(
    bestiary: Call, cropped_run: Path, detections: Path, scenes: Path, tmp_path: Path, form: str
) -> None:
    out, events = tmp_path / f"predictions.{form}", tmp_path / "events.csv"
    arguments = ("predict", cropped_run, detections, "--pictures", scenes.parent, "--group", "folder", "--out", out)
    assert bestiary(*arguments)[0] == 0
    whole = out.read_text()
    out.write_text("".join(whole.splitlines(keepends=True)[:3]))
    code, _, err = bestiary(*arguments, "--resume", "--events", events)
    assert code == 0, err
    assert out.read_text() == whole
    [event] = csv.DictReader(io.StringIO(events.read_text()))
    assert event["pictures"] == "4", "each box counts"


def test_megadetector_results_keep_their_boxes(
    bestiary: Call, cropped_run: Path, detections: Path, scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "classified.json"
    arguments = ("--pictures", scenes.parent, "--format", "megadetector", "--out", out)
    assert bestiary("predict", cropped_run, detections, *arguments)[0] == 0
    images = json.loads(out.read_text())["images"]
    assert [image["file"] for image in images] == ["scene-000.jpg", "scene-001.jpg", "scene-002.jpg"]
    boxes = [detection["bbox"] for detection in images[0]["detections"]]
    assert boxes == [[0.03, 0.1, 0.29, 0.8], [0.36, 0.2, 0.28, 0.5]]
    assert images[2]["detections"][0]["bbox"] == [0.0, 0.0, 1.0, 1.0]


def test_megadetector_results_keep_the_confidence_of_the_detector(
    bestiary: Call, cropped_run: Path, detections: Path, scenes: Path, tmp_path: Path
) -> None:
    results = json.loads(detections.read_text())
    results["info"]["detector_metadata"] = {"typical_detection_threshold": 0.15}
    for number, found in enumerate(results["images"][0]["detections"]):
        found["conf"] = (0.31, 0.62)[number]
    detections.write_text(json.dumps(results))
    arguments = ("predict", cropped_run, detections, "--pictures", scenes.parent)
    out = tmp_path / "classified.json"
    assert bestiary(*arguments, "--format", "megadetector", "--out", out)[0] == 0
    written = json.loads(out.read_text())
    found = written["images"][0]["detections"]
    assert [one["conf"] for one in found] == [0.31, 0.62], "one detection a box, with the confidence of its detector"
    assert written["info"]["detector"] == results["info"]["detector"]
    assert written["info"]["detector_metadata"] == {"typical_detection_threshold": 0.15}
    code, text, _ = bestiary(*arguments, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 0
    assert [row["box_confidence"] for row in rows] == ["0.31", "0.62", "0.9", ""]
    classes = written["classification_categories"]
    for one, row in zip(found, rows, strict=False):
        named = {classes[key]: value for key, value in one.get("classifications", [])}
        wanted = {name: float(row[f"p_{name}"]) for name in classes.values()} if row["unknown"] == "False" else {}
        assert named == pytest.approx(wanted, abs=1e-5)


# ---- A table of boxes ------------------------------------------------------------------------------------------------


@pytest.fixture
def box_table(tmp_path: Path) -> Path:
    """Boxes in a table with decimal commas: two of one picture, not one after the other, and one outside of it."""
    path = tmp_path / "boxes.csv"
    path.write_text(
        "Bild;x;y;w;h;Notiz\nscene-000.jpg;0,03;0,1;0,29;0,8;=1\nscene-001.jpg;;;;;whole\n"
        "scene-000.jpg;0,36;0,2;0,28;0,5;\nscene-002.jpg;0,9;0,2;0,5;0,5;beyond\nscene-002.jpg;0,9;breit;0,5;0,5;\n"
    )
    return path


COLUMNS = ("--columns", "path=Bild,box=x+y+w+h")


def test_predict_answers_for_each_box_of_a_table_and_keeps_its_columns(
    bestiary: Call, cropped_run: Path, box_table: Path, scenes: Path, tmp_path: Path
) -> None:
    arguments = ("predict", cropped_run, scenes.parent, "--table", box_table, *COLUMNS)
    code, _, err = bestiary(*arguments, "--out", out := tmp_path / "out.csv")
    assert code == 0, err
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter=";"))
    assert [row["Notiz"] for row in rows] == ["=1", "whole", "", "beyond", ""]
    boxes = [
        Crop(scenes.parent / "scene-000.jpg", Box(*box)) for box in ((0.03, 0.1, 0.29, 0.8), (0.36, 0.2, 0.28, 0.5))
    ]
    wanted = [prediction.probability for prediction in Predictor(cropped_run, threads=1).predict_many(boxes)]
    assert [float(rows[row]["predicted_probability"]) for row in (0, 2)] == pytest.approx(wanted, abs=1e-4)
    assert "reaches beyond the picture" in rows[3]["predicted_error"]
    assert "is not four numbers" in rows[4]["predicted_error"]
    results = tmp_path / "out.json"
    assert bestiary(*arguments, "--format", "megadetector", "--out", results)[0] == 0
    images = json.loads(results.read_text())["images"]
    assert [image["file"] for image in images] == ["scene-000.jpg", "scene-001.jpg", "scene-002.jpg"]
    assert {tuple(one["bbox"]) for one in images[0]["detections"]} == {(0.03, 0.1, 0.29, 0.8), (0.36, 0.2, 0.28, 0.5)}
    assert "failure" in images[2]


def test_other_columns_are_other_boxes_for_resume(
    bestiary: Call, cropped_run: Path, box_table: Path, scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ("predict", cropped_run, scenes.parent, "--table", box_table, "--out", out)
    assert bestiary(*arguments, *COLUMNS)[0] == 0
    whole = out.read_text()
    assert all(json.loads(line, parse_constant=pytest.fail) for line in whole.splitlines()), "no NaN, which is no JSON"
    out.write_text("".join(whole.splitlines(keepends=True)[:1]))
    code, _, err = bestiary(*arguments, "--columns", "path=Bild,corners=x+y+w+h", "--resume")
    assert code == 2
    assert "with other" in err
    assert bestiary(*arguments, *COLUMNS, "--resume")[0] == 0
    assert out.read_text() == whole


def test_boxes_of_a_table_that_cannot_be_used_are_refused(
    bestiary: Call, cropped_run: Path, probed: Path, box_table: Path, scenes: Path
) -> None:
    table = ("--table", box_table)
    for run, arguments, message in (
        (probed, (*table, *COLUMNS), "this model was trained on whole pictures"),
        (cropped_run, (*table, "--columns", "path=Bild,box=Bild+x+y+w"), "no box of four numbers"),
        (cropped_run, (*table, "--columns", "path=Bild,box=x+y+w+breite"), 'no column "breite"'),
        (cropped_run, (*table, "--columns", "path=Bild,group=Notiz"), "Events by a column are --group COLUMN"),
        (cropped_run, (*table, *COLUMNS, "--pictures", scenes.parent), "Leave out --pictures"),
    ):
        code, out, err = bestiary("predict", run, scenes.parent, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err


def test_label_studio_gets_rectangles_in_per_cent_of_boxes_in_pixels(
    bestiary: Call, cropped_run: Path, scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tasks.json"
    arguments = ("--format", "label-studio", "--unknown-label", "unknown", "--out", out)
    assert bestiary("predict", cropped_run, scenes, *arguments)[0] == 0
    task = json.loads(out.read_text())[0]
    left, top, width, height = json.loads(scenes.read_text())["annotations"][0]["bbox"]
    result = task["predictions"][0]["result"][0]
    assert task["data"]["file"] == "scene-000.jpg"
    assert result["type"] == "rectanglelabels"
    expected = (100 * left / 696, 100 * top / 248, 100 * width / 696, 100 * height / 248)
    assert [result["value"][name] for name in ("x", "y", "width", "height")] == pytest.approx(expected, abs=1e-3)


def test_boxes_of_original_pictures_lie_on_their_copies(
    bestiary: Call, cropped_run: Path, scenes: Path, tmp_path: Path
) -> None:
    """The COCO file names the size of the originals; one copy is smaller, one is stored turned."""
    coco, folder = json.loads(scenes.read_text()), tmp_path / "copies"
    folder.mkdir()
    first, second = (Image.open(scenes.parent / f"scene-00{number}.jpg") for number in (0, 1))
    first.resize((348, 124)).save(folder / "scene-000.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    second.save(folder / "scene-001.jpg", quality=95, exif=exif)
    coco["images"], boxes = coco["images"][:2], [annotation["bbox"] for annotation in coco["annotations"][:6]]
    coco["annotations"] = coco["annotations"][:6]
    (folder / "annotations.json").write_text(json.dumps(coco))
    out = tmp_path / "classified.json"
    code, _, err = bestiary(
        "predict", cropped_run, folder / "annotations.json", "--format", "megadetector", "--out", out
    )
    assert code == 0, err
    images = json.loads(out.read_text())["images"]
    written = [[detection["bbox"] for detection in image["detections"]] for image in images]
    upright = [[x / 696, y / 248, w / 696, h / 248] for x, y, w, h in boxes[:3]]
    turned = [[(248 - y - h) / 248, x / 696, h / 248, w / 696] for x, y, w, h in boxes[3:]]
    for actual, expected in zip(written, (upright, turned), strict=True):
        assert np.allclose(actual, expected, atol=1e-5)


def test_a_model_of_whole_pictures_takes_the_pictures_of_a_package(
    bestiary: Call, probed: Path, scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "package" / "media").mkdir(parents=True)
    (tmp_path / "package" / "datapackage.json").write_text("{}")
    (tmp_path / "package" / "media" / "a.jpg").write_bytes((scenes.parent / "scene-000.jpg").read_bytes())
    code, out, err = bestiary("predict", probed, tmp_path / "package", "--format", "csv")
    assert code == 0, err
    assert [Path(row["path"]).name for row in csv.DictReader(io.StringIO(out))] == ["a.jpg"]


def test_the_folder_of_an_export_of_roboflow_has_boxes(
    bestiary: Call, cropped_run: Path, probed: Path, scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "export").mkdir()
    for part in ("train", "valid"):
        shutil.copytree(scenes.parent, tmp_path / "export" / part)
        (tmp_path / "export" / part / scenes.name).rename(tmp_path / "export" / part / "_annotations.coco.json")
    code, out, err = bestiary("predict", cropped_run, tmp_path / "export", "--format", "csv")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 2 * 3 * SCENES
    assert all(row["box_unit"] == "pixels" for row in rows)
    code, out, err = bestiary("predict", probed, tmp_path / "export", "--format", "csv")
    assert code == 0, err
    assert len(list(csv.DictReader(io.StringIO(out)))) == 2 * SCENES
    code, _, err = bestiary("predict", probed, tmp_path / "export", "--pictures", tmp_path)
    assert code == 2
    assert "--columns and --pictures are for a file of boxes" in err


@pytest.mark.parametrize("form", ["timelapse", "huggingface"])
def test_formats_of_one_row_a_picture_refuse_boxes(
    bestiary: Call, cropped_run: Path, scenes: Path, tmp_path: Path, form: str
) -> None:
    code, _, err = bestiary("predict", cropped_run, scenes, "--format", form, "--out", tmp_path / "metadata.csv")
    assert code == 2
    assert "has one row a picture, and the predictions are of boxes" in err


def test_plain_pictures_are_answered_with_a_warning(bestiary: Call, cropped_run: Path, scenes: Path) -> None:
    code, out, err = bestiary("predict", cropped_run, scenes.parent / "scene-000.jpg", "--format", "csv")
    assert code == 0
    assert "box_left" not in out
    assert "This model was trained on boxes, and looks at whole pictures here" in err


def test_a_model_of_whole_pictures_refuses_boxes(bestiary: Call, probed: Path, scenes: Path) -> None:
    code, _, err = bestiary("predict", probed, scenes)
    assert code == 2
    assert "this model was trained on whole pictures" in err


def test_boxes_in_pixels_where_fractions_are_expected_are_explained(
    bestiary: Call, cropped_run: Path, detections: Path, scenes: Path
) -> None:
    results = json.loads(detections.read_text())
    results["images"] = [{"file": "scene-000.jpg", "detections": [detection(30, 20, 200, 150)]}]
    detections.write_text(json.dumps(results))
    code, _, err = bestiary("predict", cropped_run, detections, "--pictures", scenes.parent)
    assert code == 2
    assert "the boxes are in pixels" in err


def test_train_crop_boxes_is_an_option(bestiary: Call, scenes: Path, tmp_path: Path) -> None:
    options = ("--set", "picture.size=64", "--set", "data.suspects=false", "--set", "evaluate.resamples=100")
    more = ("--set", "probe.regularisation=0.1", "--set", "evaluate.learning_curve=off")
    run = tmp_path / "run"
    code, _, err = bestiary("train", scenes, "--crop", "boxes", "--backbone", "lite0", *options, *more, "--out", run)
    assert code == 0, err
    assert f"{3 * SCENES} boxes of {SCENES} pictures are looked at" in err
    assert 'crop = "boxes"' in (run / "resolved.toml").read_text()


# ---- Whole pictures against crops ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_preset_crop_compares_whole_pictures_with_their_boxes(scenes: Path, tmp_path: Path) -> None:
    settings = ["picture.size=64", "model.backbone=lite0", "probe.regularisation=0.1", "evaluate.resamples=200"]
    settings += ["data.suspects=false", "evaluate.learning_curve=off"]
    options = StudyOptions(preset="crop", settings=settings, seeds=(0,))
    done = run_study(DataSource(scenes), options, out=tmp_path / "study", context=Context.create(2))
    assert not done.failed
    whole, crops = (tmp_path / "study" / "cells" / name / "seed-0" for name in ("whole", "crops"))
    of_whole, of_crops = (table.read(run / "pictures.parquet", table.PICTURES | table.CROPS) for run in (whole, crops))
    same = ("row_id", "path", "label", "split", "group", "file_sha256")
    assert of_whole.select(same).equals(of_crops.select(same))
    assert of_whole["paired_sha256"].equals(of_crops["sha256"], check_names=False)
    assert of_whole["crop_left"].null_count() == of_whole.height
    assert of_whole["sha256"].equals(of_whole["file_sha256"], check_names=False)
    assert read_bundle(whole).crop == "none"
    assert read_bundle(crops).crop == "boxes"
    answers = table.read(whole / "predictions.parquet", table.PREDICTIONS).sort("row_id")
    assert answers.group_by("path").agg(pl.col("predicted").n_unique())["predicted"].max() == 1
    [difference] = done.results["differences"]
    assert (difference["recipe"], difference["against"]) == ("crops", "whole")
    assert difference["accuracy"]["value"] > 0.1, "a whole picture shows three kinds, and has three labels"
    tested = int((of_crops["split"] == "test").sum())
    assert [cell["n"] for cell in done.results["cells"]] == [tested, tested]


def test_python_refuses_crops_of_pictures_without_boxes(tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(folder / f"{number}.png")
    with pytest.raises(SourceError, match="the pictures have none"):
        api.audit(tmp_path, crop="boxes", quiet=True)


def test_python_predicts_the_boxes_of_a_file(cropped_run: Path, detections: Path, scenes: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 12:00:00"  # DateTimeOriginal
    for path in scenes.parent.glob("*.jpg"):
        Image.open(path).save(tmp_path / path.name, exif=exif)
    boxes = api.read_boxes(detections, pictures_folder=tmp_path, quiet=True)
    answers = predict(cropped_run, boxes, group="time:60s", quiet=True)
    assert len(answers) == len(boxes) > 3
    assert all(answer.error is None for answer in answers)
    assert any(answer.box is not None for answer in answers)
    assert [event.pictures for event in answers.events] == [len(boxes)]

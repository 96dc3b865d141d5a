"""Readers of camera-trap formats, on small tables of their shape and on real files (`field`): nothing is lost."""

from __future__ import annotations

import csv
import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bestiary.data.formats import (
    camtrap_dp,
    camtrap_events,
    coco,
    deepfaune,
    json_items,
    megadetector,
    row_frame,
    speciesnet,
    timelapse,
    wildlife_insights,
)
from bestiary.data.formats.label_table import LEFT_OUT, ROWS, SPECIAL_FAMILIES, LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.times import format_times, parse_instants
from bestiary.errors import SourceError
from bestiary.special_labels import special_family

FORMATS = (
    coco.FORMAT,
    megadetector.FORMAT,
    speciesnet.FORMAT,
    camtrap_dp.FORMAT,
    wildlife_insights.FORMAT,
    timelapse.FORMAT,
    deepfaune.FORMAT,
)
OPTIONS = ReadOptions()


def write_json(folder: Path, value: Any, name: str = "labels.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(label_format: LabelFormat, path: Path, options: ReadOptions = OPTIONS) -> LabelTable:
    """The table of a file that its format recognises, with the columns of the interface."""
    assert label_format.is_format(path)
    table = label_format.read(path, options)
    assert dict(table.rows.schema) == ROWS
    assert dict(table.left_out.schema) == LEFT_OUT
    assert not table.rows["file"].is_null().any()
    assert not table.rows["label"].is_null().any()
    assert (table.rows["box_unit"].is_null() == table.rows["box_left"].is_null()).all()
    return table


def labels(table: LabelTable) -> list[tuple[str, str]]:
    return list(table.rows.select("file", "label").iter_rows())


def reasons(table: LabelTable) -> Counter[str]:
    return Counter(table.left_out["reason"].to_list())


# --- COCO -------------------------------------------------------------------------------------------------------------


def camera_traps(**changes: Any) -> dict[str, Any]:
    """COCO Camera Traps with two pictures: one of a fox with a box, one that is empty."""
    table: dict[str, Any] = {
        "info": {"version": "1.0"},
        "categories": [{"id": 0, "name": "empty"}, {"id": 3, "name": "red fox"}],
        "images": [
            {
                "id": "a/1",
                "file_name": "s1/a.jpg",
                "width": 100,
                "height": 80,
                "location": 7,
                "seq_id": "q1",
                "datetime": "2019-05-05 17:21:00",
            },
            {"id": "a/2", "file_name": "s1\\b.jpg", "location": "north", "seq_id": "q1", "datetime": "some day"},
        ],
        "annotations": [
            {"id": 1, "image_id": "a/1", "category_id": 3, "bbox": [10, 20.5, 30, 40]},
            {"id": 2, "image_id": "a/2", "category_id": 0},
        ],
    }
    return {**table, **changes}


def test_coco_rows(tmp_path: Path) -> None:
    table = read(coco.FORMAT, write_json(tmp_path, camera_traps()))
    assert table.rows.row(0, named=True) == {
        "file": "s1/a.jpg",
        "label": "red fox",
        "split": None,
        "group": "q1",
        "site": "7",
        "time": "2019-05-05T17:21:00",
        "box_left": 10.0,
        "box_top": 20.5,
        "box_width": 30.0,
        "box_height": 40.0,
        "box_unit": "pixels",
        "box_confidence": None,
        "picture_width": 100,
        "picture_height": 80,
    }
    assert table.rows.row(1, named=True)["label"] == "empty"
    assert table.rows["time"][1] is None
    assert any("some day" in note for note in table.notes)


def test_category_0_is_empty_only_by_name(tmp_path: Path) -> None:
    named = camera_traps(categories=[{"id": 0, "name": "badger"}, {"id": 3, "name": "red fox"}])
    assert labels(read(coco.FORMAT, write_json(tmp_path, named)))[1] == ("s1\\b.jpg", "badger")


def test_coco_leaves_nothing_unnamed(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in range(1, 9)]
    images[1]["corrupt"] = True
    annotations: list[dict[str, Any]] = [
        {"id": 1, "image_id": 1, "category_id": 3},
        {"id": 2, "image_id": 1, "category_id": 4},  # a second species
        {"id": 3, "image_id": 2, "category_id": 3},  # corrupt
        {"id": 4, "image_id": 99, "category_id": 3},
        {"id": 5, "image_id": 3, "category_id": 77},
        {"id": 6, "image_id": 4, "category_id": 5},  # unknown
        {"id": 7, "image_id": 5, "category_id": 3, "bbox": [90, 10, 30, 10]},
        {"id": 8, "image_id": 5, "category_id": 3, "bbox": [1, 1, 0, 10]},
        {"id": 9, "image_id": 5, "category_id": 3, "bbox": [1, 1, "x", 10]},
        {"id": 10, "image_id": 6, "category_id": 4, "bbox_relative": [0.1, 0.2, 0.3, 0.4]},
        {"id": 11, "image_id": 7, "category_id": 3, "sequence_level_annotation": True, "bbox": []},
    ]
    categories = [{"id": 3, "name": "fox"}, {"id": 4, "name": "hare"}, {"id": 5, "name": "Unidentified"}]
    path = write_json(tmp_path, {"images": images, "annotations": annotations, "categories": categories})
    table = read(coco.FORMAT, path)
    assert Counter(labels(table)) == Counter([("1.jpg", "fox"), ("1.jpg", "hare"), ("6.jpg", "hare"), ("7.jpg", "fox")])
    assert reasons(table) == Counter(
        [
            coco.CORRUPT,
            coco.PICTURE_MISSING,
            coco.CATEGORY_MISSING,
            "labelled as unknown",
            row_frame.BOX_OUTSIDE,
            row_frame.BOX_WITHOUT_AREA,
            row_frame.BOX_BROKEN,
            coco.WITHOUT_ANNOTATION,
        ]
    )
    assert table.rows.height + table.left_out.height == len(annotations) + 1
    fractions = table.rows.filter(file="6.jpg").row(0, named=True)
    assert (fractions["box_left"], fractions["box_unit"]) == (0.1, "fraction")
    notes = " ".join(table.notes)
    assert "1 label is of a whole sequence" in notes
    assert "77" in notes
    assert "99" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}, "image id.*more than once: 1"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": "1", "name": "b"}]}, "category id.*more than once: 1"),
        ({"annotations": []}, "no annotations"),
        ({"images": {"a": 1}}, "images.*expected an array"),
        ({"images": [{"id": 1}]}, r"images, item 1: file_name is missing"),
        ({"images": [{"id": 1, "file_name": None}]}, r"images, item 1: null where text is expected"),
        ({"images": [{"id": [1], "file_name": "a"}]}, r"images, item 1: \[1\] is neither text nor a whole number"),
        ({"annotations": [{"image_id": "a/1", "category_id": 3}, "fox"]}, "annotations, item 2: 'fox' is no object"),
        ({"annotations": [{"image_id": "a/1", "category_id": 3, "bbox": [0.1, 0.2, 0.3, 0.4]}]}, "bbox_relative"),
    ],
)
def test_coco_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_json(tmp_path, camera_traps(**changes))
    with pytest.raises(SourceError, match=message) as error:
        coco.read_coco(path, OPTIONS)
    assert str(path) in str(error.value)


def test_columns_cannot_be_named_where_the_format_has_its_own(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match='column of "label" cannot be named'):
        coco.read_coco(write_json(tmp_path, camera_traps()), ReadOptions(columns={"label": "name"}))


# --- JSON files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 4096])
def test_json_items_do_not_depend_on_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    value = {
        "info": {"é": '\U0001f98a\\" }]', "n": [-1.5e-10, 12345678901234567890, None, True]},
        "items": [{"a": "x" * 100}, 17, 1234567, [], {}, "", "ü", 0.25],
        "none": [],
        "end": 123456,
    }
    path = tmp_path / "a.json"
    for text in (
        json.dumps(value),
        json.dumps(value, ensure_ascii=False, indent=1),
        "\ufeff" + json.dumps(value) + "\n ",
    ):
        path.write_text(text, encoding="utf-8")
        monkeypatch.setattr(json_items, "BLOCK_BYTES", block_bytes)
        items = list(json_items.iter_json_items(path, ("items", "none")))
        assert [item.value for item in items if item.key == "items"] == value["items"]
        assert [item.position for item in items if item.key == "items"] == list(range(8))
        assert {item.key: item.value for item in items if item.key != "items"} == {
            "info": value["info"],
            "end": 123456,
        }


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=4), values, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40)
@given(
    items=st.lists(JSON_VALUES, max_size=5), value=JSON_VALUES, block_bytes=st.integers(1, 40), is_ascii=st.booleans()
)
def test_json_items_are_what_json_loads(items: list[Any], value: Any, block_bytes: int, is_ascii: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_items, "BLOCK_BYTES", block_bytes)
        path = Path(folder) / "a.json"
        path.write_text(json.dumps({"items": items, "value": value}, ensure_ascii=is_ascii), encoding="utf-8")
        read_items = list(json_items.iter_json_items(path, ("items",)))
    assert [item.value for item in read_items] == [*items, value]


def test_every_truncated_json_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "BLOCK_BYTES", 16)
    text = json.dumps(camera_traps())
    path = tmp_path / "cut.json"
    for length in range(len(text)):
        path.write_text(text[:length], encoding="utf-8")
        with pytest.raises(SourceError, match="not valid JSON"):
            coco.read_coco(path, OPTIONS)
    path.write_text(text[: text.index("red fox") + 3], encoding="utf-8")
    with pytest.raises(SourceError, match="categories, item 2: the file ends too early"):
        coco.read_coco(path, OPTIONS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected an object"),
        ('{"a": 1} {', "text after the end"),
        ('{"a": 1, "a": 2}', 'key "a" twice'),
        ('{"items": [1 2]}', "items, item 1: character 14: expected a comma"),
        ('{"items": [1, {"b": }]}', "items, item 2: character 21: expecting value"),
        ('{"items": [1,]}', "items, item 2"),
        ('{"items": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "4300 digits"),
    ],
)
def test_broken_json_names_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        list(json_items.iter_json_items(path, ("items",)))


def test_json_in_another_encoding_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(camera_traps()).encode("utf-16"))
    with pytest.raises(SourceError, match="not UTF-8"):
        coco.read_coco(path, OPTIONS)
    with pytest.raises(SourceError, match=r"none\.json cannot be read"):
        coco.read_coco(tmp_path / "none.json", OPTIONS)


def test_a_lone_surrogate_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(camera_traps()).replace("red fox", "red \\ud800"), encoding="ascii")
    assert labels(read(coco.FORMAT, path))[0] == ("s1/a.jpg", "red \\ud800")


# --- MegaDetector -----------------------------------------------------------------------------------------------------


def results(images: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    value = {
        "info": {"format_version": "1.6", "detector_metadata": {"typical_detection_threshold": 0.3}},
        "detection_categories": {"0": "empty", "1": "animal", "2": "person", "3": "vehicle"},
        "classification_categories": {"0": "fox", "1": "hare", "2": "no cv result", "3": "Blank"},
        "images": images,
    }
    return {name: value for name, value in {**value, **changes}.items() if value is not None}


def detection(
    confidence: Any = 0.9, box: Any = (0.1, 0.2, 0.3, 0.4), category: str = "1", **more: Any
) -> dict[str, Any]:
    return {"category": category, "conf": confidence, "bbox": box, **more}


def test_megadetector_rows(tmp_path: Path) -> None:
    images: list[dict[str, Any]] = [
        {
            "file": "a.jpg",
            "detections": [detection(classifications=[["1", 0.2], ["0", 0.7]]), detection(1, category="2")],
        },
        {"file": "b.jpg", "detections": [detection(0.29), detection(0.05)]},  # none with enough confidence
        {"file": "c\\d.jpg", "detections": [], "failure": None},
        {"file": "e.jpg", "detections": None, "failure": "Failure image access"},
        {"file": "f.jpg"},
        {"file": "g.mp4", "detections": [detection(frame_number=3)], "frame_rate": 20, "frames_processed": [3]},
        {"file": "h.jpg", "detections": [detection(category="9")]},  # "treated as no detection"
        {"file": "i.jpg", "detections": [detection(classifications=[["2", 1]])]},
        {"file": "l.jpg", "detections": [detection(classifications=[["3", 1]]), detection(category="0")]},
        {"file": "j.jpg", "detections": [detection(-3), detection("0.9"), detection(box=[0.1, 0.2, 0, 0.4])]},
        {"file": "k.jpg", "detections": [detection(box=[0.5, 0.5, 0.6, 0.4]), detection(box=[1000, 500, 60, 40])]},
    ]
    table = read(megadetector.FORMAT, write_json(tmp_path, results(images)))
    assert Counter(labels(table)) == Counter(
        {
            ("a.jpg", "fox"): 1,
            ("a.jpg", "human"): 1,
            ("b.jpg", "empty"): 1,
            ("c\\d.jpg", "empty"): 1,
            ("h.jpg", "empty"): 1,
            ("l.jpg", "empty"): 1,
        }
    )
    assert table.rows.row(0)[6:12] == (0.1, 0.2, 0.3, 0.4, "fraction", 0.9)
    assert reasons(table) == Counter(
        {
            megadetector.BELOW_THRESHOLD: 2,
            megadetector.NOT_READ: 2,
            megadetector.IS_VIDEO: 1,
            megadetector.CATEGORY_MISSING: 1,
            megadetector.CLASSIFIED_EMPTY: 2,
            "labelled as unknown": 1,
            megadetector.BAD_CONFIDENCE: 2,
            row_frame.BOX_WITHOUT_AREA: 1,
            row_frame.BOX_OUTSIDE: 1,
            row_frame.BOX_IN_PIXELS: 1,
        }
    )
    assert set(table.left_out["file"]) | set(table.rows["file"]) == {image["file"] for image in images}
    assert "0.3, which the file recommends" in table.notes[0]


def test_megadetector_threshold_without_recommendation(tmp_path: Path) -> None:
    images = [{"file": "a.jpg", "detections": [detection(0.2), detection(0.199)]}]
    old = results(images, info={"format_version": 1.4}, classification_categories=None)  # as a converter writes it
    table = read(megadetector.FORMAT, write_json(tmp_path, old))
    assert labels(table) == [("a.jpg", "animal")]
    assert reasons(table) == Counter([megadetector.BELOW_THRESHOLD])
    assert "0.2, typical of MegaDetector 5" in table.notes[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (results([], info={"format_version": "1.7"}), "format version 1.7. Expected.*1.2 to 1.6"),
        (results([], info={"format_version": "1.1"}), "format version 1.1"),
        (results([], info=None), "no info.format_version"),
        (
            results([{"file": "a.jpg", "detections": []}], detection_categories={"1": 5}),
            "detection_categories must be names by id",
        ),
        (results([]), "no pictures in images"),
        (results([{"file": "a.jpg", "detections": []}] * 2), "file occurs more than once: a.jpg"),
        (results([{"detections": []}]), "images, item 1: file is missing"),
        (results([{"file": "a", "detections": {}}]), "images, item 1: detections is"),
        (results([{"file": "a", "detections": [{"category": "1", "conf": 1}]}]), "images, item 1: bbox is missing"),
        (results([{"file": "a", "detections": [detection(classifications=["0"])]}]), "classification '0' is no pair"),
        (results([{"file": "a", "detections": [detection(box=[10, 20, 300, 400])]}]), "boxes are in pixels"),
    ],
)
def test_megadetector_refuses(tmp_path: Path, value: dict[str, Any], message: str) -> None:
    path = write_json(tmp_path, value)
    with pytest.raises(SourceError, match=message) as error:
        megadetector.read_megadetector(path, OPTIONS)
    assert str(path) in str(error.value)


# --- SpeciesNet -------------------------------------------------------------------------------------------------------

FOX = "5bbd18cd;mammalia;carnivora;canidae;vulpes;vulpes;red fox"
CANINES = "3184697f;mammalia;carnivora;canidae;;;canine family"
BLANK = "f1856211;;;;;;blank"
NO_RESULT = "f2efdae9" + ";no cv result" * 6


def test_speciesnet_old(tmp_path: Path) -> None:
    pictures = [
        {
            "filepath": "a.jpg",
            "prediction": FOX,
            "latitude": 51.5,
            "longitude": 4.75,
            "detections": [detection(0.5), detection(0.9, [0.5, 0.5, 0.5, 0.5]), detection(0.1)],
        },
        {"filepath": "b.jpg", "prediction": BLANK, "detections": [detection(0.3)]},
        {"filepath": "c.jpg", "prediction": NO_RESULT, "detections": []},
        {"filepath": "d.jpg", "failures": ["CLASSIFIER", "DETECTOR"]},
        {"filepath": "e.jpg", "prediction": CANINES},
        {"filepath": "f.jpg", "classifications": {"classes": [FOX, BLANK], "scores": [0.8, 0.1]}},
        {"filepath": "g.jpg", "detections": []},
    ]
    path = write_json(tmp_path, {"predictions": pictures})
    table = read(speciesnet.FORMAT, path)
    assert labels(table) == [
        ("a.jpg", "Vulpes vulpes"),
        ("b.jpg", "empty"),
        ("e.jpg", "Canidae"),
        ("f.jpg", "Vulpes vulpes"),
    ]
    assert table.rows.row(0)[6:12] == (0.5, 0.5, 0.5, 0.5, "fraction", 0.9)
    assert table.rows["site"][0] == "51.5,4.75"
    assert table.rows["box_unit"].count() == 1
    assert reasons(table) == Counter(
        {
            speciesnet.WITHOUT_LABEL: 2,
            megadetector.BELOW_THRESHOLD: 1,
            "labelled as unknown": 1,
            megadetector.NOT_READ: 1,
            speciesnet.WITHOUT_PREDICTION: 1,
        }
    )
    common = read(speciesnet.FORMAT, path, ReadOptions(columns={"label": "common_name"}))
    assert [label for _, label in labels(common)] == ["red fox", "empty", "canine family", "red fox"]


def test_speciesnet_new(tmp_path: Path) -> None:
    def classified(taxon: str) -> dict[str, Any]:
        return {"processed_classification": {"class": taxon, "score": 0.9, "source": "classifier"}}

    whole = detection(1.0, [0, 0, 1, 1], "0", **classified(FOX))
    pictures: list[dict[str, Any]] = [
        {"filepath": "a.jpg", "detections": [detection(**classified(FOX)), detection(0.1, **classified(CANINES))]},
        {"filepath": "b.jpg", "detections": []},
        {"filepath": "c.jpg", "detections": [whole, detection(0.3), detection(0.5, [0.5, 0.5, 0.5, 0.5])]},
        {"filepath": "d.jpg", "detections": [detection(0.1)]},
        {"filepath": "e.jpg", "detections": [detection(category="2")], "failures": ["CLASSIFIER", "GEOLOCATION"]},
        {"filepath": "f.jpg", "failures": ["DETECTOR"]},
        {"filepath": "g.jpg", "detections": [detection(category="7"), detection("high")]},
        {"filepath": "h.jpg", "detections": [detection(**classified(BLANK)), detection(0.05)]},
        {"filepath": "i.jpg", "detections": [detection(**classified(FOX)), detection(0.5, **classified(BLANK))]},
        {
            "filepath": "j.jpg",
            "detections": [detection(**classified(FOX)), detection(0.5), detection(0.4, category="3")],
        },
        {"filepath": "k.jpg", "detections": [detection(raw_classifications={"classes": [CANINES], "scores": [0.9]})]},
    ]
    value = {"predictions": pictures, "info": {"format_version": "20261015"}}  # wherever the info stands
    table = read(speciesnet.FORMAT, write_json(tmp_path, value))
    assert labels(table) == [
        ("a.jpg", "Vulpes vulpes"),
        ("a.jpg", "Canidae"),
        ("b.jpg", "empty"),
        ("c.jpg", "Vulpes vulpes"),
        ("d.jpg", "empty"),
        ("e.jpg", "human"),
        ("h.jpg", "empty"),
        ("i.jpg", "Vulpes vulpes"),
        ("j.jpg", "Vulpes vulpes"),
        ("j.jpg", "vehicle"),
        ("k.jpg", "Canidae"),
    ]
    assert set(table.rows.filter(label="empty")["box_unit"]) == {None}
    assert table.rows.filter(file="c.jpg").row(0)[6:12] == (0.5, 0.5, 0.5, 0.5, "fraction", 0.5)
    assert reasons(table) == Counter(
        {
            megadetector.BELOW_THRESHOLD: 2,
            megadetector.NOT_READ: 1,
            megadetector.BAD_CONFIDENCE: 1,
            megadetector.CLASSIFIED_EMPTY: 2,
            speciesnet.WITHOUT_LABEL: 3,
        }
    )
    assert "SpeciesNet 5" in table.notes[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"info": {"format_version": "20300101"}, "predictions": []}, "'20300101'. Expected 20261015"),
        ({"info": {}, "predictions": []}, "format version None"),
        ({"predictions": [{"filepath": "a", "prediction": FOX}] * 2}, "filepath occurs more than once: a"),
        ({"predictions": [{"prediction": FOX}]}, "predictions, item 1: filepath is missing"),
        ({"images": []}, "no predictions"),
    ],
)
def test_speciesnet_refuses(tmp_path: Path, value: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        speciesnet.read_speciesnet(write_json(tmp_path, value), OPTIONS)


# --- Camtrap DP -------------------------------------------------------------------------------------------------------


def picture(media: str, time: str, **more: Any) -> dict[str, Any]:
    cells = {
        "mediaID": media,
        "deploymentID": "d1",
        "timestamp": time,
        "filePath": f"media/{media}.jpg",
        "fileName": "",
    }
    return {**cells, "fileMediatype": "image/jpeg", **more}


def observation(number: str, media: str = "", **more: Any) -> dict[str, Any]:
    cells = {
        "observationID": number,
        "deploymentID": "d1",
        "mediaID": media,
        "eventID": "",
        "eventStart": "2020-05-30T02:57:00Z",
        "eventEnd": "2020-05-30T02:58:00Z",
        "observationLevel": "media" if media else "event",
        "observationType": "animal",
        "cameraSetupType": "",
        "scientificName": "Vulpes vulpes",
        "bboxX": "",
        "bboxY": "",
        "bboxWidth": "",
        "bboxHeight": "",
    }
    return {**cells, **more}


def write_package(
    folder: Path, media: list[dict[str, Any]], observations: list[dict[str, Any]], version: str = "1.0.2"
) -> Path:
    deployments = [
        {
            "deploymentID": "d1",
            "locationID": "place",
            "locationName": "beside the pond",
            "latitude": 51,
            "longitude": 4,
        },
        {"deploymentID": "d2", "locationID": "", "locationName": "", "latitude": 51.5, "longitude": 4.5},
    ]
    for name, rows in (("deployments", deployments), ("media", media), ("observations", observations)):
        write_csv(folder / f"{name}.csv", rows)
    resources = [{"name": name, "path": f"{name}.csv"} for name in ("deployments", "media", "observations")]
    profile = f"https://raw.githubusercontent.com/tdwg/camtrap-dp/{version}/camtrap-dp-profile.json"
    write_json(folder, {"profile": profile, "resources": resources}, "datapackage.json")
    return folder


def test_events_reach_their_pictures_by_instants(tmp_path: Path) -> None:
    media = [
        picture("before", "2020-05-30T04:56:59+02:00"),
        picture("first", "2020-05-30T04:57:00+02:00"),
        picture("last", "2020-05-30T03:58:00+01:00"),
        picture("after", "2020-05-30T04:58:01+02:00"),
        picture("as text", "2020-05-30T02:57:30+02:00"),  # within the event only if times are compared as text
        picture("elsewhere", "2020-05-30T04:57:30+02:00", deploymentID="d2"),
    ]
    table = read(camtrap_dp.FORMAT, write_package(tmp_path, media, [observation("o1", eventID="e1")]))
    assert labels(table) == [("media/first.jpg", "Vulpes vulpes"), ("media/last.jpg", "Vulpes vulpes")]
    assert table.rows["group"].to_list() == ["d1/e1"] * 2
    assert table.rows["site"].to_list() == ["place"] * 2
    assert table.rows["time"].to_list() == ["2020-05-30T04:57:00+02:00", "2020-05-30T03:58:00+01:00"]
    assert reasons(table) == Counter({camtrap_dp.WITHOUT_OBSERVATION: 4})
    assert any("2 labels are of a whole event" in note for note in table.notes)


def test_pictures_win_over_their_event(tmp_path: Path) -> None:
    media = [picture(f"m{i}", f"2020-05-30T04:57:0{i}+02:00") for i in range(4)]
    observations = [
        observation("o1", eventID="e1"),
        observation("o2", "m0", eventID="e1", scientificName="Lepus"),
        observation("o3", "m1", eventID="e1", observationType="blank", scientificName=""),
    ]
    table = read(camtrap_dp.FORMAT, write_package(tmp_path, media, observations))
    assert labels(table) == [("media/m0.jpg", "Lepus"), ("media/m1.jpg", "empty")]
    assert reasons(table) == Counter({camtrap_events.EVENT_IN_PICTURES: 1, camtrap_dp.WITHOUT_OBSERVATION: 2})


def test_pictures_with_labels_take_none_from_a_wider_event(tmp_path: Path) -> None:
    media = [picture(f"m{i}", f"2020-05-30T04:57:0{i}+02:00") for i in range(2)]
    observations = [observation("o1", eventID="day"), observation("o2", "m0", eventID="e1", scientificName="Lepus")]
    table = read(camtrap_dp.FORMAT, write_package(tmp_path, media, observations))
    assert sorted(labels(table)) == [("media/m0.jpg", "Lepus"), ("media/m1.jpg", "Vulpes vulpes")]
    assert not table.left_out.height


def test_camtrap_dp_leaves_nothing_unnamed(tmp_path: Path) -> None:
    media = [
        picture("m0", "2020-05-30T04:57:00+02:00", filePath="https://example.org/1/file", fileName="IMG_1.JPG"),
        picture("m1", "2020-06-01T04:57:00+02:00"),
        picture("m2", "2020-06-02T04:57:00+02:00"),
        picture("m3", "2020-06-03T04:57:00+02:00", fileMediatype="video/mp4"),
        picture("m4", "2020-06-04T04:57:00+02:00", deploymentID="d2"),
    ]
    box = {"bboxX": 0.1, "bboxY": 0.2, "bboxWidth": 0.3, "bboxHeight": 0.4}
    observations = [
        observation("o0", "m0", **box),
        observation("o1", "m0", scientificName="Lepus"),  # a second species
        observation("o2", "m1", cameraSetupType="setup", observationType="human"),
        observation("o3", "m2", observationType="unclassified", scientificName=""),
        observation("o4", "m3"),
        observation("o5", "none"),
        observation("o6", eventStart="2021-01-01T00:00:00Z", eventEnd="2021-01-01T00:00:09Z"),
        observation("o7", observationLevel="interval"),
        observation("o8", "m4", deploymentID="d2", observationType="human", scientificName="Homo sapiens"),
        observation("o9", "m4", deploymentID="d2", **{**box, "bboxWidth": ""}),
    ]
    table = read(camtrap_dp.FORMAT, write_package(tmp_path, media, observations))
    assert labels(table) == [("d1/IMG_1.JPG", "Vulpes vulpes"), ("d1/IMG_1.JPG", "Lepus"), ("media/m4.jpg", "human")]
    assert table.rows.row(0)[6:12] == (0.1, 0.2, 0.3, 0.4, "fraction", None)
    assert table.rows["box_unit"].to_list() == ["fraction", None, None]
    assert table.rows["site"][2] == "51.5,4.5"
    assert reasons(table) == Counter(
        [
            camtrap_dp.SET_UP,
            "labelled as unknown",
            camtrap_dp.NOT_A_PICTURE,
            camtrap_dp.PICTURE_MISSING,
            camtrap_events.EVENT_WITHOUT_PICTURES,
            camtrap_dp.NEITHER_LEVEL,
            row_frame.BOX_BROKEN,
        ]
    )
    assert table.rows.height + table.left_out.height == len(observations)


def test_camtrap_dp_0_1_by_sequence(tmp_path: Path) -> None:
    media = [picture(f"m{i}", "2020-05-30T04:57:00Z", sequenceID=f"s{i // 2}") for i in range(6)]
    old = [
        {"observationID": "o1", "sequenceID": "s0", "observationType": "animal", "scientificName": "Lepus"},
        {"observationID": "o2", "sequenceID": "s1", "observationType": "unclassified", "cameraSetup": "TRUE"},
        {"observationID": "o3", "sequenceID": "s9", "observationType": "blank", "cameraSetup": "FALSE"},
    ]
    observations = [{"deploymentID": "d1", "timestamp": "2020-05-30T04:57:00Z", "mediaID": "", **row} for row in old]
    table = read(camtrap_dp.FORMAT, write_package(tmp_path, media, observations, "0.1.6"))
    assert labels(table) == [("media/m0.jpg", "Lepus"), ("media/m1.jpg", "Lepus")]
    assert set(table.rows["group"]) == {"d1/s0"}
    assert reasons(table) == Counter(
        {camtrap_dp.SET_UP: 2, camtrap_events.EVENT_WITHOUT_PICTURES: 1, camtrap_dp.WITHOUT_OBSERVATION: 2}
    )


def test_camtrap_dp_refuses(tmp_path: Path) -> None:
    media, observations = [picture("m0", "2020-05-30T04:57:00+02:00")], [observation("o0", eventID="e")]

    def refuse(message: str, **changes: Any) -> None:
        cells = {"media": media, "observations": observations, "version": "1.0.2", **changes}
        write_package(tmp_path, cells["media"], cells["observations"], cells["version"])
        with pytest.raises(SourceError, match=message):
            camtrap_dp.read_camtrap_dp(tmp_path, OPTIONS)

    refuse("version 1.1.*Expected 1.0 or 0.1", version="1.1")
    refuse("version 0.6", version="0.6")
    refuse("mediaID occurs more than once: m0", media=media * 2)
    refuse("observationID occurs more than once: o0", observations=observations * 2)
    refuse(r"media\.csv have none", media=[picture("m0", "2020-05-30T04:57:00")])
    refuse("some times in timestamp have a time zone", media=[*media, picture("m1", "2020-05-30T04:57:00")])
    refuse("no column eventStart", observations=[{"observationID": 1, "deploymentID": 2, "observationType": 3}])
    refuse("boxes are in pixels", observations=[
        observation("o0", "m0", bboxX=10, bboxY=20, bboxWidth=300, bboxHeight=400)
    ])  # fmt: skip
    write_package(tmp_path, media, observations)
    (tmp_path / "media.csv").unlink()
    with pytest.raises(SourceError, match=r"the table media lies at 'media\.csv', where there is no file"):
        camtrap_dp.read_camtrap_dp(tmp_path, OPTIONS)
    resources = [{"name": "media", "path": "../media.csv"}]
    for value, message in (
        ({"profile": "camtrap-dp/1.0/", "resources": resources}, "no table deployments, observations; it has: media"),
        ({"profile": "camtrap-dp/1.0/", "resources": None}, "resources is None"),
        ({"profile": "camtrap-dp/1.0/", "resources": [
            {"name": name, "path": f"../{name}.csv"} for name in ("deployments", "media", "observations")
        ]}, "Expected a path in the same folder"),
        ({"profile": "camtrap-dp"}, "version unknown"),
        ([1], "no object"),
    ):  # fmt: skip
        write_json(tmp_path, value, "datapackage.json")
        with pytest.raises(SourceError, match=message):
            camtrap_dp.read_camtrap_dp(tmp_path, OPTIONS)
    (tmp_path / "datapackage.json").write_text('{"profile": "camtrap-dp', encoding="utf-8")
    with pytest.raises(SourceError, match="cannot be read"):
        camtrap_dp.read_camtrap_dp(tmp_path, OPTIONS)


@pytest.mark.parametrize("place", [".", "a\0b.csv", "x" * 300, "\ud800.csv"])
def test_tables_of_a_package_that_lie_at_no_file(tmp_path: Path, place: str) -> None:
    write_package(tmp_path, [picture("m0", "2020")], [observation("o")])
    package = json.loads((tmp_path / "datapackage.json").read_text())
    package["resources"][2]["path"] = place
    write_json(tmp_path, package, "datapackage.json")
    with pytest.raises(SourceError, match="the table observations lies at .*, where there is no file"):
        camtrap_dp.read_camtrap_dp(tmp_path, OPTIONS)


# --- Wildlife Insights ------------------------------------------------------------------------------------------------


def image(number: int, common_name: str = "Red Fox", **more: Any) -> dict[str, Any]:
    taxon = ("Mammalia", "Carnivora", "Canidae", "Vulpes", "vulpes") if common_name == "Red Fox" else ("",) * 5
    return {
        "project_id": "1",
        "deployment_id": "C01",
        "image_id": f"i{number}",
        "filename": f"IMG_{number}.JPG",
        "location": f"gs://project__main/deployment/20/{number}.JPG",
        "is_blank": 0,
        **dict(zip(("class", "order", "family", "genus", "species"), taxon, strict=True)),
        "common_name": common_name,
        "timestamp": "2024-04-09 12:15:36",
        "number_of_objects": 1,
        **more,
    }


def test_wildlife_insights_rows(tmp_path: Path) -> None:
    no_result = dict.fromkeys(("class", "order", "family", "genus", "species"), "No CV Result")
    first = [
        image(1),
        image(1, "Hare", **{"class": "Mammalia", "genus": "Lepus"}),  # the same picture: a second species
        image(2, "Blank", is_blank="", timestamp="5/5/19 17:21"),
        image(3, "Blank", is_blank="1", timestamp=""),
        image(4, "No CV Result", **no_result),
        image(5, "CV Failed"),
        image(6, "Misfire"),
        image(7, "Human", genus="Homo", species="sapiens"),
        image(8, "Human-Camera Trapper"),
        image(9, is_blank="1"),
        image(10, location="https://app.wildlifeinsights.org/download/1/x", sequence_id="s1"),
        image(11, location="", deployment_id="C09"),
        image(12, "", sequence_id=""),
    ]
    second = [image(20, project_id="2", sequence_id="s1")]
    write_csv(tmp_path / "images_1.csv", first)
    write_csv(tmp_path / "images_2.csv", second)
    places = [("1", "C01", "pond"), ("2", "C01", "hill")]
    write_csv(
        tmp_path / "deployments.csv",
        [{"project_id": p, "deployment_id": d, "placename": n, "latitude": 0} for p, d, n in places],
    )
    table = read(wildlife_insights.FORMAT, tmp_path)
    gs = "gs://project__main/deployment/20/"
    assert labels(table) == [
        (f"{gs}1.JPG", "Vulpes vulpes"),
        (f"{gs}1.JPG", "Lepus"),
        (f"{gs}2.JPG", "empty"),
        (f"{gs}3.JPG", "empty"),
        (f"{gs}6.JPG", "empty"),
        (f"{gs}7.JPG", "human"),
        (f"{gs}8.JPG", "human"),
        ("C01/IMG_10.JPG", "Vulpes vulpes"),
        ("C09/IMG_11.JPG", "Vulpes vulpes"),
        (f"{gs}20.JPG", "Vulpes vulpes"),
    ]
    assert table.rows["site"].to_list() == ["1/pond"] * 8 + ["1/C09", "2/hill"]
    assert table.rows["group"].drop_nulls().to_list() == ["1/C01/s1", "2/C01/s1"]  # ids repeat across projects
    assert table.rows["time"].to_list()[1:4] == ["2024-04-09T12:15:36", "2019-05-05T17:21:00", None]
    assert reasons(table) == Counter(
        {"labelled as unknown": 2, wildlife_insights.BLANK_WITH_SPECIES: 1, row_frame.NO_LABEL: 1}
    )
    assert table.rows.height + table.left_out.height == len(first) + len(second)
    common = read(wildlife_insights.FORMAT, tmp_path, ReadOptions(columns={"label": "common_name"}))
    assert labels(common)[0][1] == "Red Fox"


def test_families_are_left_out_as_asked(tmp_path: Path) -> None:
    rows = [image(1), image(2, "Blank"), image(3, "CV Failed"), image(4, "Vehicle"), image(5, "Human")]
    path = write_csv(tmp_path / "images.csv", rows)
    everything = read(wildlife_insights.FORMAT, path, ReadOptions(left_out=()))
    assert [label for _, label in labels(everything)] == ["Vulpes vulpes", "empty", "unknown", "vehicle", "human"]
    nothing = read(wildlife_insights.FORMAT, path, ReadOptions(left_out=SPECIAL_FAMILIES))
    assert [label for _, label in labels(nothing)] == ["Vulpes vulpes"]
    assert reasons(nothing) == Counter(f"labelled as {family}" for family in SPECIAL_FAMILIES)


def test_wildlife_insights_refuses(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no images\*\.csv"):
        wildlife_insights.read_wildlife_insights(tmp_path, OPTIONS)
    path = write_csv(tmp_path / "images.csv", [image(1)])
    with pytest.raises(SourceError, match='no column "comon_name" for label. Did you mean "common_name"'):
        wildlife_insights.read_wildlife_insights(path, ReadOptions(columns={"label": "comon_name"}))
    cells = [{"project_id": 1, "deployment_id": "C01", "placename": name} for name in ("pond", "hill")]
    write_csv(tmp_path / "deployments.csv", cells)
    with pytest.raises(SourceError, match="C01 of project 1 has several placenames: pond, hill"):
        wildlife_insights.read_wildlife_insights(tmp_path, OPTIONS)
    write_csv(path, [{"project_id": 1, "deployment_id": 2, "image_id": 3, "filename": 4}])
    with pytest.raises(SourceError, match="no column location, common_name, timestamp"):
        wildlife_insights.read_wildlife_insights(tmp_path, OPTIONS)


# --- Timelapse --------------------------------------------------------------------------------------------------------

TIMELAPSE = [
    {"File": "a.JPG", "RelativePath": "s1\\d1", "DateTime": "2019-05-05 17:21:00", "DeleteFlag": "false"},
    {"File": "b.JPG", "RelativePath": "", "DateTime": "05-May-2019 17:21:00", "DeleteFlag": "False"},
    {"File": "c.JPG", "RelativePath": "s1", "DateTime": "", "DeleteFlag": "true"},
    {"File": "d.JPG", "RelativePath": "s1", "DateTime": "", "DeleteFlag": "false"},
]
SPECIES = ("007", "Empty", "fox", "")


def timelapse_rows() -> list[dict[str, Any]]:
    return [{**row, "Species": species, "Camera": "k1"} for row, species in zip(TIMELAPSE, SPECIES, strict=True)]


def write_database(path: Path, rows: list[dict[str, Any]], table: str = "DataTable") -> Path:
    with sqlite3.connect(path) as connection:
        names = list(rows[0])
        connection.execute(
            f"CREATE TABLE {table} (Id INTEGER PRIMARY KEY, {', '.join(f'{name} TEXT' for name in names)})"
        )
        marks = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
        connection.executemany(statement, [list(row.values()) for row in rows])
    connection.close()
    return path


@pytest.mark.parametrize("suffix", ["csv", "ddb"])
def test_timelapse_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"TimelapseData.{suffix}"
    (write_csv if suffix == "csv" else write_database)(path, timelapse_rows())
    before = path.read_bytes()
    table = read(timelapse.FORMAT, path, ReadOptions(columns={"label": "Species", "site": "Camera"}))
    assert labels(table) == [("s1/d1/a.JPG", "007"), ("b.JPG", "empty")]
    assert table.rows["time"].to_list() == ["2019-05-05T17:21:00"] * 2
    assert table.rows["site"].to_list() == ["k1", "k1"]
    assert reasons(table) == Counter([timelapse.DELETED, row_frame.NO_LABEL])
    with pytest.raises(SourceError, match=r"template has the columns: Species, Camera.*--columns label=Species"):
        timelapse.read_timelapse(path, OPTIONS)
    with pytest.raises(SourceError, match='no column "species" for label. Did you mean "Species"'):
        timelapse.read_timelapse(path, ReadOptions(columns={"label": "species"}))
    with pytest.raises(SourceError, match='column of "box" cannot be named'):
        timelapse.read_timelapse(path, ReadOptions(columns={"label": "Species", "box": "Camera"}))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_timelapse_refuses(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.ddb", timelapse_rows(), "OtherTable")
    with pytest.raises(SourceError, match="no such table: DataTable"):
        timelapse.read_timelapse(path, ReadOptions(columns={"label": "Species"}))
    path.write_bytes(path.read_bytes()[:20] + b"x" * 5000)
    with pytest.raises(SourceError, match="cannot be read"):
        timelapse.read_timelapse(path, ReadOptions(columns={"label": "Species"}))
    empty = tmp_path / "empty.csv"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(SourceError, match="is empty"):
        timelapse.read_timelapse(empty, ReadOptions(columns={"label": "Species"}))
    latin = tmp_path / "latin.csv"
    latin.write_bytes("File,RelativePath,DeleteFlag,Species\na,b,false,Gämse\n".encode("latin-1"))
    with pytest.raises(SourceError, match="cannot be read.*UTF-8"):
        timelapse.read_timelapse(latin, ReadOptions(columns={"label": "Species"}))


# --- DeepFaune --------------------------------------------------------------------------------------------------------

FAUNE = [
    {"filename": "D:\\pictures\\a.JPG", "prediction": "roe deer", "predictionbase": "empty"},
    {"filename": "D:\\pictures\\b.JPG", "prediction": "empty", "predictionbase": "empty"},
    {"filename": "D:\\pictures\\c.JPG", "prediction": "undefined", "predictionbase": "fox"},
]


def faune_rows() -> list[dict[str, Any]]:
    more = {"date": "2019:05:14 17:14:52", "seqnum": 3, "score": 0.9, "scorebase": 0.9}
    return [{**row, **more} for row in FAUNE]


def test_deepfaune_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "results.csv", faune_rows())
    table = read(deepfaune.FORMAT, path)
    assert labels(table) == [("D:\\pictures\\a.JPG", "roe deer"), ("D:\\pictures\\b.JPG", "empty")]
    assert table.rows.select("group", "time").row(0) == ("3", "2019-05-14T17:14:52")
    assert reasons(table) == Counter(["labelled as unknown"])
    single = read(deepfaune.FORMAT, path, ReadOptions(columns={"label": "predictionbase"}))
    assert [label for _, label in labels(single)] == ["empty", "empty", "fox"]
    with pytest.raises(SourceError, match="no column top1"):
        deepfaune.read_deepfaune(path, ReadOptions(columns={"label": "top1"}))


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
def test_each_file_is_recognised_by_its_format_only(tmp_path: Path, indent: int | None) -> None:
    package = tmp_path / "package"
    package.mkdir()
    exported = tmp_path / "exported"
    exported.mkdir()
    write_csv(exported / "images.csv", [image(1)])
    pictures = tmp_path / "class folders"
    (pictures / "cat").mkdir(parents=True)
    files: dict[str, list[Path]] = {"coco": [], "megadetector": [], "speciesnet": []}
    for name, value in (
        ("coco", camera_traps()),
        ("coco", dict(reversed(camera_traps().items()))),
        ("megadetector", results([{"file": "a.jpg", "detections": []}])),
        ("megadetector", dict(reversed(results([{"file": "a.jpg", "detections": []}]).items()))),
        ("speciesnet", {"predictions": [{"filepath": "a.jpg"}]}),
        ("speciesnet", {"info": {"format_version": "20261015"}, "predictions": [{"filepath": "a.jpg"}]}),
    ):
        path = tmp_path / f"{name}{len(files[name])}.json"
        path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
        files[name].append(path)
    files["camtrap-dp"] = [
        write_package(package, [picture("m0", "2020")], [observation("o")]),
        package / "datapackage.json",
    ]
    files["wildlife-insights"] = [exported, exported / "images.csv"]
    files["timelapse"] = [write_csv(tmp_path / "t.csv", timelapse_rows())]
    files["deepfaune"] = [write_csv(tmp_path / "faune.csv", faune_rows())]
    files[""] = [
        write_json(tmp_path, [1], "list.json"),
        write_csv(tmp_path / "plain.csv", [{"path": "a", "label": "b"}]),
        pictures,
        write_json(tmp_path, {"images": [], "other": {}}, "other.json"),
    ]
    for name, paths in files.items():
        for path in paths:
            assert [form.name for form in FORMATS if form.is_format(path)] == [name] * bool(name), path


def test_special_families() -> None:
    spellings = {
        "empty": ["Blank", "EMPTY", "none", "Misfire", "no_animal", "False trigger", "no-animal "],
        "human": ["Human", "Homo sapiens", "person", "Homo species", "Human-Camera Trapper"],
        "vehicle": ["vehicle", "Vehicles"],
        "unknown": ["Unknown", "unidentified", "No CV Result", "CV Failed", "undefined", "unclassified"],
    }
    assert set(spellings) == set(SPECIAL_FAMILIES)
    for family, names in spellings.items():
        assert {special_family(name) for name in names} == {family}
    assert [special_family(name) for name in ("fox", "Homo erectus", "", "blanket octopus")] == [None] * 4


def test_times_are_iso_8601_with_the_offset_they_have() -> None:
    texts = {
        "2020-05-30 04:57:37": "2020-05-30T04:57:37",
        "2020-05-30T04:57:37+02:00": "2020-05-30T04:57:37+02:00",
        "2020-05-30T04:57:37.5-0130": "2020-05-30T04:57:37.5-01:30",
        "2020-05-30T04:57Z": "2020-05-30T04:57:00Z",
        "2020-05-30": "2020-05-30",
        "2019:05:14 17:14:52": "2019-05-14T17:14:52",
        "28.04.2019 05:32:10": "2019-04-28T05:32:10",
        "5.4.19 05:32": "2019-04-05T05:32:00",
        "4/28/19 00:32": "2019-04-28T00:32:00",
        "4/28/2019 5:32:10 PM": "2019-04-28T17:32:10",
        "": None,
        "28/4/19 00:32": None,
        "2020-02-30 04:57:37": None,
        "noon": None,
    }
    times, notes = format_times(pl.Series(list(texts)))
    assert times.to_list() == list(texts.values())
    assert [
        "2 times were read with the month first" in notes[0],
        '3 times cannot be read, such as "28/4' in notes[1],
    ] == [
        True,
        True,
    ]
    instants, zoned = parse_instants(pl.Series(["2020-05-30T04:57:37.5-01:30", "2020-05-30T06:27:37.5Z"]))
    assert (instants[0], zoned) == (instants[1], {True})
    assert parse_instants(pl.Series(["2020-05-30T04:57:37", "2020-05-30"]))[1] == {False}


def test_times_with_slashes_have_the_day_first_if_one_of_them_can_only_be_read_so() -> None:
    times, notes = format_times(pl.Series(["5/6/2019 00:32", "28/4/2019 17:14:52", "2019-05-30 04:57:37", None]))
    assert times.to_list() == ["2019-06-05T00:32:00", "2019-04-28T17:14:52", "2019-05-30T04:57:37", None]
    assert notes == ["2 times were read with the day first: 5/6/2019 00:32 as 2019-06-05T00:32:00."]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value in a JSON document."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON document with another value at that place."""
    if not path:
        return new
    copy: Any = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


DOCUMENTS: dict[LabelFormat, Any] = {
    coco.FORMAT: camera_traps(),
    megadetector.FORMAT: results(
        [
            {"file": "a.jpg", "detections": [detection(box=[0.1, 0.2, 0.3, 0.4], classifications=[["0", 0.5]])]},
            {"file": "b.jpg", "detections": None, "failure": "x"},
        ]
    ),
    speciesnet.FORMAT: {
        "info": {"format_version": "20261015"},
        "predictions": [
            {
                "filepath": "a.jpg",
                "latitude": 1.5,
                "longitude": 2.5,
                "detections": [
                    detection(box=[0.1, 0.2, 0.3, 0.4], processed_classification={"class": FOX, "score": 0.5}),
                    detection(0.3, [0.1, 0.2, 0.3, 0.4], raw_classifications={"classes": [FOX], "scores": [0.5]}),
                ],
            }
        ],
    },
}
DOCUMENTS_OLD = {
    "predictions": [
        {
            "filepath": "a.jpg",
            "prediction": FOX,
            "classifications": {"classes": [FOX, BLANK], "scores": [0.8, 0.1]},
            "detections": [detection(box=[0.1, 0.2, 0.3, 0.4])],
        }
    ]
}


@settings(max_examples=100)
@given(data=st.data())
def test_any_value_anywhere_is_a_table_or_an_error(data: st.DataObject) -> None:
    label_format, document = data.draw(
        st.sampled_from([*DOCUMENTS.items(), (speciesnet.FORMAT, DOCUMENTS_OLD)]), "format"
    )
    path = data.draw(st.sampled_from(list(nodes(document))), "place")
    new = data.draw(JSON_VALUES | st.sampled_from([1e400, -1, 10**400, "\ud800", [0, 0, 1, 1], "2019", 0.5]), "value")
    with tempfile.TemporaryDirectory() as folder:
        file = write_json(Path(folder), changed(document, path, new))
        try:
            table = label_format.read(file, OPTIONS)
        except SourceError as error:
            message = str(error)
            event("error")
        else:
            message = str(file)
            event("table")
            assert dict(table.rows.schema) == ROWS
            assert table.rows.height + table.left_out.height >= 1
    assert str(file) in message


# --- real files -------------------------------------------------------------------------------------------------------


@pytest.mark.field
def test_real_camtrap_dp(field_files: Path) -> None:
    table = read(camtrap_dp.FORMAT, field_files / "camtrap-dp-1.0.2")
    assert reasons(table) == Counter(
        {camtrap_dp.SET_UP: 41, camtrap_events.EVENT_IN_PICTURES: 35, "labelled as unknown": 11}
    )
    assert table.rows.height + table.left_out.height == 549
    assert table.rows["box_unit"].count() == 20
    assert table.rows["file"].str.starts_with("media/").sum() >= 10
    assert table.rows["site"].n_unique() == 4
    assert table.rows["time"].str.contains(r"\+0[12]:00$").all()


@pytest.mark.field
def test_real_events_find_the_pictures_that_name_them(field_files: Path, tmp_path: Path) -> None:
    """Without the rows about pictures, each event finds by its times the pictures that the file names for it."""
    source = field_files / "camtrap-dp-1.0.2"
    for name in ("datapackage.json", "deployments.csv", "media.csv"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    observations = pl.read_csv(source / "observations.csv", infer_schema=False)
    of_events = observations.filter(pl.col("mediaID").is_null() & pl.col("cameraSetupType").is_null())
    of_events.write_csv(tmp_path / "observations.csv")
    table = read(camtrap_dp.FORMAT, tmp_path, ReadOptions(left_out=()))
    keys = pl.concat_str("deploymentID", "eventID", separator="/")
    media = pl.read_csv(source / "media.csv", infer_schema=False).select("mediaID", "fileName", "filePath")
    named = observations.filter(pl.col("mediaID").is_not_null()).join(media, on="mediaID")
    named = named.filter(keys.is_in(of_events.select(keys.alias("event"))["event"].implode()))
    pairs = set(named.select(keys.alias("event"), pl.col("fileName")).iter_rows())
    by_time = {(group, file.rpartition("/")[2]) for group, file in table.rows.select("group", "file").iter_rows()}
    assert len(pairs) > 300
    assert by_time == pairs


@pytest.mark.field
def test_real_camtrap_dp_0_1(field_files: Path) -> None:
    table = read(camtrap_dp.FORMAT, field_files / "camtrap-dp-0.1.6")
    assert reasons(table) == Counter({"labelled as unknown": 50, camtrap_dp.SET_UP: 30})
    assert table.rows.height + table.left_out.height == 283
    assert "human" in set(table.rows["label"])


@pytest.mark.field
def test_real_wildlife_insights(field_files: Path) -> None:
    table = read(wildlife_insights.FORMAT, field_files / "wildlife-insights-old")
    assert (table.rows.height, table.left_out.height) == (49, 0)
    assert {"Hystrix cristata", "Hystrix", "Hystricidae", "Rodentia", "Mammalia"} <= set(table.rows["label"])
    assert table.rows["time"].str.starts_with("2019-").all()
    assert table.rows["site"].n_unique() == 4

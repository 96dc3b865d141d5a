"""Boxes from another file than the labels: detections beside class folders or a table of labels."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bestiary.context import Context
from bestiary.data.dataset import DataSource
from bestiary.data.formats.read_options import make_read_options
from bestiary.data.list_pictures import list_pictures
from bestiary.data.sources import PictureList
from bestiary.errors import SourceError, UserError
from bestiary.recipe_sections import DataConfig
from bestiary.report.commands import retrain_command
from boxed_pictures import write_coco

CROPS = DataConfig(crop="boxes")
LEFT, RIGHT = [0.1, 0.1, 0.3, 0.4], [0.5, 0.2, 0.3, 0.4]


def write_detections(path: Path, detections: dict[str, list[tuple[str, float, list[float]]]]) -> Path:
    """Write results of MegaDetector: category, confidence and box by file."""
    kinds = {"1": "animal", "2": "person", "3": "vehicle"}
    images = [
        {"file": name, "detections": [{"category": kind, "conf": conf, "bbox": box} for kind, conf, box in found]}
        for name, found in detections.items()
    ]
    info = {"format_version": "1.4", "detector": "md_v5a.0.0.pt"}
    path.write_text(json.dumps({"info": info, "detection_categories": kinds, "images": images}))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("fox/1.jpg", "fox/2.jpg", "hare/1.jpg", "hare/3.jpg", "human/1.jpg"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def detections(tmp_path: Path) -> Path:
    found = {
        "C:\\cards\\fox\\1.jpg": [("1", 0.9, LEFT), ("1", 0.8, RIGHT), ("1", 0.05, RIGHT)],
        "fox/2.jpg": [("2", 0.9, LEFT), ("1", 0.9, RIGHT)],
        "hare/1.jpg": [],
        "human/1.jpg": [("2", 0.9, LEFT)],
    }
    return write_detections(tmp_path / "detections.json", found)


def listed(source: Path, **reading: Any) -> PictureList:
    return list_pictures(DataSource(source, reading=make_read_options(**reading)), CROPS, Context(1))


def boxes_of(listing: PictureList) -> dict[str, list[str]]:
    boxes: dict[str, list[str]] = {}
    for entry in listing.pictures:
        boxes.setdefault("/".join(entry.path.parts[-2:]), []).append(str(entry.box or "whole"))
    return boxes


def test_class_folders_get_the_boxes_of_a_detector(folders: Path, detections: Path) -> None:
    listing = listed(folders, boxes=detections)
    left, right = "0.1,0.1,0.3,0.4,fraction", "0.5,0.2,0.3,0.4,fraction"
    assert {name: [box.replace(" ", "") for box in boxes] for name, boxes in boxes_of(listing).items()} == {
        "fox/1.jpg": [left, right],
        "fox/2.jpg": [right],
        "hare/1.jpg": ["whole"],
        "hare/3.jpg": ["whole"],
        "human/1.jpg": [left],
    }
    assert {entry.label for entry in listing.pictures} == {"fox", "hare", "human"}


def test_what_the_two_files_do_not_share_is_named(folders: Path, detections: Path) -> None:
    messages = [notice.message for notice in listed(folders, boxes=detections).notices]
    assert any("with another label: 1 box of people" in message for message in messages)
    assert any("1 of 5 labelled pictures are not in" in message and "3.jpg" in message for message in messages)
    assert any("Each of these 6 counts as a picture" in message for message in messages)


def test_a_table_of_labels_keeps_its_groups(folders: Path, detections: Path, tmp_path: Path) -> None:
    rows = ["path,label,group,site", "fox/1.jpg,red fox,a,north", "hare/1.jpg,hare,b,south"]
    source = tmp_path / "labels.csv"
    source.write_text("\n".join(rows))
    listing = listed(source, boxes=detections, pictures=folders)
    assert [(entry.label, entry.group, entry.site) for entry in listing.pictures] == [
        ("red fox", "a", "north"),
        ("red fox", "a", "north"),
        ("hare", "b", "south"),
    ]


def test_boxes_twice_or_without_crop_are_refused(folders: Path, detections: Path, tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "scenes", 4)
    with pytest.raises(SourceError, match="have boxes already"):
        listed(coco, boxes=detections)
    whole = DataSource(folders, reading=make_read_options(boxes=detections))
    with pytest.raises(UserError, match="Add --crop boxes"):
        list_pictures(whole, DataConfig(), Context(1))
    with pytest.raises(UserError, match=r"nothing at .*absent\.json"):
        make_read_options(boxes=tmp_path / "absent.json")


def test_a_file_of_other_pictures_or_of_no_boxes_is_refused(folders: Path, tmp_path: Path) -> None:
    other = write_detections(tmp_path / "other.json", {"lynx/9.jpg": [("1", 0.9, LEFT)]})
    with pytest.raises(SourceError, match="None of the 1 pictures"):
        listed(folders, boxes=other)
    plain = tmp_path / "plain.json"
    plain.write_text("{}")
    with pytest.raises(SourceError, match="not of a format that is recognised"):
        listed(folders, boxes=plain)
    shutil.rmtree(folders / "human")
    empty = write_detections(tmp_path / "empty.json", {"fox/1.jpg": []})
    with pytest.raises(SourceError, match="the pictures have none"):
        listed(folders, boxes=empty)


def test_the_printed_command_names_the_file_of_boxes(folders: Path, detections: Path, tmp_path: Path) -> None:
    source = DataSource(folders, reading=make_read_options(boxes=detections))
    command = source.command(CROPS).format("--site", "folder")
    assert f"--boxes {detections} --crop boxes --site folder" in command
    assert f"--boxes {detections}" in retrain_command(tmp_path / "asked.toml", source.facts(1), None)

"""Small valid files of every format that bestiary reads: what the fuzzer begins with."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import polars as pl
from PIL import Image, ImageCms

FOX = "aaaaaaaa-0000-0000-0000-000000000000;mammalia;carnivora;canidae;vulpes;vulpes;red fox"
DETECTION = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4]}


@dataclass(frozen=True)
class Case:
    """A source that can be read: its files by relative path, and the one that the fuzzer changes.

    source: what is read, relative to the folder of the files; options: of `make_read_options`; boxes: read them.
    """

    files: Mapping[str, bytes]
    fuzzed: str
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    boxes: bool = False


def draw_pictures() -> list[bytes]:
    """Return a file of every format and kind of pixels that the decoder has code of its own for."""
    x, y = np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 1, 24))
    colours = Image.fromarray(np.rint(np.stack([x, y, x * y], axis=2) * 255).astype(np.uint8))
    deep = Image.fromarray(np.rint(x * 65535).astype(np.uint16))
    clear = colours.copy()
    clear.putalpha(Image.fromarray(np.rint(y * 255).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 6, "2019:05:14 17:14:52"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    saved: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colours, "JPEG", {"exif": exif, "icc_profile": profile}),
        (colours, "JPEG", {"progressive": True}),
        (colours.convert("CMYK"), "JPEG", {}),
        (colours, "PNG", {"exif": exif, "icc_profile": profile}),
        (clear, "PNG", {}),
        (deep, "PNG", {}),
        (colours.quantize(16), "PNG", {"transparency": 3}),
        (colours, "GIF", {"save_all": True, "append_images": [clear.convert("RGB")]}),
        (colours, "BMP", {}),
        (colours, "PPM", {}),
        (deep, "PPM", {}),
        (clear, "WEBP", {"exif": exif, "lossless": True}),
        (colours, "WEBP", {}),
        (colours, "TIFF", {"exif": exif, "compression": "tiff_lzw"}),
        (deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (clear, "TIFF", {"save_all": True, "append_images": [clear]}),
        (clear.resize((32, 32)), "ICO", {}),
        (clear, "TGA", {"compression": "tga_rle"}),
        (colours, "JPEG2000", {}),
        (clear, "AVIF", {"exif": exif}),
    ]
    contents = []
    for image, form, options in saved:
        stream = io.BytesIO()
        image.save(stream, form, **options)
        contents.append(stream.getvalue())
    stream = io.BytesIO()
    pillow_heif.encode("RGB", colours.size, colours.tobytes(), stream, exif=exif.tobytes(), quality=60)
    return [*contents, stream.getvalue()]


def write_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    """Return rows as a CSV, with the columns of the first."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def write_parquet(frame: pl.DataFrame, **metadata: str) -> bytes:
    """Return a table as parquet."""
    stream = io.BytesIO()
    frame.write_parquet(stream, metadata=metadata or None)
    return stream.getvalue()


def pack_tar(members: Mapping[str, bytes], compression: str = "") -> bytes:
    """Return a tar archive; compression: "", "gz", "bz2" or "xz"."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def pack_zip(members: Mapping[str, bytes]) -> bytes:
    """Return a zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def write_database(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as Timelapse's database."""
    names = list(rows[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "TimelapseData.ddb"
        connection = sqlite3.connect(path)
        columns = ", ".join(f"{name} TEXT" for name in names)
        connection.execute(f"CREATE TABLE DataTable (Id INTEGER PRIMARY KEY, {columns})")
        marks = ", ".join("?" * len(names))
        connection.executemany(
            f"INSERT INTO DataTable ({', '.join(names)}) VALUES ({marks})", [list(row.values()) for row in rows]
        )
        connection.commit()
        connection.close()
        return path.read_bytes()


def _pictures(*names: str) -> dict[str, bytes]:
    return dict.fromkeys(names, b"")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def make_table_cases() -> list[Case]:
    """Return tables of every kind of file, with columns of every role."""
    pictures = _pictures("s1/a.jpg", "s1/b.jpg", "s2/c.jpg")
    rows = [
        {
            "file": name,
            "species": label,
            "split": split,
            "group": "g1",
            "site": name[:2],
            "time": "2019-05-05 17:21:00",
            "left": 10,
            "top": 5.5,
            "width": 20,
            "height": 9,
        }
        for name, label, split in zip(pictures, ("fox", "007", "owl"), ("train", "val", "test"), strict=True)
    ]
    options = {"columns": "box=left+top+width+height"}
    frame, lines = pl.DataFrame(rows), b"\n".join(_json(row) for row in rows)
    contents = {
        "table.csv": write_csv(rows),
        "table.tsv": write_csv(rows, "\t"),
        "semicolons.csv": write_csv(rows, ";").decode().replace("fox", "Gämse").encode("cp1252"),
        "utf16.csv": write_csv(rows).decode().encode("utf-16"),
        "table.jsonl": lines,
        "table.parquet": write_parquet(frame),
    }
    return [
        Case({**pictures, name: content}, name, name, options, boxes)
        for name, content in contents.items()
        for boxes in (False, True)
    ]


def make_manifest_cases() -> list[Case]:
    """Return tables with the columns path and label."""
    pictures = _pictures("a.jpg", "b.jpg")
    frame = pl.DataFrame(
        {"path": list(pictures), "label": [1.0, 2.5], "split": ["train", "test"], "time": ["2020-05-30", None]}
    )
    text = (
        b"path,label,split,group,site,time\na.jpg,fox,train,g,s,2019:05:14 17:14:52\nb.jpg,owl,Testing,,,28.4.19 5:32\n"
    )
    contents = {"m.csv": text, "m.parquet": write_parquet(frame)}
    return [Case({**pictures, name: content}, name, name) for name, content in contents.items()]


def make_huggingface_cases() -> list[Case]:
    """Return image folders with metadata of each kind."""
    pictures = _pictures("train/1.jpg", "train/2.jpg")
    rows = [{"file_name": "1.jpg", "label": 1, "caption": "a"}, {"file_name": "2.jpg", "label": 0, "caption": "b"}]
    info = {"info": {"features": {"label": {"names": ["fox", "owl"], "_type": "ClassLabel"}}}}
    contents = {
        "train/metadata.csv": write_csv(rows),
        "train/metadata.jsonl": b"\n".join(_json(row) for row in rows),
        "train/metadata.parquet": write_parquet(pl.DataFrame(rows), huggingface=json.dumps(info)),
    }
    return [Case({**pictures, name: content}, name) for name, content in contents.items()]


def make_label_studio_cases() -> list[Case]:
    """Return the full export, the short one and the CSV."""
    rectangle = {
        "from_name": "choice",
        "type": "rectanglelabels",
        "original_width": 200,
        "original_height": 100,
        "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 30, "rectanglelabels": ["owl"]},
    }
    choice = {"from_name": "choice", "type": "choices", "value": {"choices": ["fox"]}}
    tasks = [
        {"id": 1, "annotations": [{"result": [choice]}], "data": {"image": "/data/local-files/?d=x%2Fa.jpg"}},
        {"id": 2, "annotations": [{"was_cancelled": False, "result": [rectangle]}], "data": {"image": "b.jpg"}},
    ]
    own = {"annotator": 1, "annotation_id": 2, "lead_time": 1.5}
    short = [
        {"image": "a.jpg", "id": 1, "choice": "007", "site": "s1", **own},
        {"image": "b.jpg", "id": 2, "choice": {"choices": ["fox"]}, "site": "s1", **own},
        {"image": "c.jpg", "id": 3, "choice": "", "site": "", **own},
    ]
    cells = [{k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in short]
    contents = {"full.json": _json(tasks), "short.json": _json(short), "table.csv": write_csv(cells)}
    pictures = _pictures("a.jpg", "b.jpg", "c.jpg")
    return [
        Case({**pictures, name: content}, name, name, boxes=boxes)
        for name, content in contents.items()
        for boxes in (False, True)
    ]


def make_roboflow_cases() -> list[Case]:
    """Return a table of classes, and boxes."""
    name = f"f1_jpg.rf.{0:032x}.jpg"
    table = f"filename, fox, red owl\n{name},1,0\nb.jpg, 0, 1\n".encode()
    coco = {
        "images": [{"id": 0, "file_name": name, "width": 100, "height": 80}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [5, 6, 40, 50]}],
        "categories": [{"id": 0, "name": "animals"}, {"id": 1, "name": "fox"}],
    }
    pictures = _pictures(f"train/{name}", "train/b.jpg")
    return [
        Case({**pictures, "train/_classes.csv": table}, "train/_classes.csv"),
        Case({**pictures, "train/_annotations.coco.json": _json(coco)}, "train/_annotations.coco.json", boxes=True),
    ]


def make_cvat_cases() -> list[Case]:
    """Return annotations with tags, boxes and another shape."""
    text = b"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task></task></meta>
  <image id="0" name="x/a.jpg" subset="Train" width="100" height="50"><tag label="fox" source="manual"></tag></image>
  <image id="2" name="c.jpg" width="100" height="50"><polygon label="fox" points="1,2;3,4;5,6"></polygon></image>
  <image id="3" name="d.jpg" width="100" height="50"><box label="fox" xtl="10" ytl="10" xbr="50" ybr="20" rotation="90">
  </box><box label="fox" xtl="1" ytl="1" xbr="9" ybr="9"></box></image>
</annotations>"""
    files = {**_pictures("x/a.jpg", "c.jpg", "d.jpg"), "annotations.xml": text}
    return [Case(files, "annotations.xml", boxes=boxes) for boxes in (False, True)]


def make_webdataset_cases() -> list[Case]:
    """Return shards with labels of each kind, and the file of class names."""
    numbered = pack_tar({"1.jpg": b"x", "1.cls": b"0", "2.jpg": b"x", "2.cls": b"1", "2.json": b"{}"})
    named = pack_tar({"1.jpg": b"x", "1.json": b'{"species": "fox", "n": 3}', "2.png": b"x", "2.txt": b"owl"})
    classes = {"classes.txt": b"fox\nowl\n", "train-000.tar": numbered}
    return [
        Case(classes, "train-000.tar"),
        Case(classes, "classes.txt"),
        Case({"train-000.tar": numbered, "classes.json": b'["fox", "owl"]'}, "classes.json"),
        Case({"a-000.tar": named}, "a-000.tar", "a-000.tar"),
    ]


def make_coco_cases() -> list[Case]:
    """Return COCO Camera Traps."""
    images = [
        {"id": "a/1", "file_name": "s1/a.jpg", "width": 100, "height": 80, "location": 7, "seq_id": "q1"},
        {"id": "a/2", "file_name": "s1\\b.jpg", "location": "north", "seq_id": "q1", "datetime": "2019-05-05 17:21:00"},
    ]
    annotations = [
        {"id": 1, "image_id": "a/1", "category_id": 3, "bbox": [10, 20.5, 30, 40]},
        {"id": 2, "image_id": "a/2", "category_id": 0, "sequence_level_annotation": True},
    ]
    table = {
        "info": {"version": "1.0"},
        "categories": [{"id": 0, "name": "empty"}, {"id": 3, "name": "red fox"}],
        "images": images,
        "annotations": annotations,
    }
    files = {**_pictures("s1/a.jpg", "s1/b.jpg"), "coco.json": _json(table)}
    return [Case(files, "coco.json", "coco.json", boxes=boxes) for boxes in (False, True)]


def make_megadetector_cases() -> list[Case]:
    """Return results of MegaDetector with classifications, a failure and a video."""
    images = [
        {"file": "s1/a.jpg", "detections": [{**DETECTION, "classifications": [["1", 0.2], ["0", 0.7]]}]},
        {"file": "s1\\b.jpg", "detections": []},
        {"file": "c.jpg", "failure": "Failure image access", "detections": None},
        {"file": "d.mp4", "detections": [{**DETECTION, "frame_number": 3}], "frame_rate": 5, "frames_processed": [0]},
    ]
    results = {
        "info": {"format_version": "1.6", "detector_metadata": {"typical_detection_threshold": 0.3}},
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
        "classification_categories": {"0": "fox", "1": "hare"},
        "classification_category_descriptions": {"0": FOX},
        "images": images,
    }
    files = {**_pictures("s1/a.jpg", "s1/b.jpg", "c.jpg"), "md.json": _json(results)}
    return [Case(files, "md.json", "md.json", boxes=boxes) for boxes in (False, True)]


def make_speciesnet_cases() -> list[Case]:
    """Return the predictions of both formats."""
    old = {
        "filepath": "a.jpg",
        "country": "BEL",
        "prediction": FOX,
        "prediction_score": 0.8,
        "classifications": {"classes": [FOX], "scores": [0.8]},
        "detections": [{**DETECTION, "label": "animal"}],
        "model_version": "4.0.1a",
    }
    new = {
        "filepath": "b.jpg",
        "latitude": 1.5,
        "longitude": 2.5,
        "detections": [{**DETECTION, "processed_classification": {"class": FOX, "score": 0.5, "source": "classifier"}}],
    }
    contents = {
        "old.json": _json({"predictions": [old]}),
        "new.json": _json({"info": {"format_version": "20261015"}, "predictions": [new]}),
    }
    return [
        Case({**_pictures("a.jpg", "b.jpg"), name: content}, name, name, boxes=boxes)
        for name, content in contents.items()
        for boxes in (False, True)
    ]


def make_camtrap_dp_cases() -> list[Case]:
    """Return a package of each version; each of its files is changed."""
    media = {"deploymentID": "d1", "fileMediatype": "image/jpeg", "fileName": ""}
    observation = {
        "deploymentID": "d1",
        "eventID": "e1",
        "eventStart": "2020-05-30T02:57:00Z",
        "eventEnd": "2020-05-30T02:58:00Z",
        "observationType": "animal",
        "cameraSetupType": "",
        "scientificName": "Vulpes vulpes",
        "bboxX": 0.1,
        "bboxY": 0.2,
        "bboxWidth": 0.3,
        "bboxHeight": 0.4,
    }
    tables: dict[str, list[dict[str, Any]]] = {
        "deployments": [{"deploymentID": "d1", "locationID": "", "locationName": "", "latitude": 51, "longitude": 4.5}],
        "media": [
            {"mediaID": "m1", "timestamp": "2020-05-30T04:57:10+02:00", "filePath": "media/m1.jpg", **media},
            {"mediaID": "m2", "timestamp": "2020-05-30T04:57:20+02:00", "filePath": "media/m2.jpg", **media},
        ],
        "observations": [
            {"observationID": "o1", "mediaID": "m1", "observationLevel": "media", **observation},
            {"observationID": "o2", "mediaID": "", "observationLevel": "event", **observation},
        ],
    }
    package = {
        "profile": "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2/camtrap-dp-profile.json",
        "resources": [{"name": name, "path": f"{name}.csv"} for name in tables],
    }
    old_observation = {
        "observationID": "o1",
        "deploymentID": "d1",
        "sequenceID": "q1",
        "mediaID": "",
        "timestamp": "2020-05-30T04:57:10Z",
        "observationType": "animal",
        "cameraSetup": "FALSE",
        "scientificName": "Vulpes vulpes",
    }
    old_media = {"mediaID": "m1", "sequenceID": "q1", "timestamp": "2020-05-30T04:57:10Z", "filePath": "media/m1.jpg"}
    old_tables: dict[str, list[dict[str, Any]]] = {
        "deployments": tables["deployments"],
        "media": [{**old_media, **media}],
        "observations": [old_observation],
    }
    old_package = {**package, "profile": str(package["profile"]).replace("1.0.2", "0.1.6")}
    cases = []
    for description, content in ((package, tables), (old_package, old_tables)):
        files = {f"{name}.csv": write_csv(rows) for name, rows in content.items()}
        files = {**_pictures("media/m1.jpg", "media/m2.jpg"), **files, "datapackage.json": _json(description)}
        cases += [Case(files, name) for name in (*(f"{name}.csv" for name in content), "datapackage.json")]
    return [*cases, Case(cases[0].files, "observations.csv", boxes=True)]


def make_wildlife_insights_cases() -> list[Case]:
    """Return the tables of a download; images and deployments are changed."""
    image = {
        "project_id": "1",
        "deployment_id": "C01",
        "image_id": "i1",
        "filename": "IMG_1.JPG",
        "location": "gs://project__main/deployment/20/1.JPG",
        "is_blank": 0,
        **dict(zip(("class", "order", "family", "genus", "species"), FOX.split(";")[1:6], strict=True)),
        "common_name": "Red Fox",
        "timestamp": "2024-04-09 12:15:36",
        "number_of_objects": 1,
        "sequence_id": "",
    }
    blank = {**image, "image_id": "i2", "filename": "IMG_2.JPG", "location": "", "common_name": "Blank", "is_blank": 1}
    deployment = {"project_id": "1", "deployment_id": "C01", "placename": "pond", "latitude": 51, "longitude": 4.5}
    files = {
        **_pictures("1.JPG", "IMG_2.JPG"),
        "images.csv": write_csv([image, blank]),
        "deployments.csv": write_csv([deployment]),
    }
    return [Case(files, "images.csv"), Case(files, "deployments.csv")]


def make_timelapse_cases() -> list[Case]:
    """Return the exported table and the database."""
    row = {"RelativePath": "s1\\d1", "DateTime": "2019-05-05 17:21:00", "DeleteFlag": "false", "Camera": "k1"}
    rows = [{"File": "a.JPG", **row, "Species": "007"}, {"File": "b.JPG", **row, "Species": "Empty"}]
    options = {"columns": "label=Species,site=Camera"}
    pictures = _pictures("s1/d1/a.JPG", "s1/d1/b.JPG")
    return [
        Case({**pictures, "t.csv": write_csv(rows)}, "t.csv", "t.csv", options),
        Case({**pictures, "t.ddb": write_database(rows)}, "t.ddb", "t.ddb", options),
    ]


def make_deepfaune_cases() -> list[Case]:
    """Return the results of DeepFaune."""
    row = {"date": "2019:05:14 17:14:52", "seqnum": 3, "prediction": "roe deer", "score": 0.9}
    more = {"predictionbase": "empty", "scorebase": 0.9}
    rows = [{"filename": f"D:\\pictures\\{name}.JPG", **row, **more} for name in "ab"]
    return [Case({**_pictures("a.JPG", "b.JPG"), "faune.csv": write_csv(rows)}, "faune.csv", "faune.csv")]


def make_archive_cases() -> list[Case]:
    """Return archives of class folders of every kind."""
    members = {"all/cat/a.jpg": b"a" * 300, "all/dog/b.jpg": b"b" * 70, "all/README.txt": b"text"}
    contents = {
        "a.zip": pack_zip(members),
        "a.tar": pack_tar(members),
        **{f"a.tar.{kind}": pack_tar(members, kind) for kind in ("gz", "bz2", "xz")},
    }
    return [Case({name: content}, name, name) for name, content in contents.items()]


def make_file_cases(name: str, *contents: bytes) -> list[Case]:
    """Return a case for each content of a single file."""
    return [Case({name: content}, name, name) for content in contents]


CORRECTIONS = f"""sha256,action,label,note,when,path
{"a" * 64},relabel,fox,"seen, twice",2026-01-31T12:00:00+00:00,x/a.jpg
{"b" * 64},drop,,,,
""".encode()
COSTS = (b"true,predicted,cost\nwolf,dog,20\ndog,*,0.5\n", b",wolf,dog\nwolf,0,20\ndog,2,\n")
RECIPE = b"""[data]
classes = ["cat", "dog"]
val_fraction = 0.1
group = "none"
[model]
backbone = "lite0"
[train]
epochs = 30
learning_rate = 1e-3
"""

"""Exports of labelling tools, image folders with metadata and shards: recognised, and read as they are."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bestiary.box import Box
from bestiary.context import Context
from bestiary.data.formats import json_files
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.formats.read_options import make_read_options
from bestiary.data.formats.registry import FORMATS, find_format, recognise_format
from bestiary.data.sources import PictureList, list_sources
from bestiary.errors import SourceError


def planted(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(source: Path, **options: Any) -> PictureList:
    return list_sources([source], {}, reading=make_read_options(**options))


def boxed(source: Path) -> PictureList:
    return list_sources([source], {}, reading=ReadOptions(boxes=True))


def labels(listing: PictureList) -> dict[str, str]:
    return {picture.path.name: picture.label for picture in listing.pictures}


def messages(listing: PictureList) -> str:
    return "\n".join(notice.message for notice in listing.notices)


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_of_an_image_folder_have_the_labels(tmp_path: Path, suffix: str) -> None:
    for part in ("train", "test"):
        planted(tmp_path / part, "x/1.jpg", "2.jpg")
        frame = pl.DataFrame({"file_name": ["x/1.jpg", "2.jpg"], "label": ["007", "NA"], "caption": ["a", "b"]})
        file = tmp_path / part / f"metadata.{suffix}"
        if suffix == "csv":
            frame.write_csv(file)
        else:
            frame.write_ndjson(file) if suffix == "jsonl" else frame.write_parquet(file)
    listing = listed(tmp_path)
    rows = [(p.path.relative_to(tmp_path).as_posix(), p.label, p.split) for p in listing.pictures]
    assert rows == [
        ("test/2.jpg", "NA", "test"),
        ("test/x/1.jpg", "007", "test"),
        ("train/2.jpg", "NA", "train"),
        ("train/x/1.jpg", "007", "train"),
    ]
    assert "is read as a Hugging Face image folder (--format huggingface)" in messages(listing)
    assert labels(listed(tmp_path / "train" / f"metadata.{suffix}")) == {"1.jpg": "007", "2.jpg": "NA"}


def test_metadata_switch_the_names_of_folders_off_and_say_so(tmp_path: Path) -> None:
    planted(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "metadata.csv").write_text("image_file_name,species\na/1.jpg,fox\nb/2.jpg,owl\n")
    listing = listed(tmp_path)
    assert labels(listing) == {"1.jpg": "fox", "2.jpg": "owl"}
    assert "The names of the folders" in messages(listing)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file_name,label\na/1.jpg,fox\n"),
        ("metadata.csv", "file_name,caption\na/1.jpg,fox\n"),
        ("metadata.csv", "path,label\na/1.jpg,fox\n"),
        ("metadata.jsonl", "no json\n"),
    ],
)
def test_a_table_beside_class_folders_leaves_them_classes(tmp_path: Path, name: str, text: str) -> None:
    planted(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / name).write_text(text)
    assert labels(listed(tmp_path)) == {"1.jpg": "a", "2.jpg": "b"}


def test_class_indices_get_their_names(tmp_path: Path) -> None:
    planted(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    info = {"info": {"features": {"label": {"names": ["fox", "owl"], "_type": "ClassLabel"}}}}
    frame = pl.DataFrame({"file_name": ["1.jpg", "2.jpg", "3.jpg"], "label": [1, 0, -1]})
    frame.write_parquet(tmp_path / "metadata.parquet", metadata={"huggingface": json.dumps(info)})
    listing = listed(tmp_path)
    assert labels(listing) == {"1.jpg": "owl", "2.jpg": "fox"}
    assert dict(listing.skipped) == {"without a label": 1}
    frame.with_columns(label=pl.lit(5)).write_parquet(
        tmp_path / "metadata.parquet", metadata={"huggingface": json.dumps(info)}
    )
    with pytest.raises(SourceError, match="the label 5 is no index of its 2 classes"):
        listed(tmp_path)


# ---- Label Studio ---------------------------------------------------------------------------------------------------


def choice(*names: str, question: str = "choice") -> dict[str, Any]:
    return {"from_name": question, "to_name": "image", "type": "choices", "value": {"choices": list(names)}}


def rectangle(label: str, *numbers: float, rotation: float = 0) -> dict[str, Any]:
    value = dict(zip(("x", "y", "width", "height"), numbers, strict=True))
    return {
        "from_name": "choice",
        "type": "rectanglelabels",
        "original_width": 200,
        "original_height": 100,
        "value": value | {"rotation": rotation, "rectanglelabels": [label]},
    }


def task(image: str, *annotations: list[Any], **more: Any) -> dict[str, Any]:
    return {"id": 1, "annotations": [{"result": result} for result in annotations], "data": {"image": image}, **more}


def exported(folder: Path, *tasks: Mapping[str, Any]) -> Path:
    planted(folder, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


def test_a_full_export_of_label_studio(tmp_path: Path) -> None:
    cancelled = task("c.jpg") | {"annotations": [{"was_cancelled": True, "result": [choice("fox")]}]}
    source = exported(
        tmp_path,
        task("/data/upload/1/0123abcd-a.jpg", [choice("fox")], [choice("fox")]),
        task("/data/local-files/?d=elsewhere%2Fb.jpg", [choice("fox", "owl")]),
        cancelled,
        task("s3://bucket/d.jpg", predictions=[{"result": [choice("fox")]}]),
    )
    listing = listed(source)
    assert labels(listing) == {"a.jpg": "fox"}
    assert dict(listing.skipped) == {
        "listed twice": 1,
        "with several labels": 1,
        "skipped by the annotator": 1,
        "without a label": 1,
    }
    assert "is read as a Label Studio export (--format label-studio)" in messages(listing)


def test_rectangles_of_label_studio_are_percents(tmp_path: Path) -> None:
    turned = rectangle("owl", 50, 10, 20, 20, rotation=90)
    source = exported(
        tmp_path,
        task("a.jpg", [rectangle("fox", 10, 20, 30, 40), turned]),
        task("b.jpg", [rectangle("owl", 90, 10, 120, 5)]),
    )
    first, second = boxed(source).pictures
    assert (first.label, first.box) == ("fox", Box(0.1, 0.2, 0.3, 0.4))
    assert second.box is not None
    box = [round(value, 6) for value in (second.box.left, second.box.top, second.box.width, second.box.height)]
    assert box == [0.4, 0.1, 0.1, 0.4]  # 40 x 20 pixels, turned about the left upper corner: 20 x 40
    assert dict(boxed(source).skipped) == {"box outside the picture": 1}
    assert dict(listed(source).skipped) == {"with several labels": 1}
    assert labels(listed(source)) == {"b.jpg": "owl"}


def test_short_exports_of_label_studio(tmp_path: Path) -> None:
    planted(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    own = {"annotator": 1, "annotation_id": 2, "lead_time": 1.5, "created_at": "x", "updated_at": "y"}
    rows = [
        {"image": "a.jpg", "id": 1, "choice": "007", "site": "s1", **own},
        {"image": "b.jpg", "id": 2, "choice": {"choices": ["fox", "owl"]}, "site": "s1", **own},
        {"image": "c.jpg", "id": 3, "site": "s2", **own},
    ]
    (tmp_path / "min.json").write_text(json.dumps(rows))
    cells = [{k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows]
    pl.DataFrame(cells, infer_schema_length=None, strict=False).write_csv(tmp_path / "t.csv")
    for name in ("min.json", "t.csv"):
        listing = listed(tmp_path / name)
        assert [(p.path.name, p.label, p.site) for p in listing.pictures] == [("a.jpg", "007", "s1")]
        assert dict(listing.skipped) == {"with several labels": 1, "without a label": 1}


def test_questions_and_fields_of_label_studio_that_cannot_be_decided(tmp_path: Path) -> None:
    source = exported(tmp_path, task("a.jpg", [choice("fox"), choice("sharp", question="quality")]))
    with pytest.raises(SourceError, match=r"several questions have answers \(choice, quality\).*--columns label=NAME"):
        listed(source)
    assert labels(listed(source, columns="label=quality")) == {"a.jpg": "sharp"}
    with pytest.raises(SourceError, match=r'no answers named "qality"\. Did you mean "quality"'):
        listed(source, columns="label=qality")
    source = exported(tmp_path, task("a.jpg", [choice("fox")]) | {"data": {"image": "a.jpg", "thumb": "b.jpg"}})
    with pytest.raises(SourceError, match=r"several fields have pictures \(image, thumb\)"):
        listed(source)
    assert labels(listed(source, columns="path=thumb")) == {"b.jpg": "fox"}
    source.write_text('[{"annotations": [], "data": {"image": "a.jpg"}')
    with pytest.raises(SourceError, match=r"cannot be read as JSON: .*\. It is damaged or incomplete"):
        listed(source)


# ---- Roboflow -------------------------------------------------------------------------------------------------------

HASHES = [f"{n:032x}" for n in range(4)]


def test_copies_of_one_picture_of_roboflow_are_one_group(tmp_path: Path) -> None:
    names = [f"train/fox/f1_jpg.rf.{HASHES[0]}.jpg", f"valid/fox/f1_jpg.rf.{HASHES[1]}.jpg", "train/owl/o.jpg"]
    planted(tmp_path, *names, f"train/owl/f1_jpg.rf.{HASHES[2]}.jpg")
    groups = {p.path.relative_to(tmp_path).as_posix(): p.group for p in listed(tmp_path).pictures}
    assert groups[names[0]] == groups[names[1]] == "fox/f1_jpg"
    assert groups[names[2]] is None
    assert groups[f"train/owl/f1_jpg.rf.{HASHES[2]}.jpg"] == "owl/f1_jpg"


def test_tables_of_classes_of_roboflow(tmp_path: Path) -> None:
    names = [f"f1_jpg.rf.{number}.jpg" for number in HASHES]
    planted(tmp_path / "train", *names)
    planted(tmp_path / "valid", "v.jpg")
    rows = ["filename, fox, red owl", f"{names[0]},1,0", f"{names[1]}, 0, 1", f"{names[2]}, 1, 1", f"{names[3]}, 0, 0"]
    (tmp_path / "train" / "_classes.csv").write_text("\n".join(rows))
    (tmp_path / "valid" / "_classes.csv").write_text("filename, fox, red owl\nv.jpg, 1, 0\n")
    listing = listed(tmp_path)
    assert [(p.path.name, p.label, p.split, p.group) for p in listing.pictures] == [
        (names[0], "fox", "train", "f1_jpg"),
        (names[1], "red owl", "train", "f1_jpg"),
        ("v.jpg", "fox", "val", None),
    ]
    assert dict(listing.skipped) == {"with several labels": 1, "without a label": 1}
    assert labels(listed(tmp_path / "valid" / "_classes.csv")) == {"v.jpg": "fox"}
    (tmp_path / "valid" / "_classes.csv").write_text("filename, fox\nv.jpg, 2\n")
    with pytest.raises(SourceError, match='"2" in the row of v.jpg: expected 0 or 1'):
        listed(tmp_path)


def test_boxes_of_roboflow_are_read_from_the_folder_of_parts(tmp_path: Path) -> None:
    parts = {"train": [f"f1_jpg.rf.{HASHES[0]}.jpg", f"f1_jpg.rf.{HASHES[1]}.jpg"], "valid": ["v.jpg", "empty.jpg"]}
    categories = [{"id": 0, "name": "animals"}, {"id": 1, "name": "fox"}, {"id": 2, "name": "owl"}]
    for part, names in parts.items():
        planted(tmp_path / part, *names)
        images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in enumerate(names)]
        boxes = [{"id": n, "image_id": n, "category_id": 1 + n, "bbox": [5, 6, 40, 50]} for n in range(len(names))]
        boxes = boxes[:1] if part == "valid" else boxes
        text = json.dumps({"images": images, "annotations": boxes, "categories": categories})
        (tmp_path / part / "_annotations.coco.json").write_text(text)
    listing = boxed(tmp_path)
    assert [(p.path.relative_to(tmp_path).as_posix(), p.label, p.split, p.group) for p in listing.pictures] == [
        (f"train/{parts['train'][0]}", "fox", "train", "f1_jpg"),
        (f"train/{parts['train'][1]}", "owl", "train", "f1_jpg"),
        ("valid/v.jpg", "fox", "val", None),
    ]
    assert {p.box for p in listing.pictures} == {Box(5, 6, 40, 50, "pixels", picture_size=(100, 80))}
    assert dict(listing.skipped) == {"picture without an annotation": 1}
    assert "valid/empty.jpg" in messages(listing)
    assert labels(listed(tmp_path / "valid")) == {"v.jpg": "fox"}
    (tmp_path / "train" / "_classes.csv").write_text("filename, fox\nv.jpg, 1\n")
    with pytest.raises(SourceError, match=r"two exports of Roboflow: .*_classes.csv and .*_annotations.coco.json"):
        listed(tmp_path)


# ---- CVAT -----------------------------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task></task></meta>
  <image id="0" name="x/a.jpg" subset="Train" width="100" height="50"><tag label="fox" source="manual"></tag>
    <box label="owl" xtl="10" ytl="5" xbr="30.5" ybr="25"></box></image>
  <image id="1" name="b.jpg" width="100" height="50"><tag label="fox"></tag><tag label="owl"></tag></image>
  <image id="2" name="c.jpg" width="100" height="50"><polygon label="fox" points="1,2;3,4;5,6"></polygon></image>
  <image id="3" name="d.jpg" width="100" height="50"><box label="fox" xtl="10" ytl="10" xbr="50" ybr="20" rotation="90">
  </box><box label="fox" xtl="1" ytl="1" xbr="9" ybr="9"></box></image>
</annotations>"""


def test_tags_and_boxes_of_cvat(tmp_path: Path) -> None:
    planted(tmp_path / "images", "x/a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (tmp_path / "annotations.xml").write_text(CVAT)
    for source in (tmp_path, tmp_path / "annotations.xml"):
        listing = listed(source)
        assert [(p.path.name, p.label, p.split) for p in listing.pictures] == [
            ("d.jpg", "fox", None),
            ("a.jpg", "fox", "train"),
        ]
        assert dict(listing.skipped) == {"with several labels": 1, "without a label": 1, "listed twice": 1}
        assert "1 shapes of the kind polygon are not used" in messages(listing)
    boxes = [(p.path.name, p.label, p.box) for p in boxed(tmp_path).pictures]
    assert ("a.jpg", "owl", Box(10, 5, 20.5, 20, "pixels", (100, 50))) in boxes
    turned = next(box for name, _, box in boxes if name == "d.jpg" and box and box.width > 9)
    assert [round(value) for value in (turned.left, turned.top, turned.width, turned.height)] == [25, -5, 10, 40]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CVAT.replace("</annotations>", ""), "cannot be read as XML"),
        (CVAT.replace("utf-8", "label"), "cannot be read as XML: unknown encoding: label"),
        (CVAT.replace("utf-8", "utf-7"), "cannot be read as XML: multi-byte encodings"),
        (CVAT.replace("image", "track"), "tracks of a video"),
        (
            "<annotations><meta></meta><image name='a'><box label='x' xtl='1'/></image></annotations>",
            "has no numbers xtl",
        ),
    ],
)
def test_files_of_cvat_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(SourceError, match=message):
        listed(tmp_path / "annotations.xml")


# ---- WebDataset -----------------------------------------------------------------------------------------------------


def shard(path: Path, members: Mapping[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content.encode())
            tar.addfile(entry, io.BytesIO(content.encode()))
    return path


def test_shards_are_unpacked_and_their_numbers_named(tmp_path: Path) -> None:
    for number in range(2):
        shard(tmp_path / f"train-{number:06}.tar", {f"k{number}.jpg": "picture", f"k{number}.cls": str(number)})
    for source in (tmp_path, tmp_path / "train-{000000..000001}.tar"):
        listing = listed(source)
        assert sorted((p.path.name, p.label, p.split) for p in listing.pictures) == [
            ("k0.jpg", "0", "train"),
            ("k1.jpg", "1", "train"),
        ]
        assert all(p.path.read_text() == "picture" for p in listing.pictures)
    (tmp_path / "classes.txt").write_text("fox\nowl\n")
    assert labels(listed(tmp_path)) == {"k0.jpg": "fox", "k1.jpg": "owl"}
    (tmp_path / "classes.txt").write_text("fox\n")
    with pytest.raises(SourceError, match="the class 1 is none of the 1"):
        listed(tmp_path)
    (tmp_path / "classes.txt").write_text("fox\n\nowl\n")  # is owl the class 1 or 2?
    with pytest.raises(SourceError, match="the class 1 has no name"):
        listed(tmp_path)
    with pytest.raises(SourceError, match=r"the shards train-000002\.tar are missing"):
        listed(tmp_path / "train-{000000..000002}.tar")


def test_labels_of_shards_in_json_and_text(tmp_path: Path) -> None:
    members = {
        "1.jpg": "x",
        "1.json": '{"species": "fox", "n": 3}',
        "2.jpg": "x",
        "2.txt": "owl",
        "3.jpg": "x",
        "4.cls": "1",
    }
    listing = listed(shard(tmp_path / "a-000.tar", members))
    assert labels(listing) == {"1.jpg": "fox", "2.jpg": "owl"}
    assert dict(listing.skipped) == {"without a label": 1, "sample without a picture": 1}
    assert labels(listed(tmp_path / "a-000.tar", columns="label=n"))["1.jpg"] == "3"
    shard(tmp_path / "b-000.tar", {"1.jpg": "x", "1.json": '{"species": "fox", "class": 3}'})
    with pytest.raises(SourceError, match=r"several fields that may be the label \(species, class\)"):
        listed(tmp_path / "b-000.tar")


def test_archives_of_class_folders_stay_so(tmp_path: Path) -> None:
    source = shard(
        tmp_path / "a.tar", {"fox/1.jpg": "x", "fox/1.txt": "a caption", "owl/2.jpg": "x", "owl/2.json": "{}"}
    )
    assert labels(listed(source)) == {"1.jpg": "fox", "2.jpg": "owl"}
    for name in ("fox", "owl"):
        shard(tmp_path / "each" / f"{name}.tar", {"1.jpg": name, "1.txt": "a caption"})
    assert {p.label for p in listed(tmp_path / "each").pictures} == {"fox", "owl"}


# ---- Which format it is ---------------------------------------------------------------------------------------------


def test_a_source_that_may_be_two_formats_needs_a_name(tmp_path: Path) -> None:
    planted(tmp_path, "a.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.jpg,owl\n")
    (tmp_path / "_classes.csv").write_text("filename, fox\na.jpg, 1\n")
    with pytest.raises(
        SourceError,
        match="may be a Hugging Face image folder or a Roboflow export.*--format huggingface or --format roboflow",
    ):
        listed(tmp_path)
    assert labels(listed(tmp_path, format_name="roboflow")) == {"a.jpg": "fox"}
    assert labels(listed(tmp_path, format_name="huggingface")) == {"a.jpg": "owl"}
    with pytest.raises(SourceError, match="is a Roboflow export, which has no columns to name"):
        listed(tmp_path, format_name="roboflow", columns="label=x")


def test_any_table_may_be_read_as_one(tmp_path: Path) -> None:
    planted(tmp_path, "a.jpg")
    (tmp_path / "_classes.csv").write_text("filename,fox\na.jpg,1\n")
    assert labels(listed(tmp_path / "_classes.csv", format_name="table", columns="label=fox")) == {"a.jpg": "1"}


def test_a_folder_that_lacks_the_files_of_the_requested_format_is_refused(tmp_path: Path) -> None:
    planted(tmp_path, "a/1.jpg", "b/2.jpg")
    for name, message in (
        ("roboflow", "no _classes.csv or _annotations.coco.json"),
        ("huggingface", "no metadata.csv"),
        ("webdataset", "there are no numbered tar files in it"),
        ("cvat", "annotations.xml cannot be read"),
        ("label-studio", "is a file. It has no such file"),
        ("table", "is a file. It has no such file"),
    ):
        with pytest.raises(SourceError, match=message):
            list_sources([tmp_path], {}, Context(cache=None), reading=ReadOptions(format=name))


def test_every_format_has_a_name_and_a_title_of_its_own() -> None:
    names = [form.name for form in FORMATS]
    assert len(names) == len({form.title for form in FORMATS}) == len(set(names))
    assert set(names) >= {
        "table",
        "huggingface",
        "label-studio",
        "roboflow",
        "cvat",
        "webdataset",
        "coco",
        "camtrap-dp",
    }
    assert all(form is find_format(form.name) for form in FORMATS)


def test_json_that_does_not_fit_into_memory_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exported(tmp_path, task("a.jpg", [choice("fox")]))
    monkeypatch.setattr(json_files, "BYTES_PER_BYTE", 10**15)
    with pytest.raises(
        SourceError, match=r"export\.json has 0\.0 GB; reading it takes about \d+ GB of memory, and \d+ GB"
    ):
        listed(source)


def test_a_plain_folder_of_classes_is_of_no_format(tmp_path: Path) -> None:
    planted(tmp_path, "fox/1.jpg", "owl/2.jpg")
    for name in ("labels.csv", "results.json", "notes.xml", "deployments.csv", "fox.tar"):
        (tmp_path / name).write_text("path,label\nfox/1.jpg,wolf\n")
    assert recognise_format(tmp_path, ReadOptions()) is None
    assert recognise_format(tmp_path / "fox" / "1.jpg", ReadOptions()) is None


# ---- Damaged and unusual files, as the fuzzer of `scripts/fuzz` writes them -----------------------------------------

FULL_TASK = task("a.jpg", [choice("fox"), rectangle("owl", 10, 20, 30, 40)])


def changed_task(*keys: str | int, value: Any) -> dict[str, Any]:
    """A copy of a task with another value at that place."""
    copy = json.loads(json.dumps(FULL_TASK))
    holder: Any = copy
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    return dict(copy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (changed_task("annotations", value=7), r'"annotations" is 7, not a list'),
        (changed_task("annotations", value={"result": []}), '"annotations" is .*, not a list'),
        (changed_task("annotations", 0, value="x"), "'str' object"),
        (changed_task("annotations", 0, "result", value="fox"), "\"result\" is 'fox', not a list"),
        (changed_task("annotations", 0, "result", 0, value=[]), "'list' object"),
        (changed_task("annotations", 0, "result", 0, "value", value=1.5), '"value" is 1.5, not a JSON object'),
        (changed_task("annotations", 0, "result", 0, "value", "choices", value="fox"), '"choices" is .*, not a list'),
        (changed_task("data", value="a.jpg"), "\"data\" is 'a.jpg', not a JSON object"),
        ({"image": "a.jpg", "annotation_id": 1, "choice": {"choices": "fox"}}, '"choices" is .*, not a list'),
    ],
)
def test_an_export_of_label_studio_of_another_structure_names_the_task(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    source = exported(tmp_path, task("b.jpg", [choice("fox")]), wrong)
    with pytest.raises(SourceError, match=rf"task 2: .*{message}.*export again"):
        listed(source, format_name="label-studio")


@pytest.mark.parametrize("cell", ['{"choices": "fox"}', '[{"rectanglelabels": 7}]', '[{"rectanglelabels": "fox"}]'])
def test_a_row_of_label_studio_of_another_structure_is_named(tmp_path: Path, cell: str) -> None:
    own = {"annotator": ["1"] * 2, "annotation_id": ["2"] * 2, "lead_time": ["3"] * 2}
    rows = {"image": ["a.jpg", "b.jpg"], "label": ["fox", cell], **own}
    pl.DataFrame(rows).write_csv(tmp_path / "export.csv")
    with pytest.raises(SourceError, match=r"export\.csv, task 2: .* not a list"):
        listed(tmp_path / "export.csv")


@pytest.mark.parametrize("number", [10**400, "wide", None])
def test_a_rectangle_of_label_studio_without_usable_numbers_is_refused(tmp_path: Path, number: Any) -> None:
    wrong = changed_task("annotations", 0, "result", 1, "value", "width", value=number)
    with pytest.raises(SourceError, match="no numbers x, y, width and height"):
        boxed(exported(tmp_path, wrong))


def test_a_blank_answer_is_no_class(tmp_path: Path) -> None:
    source = exported(tmp_path, task("a.jpg", [choice("\n")]), task("b.jpg", [choice("fox", " ")]))
    listing = listed(source)
    assert labels(listing) == {"b.jpg": "fox"}
    assert dict(listing.skipped) == {"without a label": 2}
    members = {"1.jpg": "x", "1.json": '{"species": " "}', "2.jpg": "x", "2.json": '{"species": "owl"}'}
    listing = listed(shard(tmp_path / "a-000.tar", members))
    assert labels(listing) == {"2.jpg": "owl"}
    assert dict(listing.skipped) == {"without a label": 1}


def test_a_lone_surrogate_of_json_is_written_out(tmp_path: Path) -> None:
    assert labels(listed(exported(tmp_path, task("a.jpg", [choice("fox \ud800")])))) == {"a.jpg": "fox \\ud800"}


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_an_error_and_a_cell_of_it_is_text(tmp_path: Path, nested: str) -> None:
    planted(tmp_path, "a.jpg")
    members = {"1.jpg": "x", "1.json": nested}
    with pytest.raises(SourceError, match="sample 1: the .json cannot be read"):
        listed(shard(tmp_path / "a-000.tar", members))
    (tmp_path / "table.jsonl").write_text(nested)
    with pytest.raises(SourceError, match=r"table\.jsonl, line 1: no JSON"):
        listed(tmp_path / "table.jsonl")
    own = {"annotator": "1", "annotation_id": "2", "lead_time": "3"}
    pl.DataFrame({"image": ["a.jpg"], "label": [nested], **own}).write_csv(tmp_path / "export.csv")
    assert labels(listed(tmp_path / "export.csv")) == {"a.jpg": nested}


@pytest.mark.parametrize(
    ("name", "content"),
    [("classes.txt", b"fox\n\xed\xa0\x80\n"), ("classes.json", b'["\xed\xa0\x80"]'), ("classes.json", b"[" * 100_000)],
)
def test_class_names_of_shards_that_cannot_be_read(tmp_path: Path, name: str, content: bytes) -> None:
    shard(tmp_path / "a-000.tar", {"1.jpg": "x", "1.cls": "0"})
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"{name} cannot be read as .*Expected class names"):
        listed(tmp_path)


def test_a_sample_whose_name_is_no_text_is_left_out_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a-000.tar"
    with tarfile.open(path, "w", errors="surrogateescape") as tar:
        for name, text in (("1.jpg", "x"), ("1.cls", "fox"), ("\udce9.jpg", "x"), ("\udce9.cls", "owl")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    listing = listed(path)
    assert labels(listing) == {"1.jpg": "fox"}
    assert dict(listing.skipped) == {"name is not valid Unicode": 1}
    assert "a-000.tar/\\udce9.jpg" in messages(listing)


def test_a_class_of_roboflow_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    planted(tmp_path, "a.jpg")
    (tmp_path / "_classes.csv").write_text("filename, fox, fox\na.jpg, 1, 0\n")
    with pytest.raises(SourceError, match=r"_classes\.csv has 2 columns “fox”"):
        listed(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(1e308, 80), (100, 10**30)])
def test_a_size_that_no_picture_has_is_none(tmp_path: Path, width: float, height: float) -> None:
    planted(tmp_path, "a.jpg")
    coco = {
        "images": [{"id": 0, "file_name": "a.jpg", "width": width, "height": height}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [5, 6, 40, 50]}],
        "categories": [{"id": 1, "name": "fox"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert [p.box for p in boxed(tmp_path / "coco.json").pictures] == [Box(5, 6, 40, 50, "pixels")]
    box = '<box label="fox" xtl="5" ytl="6" xbr="45" ybr="56"/>'
    image = f'<image name="a.jpg" width="{int(width)}" height="{int(height)}">{box}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations><meta></meta>{image}</annotations>")
    assert [p.box for p in boxed(tmp_path / "annotations.xml").pictures] == [Box(5, 6, 40, 50, "pixels")]

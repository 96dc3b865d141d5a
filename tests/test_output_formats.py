"""Predictions in other programs' formats: what each says of named, unknown, blank and unreadable pictures."""

from __future__ import annotations

import csv
import json
import os
import re
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from bestiary.box import Box, path_of
from bestiary.data.formats import camtrap_dp, megadetector
from bestiary.data.formats.label_table import ReadOptions
from bestiary.errors import SourceError, UserError
from bestiary.inference.converted_file import TABLE, ConvertedFile, count_complete
from bestiary.inference.output_formats.camtrap_columns import MEDIA_COLUMNS
from bestiary.inference.output_formats.conversion import Conversion
from bestiary.inference.output_formats.input_table import InputTable
from bestiary.inference.output_formats.megadetector import write_megadetector
from bestiary.inference.predictor import Prediction

CLASSES = ("Homo sapiens", "badger", "empty", "red fox", "vehicle")
MODEL = "0123456789abcdef" * 4
NAMES = ("A1/fox.jpg", "A1/walker.jpg", "B2/blank.jpg", "B2/car.jpg", "B2/odd.jpg", "B2/broken.jpg", "B2/badger.jpg")
WRITTEN = ["megadetector", "label-studio", "huggingface", "timelapse", "camtrap-dp"]


class KilledError(Exception):
    pass


def predict_one(path: str) -> Prediction:
    """What a model would say of a picture with this name."""
    name = Path(path).stem
    if name == "broken":
        return Prediction(path, None, 0.0, True, 0.0, {}, error="It is not a picture.")
    best = {"walker": "Homo sapiens", "blank": "empty", "car": "vehicle", "badger": "badger"}.get(name, "red fox")
    sure = 1.0 if name == "badger" else 0.9
    probabilities = dict.fromkeys(CLASSES, (1 - sure) / 4) | {best: sure}
    return Prediction(path, best, sure, name == "odd", 0.1 if name == "odd" else 0.8, probabilities)


def predicted(paths: Iterable[Path], *, until: int = 1000) -> Iterator[Prediction]:
    for number, path in enumerate(paths):
        if number == until:
            raise KilledError
        yield predict_one(str(path))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a folder for each of two deployments; times of the camera without offset."""
    for minute, name in enumerate(NAMES):
        exif = Image.Exif()
        exif[0x010F] = "camera"
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"2026:05:14 12:{minute:02}:00"
        (path := tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(path, exif=exif)
    return tmp_path / "pictures"


DESCRIPTOR: dict[str, Any] = {
    "resources": [],
    "profile": "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2/camtrap-dp-profile.json",
    "id": "of the human package",
    "created": "2026-01-01T00:00:00Z",
    "contributors": [{"title": "A person", "role": "contact"}],
    "project": {
        "title": "Foxes",
        "samplingDesign": "targeted",
        "captureMethod": ["activityDetection"],
        "individualAnimals": False,
        "observationLevel": ["event"],
    },
    "spatial": {"type": "Point", "coordinates": [4.5, 51.2]},
    "temporal": {"start": "2026-05-01", "end": "2026-06-01"},
    "taxonomic": [{"scientificName": "Vulpes vulpes", "vernacularNames": {"eng": "Red fox"}}],
}
DEPLOYMENTS = (
    "deploymentID,latitude,longitude,deploymentStart,deploymentEnd\n"
    "A1,51.2,4.5,2026-05-01T00:00:00+02:00,2026-06-01T00:00:00+02:00\n"
    "B2,51.3,4.5,2026-05-01T00:00:00Z,2026-06-01T00:00:00Z\n"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A Camtrap DP without media."""
    (folder := tmp_path / "package").mkdir()
    (folder / "datapackage.json").write_text(json.dumps(DESCRIPTOR), encoding="utf-8")
    (folder / "deployments.csv").write_text(DEPLOYMENTS, encoding="utf-8")
    return folder


def out_name(form: str) -> str:
    return {"huggingface": "metadata.jsonl", "camtrap-dp": "out"}.get(form, "out.json")


def write_all(form: str, out: Path, folder: Path, *, resume: bool = False, until: int = 1000, **more: Any) -> list[str]:
    conversion = Conversion(CLASSES, MODEL, folder, **more)
    file = ConvertedFile(out, form, conversion, {"model": MODEL}, resume=resume)
    return file.write(predicted(file.pending([folder / name for name in NAMES]), until=until))


def contents(path: Path) -> dict[str, str]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    moments = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\dZ?(?=\"|,[01.,])")
    return {file.name: moments.sub("now", file.read_text(encoding="utf-8")) for file in files}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("until", [0, 3, 6])
def test_a_killed_run_leaves_no_file_and_is_resumed(
    pictures: Path, package: Path, tmp_path: Path, form: str, until: int
) -> None:
    out, whole = tmp_path / out_name(form), tmp_path / "whole" / out_name(form)
    with pytest.raises(KilledError):
        write_all(form, out, pictures, until=until, package=package)
    assert not out.exists()
    with pytest.raises(UserError, match="Add --resume"):
        write_all(form, out, pictures, package=package)
    write_all(form, out, pictures, resume=True, package=package)
    write_all(form, whole, pictures, package=package)
    if form == "huggingface":
        assert "../pictures/A1/fox.jpg" in whole.read_text("utf-8")
        assert out.read_text("utf-8") == whole.read_text("utf-8").replace("../pictures", "pictures")
    else:
        assert contents(out) == contents(whole)
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "pictures",
        "package",
        "whole",
        out.name,
        f"{out.name}.resume",
    }
    for resume in (False, True):
        with pytest.raises(UserError, match="is complete" if resume else "exists already"):
            write_all(form, out, pictures, resume=resume, package=package)


def test_a_run_that_is_killed_after_the_file_was_written_is_complete(pictures: Path, tmp_path: Path) -> None:
    write_all("megadetector", out := tmp_path / "out.json", pictures)
    before = out.read_bytes()
    record = tmp_path / "out.json.resume"
    record.rename(tmp_path / "out.json.part.jsonl.resume")
    (tmp_path / "out.json.part.jsonl").write_text("{}\n")

    def count(names: Iterable[str] = NAMES, model: str = MODEL, path: Path = out) -> int | None:
        files = [pictures / name for name in names]
        return count_complete(path, "megadetector", Conversion(CLASSES, MODEL), {"model": model}, files)

    assert count() == len(NAMES)
    assert (out.read_bytes(), sorted(path.name for path in tmp_path.glob("out*"))) == (before, [out.name, record.name])
    assert count(path=tmp_path / "other.json") is None
    with pytest.raises(UserError, match=r"is complete without 1 picture of this command \(.*new.jpg\), and cannot be"):
        count([*NAMES, "new.jpg"])
    with pytest.raises(UserError, match=r"is complete without 1 picture of this command"):
        count([*NAMES, NAMES[0]])  # listed twice, predicted once
    with pytest.raises(UserError, match="predictions of another model"):
        count(model="another")
    os.utime(pictures / NAMES[0], ns=(1, 1))
    with pytest.raises(UserError, match="changed since: 1 picture"):
        count()


def test_what_a_killed_run_has_collected_stays_where_another_file_has_its_name(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(KilledError):
        write_all("megadetector", out, pictures, until=2)
    out.write_text("that of another program")
    before = sorted(path.name for path in tmp_path.glob("out*"))
    with pytest.raises(UserError, match="is complete without"):
        files = [pictures / name for name in NAMES]
        count_complete(out, "megadetector", Conversion(CLASSES, MODEL), {"model": MODEL}, files)
    assert sorted(path.name for path in tmp_path.glob("out*")) == before
    assert out.read_text() == "that of another program"


def test_another_model_is_not_resumed(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(KilledError):
        write_all("megadetector", out, pictures, until=2)
    with pytest.raises(UserError, match="another model"):
        ConvertedFile(out, "megadetector", Conversion(CLASSES, MODEL), {"model": "another"}, resume=True)


def test_megadetector_has_kinds_as_detections_and_classes_in_them(pictures: Path, tmp_path: Path) -> None:
    write_all("megadetector", out := tmp_path / "out.json", pictures)
    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["info"]["format_version"] == "1.6"
    assert MODEL in results["info"]["classifier"]
    assert results["classification_categories"] == {str(i): name for i, name in enumerate(CLASSES)}
    images = {image["file"]: image for image in results["images"]}
    assert list(images) == list(NAMES)
    animal, *rest = images["A1/fox.jpg"]["detections"]
    assert animal["category"] == "1"
    assert animal["conf"] == pytest.approx(0.925)
    assert animal["bbox"] == [0, 0, 1, 1]
    assert animal["classifications"] == [["3", pytest.approx(0.9)], ["1", pytest.approx(0.025)]]
    assert {detection["category"] for detection in rest} == {"2", "3"}
    for image in images.values():
        for detection in image["detections"] or []:
            ranked = [probability for _, probability in detection.get("classifications", [])]
            assert ranked == sorted(ranked, reverse=True)
            assert isinstance(detection["conf"], float)
    assert images["A1/walker.jpg"]["detections"][0]["category"] == "2"
    assert max(detection["conf"] for detection in images["B2/blank.jpg"]["detections"]) < 0.1
    assert images["B2/odd.jpg"]["detections"] == [{"category": "4", "conf": 0.9, "bbox": [0, 0, 1, 1]}]
    broken = {"file": "B2/broken.jpg", "failure": "It is not a picture.", "detections": None}
    assert images["B2/broken.jpg"] == broken
    assert '"conf": 1.0' in out.read_text(encoding="utf-8")  # a decimal number: the format's validator refuses 1


def test_a_megadetector_file_is_written_in_constant_memory(tmp_path: Path) -> None:
    living: weakref.WeakSet[Prediction] = weakref.WeakSet()
    most, unwritten = 0, 0

    def many() -> Iterator[Prediction]:
        nonlocal most, unwritten
        for row in range(2_000):
            most = max(most, len(living))
            written = sum(path.stat().st_size for path in tmp_path.iterdir())
            unwritten = max(unwritten, 300 * row - written)  # the entry of a picture has more than 300 bytes
            living.add(prediction := predict_one("A1/fox.jpg"))
            yield prediction

    write_megadetector(many(), tmp_path / "out.json", Conversion(CLASSES, MODEL))
    assert (tmp_path / "out.json").stat().st_size > 300 * 2_000
    assert most <= 3
    assert unwritten < 20_000


def test_label_studio_has_a_task_for_each_picture(pictures: Path, tmp_path: Path) -> None:
    notices = write_all("label-studio", out := tmp_path / "out.json", pictures)
    assert str(pictures) in notices[0]
    tasks = {task["data"]["file"]: task for task in json.loads(out.read_text(encoding="utf-8"))}
    assert list(tasks) == list(NAMES)
    [answer] = tasks["A1/fox.jpg"]["predictions"]
    assert MODEL in answer["model_version"]
    assert answer["score"] == 0.9
    [result] = answer["result"]
    assert (result["type"], result["value"]) == ("choices", {"choices": ["red fox"]})
    assert tasks["A1/fox.jpg"]["data"]["image"] == "/data/local-files/?d=A1/fox.jpg"
    odd, broken = tasks["B2/odd.jpg"], tasks["B2/broken.jpg"]
    assert "predictions" not in odd
    assert (odd["data"]["unknown"], odd["data"]["nearest"]) == (True, "red fox")
    assert "predictions" not in broken
    assert broken["data"]["error"] == "It is not a picture."


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_hugging_face_metadata_is_relative_to_its_folder(pictures: Path, name: str) -> None:
    out = pictures / name
    assert write_all("huggingface", out, pictures) == []
    if name.endswith("csv"):
        with out.open(encoding="utf-8", newline="") as lines:
            rows: list[dict[str, Any]] = list(csv.DictReader(lines))
        missing: Any = ""
    else:
        rows, missing = [json.loads(line) for line in out.read_text("utf-8").splitlines()], None
    assert [row["file_name"] for row in rows] == list(NAMES)
    assert all((out.parent / row["file_name"]).exists() for row in rows)
    labels = ["red fox", "Homo sapiens", "empty", "vehicle", missing, missing, "badger"]
    assert [row["label"] for row in rows] == labels
    assert rows[5]["error"] == "It is not a picture."


def test_hugging_face_looks_for_two_names_only(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reads metadata\.jsonl or metadata\.csv only"):
        write_all("huggingface", tmp_path / "labels.csv", pictures)
    notices = write_all("huggingface", tmp_path / "elsewhere" / "metadata.csv", pictures)
    assert "7 pictures lie outside" in notices[0]


def test_timelapse_has_folders_with_backslashes(pictures: Path, tmp_path: Path) -> None:
    (deep := pictures / "A1" / "100MEDIA").mkdir()
    conversion = Conversion(CLASSES, MODEL, pictures)
    file = ConvertedFile(out := tmp_path / "out.csv", "timelapse", conversion, {}, resume=False)
    file.write(predicted(file.pending([deep / "fox.jpg", pictures / "-1.jpg", *(pictures / n for n in NAMES[4:6])])))
    with out.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["RelativePath"], row["File"]) for row in rows[:2]] == [("A1\\100MEDIA", "fox.jpg"), ("", "-1.jpg")]
    assert [row["Label"] for row in rows] == ["red fox", "red fox", "", ""]
    assert [row["Unknown"] for row in rows] == ["false", "false", "true", "false"]
    assert rows[3]["Error"] == "It is not a picture."


# ---------------------------------------------------------------------------------------------------- input tables


def write_table(out: Path, table: InputTable, *, until: int = 1000, resume: bool = False, sets: bool = False) -> None:
    conversion = Conversion(CLASSES, MODEL, table.folder, table=table)
    file = ConvertedFile(out, TABLE, conversion, {"model": MODEL}, resume=resume, sets=sets)
    file.write(predicted(map(path_of, file.pending(table.iter_files())), until=until))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_a_table_keeps_its_columns_and_rows(pictures: Path, tmp_path: Path, delimiter: str, encoding: str) -> None:
    header = ["id", "file_name", "note", "seen"]
    cells = [["007", "A1/fox.jpg", "=1+1", "NA"], ["8", "B2/broken.jpg", "café; 'x', y\nz", "true"]]
    cells += [["9", "A1/fox.jpg", "", "None"], ["10", "B2/odd.jpg", '"', ""]]
    with (path := tmp_path / "table.csv").open("w", encoding=encoding, newline="") as lines:
        csv.writer(lines, delimiter=delimiter).writerows([header, *cells])
    before = path.read_bytes()
    table = InputTable(path, pictures)
    assert (table.n_rows, list(table.columns)) == (4, header)
    with pytest.raises(KilledError):
        write_table(out := tmp_path / "out.csv", table, until=3)
    assert not out.exists()
    write_table(out, table, resume=True)
    with out.open(encoding="utf-8-sig", newline="") as lines:
        written_header, *rows = csv.reader(lines, delimiter=delimiter)
    assert written_header[:6] == [*header, "predicted_label", "predicted_probability"]
    assert [row[:4] for row in rows] == cells
    assert [row[4] for row in rows] == ["red fox", "", "red fox", "red fox"]
    assert [row[6] for row in rows] == ["False", "True", "False", "True"]
    assert out.read_bytes().startswith(b"\xef\xbb\xbf") == (encoding == "utf-8-sig")
    assert path.read_bytes() == before


def test_a_table_of_timelapse_keeps_its_fields(pictures: Path, tmp_path: Path) -> None:
    (path := tmp_path / "timelapse.csv").write_text(
        "RootFolder,File,RelativePath,DateTime,DeleteFlag,Species\nroot,fox.jpg,A1,2026-05-14 12:00:00,false,\n"
        "root,car.jpg,B2,2026-05-14 12:03:00,true,deer\n"
    )
    table = InputTable(path, pictures)
    assert [path_of(picture).exists() for picture in table.iter_files()] == [True, True]
    write_table(out := tmp_path / "out.csv", table)
    rows = list(csv.DictReader(out.read_text("utf-8").splitlines()))
    assert [(row["Species"], row["DeleteFlag"], row["predicted_label"]) for row in rows] == [
        ("", "false", "red fox"),
        ("deer", "true", "vehicle"),
    ]


def test_paths_of_windows_are_found(pictures: Path, tmp_path: Path) -> None:
    (path := tmp_path / "t.csv").write_text("path,x\nA1\\fox.jpg,1\n")
    assert list(InputTable(path, pictures).iter_files()) == [pictures / "A1/fox.jpg"]
    (path := pictures / "t.csv").write_text("path\nA1/fox.jpg\n")
    assert list(InputTable(path).iter_files()) == [pictures / "A1/fox.jpg"]


@pytest.mark.parametrize(
    "root", ["C:\\Users\\Björn\\survey\\", "\\\\server\\survey\\", "/media/card/", "https://x.org/a/"]
)
def test_paths_of_another_computer_are_found_in_the_folder(pictures: Path, tmp_path: Path, root: str) -> None:
    (path := tmp_path / "t.csv").write_text(f"File;x\n{root}A1\\fox.jpg;1\n{root}A1\\none.jpg;2\n", encoding="cp1252")
    fox, missing = InputTable(path, pictures).iter_files()
    assert fox == pictures / "A1/fox.jpg"
    assert not path_of(missing).exists()
    path.write_text(f"File;x\n{root}A1\\fox.jpg;1\n{root}B2\\fox.jpg;2\n", encoding="cp1252")
    with pytest.raises(SourceError, match=r"both match .*fox\.jpg\. Pass the folder above"):
        list(InputTable(path, pictures / "A1").iter_files())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r'no column "path"; it has: a, b\. .* --columns "path=a"'),
        ("path,b\n1,2,3\n", r"Line 2 .* has 3 cells; its header has 2"),
        ("path,b\n", "no rows below its header"),
        ("", "it is empty"),
        ("path,path\n1,2\n", "two columns of the same name: path"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (path := tmp_path / "t.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        InputTable(path)


def test_a_table_that_was_changed_or_has_predictions_is_refused(pictures: Path, tmp_path: Path) -> None:
    (path := tmp_path / "t.csv").write_text("path\nA1/fox.jpg\nB2/car.jpg\n")
    with pytest.raises(KilledError):
        write_table(tmp_path / "out.csv", InputTable(path, pictures), until=1)
    path.write_text("path\nB2/car.jpg\nA1/fox.jpg\n")
    with pytest.raises(UserError, match="table"):
        write_table(tmp_path / "out.csv", InputTable(path, pictures), resume=True)
    path.write_text("path,predicted_label\nB2/car.jpg,x\n")
    with pytest.raises(UserError, match="the column predicted_label already"):
        write_table(tmp_path / "new.csv", InputTable(path, pictures))


# ------------------------------------------------------------------------------------------------------ Camtrap DP


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_camtrap_dp_is_written_from_folders_and_exif(pictures: Path, package: Path, tmp_path: Path) -> None:
    notices = write_all("camtrap-dp", out := tmp_path / "out", pictures, package=package)
    assert notices == [
        f"1 observation has no scientificName, since {package / 'datapackage.json'} has none for badger: their label"
        " is in observationTags."
    ]
    files = {"datapackage.json", "deployments.csv", "media.csv", "observations.csv"}
    assert {path.name for path in out.iterdir()} == files
    media, observations = rows_of(out / "media.csv"), rows_of(out / "observations.csv")
    assert [row["filePath"] for row in media] == list(NAMES)
    assert media[0]["timestamp"] == "2026-05-14T12:00:00+02:00"  # the offset of its deployment
    assert media[2]["timestamp"] == "2026-05-14T12:02:00+00:00"
    assert {(row["filePublic"], row["fileMediatype"]) for row in media} == {("false", "image/jpeg")}
    by_picture = dict(zip(NAMES, observations, strict=True))
    assert [row["mediaID"] for row in media] == [row["mediaID"] for row in observations]
    kinds = {name: row["observationType"] for name, row in by_picture.items()}
    assert list(kinds.values()) == ["animal", "human", "blank", "vehicle", "unknown", "unclassified", "animal"]
    fox, odd, badger = by_picture["A1/fox.jpg"], by_picture["B2/odd.jpg"], by_picture["B2/badger.jpg"]
    assert (fox["scientificName"], fox["classificationProbability"]) == ("Vulpes vulpes", "0.9")
    assert (fox["classificationMethod"], fox["observationLevel"], fox["deploymentID"]) == ("machine", "media", "A1")
    assert MODEL in fox["classifiedBy"]
    assert fox["eventStart"] == fox["eventEnd"] == media[0]["timestamp"]
    assert (odd["scientificName"], odd["classificationProbability"]) == ("", "")
    assert "nearest: red fox" in odd["observationComments"]
    assert (badger["scientificName"], badger["observationTags"]) == ("", "label:badger")
    descriptor = json.loads((out / "datapackage.json").read_text(encoding="utf-8"))
    assert [resource["name"] for resource in descriptor["resources"]] == ["deployments", "media", "observations"]
    assert descriptor["project"]["observationLevel"] == ["media"]
    assert "id" not in descriptor
    assert {key: descriptor[key] for key in ("spatial", "taxonomic")} == {
        key: DESCRIPTOR[key] for key in ("spatial", "taxonomic")
    }


def test_a_camtrap_dp_keeps_the_media_of_its_package(pictures: Path, package: Path, tmp_path: Path) -> None:
    lines = ["mediaID,deploymentID,timestamp,filePath,filePublic,fileName,fileMediatype"]
    for number, name in enumerate(NAMES):
        deployment, file = name.split("/")
        address = "https://example.org/assets/1/file" if number else name
        lines.append(f"m{number},{deployment},2026-05-14T09:0{number}:00+02:00,{address},true,{file},image/jpeg")
    (package / "media.csv").write_text("\n".join(lines) + "\n")
    write_all("camtrap-dp", out := tmp_path / "out", pictures, package=package)
    given, media = rows_of(package / "media.csv"), rows_of(out / "media.csv")
    assert [{name: row[name] for name in given[0]} for row in media] == given
    assert tuple(media[0]) == MEDIA_COLUMNS  # those that it lacked are empty
    (package / "media.csv").write_bytes((out / "media.csv").read_bytes())
    write_all("camtrap-dp", tmp_path / "again", pictures, package=package)
    assert (tmp_path / "again" / "media.csv").read_bytes() == (package / "media.csv").read_bytes()
    observations = rows_of(out / "observations.csv")
    assert [row["mediaID"] for row in observations] == [f"m{number}" for number in range(7)]
    assert observations[6]["eventStart"] == "2026-05-14T09:06:00+02:00"


def test_a_file_name_that_repeats_is_told_by_its_deployment_or_refused(
    pictures: Path, package: Path, tmp_path: Path
) -> None:
    header = "mediaID,deploymentID,timestamp,filePath,filePublic,fileName,fileMediatype\n"
    rows = [
        f"{place},{place},2026-05-14T09:00:00Z,https://x/{place}/file,true,1.jpg,image/jpeg\n" for place in ("A1", "B2")
    ]
    (package / "media.csv").write_text(header + "".join(rows))
    conversion = Conversion(CLASSES, MODEL, pictures, package=package)
    file = ConvertedFile(tmp_path / "out", "camtrap-dp", conversion, {}, resume=False)
    file.write(predicted(file.pending([pictures / "B2/1.jpg", pictures / "A1/1.jpg"])))
    assert [row["mediaID"] for row in rows_of(tmp_path / "out" / "observations.csv")] == ["B2", "A1"]
    file = ConvertedFile(tmp_path / "other", "camtrap-dp", conversion, {}, resume=False)
    with pytest.raises(UserError, match=r"C3/1.jpg \(it may be 2 media\), new.jpg \(not in media.csv\)"):
        file.write(predicted(file.pending([pictures / "C3/1.jpg", pictures / "new.jpg"])))


def test_what_a_camtrap_dp_lacks_is_said_and_nothing_is_lost(pictures: Path, package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Image.new("RGB", (20, 10)).save(pictures / "A1/fox.jpg")
    text = (package / "deployments.csv").read_text()
    (package / "deployments.csv").write_text(text.replace("B2,", "B3,"))
    with pytest.raises(UserError, match=r"6 pictures cannot .*A1/fox.jpg \(no EXIF time\).* like a deployment"):
        write_all("camtrap-dp", out, pictures, package=package)
    assert not out.exists()
    (package / "deployments.csv").write_text(text)
    exif = Image.Exif()
    exif[0x010F] = "camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:14 12:00:00"
    with pytest.raises(UserError, match="changed since"):
        Image.new("RGB", (20, 12)).save(pictures / "A1/fox.jpg", exif=exif)
        write_all("camtrap-dp", out, pictures, resume=True, package=package)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "https://raw.githubusercontent.com/tdwg/camtrap-dp/0.1.6/x.json"}, r"expected Camtrap DP 1\.0"),
        ({"taxonomic": None}, "taxonomic is no list"),
        ({"project": ...}, r"lacks project, which Camtrap DP requires\. Give --package DIR"),
    ],
)
def test_a_package_that_is_not_complete_is_refused_before_predicting(
    pictures: Path, package: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    values = {name: value for name, value in (DESCRIPTOR | change).items() if value is not ...}
    (package / "datapackage.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        write_all("camtrap-dp", tmp_path / "out", pictures, package=package)
    with pytest.raises(UserError, match="Give --package DIR"):
        write_all("camtrap-dp", tmp_path / "out", pictures)
    (package / "datapackage.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"datapackage\.json cannot be read: "):
        write_all("camtrap-dp", tmp_path / "out", pictures, package=package)
    (package / "datapackage.json").write_text(json.dumps(DESCRIPTOR))
    (package / "deployments.csv").write_text(DEPLOYMENTS.replace("longitude", "lon"))
    with pytest.raises(UserError, match="lacks the columns longitude"):
        write_all("camtrap-dp", tmp_path / "out", pictures, package=package)


def test_what_was_written_is_read_back_as_labels(pictures: Path, package: Path, tmp_path: Path) -> None:
    """The readers of labels: named pictures have their labels, unknown and unreadable ones have none."""
    write_all("megadetector", results := tmp_path / "out.json", pictures)
    write_all("camtrap-dp", observations := tmp_path / "out", pictures, package=package)
    named = {NAMES[0]: "red fox", NAMES[1]: "human", NAMES[2]: "empty", NAMES[3]: "vehicle", NAMES[6]: "badger"}
    scientific = {**named, NAMES[0]: "Vulpes vulpes"}
    del scientific[NAMES[6]]  # it has no scientific name
    for label_format, path, expected in (
        (megadetector.FORMAT, results, named),
        (camtrap_dp.FORMAT, observations, scientific),
    ):
        assert label_format.is_format(path)
        table = label_format.read(path, ReadOptions())
        assert dict(table.rows.select("file", "label").iter_rows()) == expected
        assert {NAMES[4], NAMES[5]} <= set(table.left_out["file"])


def test_a_camtrap_dp_has_an_observation_for_each_box(pictures: Path, package: Path, tmp_path: Path) -> None:
    boxes = [Box(0.1, 0.2, 0.3, 0.4), Box(10, 4, 5, 6, "pixels")]
    answers = [replace(predict_one(str(pictures / NAMES[0])), box=box) for box in boxes]
    conversion = Conversion(CLASSES, MODEL, pictures, package=package, boxes=True)
    ConvertedFile(tmp_path / "out", "camtrap-dp", conversion, {"model": MODEL}, resume=False).write(answers)
    with (tmp_path / "out" / "observations.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    sides = [[float(row[name]) for name in ("bboxX", "bboxY", "bboxWidth", "bboxHeight")] for row in rows]
    assert sides == [[0.1, 0.2, 0.3, 0.4], [0.5, 0.4, 0.25, 0.6]], "of a picture of 20 x 10 pixels"
    assert len({row["observationID"] for row in rows}) == 2
    assert len({row["mediaID"] for row in rows}) == 1
    with (tmp_path / "out" / "media.csv").open(newline="") as lines:
        assert len(list(csv.DictReader(lines))) == 1


def test_a_table_of_excel_in_utf_16_is_read_and_written_as_utf_8_with_a_mark(pictures: Path, tmp_path: Path) -> None:
    (path := tmp_path / "t.csv").write_text("path\tnote\nA1/fox.jpg\tcafé\n", encoding="utf-16")
    write_table(out := tmp_path / "out.csv", InputTable(path, pictures))
    assert out.read_bytes().startswith(b"\xef\xbb\xbf")
    [row] = csv.DictReader(out.read_text("utf-8-sig").splitlines(), delimiter="\t")
    assert (row["note"], row["predicted_label"]) == ("café", "red fox")


def test_columns_of_a_table_are_named_as_for_training(pictures: Path, tmp_path: Path) -> None:
    (path := tmp_path / "t.csv").write_text("file;image;x\nnone.jpg;A1/fox.jpg;1\n")
    with pytest.raises(SourceError, match=r"several columns that may be the path \(file, image\).*--columns \"path="):
        InputTable(path, pictures)
    assert list(InputTable(path, pictures, "path=image").iter_files()) == [pictures / "A1/fox.jpg"]


def test_a_resumed_conversion_keeps_the_reasons_of_thresholds_by_class(pictures: Path, tmp_path: Path) -> None:
    (path := tmp_path / "t.csv").write_text("path\nA1/fox.jpg\nB2/odd.jpg\n")
    table = InputTable(path, pictures)

    def file(*, resume: bool = False) -> ConvertedFile:
        conversion = Conversion(CLASSES, MODEL, table.folder, table=table)
        out = tmp_path / "out.csv"
        return ConvertedFile(out, TABLE, conversion, {"model": MODEL}, resume=resume, reasons=True)

    def with_reasons(sources: Iterable[Path], until: int) -> Iterator[Prediction]:
        for prediction in predicted(sources, until=until):
            yield replace(prediction, reason="unfamiliar" if prediction.unknown else "")

    with pytest.raises(KilledError):
        (first := file()).write(with_reasons(map(path_of, first.pending(table.iter_files())), 1))
    resumed = file(resume=True)
    resumed.write(with_reasons(map(path_of, resumed.pending(table.iter_files())), 1000))
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["predicted_reason"] for row in rows] == ["", "unfamiliar"]


@pytest.mark.parametrize(
    ("columns", "message"), [("label=x", "the role label has no use"), ("box=x+path", "box takes four columns")]
)
def test_columns_of_no_use_are_refused(pictures: Path, tmp_path: Path, columns: str, message: str) -> None:
    (path := tmp_path / "t.csv").write_text("path,x\nA1/fox.jpg,1\n")
    with pytest.raises(UserError, match=message):
        InputTable(path, pictures, columns)


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.xlsx"])
def test_a_table_that_is_no_text_is_refused(pictures: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"path": "A1/fox.jpg"}\n')
    with pytest.raises(SourceError, match="Export it as CSV"):
        InputTable(tmp_path / name, pictures)

"""What was not used of a source stands in the findings, the run, its report, JSON, and counts in a strict audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from bestiary import table
from bestiary.context import Context
from bestiary.data.dataset import audit_sources
from bestiary.data.manifest import read_manifest
from bestiary.data.sources import list_sources
from bestiary.evaluation.external import restore_number_labels
from bestiary.files import read_json
from bestiary.picture import DecodeLimits
from bestiary.recipe_sections import DataConfig
from commands import Call

BASE = ("--threads", "1", "--backbone", "lite0", "--set", "picture.size=64", "--set", "evaluate.resamples=100")
QUICK = (*BASE, "--set", "evaluate.learning_curve=off", "--set", "data.suspects=false")


def draw(folder: Path, label: int, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        small = np.random.default_rng(1000 * label + i).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        small[..., label] //= 4
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def split_folders(tmp_path: Path) -> Path:
    """Three classes in train and test, and beside them one folder to try the model on and one of notes."""
    root = tmp_path / "pictures"
    for part, count, first in (("train", 12, 0), ("test", 5, 100)):
        for label, name in enumerate(("ant", "bee", "cow")):
            draw(root / part / name, label, count, first)
    draw(root / "images to test", 0, 3, 900)
    (root / "labels").mkdir()
    (root / "train" / "dormouse").mkdir()
    (root / "labels" / "notes.txt").write_text("who took them")
    return root


@pytest.mark.slow
def test_notices_of_folders_stand_in_the_run_its_report_and_json(bestiary: Call, split_folders: Path) -> None:
    code, out, err = bestiary("train", split_folders, *QUICK, "--out", "run", "--json")
    assert code == 0
    result: dict[str, Any] = json.loads(out)
    checks = {notice["check"]: notice["message"] for notice in result["notices"]}
    assert checks.keys() == {"split-folders", "empty-class"}
    assert "images to test (3 pictures without class folders)" in checks["split-folders"]
    assert checks["empty-class"] == "The folder train/dormouse is not used: it is empty."
    assert read_json(Path("run/environment.json"))["notices"] == result["notices"]
    assert list(read_json(Path("run/bundle.json"))["classes"]) == ["ant", "bee", "cow"]
    findings = table.read(Path("run/findings.parquet"), table.FINDINGS)
    assert findings.filter(pl.col("check").is_in(["split-folders", "empty-class"]))["is_issue"].to_list() == [True] * 2
    for page in (Path("run/report.html"), Path("run/report.md"), Path("run/README.md")):
        text = page.read_text(encoding="utf-8")
        assert "images to test" in text
        assert "train/dormouse" in text
    assert "1 folder: class folders that are not used" in Path("run/report.html").read_text(encoding="utf-8")
    assert checks["split-folders"] in err


def test_notices_of_folders_count_in_a_strict_audit(bestiary: Call, split_folders: Path, tmp_path: Path) -> None:
    quick = ("--threads", "1", "--set", "data.suspects=false")
    code, out, _ = bestiary("audit", split_folders, *quick, "--strict", "--quiet", "--out", "audit")
    assert code == 1
    for words in ("images to test (3 pictures", "train/dormouse is not used"):
        assert words in out
        assert words in Path("audit/audit.html").read_text(encoding="utf-8")
    code, out, _ = bestiary("audit", split_folders, *quick, "--json", "--quiet")
    result = json.loads(out)
    assert {"split-folders", "empty-class"} <= result["serious"].keys()
    assert [notice["check"] for notice in result["notices"]] == ["split-folders", "empty-class"]
    sound = tmp_path / "sound"
    for label, name in enumerate(("train", "bus", "car")):
        draw(sound / name, label, 4)
    assert bestiary("audit", sound, *quick, "--strict", "--quiet")[0] == 0


def test_every_class_folder_that_vanishes_is_named_by_the_audit(bestiary: Call, tmp_path: Path) -> None:
    root = tmp_path / "many"
    for label, name in enumerate(("ant", "bee", "cow")):
        draw(root / name, label, 3)
    for name in ("dormouse", "earwig", "fox", "gnu"):
        (root / name).mkdir()
    (root / "gnu" / "raw.cr2").write_bytes(b"no picture")
    (root / "fox" / "notes.txt").write_text("to do")
    out = bestiary("audit", root, "--threads", "1", "--set", "data.suspects=false", "--quiet")[1]
    for name in ("dormouse", "earwig", "fox"):
        assert f"The folder {name} is not used" in out
    assert 'The class "gnu" is not used: none of its 1 files can be read.' in out
    some = bestiary("audit", root, "--classes", "ant,bee", "--set", "data.suspects=false", "--json", "-q")[1]
    assert json.loads(some)["notices"] == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_that_are_not_used_are_named(tmp_path: Path, suffix: str) -> None:
    for label, name in enumerate(("ant", "bee")):
        draw(tmp_path / name, label, 3)
    rows = [(f"{name}/{i}.png", name, f"site{i}", "x") for name in ("ant", "bee") for i in range(3)]
    frame = pl.DataFrame(rows, schema=["path", "label", "habitat", "note"], orient="row")
    path = tmp_path / f"t{suffix}"
    frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
    data, context = DataConfig(suspects=False), Context(threads=1, cache=None)
    findings = audit_sources([path], None, data, DecodeLimits(), context).findings
    (message,) = findings.filter(pl.col("check") == "unused-column")["message"]
    assert "has the columns habitat, note, which are not used" in message
    assert "are not kept in one split" in message
    plain = tmp_path / f"plain{suffix}"
    used = frame.select("path", "label", split=pl.lit("train"))
    used.write_csv(plain) if suffix == ".csv" else used.write_parquet(plain)
    assert not list_sources([plain], {}).notices


@pytest.mark.slow
def test_an_evaluation_finds_the_levels_and_the_numbers_of_its_run(bestiary: Call, tmp_path: Path) -> None:
    for label, name in enumerate(("red/ant", "red/bee", "blue/cow")):
        draw(tmp_path / "deep" / name, label, 12)
        draw(tmp_path / "more" / name, label, 4, 50)
        draw(tmp_path / "flat" / name.partition("/")[2], label, 4, 50)
    code = bestiary("train", "deep", "--label-depth", "2", *QUICK, "--out", "run", "-q")[0]
    assert code == 0
    assert list(read_json(Path("run/bundle.json"))["classes"]) == ["ant", "bee", "cow"]
    assert "label_depth = 2" in Path("run/resolved.toml").read_text()
    assert "label_depth = 2" in Path("run/asked.toml").read_text()
    for pictures, more in (("more", ()), ("flat", ("--label-depth", "1"))):
        code, out, _ = bestiary("evaluate", "run", pictures, *more, "--threads", "1", "--json", "-q")
        assert (code, json.loads(out)["metrics"]["n"]) == (0, 12)
    draw(tmp_path / "flat" / "test", 0, 2)
    assert "leave it out: --classes ant,bee,cow" in bestiary("evaluate", "run", "flat", "--label-depth", "1")[2]
    out = bestiary("evaluate", "run", "flat", "--label-depth", "1", "--classes", "ant,bee,cow", "--json", "-q")[1]
    assert json.loads(out)["metrics"]["passed_over"] == {"of other classes": 2}
    assert "need PICTURES" in bestiary("evaluate", "run", "--label-depth", "2")[2]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1.0", "2.0"], ["1", "2"]),
        (["1.00", "2.00"], ["1", "2"]),
        (["1.0", " 1.00", "2.0"], ["1.0", "1.00", "2.0"]),  # two classes, as the next two
        (["1.1", "1.10", "2.0"], ["1.1", "1.10", "2"]),
    ],
)
def test_spellings_of_a_number_are_not_merged(tmp_path: Path, labels: list[str], expected: list[str]) -> None:
    table = tmp_path / "t[1].csv"
    table.write_text("path,label\n" + "".join(f"{n}.png,{label}\n" for n, label in enumerate(labels)))
    assert [row[1] for row in read_manifest(table).rows] == expected


def test_number_labels_of_older_runs_are_recognised() -> None:
    spellings = pl.DataFrame({"label": ["1.0", "1.00", "1.1", "v1"]})
    assert restore_number_labels(spellings, ["1", "v1.0"])["label"].to_list() == ["1", "1", "1.1", "v1"]
    assert restore_number_labels(spellings[:1], ["1.00", "2.00"])["label"].to_list() == ["1.00"]
    pictures = pl.DataFrame({"label": ["1", "2", "cat", None]})
    assert restore_number_labels(pictures, ["1.0", "2", "3.0"])["label"].to_list() == ["1.0", "2", "cat", None]
    truths = pl.DataFrame({"label": ["true", "false"]})
    assert restore_number_labels(truths, ["False", "True"])["label"].to_list() == ["True", "False"]
    assert restore_number_labels(truths, ["false", "true"])["label"].to_list() == ["true", "false"]

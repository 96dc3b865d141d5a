"""The command line as scripts see it: exit codes, what is on stdout, what is on stderr."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from bestiary import __version__, flow, table
from bestiary.cli.app import COMMANDS
from bestiary.cli.output import describe_predict_command
from bestiary.demo.dataset import SyntheticDataset, make_synthetic_dataset
from bestiary.inference.heatmap import overlay_heatmap
from bestiary.install_command import install_command
from bestiary.locks import output_lock
from bestiary.models.engine_choice import engine_versions
from bestiary.processor import read_processor
from commands import Call, Done
from tiny_model import COLOURS, coloured, write_run

QUICK = ("--backbone", "lite0", "--set", "picture.size=64", "--set", "probe.regularisation=[0.01]", "--threads", "2")
FEW = ("--classes", "bird,fish,spider", "--set", "evaluate.resamples=100")
KEYS = ["path", "label", "probability", "unknown", "familiarity", "probabilities", "error"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that names colours."""
    return write_run(tmp_path_factory.mktemp("model"))


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder with one picture of each colour, one that is like no class, and a broken one."""
    folder = tmp_path / "colours"
    (folder / "inner").mkdir(parents=True)
    for name in COLOURS:
        (folder / f"{name}.png").write_bytes(coloured(name))
    (folder / "inner" / "red.png").write_bytes(coloured("grey"))
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not meant as a picture")
    return folder


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own."""
    line = [sys.executable, "-m", "bestiary", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, check=False, timeout=120, **options)


def one_message(done: Done, *, code: int = 2) -> str:
    assert done.code == code
    assert done.out == ""
    assert "Traceback" not in done.err
    return done.err


# ---- Help and usage --------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_quickly() -> None:
    done = command("--help")
    listed = done.stdout.decode().partition("Commands:\n")[2].partition("\nExamples:")[0].splitlines()
    assert done.returncode == 0
    assert [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "] == list(COMMANDS)
    heavy = (
        "import sys, bestiary.cli; print(sorted({'numpy', 'polars', 'sklearn', 'torch', 'onnx'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["audit", "train", "tune", "study --preset original"])
@pytest.mark.parametrize("below", ["", "audit", "cat/new"])
def test_nothing_is_written_among_the_pictures(bestiary: Call, tmp_path: Path, command: str, below: str) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
    (tmp_path / "link").symlink_to("pictures")
    done = bestiary(*command.split(), "pictures", "--out", f"link/{below}")
    assert done.code == 2
    assert "is in the folder of the pictures, pictures, and would be read with them" in done.err
    assert sorted(path.name for path in (tmp_path / "pictures").rglob("*")) == ["cat", "dog"]


def test_a_prediction_imports_neither_recipes_nor_connections() -> None:
    """They take longer than the prediction of a picture."""
    heavy = (
        "import sys, bestiary.inference.predictor as p;"
        " print(sorted({'bestiary.recipe', 'pydantic', 'ssl'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_the_common_options(bestiary: Call, name: str) -> None:
    done = bestiary(name, "--help")
    assert done.code == 0
    for option in ("--threads", "--quiet", "--json"):
        assert option in done.out


def test_version_lists_the_packages(bestiary: Call) -> None:
    done = bestiary("--version")
    first, *facts = done.out.splitlines()
    assert (done.code, done.err, first) == (0, "", f"bestiary {__version__}")
    assert any(line.startswith("CPython 3.") for line in facts)
    assert any(line.startswith("onnxruntime ") for line in facts)
    assert str(read_processor()) in done.out


def test_version_has_a_json_form_with_processor_and_measured_engines(
    bestiary: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path))
    assert json.loads(bestiary("--version", "--json").out)["features"] == []
    assert "no engine measured yet" in bestiary("--version").out
    measurement = {"choice": {"engine": "onnxruntime", "precision": "float32"}, "pictures_per_second": 52.5}
    record = {
        "graph": "trunk-lite2-260px-v1-12345678-90abcdef",
        "measurements": [measurement | {"difference": 0.0}],
        "processor": str(read_processor()),
        "versions": engine_versions(),
    }
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "one.json").write_text(json.dumps(record))
    done = bestiary("--version", "--json")
    facts = json.loads(done.out)
    assert (done.code, done.err, facts["bestiary"]) == (0, "", __version__)
    assert facts["processor"]["features"] == list(read_processor().features)
    assert facts["packages"]["numpy"] == np.__version__
    [engine] = facts["features"]
    assert (engine["graph"], engine["engine"], engine["precision"]) == ("lite2-260px", "onnxruntime", "float32")
    assert "features of lite2-260px: onnxruntime in float32 (measured" in bestiary("--version").out


def test_json_without_a_command_is_explained(bestiary: Call) -> None:
    done = bestiary("--json")
    assert done.code == 2
    assert "--json comes after a command" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fly"], 'bestiary has no command "fly"'),
        (["train", "--fast"], "bestiary train has no --fast. Run `bestiary train --help` for all options."),
        (["train"], "PICTURES is missing"),
        (["train", "x", "--method", "magic"], 'Unknown value "magic" for --method. Known: finetune, probe, scratch.'),
        (["train", "x", "--method", "scatch"], 'Did you mean "scratch"?'),
        (["train", "x", "--threads", "0"], 'at least 1; got "0". Run `bestiary train --help` for all options.'),
        (["train", "--method"], "needs a value, and there is none. Run `bestiary train --help` for all options."),
        (["train", "x", "--seed", "-1"], "--seed"),
        (["predict"], "RUN is missing"),
        (["predict", "run"], "PATH… is missing"),
        (["predict", "run", "x.jpg", "--format", "xml"], 'Unknown value "xml" for --format. Known: camtrap-dp, csv'),
        (["train", "x", "--resume", "run"], "PICTURES cannot be given with --resume"),
    ],
)
def test_wrong_usage_ends_with_2(bestiary: Call, arguments: Sequence[str], says: str) -> None:
    assert says in one_message(bestiary(*arguments))


def test_a_folder_of_runs_is_no_run(bestiary: Call, tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "bundle.json").write_text("{}")
    said = one_message(bestiary("predict", "runs", "x.jpg"))
    assert said == f"runs is a folder of runs, and no run itself. Give one of them: {Path('runs') / 'first'}.\n"


def test_pictures_without_class_folders_say_where_they_belong(bestiary: Call, tmp_path: Path) -> None:
    folders_of(tmp_path / "pictures", cat=3)
    said = one_message(bestiary("train", "pictures/cat"))
    assert f"give the folder that has them all, {tmp_path / 'pictures'};" in said
    for picture in (tmp_path / "pictures" / "cat").iterdir():
        picture.rename(picture.with_suffix(".txt"))
    assert "give the folder that has them all" not in one_message(bestiary("train", "pictures/cat"))


def test_a_finished_run_is_not_offered_to_be_resumed(bestiary: Call, tmp_path: Path) -> None:
    folders_of(tmp_path / "pictures", cat=3)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("")
    said = one_message(bestiary("train", "pictures", "--out", "run"))
    assert said == f"run exists already, and is finished: {Path('run') / 'report.html'}. Choose another --out.\n"


# ---- Bad input -------------------------------------------------------------------------------------------------------


def folders_of(root: Path, **sizes: int) -> Path:
    """A folder per class with so many noisy pictures in it."""
    rng = np.random.default_rng(0)
    for name, size in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(size):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_pictures_that_are_not_there(bestiary: Call, tmp_path: Path) -> None:
    for name in ("train", "audit"):
        assert str(tmp_path / "gone") in one_message(bestiary(name, tmp_path / "gone"))


def test_a_folder_without_pictures(bestiary: Call, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / "notes.txt").write_text("no cat")
    assert "no labelled pictures" in one_message(bestiary("train", tmp_path / "pictures"))


def test_a_file_in_place_of_a_folder(bestiary: Call, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(coloured("red"))
    for name in ("train", "audit"):
        assert "cat.jpg" in one_message(bestiary(name, tmp_path / "cat.jpg"))


def test_a_folder_in_place_of_a_file(bestiary: Call, tmp_path: Path) -> None:
    pictures = folders_of(tmp_path / "pictures", cat=1, dog=1)
    (tmp_path / "folder").mkdir()
    for option in ("--recipe", "--labels"):
        assert "folder" in one_message(bestiary("train", pictures, option, tmp_path / "folder"))
    (tmp_path / "pictures.csv").mkdir()
    one_message(bestiary("train", tmp_path / "pictures.csv"))


def test_one_class_is_too_few(bestiary: Call, tmp_path: Path) -> None:
    done = bestiary("train", folders_of(tmp_path / "pictures", cat=12), "--quiet")
    assert 'only one class, "cat"' in one_message(done)


def test_a_class_that_is_too_small_is_named_with_the_way_out(bestiary: Call, tmp_path: Path) -> None:
    done = bestiary("train", folders_of(tmp_path / "pictures", cat=12, otter=3), "--quiet", "--out", tmp_path / "run")
    message = one_message(done)
    assert 'Class "otter" has 3 readable pictures' in message
    assert "--classes" in message
    assert not (tmp_path / "run").exists()


def test_a_class_that_does_not_occur_is_corrected(bestiary: Call, collection: SyntheticDataset) -> None:
    assert 'Did you mean "bird"?' in one_message(bestiary("train", collection.folder, "--classes", "brid,fish"))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.epoch=3", 'Did you mean "train.epochs"?'),
        ("trian.epochs=3", 'Did you mean "train"?'),
        ("train.epochs=many", "train.epochs"),
        ("picture.size=8", "picture.size"),
        ("train.epochs", "section.key=value"),
        ("model=probe", '"model" is a section'),
        ("seed.x=1", "seed"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--method", "probe"]])
def test_a_setting_that_is_wrong_is_explained(bestiary: Call, setting: str, says: str, more: list[str]) -> None:
    assert says in one_message(bestiary("train", "pictures", "--set", setting, *more))


def test_a_recipe_file_that_is_wrong_is_explained(bestiary: Call, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    assert "mine.toml" in one_message(bestiary("train", "pictures", "--recipe", recipe))
    recipe.write_text("[train]\nlerning_rate = 0.1\n")
    assert 'Did you mean "train.learning_rate"?' in one_message(bestiary("train", "pictures", "--recipe", recipe))
    recipe.write_text("[train\n")
    message = one_message(bestiary("train", "pictures", "--recipe", recipe))
    assert "mine.toml" in message
    assert "line 1" in message


def test_an_out_that_cannot_be_written(bestiary: Call, collection: SyntheticDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = bestiary("train", collection.folder, *QUICK, *FEW, "--quiet", "--out", tmp_path / "file" / "run")
    assert f"{tmp_path / 'file'} is a file, not a folder. Choose another place." in one_message(done)  # at once
    done = bestiary("audit", collection.folder, "--quiet", "--out", tmp_path / "file" / "audit")
    assert "Cannot write" in one_message(done)


def test_an_out_that_exists(bestiary: Call, collection: SyntheticDataset, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "diary.txt").write_text("mine")
    done = bestiary("train", collection.folder, *QUICK, *FEW, "--quiet", "--out", tmp_path / "run")
    assert "exists already" in one_message(done)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["diary.txt"]


def test_an_unknown_backbone(bestiary: Call, collection: SyntheticDataset) -> None:
    message = one_message(bestiary("train", collection.folder, *FEW, "--quiet", "--backbone", "lite9"))
    assert '"lite9"' in message
    assert "lite0, lite1, lite2" in message


def test_a_missing_extra(bestiary: Call, collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = bestiary("train", collection.folder, *FEW, "--quiet", "--method", "scratch")
    assert install_command("torch") in one_message(done)
    for arguments in (["train", "x"], ["audit", "x"], ["evaluate", "x"], ["report", "x"], ["demo"]):
        monkeypatch.setitem(sys.modules, "polars", None)
        assert install_command("train") in one_message(bestiary(*arguments))


@pytest.mark.parametrize("name", ["evaluate", "report", "train --resume"])
def test_a_run_that_is_not_there(bestiary: Call, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for run in ("gone", "empty"):
        assert str(tmp_path / run) in one_message(bestiary(*name.split(), tmp_path / run))


# ---- Predict ---------------------------------------------------------------------------------------------------------


def test_predict_on_a_missing_run(bestiary: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no run")
    for run in ("gone", "file"):
        assert "There is no run at" in one_message(bestiary("predict", tmp_path / run, "x.jpg"))


def test_predict_writes_a_line_for_every_picture_in_the_order_given(
    bestiary: Call, model: Path, colours: Path, tmp_path: Path
) -> None:
    asked = [colours / "red.png", tmp_path / "gone.png", colours / "broken.jpg", colours / "blue.png", tmp_path]
    done = bestiary("predict", model, *asked, "--format", "jsonl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "Skipped: 1 not named like a picture.\n")
    inside = ["blue.png", "broken.jpg", "green.png", "inner/red.png", "red.png"]
    assert [line["path"] for line in lines] == [*map(str, asked[:4]), *(str(colours / name) for name in inside)]
    assert [line["label"] for line in lines[:4]] == ["red", None, None, "blue"]
    assert all(list(line) == KEYS for line in lines)
    assert "There is no file" in lines[1]["error"]
    assert "not a picture" in lines[2]["error"]
    assert lines[0]["error"] is None
    assert lines[0]["probabilities"].keys() == set(COLOURS)
    assert [line["unknown"] for line in lines if line["path"].endswith("inner/red.png")] == [True]


def test_predict_writes_csv(bestiary: Call, model: Path, colours: Path) -> None:
    done = bestiary("predict", model, colours, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert done.code == 0
    assert list(rows[0]) == [*KEYS[:5], "p_blue", "p_green", "p_red", "error"]
    assert [row["label"] for row in rows] == ["blue", "", "green", rows[3]["label"], "red"]
    assert float(rows[0]["p_blue"]) == float(rows[0]["probability"]) > 0.5
    assert rows[1]["p_blue"] == ""
    assert "not a picture" in rows[1]["error"]


def test_predict_writes_a_table_to_read(bestiary: Call, model: Path, colours: Path) -> None:
    lines = bestiary("predict", model, colours, "--top", "2").out.splitlines()
    assert lines[0].startswith(str(colours / "blue.png"))
    assert lines[0].index("blue 9") < lines[0].index("green ")
    assert "red " not in lines[0].removeprefix(str(colours))
    assert "cannot be read" in lines[2]
    assert "unknown" in lines[4]
    assert "unknown" not in lines[5]


def test_predict_writes_parquet(model: Path, colours: Path) -> None:
    done = command("predict", model, colours, "--format", "parquet")
    frame = pl.read_parquet(io.BytesIO(done.stdout))
    assert (done.returncode, done.stderr) == (0, b"Skipped: 1 not named like a picture.\n")
    assert frame.columns == [*KEYS[:5], "p_blue", "p_green", "p_red", "error"]
    assert frame["label"].to_list()[:3] == ["blue", None, "green"]
    assert frame["error"].is_not_null().to_list() == [False, True, False, False, False]


def test_predict_takes_a_list_and_patterns(model: Path, colours: Path) -> None:
    for listed in (b"red.png\ninner/red.png\n", b"red.png\0inner/red.png\0"):
        done = command("predict", model, "-", "--format", "jsonl", input=listed, cwd=colours)
        assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == ["red.png", "inner/red.png"]
    done = command("predict", model, "**/red.*", "--format", "jsonl", cwd=colours)
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == ["inner/red.png", "red.png"]
    named = "caf\udce9.png"
    shutil.copy(colours / "red.png", colours / named)
    done = command("predict", model, "-", "--format", "jsonl", input=os.fsencode(named), cwd=colours)
    assert (done.returncode, json.loads(done.stdout)["label"]) == (0, "red")
    assert json.loads(done.stdout)["path"] == named


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_predict_into_a_file_resumes_and_never_overwrites(
    bestiary: Call, model: Path, colours: Path, tmp_path: Path, form: str
) -> None:
    out = tmp_path / f"answers.{form}"
    done = bestiary("predict", model, colours / "red.png", colours / "broken.jpg", "--out", out)
    assert (done.code, done.out) == (0, f"{out}\n")
    assert re.fullmatch(r"2 pictures: 1 (named|unknown), 1 could not be read\.\n", done.err)
    assert "--resume" in one_message(bestiary("predict", model, colours, "--out", out))
    again = bestiary("predict", model, colours, "--out", out, "--resume", "--json")
    assert (again.code, json.loads(again.out)) == (0, {"answers": str(out)})
    readers: dict[str, Callable[[Path], pl.DataFrame]]
    readers = {"jsonl": pl.read_ndjson, "csv": pl.read_csv, "parquet": pl.read_parquet}
    paths = [Path(path).name for path in readers[form](out)["path"]]
    assert paths == ["red.png", "broken.jpg", "blue.png", "green.png", "red.png"]
    assert "Add --out FILE" in one_message(bestiary("predict", model, colours, "--resume"))


def test_predict_resumes_with_the_same_model_only(
    bestiary: Call, model: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other, pictures = tmp_path / "answers.csv", tmp_path / "other", tmp_path / "pictures"
    shutil.copytree(model, other)
    shutil.copytree(colours, pictures)
    bundle = json.loads((other / "bundle.json").read_text())
    (other / "bundle.json").write_text(json.dumps(bundle | {"threshold": bundle["threshold"] / 2}))
    assert bestiary("predict", model, pictures / "red.png", "--out", out).code == 0
    before = out.read_bytes()
    refused = one_message(bestiary("predict", other, pictures, "--out", out, "--resume"))
    assert f"threshold of unknown {bundle['threshold']} before, {bundle['threshold'] / 2} now" in refused
    Image.new("RGB", (40, 24), "blue").save(pictures / "red.png")
    refused = one_message(bestiary("predict", model, pictures, "--out", out, "--resume"))
    assert f"({pictures / 'red.png'})" in refused
    assert out.read_bytes() == before
    (pictures / "red.png").unlink()
    done = bestiary("predict", model, pictures, "--out", out, "--resume", "--link-into", tmp_path / "links")
    assert (done.code, len(out.read_text().splitlines())) == (0, 6)


def test_predict_into_one_file_twice_at_once(bestiary: Call, model: Path, colours: Path, tmp_path: Path) -> None:
    for option, name in (("--out", "a.csv"), ("--heatmaps", "evidence"), ("--link-into", "links")):
        with output_lock(tmp_path / name):
            refused = one_message(bestiary("predict", model, colours, option, tmp_path / name))
        assert f"{tmp_path / name} is being written by process {os.getpid()}" in refused
    assert list(tmp_path.iterdir()) == [colours]


@pytest.mark.parametrize("command", ["train", "audit", "demo"])
def test_an_out_that_another_process_writes(
    bestiary: Call, collection: SyntheticDataset, tmp_path: Path, command: str
) -> None:
    pictures = [] if command == "demo" else [collection.folder]
    with output_lock(tmp_path / "out"):
        refused = one_message(bestiary(command, *pictures, "--out", tmp_path / "out"))
    assert "out is being written by process" in refused
    assert list(tmp_path.iterdir()) == []


def test_predict_makes_links_sorted_by_label(bestiary: Call, model: Path, colours: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in colours.rglob("*") if path.is_file()}
    done = bestiary("predict", model, colours, "--link-into", tmp_path / "by", "--format", "jsonl")
    assert (done.code, len(done.out.splitlines())) == (0, 5)
    links = {path.relative_to(tmp_path / "by").as_posix(): path.resolve() for path in (tmp_path / "by").glob("*/*")}
    assert links == {
        "blue/blue.png": colours / "blue.png",
        "green/green.png": colours / "green.png",
        "red/red.png": colours / "red.png",
        "unknown/red.png": colours / "inner" / "red.png",
        "unreadable/broken.jpg": colours / "broken.jpg",
    }
    assert {path: path.read_bytes() for path in colours.rglob("*") if path.is_file()} == before
    assert "not empty" in one_message(bestiary("predict", model, colours, "--link-into", tmp_path / "by"))


def test_unknown_pictures_get_the_label_that_is_asked_for(
    bestiary: Call, model: Path, colours: Path, tmp_path: Path
) -> None:
    options = ["--unknown-label", "stranger", "--link-into", tmp_path / "by"]
    assert "stranger, nearest: " in bestiary("predict", model, colours, *options).out
    folders = {path.parent.name for path in (tmp_path / "by").glob("*/*")}
    assert folders == {"blue", "green", "red", "stranger", "unreadable"}
    out = ["--out", tmp_path / "answers.csv"]
    assert bestiary("predict", model, colours, *out, *options[:2]).code == 0
    labels = [line.split(",")[1] for line in (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()]
    assert sorted(labels) == ["", "blue", "green", "label", "red", "stranger"]
    refused = one_message(bestiary("predict", model, colours, *out, "--resume"))
    assert "label of unknown pictures stranger before, none now" in refused
    assert "is a class of the model" in one_message(bestiary("predict", model, colours, "--unknown-label", "red"))


def test_costs_that_cannot_be_used_end_with_2(bestiary: Call, tmp_path: Path) -> None:
    pictures = folders_of(tmp_path / "pictures", cat=12, dog=12)
    (tmp_path / "costs.csv").write_text("true,predicted,cost\ncat,dog,-3\n", encoding="utf-8")
    assert "expected a number from 0" in one_message(bestiary("train", pictures, "--costs", tmp_path / "costs.csv"))
    (tmp_path / "costs.csv").write_text("true,predicted,cost\ncat,dgo,3\n", encoding="utf-8")
    done = bestiary("train", pictures, "--costs", tmp_path / "costs.csv", "--quiet")
    assert 'The costs name "dgo"' in one_message(done)
    assert 'Did you mean "dog"' in done.err
    setting = "evaluate.costs=[['cat', 'cat', 3]]"
    assert "is correct and costs nothing" in one_message(bestiary("train", pictures, "--set", setting))


def test_predict_takes_a_limit_on_pixels(bestiary: Call, model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (250, 5, 5)).save(tmp_path / "x.png")
    assert "at most 2,399 in all" in bestiary("predict", model, tmp_path / "x.png", "--max-pixels", 2399).out
    assert bestiary("predict", model, tmp_path / "x.png", "--max-pixels", 2400).out.split()[1] == "red"


def test_predict_gives_one_json_object(bestiary: Call, model: Path, colours: Path) -> None:
    done = bestiary("predict", model, colours, "--json")
    assert len(done.out.splitlines()) == 1
    predictions = json.loads(done.out)["predictions"]
    assert [list(one) for one in predictions] == [KEYS] * 5


def test_predict_saves_heatmaps(bestiary: Call, model: Path, colours: Path, tmp_path: Path) -> None:
    done = bestiary("predict", model, colours, "--heatmaps", tmp_path / "evidence", "--format", "jsonl")
    assert (done.code, len(done.out.splitlines())) == (0, 5)
    answers = {Path(line["path"]).relative_to(colours): line for line in map(json.loads, done.out.splitlines())}
    names = sorted(path.relative_to(tmp_path / "evidence").as_posix() for path in (tmp_path / "evidence").rglob("*.*"))
    assert names == sorted(
        (path.parent / f"{path.stem}-{line['label']}-{min(99, round(100 * line['probability']))}").as_posix()
        + f"{'-unknown' * line['unknown']}.heatmap.png"
        for path, line in answers.items()
        if line["error"] is None
    )
    assert sum(name.startswith("inner/red-") and name.endswith("-unknown.heatmap.png") for name in names) == 1
    [red] = (tmp_path / "evidence").glob("red-red-*.heatmap.png")
    with Image.open(red) as image:
        assert image.size == (20, 12)  # the picture's own shape
    assert sorted(path.name for path in colours.iterdir()) == [
        *("blue.png", "broken.jpg", "green.png", "inner", "notes.txt", "red.png")
    ]


def test_a_heatmap_of_a_long_name_has_a_shorter_one(bestiary: Call, model: Path, tmp_path: Path) -> None:
    name = 80 * "\u732b"  # three bytes each
    picture = tmp_path / f"{name}.png"
    Image.new("RGB", (20, 12), "red").save(picture)
    done = bestiary("predict", model, picture, "--heatmaps", tmp_path / "evidence")
    assert (done.code, done.err) == (0, "")
    [written] = (tmp_path / "evidence").iterdir()
    assert written.name.startswith(f"{name[:50]}-red-")
    assert written.name.endswith(".heatmap.png")


def test_a_name_with_an_end_of_line_takes_one_line(bestiary: Call, model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 12), "red").save(tmp_path / "new\nline.png")
    assert bestiary("predict", model, tmp_path / "new\nline.png").out.count("\n") == 1


def test_resuming_skips_existing_heatmaps(bestiary: Call, model: Path, colours: Path, tmp_path: Path) -> None:
    options = ["--heatmaps", tmp_path, "--out", tmp_path / "answers.jsonl", "--resume"]
    Image.open(colours / "red.png").save(colours / "red.bmp")  # the same name but for its suffix, and the same answer
    for pictures in (colours / "red.png", colours):
        assert bestiary("predict", model, pictures, *options).code == 0
    names = sorted(path.name.split("-")[0] for path in tmp_path.glob("*.heatmap.png"))
    assert names == ["blue", "green", "red", "red"]
    assert len(list(tmp_path.glob("red-red-*-2.heatmap.png"))) == 1
    assert len(list((tmp_path / "inner").glob("red-*.heatmap.png"))) == 1


def test_heatmaps_keep_the_folders_of_relative_paths(
    bestiary: Call, model: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(colours)
    done = bestiary("predict", model, "red.png", "inner/red.png", "--heatmaps", tmp_path / "evidence")
    assert done.code == 0
    folders = sorted(
        path.parent.relative_to(tmp_path / "evidence").as_posix() for path in (tmp_path / "evidence").rglob("*.png")
    )
    assert folders == [".", "inner"]


def test_heatmaps_never_overwrite_a_file(bestiary: Call, model: Path, colours: Path, tmp_path: Path) -> None:
    assert bestiary("predict", model, colours / "red.png", "--heatmaps", tmp_path).code == 0
    [written] = tmp_path.glob("red-red-*.heatmap.png")
    written.write_text("mine")
    done = bestiary("predict", model, colours / "red.png", "--heatmaps", tmp_path)
    assert done.code == 2
    assert "exists already" in done.err
    assert written.read_text() == "mine"


def test_heatmaps_that_cannot_be_written(bestiary: Call, model: Path, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = bestiary("predict", model, colours / "red.png", "--heatmaps", tmp_path / "file" / "evidence")
    assert "Cannot write" in one_message(done)


def test_a_heatmap_is_warm_where_the_evidence_for_the_label_is() -> None:
    pixels = np.full((8, 8, 3), 100, np.uint8)
    heatmap = np.zeros((2, 2), np.float32)
    heatmap[0, 0], heatmap[1, 1] = 1.0, -1.0
    drawn = np.asarray(overlay_heatmap(pixels, heatmap)).astype(int)
    assert drawn[0, 0, 0] > drawn[0, 0, 2] + 50
    assert np.ptp(drawn[-1, -1]) < 5  # evidence against it stays grey, except at the edge of the smooth patch
    np.testing.assert_array_equal(np.asarray(overlay_heatmap(pixels, np.zeros((2, 2), np.float32))), pixels)


@pytest.mark.parametrize("colour", ["red", "orange", "yellow", "white", "black", "green", "blue", "grey"])
def test_a_heatmap_is_seen_on_any_colour(colour: str) -> None:
    pixels = np.asarray(Image.new("RGB", (240, 240), colour))
    heatmap = np.zeros((6, 6), np.float32)
    heatmap[1:3, 1:3] = 1
    drawn = np.asarray(overlay_heatmap(pixels, heatmap)).astype(int)
    assert np.abs(drawn[80, 80] - drawn[220, 220]).max() > 60  # the evidence, and a place without any
    row = [drawn[80, column].tolist() for column in range(240)]
    assert [0, 0, 0] in row
    assert [255, 255, 255] in row


def test_resume_names_the_options_that_it_does_not_take(bestiary: Call) -> None:
    done = bestiary("train", "--resume", "run", "--seed", 3, "--costs", "c.csv", "--threads", 1, "--quiet")
    assert "--costs, --seed cannot be given with --resume" in one_message(done)
    done = bestiary("train", "--resume", "run", "--method", "probe", "--leak-report", "--set", "data.folds=5")
    message = one_message(done)
    assert all(option in message for option in ("--method", "--leak-report", "--set"))


def test_ctrl_c_before_there_is_a_run_says_so(
    bestiary: Call, collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bestiary.flow.assign_splits", interrupt)
    done = bestiary("train", collection.folder, "--out", tmp_path / "run", "--quiet")
    assert done.code == 130
    assert "no run folder was made, and there is nothing to resume" in done.err
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_has_nothing_to_predict(bestiary: Call, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no pictures in" in one_message(bestiary("predict", model, tmp_path / "empty"))


def test_a_reader_that_has_enough_gets_no_traceback(model: Path, colours: Path) -> None:
    line = [sys.executable, "-m", "bestiary", "predict", str(model), *[str(colours)] * 200, "--format", "jsonl"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


# ---- Audit, train, evaluate, report ----------------------------------------------------------------------------------


def test_audit_counts_and_strict_exits_1(bestiary: Call, faulty: SyntheticDataset, tmp_path: Path) -> None:
    small = ("--set", "picture.size=64", "--set", "model.backbone=lite0")
    done = bestiary("audit", faulty.folder, *small, "--json", "--out", tmp_path / "audit")
    found = json.loads(done.out)
    assert done.code == 0
    assert found["findings"]["truncated"] == len(faulty.faults["truncated"])
    assert found["findings"]["exact-duplicate"] >= len(faulty.faults["exact-duplicate"])
    assert "Reading pictures" in done.err
    written = table.read(tmp_path / "audit" / "findings.parquet", table.FINDINGS)
    assert written.height == sum(found["findings"].values())

    strict = bestiary("audit", faulty.folder, *small, "--strict", "--quiet")
    assert (strict.code, strict.err) == (1, "")
    assert "truncated" in strict.out


def test_audit_of_some_classes(bestiary: Call, tmp_path: Path) -> None:
    pictures = folders_of(tmp_path, cat=3, cow=2, dog=1)
    done = bestiary("audit", pictures, "--classes", "cat, dog", "--quiet", "--json")
    found = json.loads(done.out)
    assert found["pictures"] == 4
    assert found["passed_over"] == {"of other classes": 2}
    assert 'Did you mean "cow"?' in one_message(bestiary("audit", pictures, "--classes", "cw"))


def test_audit_of_sound_pictures_is_strictly_fine(bestiary: Call, collection: SyntheticDataset) -> None:
    assert bestiary("audit", collection.folder, "--strict", "--quiet").code == 0


def test_the_next_command_after_training_is_one_line_that_a_shell_can_read(tmp_path: Path) -> None:
    run = tmp_path / "Anna's runs" / "first"
    text = describe_predict_command(run)
    assert "\n" not in text
    assert shlex.split(text.partition("new pictures: ")[2])[-3:] == ["predict", str(run), "PICTURES"]


@pytest.mark.parametrize(("winner", "is_named"), [({"trial": 3}, True), (None, False)])
def test_a_finished_search_names_the_next_command(
    bestiary: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, winner: dict[str, int] | None, is_named: bool
) -> None:
    pytest.importorskip("optuna")
    run = tmp_path / "search" / "winner"
    monkeypatch.setattr(
        import_module("bestiary.tune.tune"), "tune", lambda *_, **__: {"winner": winner, "run": str(run)}
    )
    monkeypatch.setattr(import_module("bestiary.cli.tune"), "_print_result", lambda _: None)
    done = bestiary("tune", tmp_path)
    assert (done.code, done.out) == (0, "")
    assert done.err.endswith(f" predict {shlex.quote(str(run))} PICTURES\n") == is_named


def test_train_keeps_stdout_clean_and_ends_with_the_run(
    bestiary: Call, collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))  # empty, so that there is something to compute
    done = bestiary("train", collection.folder, *QUICK, *FEW)
    lines = done.out.splitlines()
    run = Path(lines[-1])
    assert done.code == 0
    assert (tmp_path / run / "metrics.json").is_file()
    assert run.parent == Path("runs")
    assert lines[-2] == f"Report: {run / 'report.html'}"
    assert done.err.splitlines()[-1].endswith(f" predict {run} PICTURES")
    report = (run / "classification_report.txt").read_text(encoding="utf-8")
    assert "".join(f"{line}\n" for line in lines[:-4]) == f"{report}\n"
    headline = r"Right (\d+ times in 100|for \d+ of \d+ test pictures) \(95\xa0% interval .*\)\. "
    assert re.match(headline + r"(Most confused|Mistakes): ", lines[-4])
    for notice in ("Computing features", "Computing metrics", "62 pictures of 3 classes"):
        assert notice in done.err
        assert notice not in done.out
    latest = bestiary("predict", "runs/latest", collection.folder / "bird" / "000.jpg", "--format", "jsonl")
    assert json.loads(latest.out)["label"] in {"bird", "fish", "spider"}


def test_train_quiet_with_json_is_one_object(bestiary: Call, collection: SyntheticDataset, tmp_path: Path) -> None:
    done = bestiary("train", collection.folder, *QUICK, *FEW, "--quiet", "--json", "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert len(done.out.splitlines()) == 1
    assert found["run"] == str(tmp_path / "run")
    assert Path(found["report"]).is_file()
    assert found["metrics"] == json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))


def test_settings_go_over_the_recipe_and_options_over_both(
    bestiary: Call, collection: SyntheticDataset, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text('seed = 5\n[model]\nbackbone = "lite2"\n[evaluate]\nresamples = 500\n')
    arguments = ["--recipe", tmp_path / "mine.toml", "--set", "model.backbone=lite1", *QUICK, *FEW, "--seed", 6]
    done = bestiary("train", collection.folder, *arguments, "--quiet", "--json", "--out", tmp_path / "run")
    assert done.code == 0
    resolved = (tmp_path / "run" / "resolved.toml").read_text(encoding="utf-8")
    assert 'backbone = "lite0"' in resolved
    assert "resamples = 100" in resolved
    assert "seed = 6" in resolved


def test_labels_name_the_folders(bestiary: Call, collection: SyntheticDataset, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("folder,label\nbird,Vogel\nfish,Fisch\n", encoding="utf-8")
    arguments = [
        *QUICK,
        "--labels",
        tmp_path / "names.csv",
        "--classes",
        "Vogel,Fisch",
        "--set",
        "evaluate.resamples=100",
    ]
    done = bestiary("train", collection.folder, *arguments, "--quiet", "--json", "--out", tmp_path / "run")
    assert json.loads(done.out)["metrics"]["confusion"]["labels"] == ["Fisch", "Vogel"]


def test_evaluate_and_report_a_run(bestiary: Call, probed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(probed, tmp_path / "run"))
    done = bestiary("evaluate", run, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["metrics"]["test_scored"] == 2

    (run / "report.html").unlink()
    done = bestiary("report", run)
    assert (done.code, done.out) == (0, f"{run / 'report.html'}\n")
    assert (run / "report.html").is_file()
    written = json.loads(bestiary("report", run, "--json").out)
    names = {"report": "report.html", "summary": "report.md", "model_card": "README.md"}
    assert written == {key: str(run / name) for key, name in names.items()}
    assert all(Path(path).is_file() for path in written.values())


def test_resuming_a_finished_run(bestiary: Call, probed: Path) -> None:
    assert "finished already" in one_message(bestiary("train", "--resume", probed))


def test_a_bug_of_ours_keeps_its_traceback(bestiary: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "audit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bestiary("audit", "pictures")


def test_ctrl_c_before_there_is_a_run_ends_with_130(bestiary: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, "load_dataset", stopped)
    for name in ("audit", "train"):
        assert "Interrupted" in one_message(bestiary(name, "pictures"), code=130)


@pytest.mark.slow
def test_demo_draws_trains_and_reports(bestiary: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # tests/test_docs.py runs it with all pictures and the default backbone
    fewer = partial(make_synthetic_dataset, pictures=330)
    monkeypatch.setattr("bestiary.demo.dataset.make_synthetic_dataset", fewer)
    recipe = {"model": {"backbone": "lite0"}, "picture": {"size": 64}, "evaluate": {"resamples": 100}}
    monkeypatch.setattr("bestiary.flow.train", partial(flow.train, recipe=recipe))
    done = bestiary("demo", "--out", tmp_path / "demo", "--threads", 2)
    assert done.code == 0
    assert done.out.splitlines()[-1] == f"Report: {tmp_path / 'demo' / 'run' / 'report.html'}"
    assert (tmp_path / "demo" / "run" / "report.html").is_file()
    assert "Then your own pictures" in done.err
    again = one_message(bestiary("demo", "--out", tmp_path / "demo"))
    assert f"its report: {tmp_path / 'demo' / 'run' / 'report.html'}. For another one, add --out FOLDER." in again
    (tmp_path / "demo" / "run" / "report.html").unlink()
    assert "not an empty folder" in one_message(bestiary("demo", "--out", tmp_path / "demo"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_while_training_keeps_the_state_and_resume_finishes_the_run(
    collection: SyntheticDataset, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    run = tmp_path / "run"
    settings = ["train.epochs=40", "picture.size=32", "model.filters=[8,16]", "train.batch_size=16", *FEW[3:]]
    settings.append("data.suspects=false")
    options = [part for setting in settings for part in ("--set", setting)]
    arguments = ["train", collection.folder, "--method", "scratch", "--threads", 1, *FEW[:2], *options, "--out", run]
    line = [sys.executable, "-m", "bestiary", *map(str, arguments)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "Epoch 2: " not in said:
            said += (new := process.stderr.readline())
            assert new, said
        os.kill(process.pid, signal.SIGINT)
        out, rest = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert f"bestiary train --resume {run}" in rest
    assert "Traceback" not in rest
    assert not (run / "metrics.json").exists()

    resumed = command("train", "--resume", run, "--threads", 1, "--json")
    assert resumed.returncode == 0
    assert json.loads(resumed.stdout)["metrics"]["test_scored"] == 1
    assert b"Resuming after epoch" in resumed.stderr


# ---- Corrections, folds, several sources -----------------------------------------------------------------------------


def test_corrections_that_cannot_be_used_end_with_2(bestiary: Call, tmp_path: Path) -> None:
    pictures = folders_of(tmp_path / "pictures", cat=12, dog=12)
    (tmp_path / "bad.csv").write_text("sha256,action\n")
    for name in ("train", "audit"):
        assert 'no column "label"' in one_message(bestiary(name, pictures, "--corrections", tmp_path / "bad.csv"))
        assert "no corrections file" in one_message(bestiary(name, pictures, "--corrections", tmp_path / "gone.csv"))


def test_strict_forgives_what_somebody_decided_to_keep(bestiary: Call, tmp_path: Path) -> None:
    pictures = folders_of(tmp_path / "pictures", cat=3, dog=3)
    twin = shutil.copy(pictures / "cat" / "0.png", pictures / "dog" / "twin.png")
    assert bestiary("audit", pictures, "--strict").code == 1
    digest = hashlib.sha256(Path(twin).read_bytes()).hexdigest()
    (tmp_path / "c.csv").write_text(f"sha256,action,label,note,when\n{digest},keep,,,\n")
    done = bestiary("audit", pictures, "--strict", "--corrections", tmp_path / "c.csv")
    assert done.code == 0
    assert "2 kept, 0 dropped" in done.err


def test_several_sources_are_merged(bestiary: Call, tmp_path: Path) -> None:
    one, other = folders_of(tmp_path / "one", cat=3), folders_of(tmp_path / "two", dog=2, owl=1)
    found = json.loads(bestiary("audit", one, other, "--json").out)
    assert found["pictures"] == 6
    assert "gone" in one_message(bestiary("audit", one, tmp_path / "gone"))


@pytest.mark.parametrize("folds", ["1", "0", "x", "51"])
def test_a_number_of_folds_that_makes_no_sense(bestiary: Call, folds: str) -> None:
    assert "--folds" in one_message(bestiary("train", "x", "--folds", folds))


def test_a_leak_report_needs_a_probe(bestiary: Call, tmp_path: Path) -> None:
    done = bestiary("train", tmp_path, "--leak-report", "--method", "scratch")
    assert "--method probe" in one_message(done)


@pytest.mark.parametrize(
    ("names", "words"),
    [(["broken.jpg"], "The picture could not be read"), (["broken.jpg", "gone.png"], "None of the 2")],
)
def test_predicting_only_unreadable_pictures_is_a_user_error_with_output(
    bestiary: Call, model: Path, colours: Path, names: list[str], words: str
) -> None:
    done = bestiary("predict", model, *(colours / name for name in names), "--format", "jsonl")
    assert done.code == 2
    assert words in done.err
    assert [json.loads(line)["error"] is not None for line in done.out.splitlines()] == [True] * len(names)


def test_a_budget_that_is_not_a_duration_is_explained(bestiary: Call, colours: Path) -> None:
    done = bestiary("train", colours, "--budget", "soon")
    assert (done.code, done.out) == (2, "")
    assert '"soon" is not a duration' in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("form", ["megadetector", "label-studio", "timelapse"])
def test_predict_writes_other_programs_formats(
    bestiary: Call, model: Path, colours: Path, tmp_path: Path, form: str
) -> None:
    assert "Add --out" in one_message(bestiary("predict", model, colours, "--format", form))
    out = tmp_path / "answers.out"
    done = bestiary("predict", model, colours, "--format", form, "--out", out)
    assert (done.code, done.out) == (0, f"{out}\n")
    assert out.read_text("utf-8").count("red.png") >= 1
    before, arguments = out.stat(), ("predict", model, colours, "--format", form, "--out", out)
    again = bestiary(*arguments, "--resume")
    assert (again.code, again.out) == (0, f"{out}\n")
    count = re.findall(r"(\d+) pictures: ", done.err)[0]
    assert f"{out} is complete, with {count} pictures. Nothing was changed." in again.err
    assert "exists already" in one_message(bestiary(*arguments))
    other = one_message(bestiary(*arguments, "--resume", "--unknown-label", "nothing"))
    assert "label of unknown pictures none before, nothing now" in other
    assert out.stat() == before
    assert not (tmp_path / "answers.out.part.jsonl").exists()


def test_predict_needs_what_a_format_needs(bestiary: Call, model: Path, colours: Path, tmp_path: Path) -> None:
    asked = ("predict", model, colours)
    refused = one_message(bestiary(*asked, "--format", "camtrap-dp", "--out", tmp_path / "out"))
    assert "Give --package DIR" in refused
    assert "--package is for" in one_message(bestiary(*asked, "--package", tmp_path, "--out", tmp_path / "a.csv"))
    assert "metadata.jsonl" in one_message(bestiary(*asked, "--format", "huggingface", "--out", tmp_path / "a.csv"))


def test_predict_keeps_the_columns_of_a_table(bestiary: Call, model: Path, colours: Path, tmp_path: Path) -> None:
    (table_path := tmp_path / "table.csv").write_text("file;site\nred.png;007\nbroken.jpg;NA\nred.png;x\n")
    out, asked = tmp_path / "answers.csv", ("predict", model, colours, "--table", table_path)
    assert bestiary(*asked, "--out", out).code == 0
    with out.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter=";"))
    assert [(row["file"], row["site"]) for row in rows] == [("red.png", "007"), ("broken.jpg", "NA"), ("red.png", "x")]
    assert [row["predicted_label"] for row in rows] == ["red", "", "red"]
    answers = bestiary(*asked, "--format", "jsonl").out.splitlines()
    assert [Path(json.loads(line)["path"]).name for line in answers] == ["red.png", "broken.jpg", "red.png"]
    assert "Add --out" in one_message(bestiary(*asked, "--format", "csv"))
    several = ("predict", model, colours / "red.png", colours, "--table", table_path)
    assert "the single folder" in one_message(bestiary(*several))

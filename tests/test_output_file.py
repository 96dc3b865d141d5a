"""Predictions in a file: complete lines only, and an interrupted command can be resumed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bestiary.errors import MachineError, UserError
from bestiary.inference.output_file import PredictionFile, format_from_suffix
from bestiary.inference.predictor import Prediction
from bestiary.inference.writers import split_labels
from bestiary.locks import output_lock

CLASSES = ("cat", "dog")
PATHS = [Path(name) for name in ("a.jpg", 'odd ",\n name.jpg', "caf\udce9.jpg", "b.jpg", "a.jpg")]
FORMS = ["jsonl", "csv", "parquet"]


class KilledError(Exception):
    pass


def predicted(paths: Iterable[Path], *, until: int = 1000) -> Iterator[Prediction]:
    for number, path in enumerate(paths):
        if number == until:
            raise KilledError
        if path.name == "b.jpg":
            yield Prediction(str(path), None, 0.0, True, 0.0, {}, error='b.jpg is not a "picture".')
        else:
            yield Prediction(str(path), "cat", 0.75, False, 0.5, {"cat": 0.75, "dog": 0.25})


def opened(path: Path, *, resume: bool = False, classes: tuple[str, ...] = CLASSES) -> PredictionFile:
    return PredictionFile(path, format_from_suffix(path), classes, resume=resume)


def paths_in(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        return [json.loads(line)["path"] for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as rows:
            return [row["path"] for row in csv.DictReader(rows)]
    return pl.read_parquet(path)["path"].to_list()


def written(paths: Iterable[Path]) -> list[str]:
    return [str(path).encode("utf-8", "backslashreplace").decode() for path in paths]


@pytest.mark.parametrize("form", FORMS)
def test_every_answer_is_in_the_file(tmp_path: Path, form: str) -> None:
    path = tmp_path / "new" / f"answers.{form}"
    file = opened(path)
    file.write(predicted(file.pending(PATHS)))
    found = [one.encode("utf-8", "backslashreplace").decode() for one in paths_in(path)]
    assert found == written(PATHS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    if form == "parquet":
        frame = pl.read_parquet(path)
        assert frame.columns == ["path", "label", "probability", "unknown", "familiarity", "p_cat", "p_dog", "error"]
        assert frame["label"].to_list() == ["cat", "cat", "cat", None, "cat"]
        assert frame["p_dog"].to_list() == [0.25, 0.25, 0.25, None, 0.25]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("until", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("torn", [b"", b'{"path": "a.j', b'"a.jpg,ca'])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, form: str, until: int, torn: bytes) -> None:
    path, whole = tmp_path / f"answers.{form}", tmp_path / f"whole.{form}"
    file = opened(path)
    with pytest.raises(KilledError):
        file.write(predicted(file.pending(PATHS), until=until))
    live = path.with_name(f"{path.name}.part.jsonl") if form == "parquet" else path
    with live.open("ab") as half:
        half.write(torn)

    again = opened(path, resume=True)
    left = list(again.pending(PATHS))
    assert left == PATHS[until:]
    again.write(predicted(left))
    opened(whole).write(predicted(PATHS))
    if form == "parquet":
        assert pl.read_parquet(path).equals(pl.read_parquet(whole))
    else:
        assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_finished_file_can_be_added_to(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"answers.{form}"
    opened(path).write(predicted(PATHS[:2]))
    again = opened(path, resume=True)
    again.write(predicted(again.pending(PATHS)))
    found = [one.encode("utf-8", "backslashreplace").decode() for one in paths_in(path)]
    assert found == written(PATHS)
    opened(path, resume=True).write([])
    assert len(paths_in(path)) == len(PATHS)


def test_a_long_table_keeps_the_order_of_its_rows(tmp_path: Path) -> None:
    """It is written by polars' streaming engine, in pieces."""
    path, names = tmp_path / "a.parquet", [Path(f"{number:06}.jpg") for number in range(60_000)]
    for part in (names[:40_000], names[40_000:]):
        opened(path, resume=True).write(predicted(part, until=len(part)))
    assert paths_in(path) == written(names)


def test_rows_that_are_in_the_table_already_do_not_come_twice(tmp_path: Path) -> None:
    path, live = tmp_path / "answers.parquet", tmp_path / "answers.parquet.part.jsonl"
    with pytest.raises(KilledError):
        opened(path).write(predicted(PATHS, until=3))
    rows = live.read_bytes()
    opened(path, resume=True).write([])
    live.write_bytes(rows)  # as if it had been killed before it took them away
    again = opened(path, resume=True)
    again.write(predicted(again.pending(PATHS)))
    assert [one.encode("utf-8", "backslashreplace").decode() for one in paths_in(path)] == written(PATHS)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"answers.{form}"
    opened(path).write(predicted(PATHS))
    before = path.read_bytes()
    with pytest.raises(UserError, match="--resume"):
        opened(path)
    with pytest.raises(UserError, match="another model"):
        opened(path, resume=True, classes=("cat", "cow"))
    assert path.read_bytes() == before


DAMAGE: dict[str, Callable[[Path], object]] = {
    "jsonl": lambda path: path.write_text("cat,dog\n"),
    "csv": lambda path: path.write_text("name,age\nx,1\n"),
}


@pytest.mark.parametrize("form", DAMAGE)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"answers.{form}"
    DAMAGE[form](path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="Choose another name"):
        opened(path, resume=True)
    assert path.read_bytes() == before


def test_the_name_says_the_format() -> None:
    assert [format_from_suffix(Path(name)) for name in ("a.jsonl", "a.NDJSON", "a.csv", "a.parquet")] == [
        *("jsonl", "jsonl", "csv", "parquet")
    ]
    with pytest.raises(UserError, match=r"expected one of \.jsonl"):
        format_from_suffix(Path("answers.xlsx"))


RUN_AS_FORMULAS = [Path(name) for name in ("=1+1.jpg", "@x.jpg", "-a.jpg", "+b/c.jpg", "\tt.jpg", "plain.jpg")]


def test_no_cell_of_a_csv_file_is_run_as_a_formula(tmp_path: Path) -> None:
    path, classes = tmp_path / "answers.csv", ("=SUM(1)", "-1")
    shares = dict.fromkeys(classes, 0.5)
    labels = [*classes, "+1", "@b", "=c|d", "dog"]
    found = [
        Prediction(str(one), label, 0.5, False, -0.5, shares, labels=[label])
        for one, label in zip(RUN_AS_FORMULAS, labels, strict=True)
    ]
    PredictionFile(path, "csv", classes, resume=False, sets=True).write(found)
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[5:7] == ["p_=SUM(1)", "p_-1"]
    assert [row[0] for row in rows] == ["./=1+1.jpg", "./@x.jpg", "./-a.jpg", "./+b/c.jpg", "./\tt.jpg", "plain.jpg"]
    assert [Path(row[0]) for row in rows] == RUN_AS_FORMULAS
    assert [row[1] for row in rows] == ["'=SUM(1)", "-1", "+1", "'@b", "'=c|d", "dog"]
    assert [row[-1] for row in rows] == [row[1] for row in rows]
    assert {row[4] for row in rows} == {"-0.5"}
    again = PredictionFile(path, "csv", classes, resume=True, sets=True)
    assert list(again.pending([*RUN_AS_FORMULAS, Path("new.jpg")])) == [Path("new.jpg")]


@pytest.mark.parametrize(
    ("classes", "sets"),
    [
        (("cat|dog", "bird", "100%7C"), [["cat|dog", "bird"], ["100%7C"], [], ["bird", "100%7C", "cat|dog"]]),
        (("cat", "dog", "100%7C"), [["cat", "dog"], ["100%7C"], []]),
        (("|", "||", "%"), [["|"], ["||"], ["|", "|"], ["%", "||"]]),
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_prediction_set_can_be_taken_apart(
    tmp_path: Path, form: str, classes: tuple[str, ...], sets: list[list[str]]
) -> None:
    path = tmp_path / f"answers.{form}"
    rows = [Prediction(f"{n}.jpg", classes[0], 0.5, False, 0.5, {}, labels=labels) for n, labels in enumerate(sets)]
    PredictionFile(path, form, classes, resume=False, sets=True).write(rows)
    if form == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            cells = [row["labels"] for row in csv.DictReader(file)]
    else:
        cells = pl.read_parquet(path)["labels"].to_list()
    assert [split_labels(cell, classes) for cell in cells] == sets
    if not any("|" in name for name in classes):
        assert [cell.split("|") for cell in cells if cell] == [labels for labels in sets if labels]


def test_a_label_and_its_escaped_form_stay_apart(tmp_path: Path) -> None:
    path, labels = tmp_path / "answers.csv", ["=x", "'=x", "''=x", "'x", "-1", "'-1"]
    rows = [Prediction(f"{n}.jpg", label, 0.5, False, 0.5, {}) for n, label in enumerate(labels)]
    PredictionFile(path, "csv", labels, resume=False).write(rows)
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row["label"] for row in csv.DictReader(file)]
    assert cells == ["'=x", "''=x", "'''=x", "'x", "-1", "''-1"]


# ---- Resuming: the same model, options and pictures -----------------------------------------------------------------

CONDITIONS = {"model": "a" * 64, "threshold of unknown": 0.3, "level of prediction sets": None}


def recorded(path: Path, *, resume: bool = False, **changes: Any) -> PredictionFile:
    conditions = CONDITIONS | {name.replace("_", " "): value for name, value in changes.items()}
    return PredictionFile(path, format_from_suffix(path), CLASSES, resume=resume, conditions=conditions)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("1.jpg", "caf\udce9.jpg", "2,\n.jpg", "3.jpg")]
    for path in paths:
        path.write_bytes(b"12345")
    return paths


@pytest.mark.parametrize("form", FORMS)
def test_predictions_of_the_same_model_are_continued(tmp_path: Path, form: str, pictures: list[Path]) -> None:
    path, missing = tmp_path / f"answers.{form}", tmp_path / "missing.jpg"
    asked = [*pictures[:2], missing, pictures[0]]
    file = recorded(path)
    with pytest.raises(KilledError):
        file.write(predicted(file.pending(asked), until=2))
    for _ in range(2):
        again = recorded(path, resume=True)
        again.write(predicted(again.pending([*asked, *pictures[2:]])))
    answered = [name.encode("utf-8", "backslashreplace").decode() for name in paths_in(path)]
    assert answered == written([*asked, *pictures[2:]])
    pictures[0].unlink()  # a picture that is gone does not make its prediction wrong
    assert list(recorded(path, resume=True).pending(pictures)) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "b" * 64}, "model aaaaaaaaaaaa before, bbbbbbbbbbbb now"),
        ({"threshold_of_unknown": 0.31}, "threshold of unknown 0.3 before, 0.31 now"),
        ({"level_of_prediction_sets": 0.9}, "level of prediction sets none before, 0.9 now"),
        ({"max_pixels": 80_000_000}, "max.pixels none before, 80,000,000 now"),
    ],
)
@pytest.mark.parametrize("until", [2, 1000])
def test_predictions_of_another_model_are_not_continued(
    tmp_path: Path, form: str, changes: dict[str, Any], message: str, until: int, pictures: list[Path]
) -> None:
    path = tmp_path / f"answers.{form}"
    file = recorded(path)
    try:
        file.write(predicted(file.pending(pictures), until=until))
    except KilledError:
        assert until == 2
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message) as refused:
        recorded(path, resume=True, **changes)
    assert "predict into a new file" in str(refused.value)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_another_format_is_not_continued(tmp_path: Path, pictures: list[Path]) -> None:
    path = tmp_path / "answers.txt"
    PredictionFile(path, "csv", CLASSES, resume=False, conditions=CONDITIONS).write(predicted(pictures))
    with pytest.raises(UserError, match="format csv before, jsonl now"):
        PredictionFile(path, "jsonl", CLASSES, resume=True, conditions=CONDITIONS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", ["content", "time"])
def test_a_changed_picture_is_not_continued(tmp_path: Path, form: str, change: str, pictures: list[Path]) -> None:
    path = tmp_path / f"answers.{form}"
    file = recorded(path)
    file.write(predicted(file.pending(pictures[:2])))
    if change == "content":
        status = pictures[1].stat()
        pictures[1].write_bytes(b"123456")
        os.utime(pictures[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(pictures[1], ns=(0, 0))
    with pytest.raises(UserError, match=r"1 picture has another size, ETag or time .*caf\\udce9\.jpg"):
        recorded(path, resume=True)
    pictures[2].write_bytes(b"another one")  # not predicted yet
    pictures[1].unlink()
    assert list(recorded(path, resume=True).pending(pictures)) == pictures[2:]


def test_a_picture_changed_before_it_is_predicted_is_continued(tmp_path: Path, pictures: list[Path]) -> None:
    """Its prediction is of the new content: the state is read when the picture is about to be."""
    file = recorded(tmp_path / "answers.csv")
    pending = file.pending(pictures)

    def predict_and_change() -> Iterator[Prediction]:
        for number, prediction in enumerate(predicted(pending)):
            if number == 0:
                pictures[-1].write_bytes(b"changed during the run")
            yield prediction

    file.write(predict_and_change())
    assert recorded(tmp_path / "answers.csv", resume=True).count_pending(pictures) == 0


@pytest.mark.parametrize("form", FORMS)
def test_predictions_without_their_record_are_not_continued(tmp_path: Path, form: str, pictures: list[Path]) -> None:
    path = tmp_path / f"answers.{form}"
    opened(path).write(predicted(pictures))  # as an older version wrote it
    with pytest.raises(UserError, match=rf"answers\.{form}\.resume beside it.*older version.*new file"):
        recorded(path, resume=True)
    (tmp_path / f"answers.{form}.resume").write_text("damaged\n")
    with pytest.raises(UserError, match="missing or damaged"):
        recorded(path, resume=True)
    path.unlink()  # a record by itself is in nobody's way
    file = recorded(path, resume=True)
    file.write(predicted(file.pending(pictures)))
    assert list(recorded(path, resume=True).pending(pictures)) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("folder", ["x-[1]", "[", "a*?"])
def test_a_name_with_brackets_is_no_pattern(tmp_path: Path, form: str, folder: str, pictures: list[Path]) -> None:
    path = tmp_path / folder / f"answers[0].{form}"
    file = recorded(path)
    file.write(predicted(file.pending(pictures[:2])))
    again = recorded(path, resume=True)
    assert again.count_pending([*pictures, *pictures]) == 6
    again.write(predicted(again.pending(pictures)))
    assert recorded(path, resume=True).count_pending(pictures) == 0


def test_a_torn_line_of_the_record_is_passed_over(tmp_path: Path, pictures: list[Path]) -> None:
    path = tmp_path / "answers.csv"
    file = recorded(path)
    file.write(predicted(file.pending(pictures[:1])))
    with (tmp_path / "answers.csv.resume").open("a") as record:
        record.write('{"path": "torn')
    again = recorded(path, resume=True)
    again.write(predicted(again.pending(pictures[:2])))
    os.utime(pictures[1], ns=(0, 0))
    with pytest.raises(UserError, match="changed since: 1 picture"):
        recorded(path, resume=True)


# ---- Two processes ---------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from bestiary.locks import output_lock
with output_lock(*map(Path, sys.argv[1:])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_an_output_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    out, folder, link = tmp_path / "new" / "a.csv", tmp_path / ("x" * 250), tmp_path / "link.csv"
    command = [sys.executable, "-c", HOLD, str(out), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        link.symlink_to(out)
        for path in (out, tmp_path / "new" / ".." / "new" / "a.csv", folder, link):
            with pytest.raises(UserError, match=rf"is being written by process {holder.pid} on"), output_lock(path):
                pass
        with output_lock(None, tmp_path / "new" / "b.csv"):
            pass
        holder.kill()
        holder.wait()
    with output_lock(out, folder), pytest.raises(UserError, match="is being written"), output_lock(link):
        pass
    assert list((tmp_path / "new").iterdir()) == []  # made by the killed process


def test_a_folder_in_one_that_cannot_be_written_is_locked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mounted" / "heatmaps"
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder.parent)
    with output_lock(folder), pytest.raises(UserError, match="is being written"), output_lock(folder):
        pass
    assert list(folder.parent.iterdir()) == [folder]
    assert list(folder.iterdir()) == []


def test_a_lock_leaves_no_folder_behind(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "a.csv"
    with output_lock(out):
        pass
    assert list(tmp_path.iterdir()) == []
    with output_lock(out):
        out.write_text("mine")
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(MachineError, match=r"a\.csv is a file, not a folder\. Choose"), output_lock(out / "below.csv"):
        pass

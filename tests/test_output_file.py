"""Predictions in a file: complete lines only, and an interrupted command can be resumed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl
import pytest

from bestiary.errors import UserError
from bestiary.inference.output_file import PredictionFile, format_from_suffix
from bestiary.inference.predictor import Prediction

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

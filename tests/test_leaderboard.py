"""`bestiary runs`: a leaderboard that ranks only runs with the same test pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bestiary.errors import RunError
from bestiary.report.leaderboard import format_leaderboard, read_leaderboard
from commands import Call
from test_cli import one_message


def write_run(
    run: Path,
    score: float,
    *,
    split: str = "aaaa",
    seconds: float = 60.0,
    started: str = "2026-11-28 10:00:00 +0000",
    method: str = "probe",
    tested: str = "test",
) -> Path:
    """The files that a leaderboard reads."""
    run.mkdir(parents=True)
    metric = {"value": score, "low": score - 0.1, "high": score + 0.05}
    metrics = {"accuracy": metric, "macro_f1": metric, "log_loss": {**metric, "value": 1 - score}, "n": 40}
    metrics |= {"split": tested, "seconds": {"total": seconds}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "environment.json").write_text(json.dumps({"split digest": split, "started": started}))
    (run / "asked.toml").write_text("")
    (run / "resolved.toml").write_text(f'[model]\nmethod = "{method}"\nbackbone = "lite0"\n')
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    write_run(runs / "b", 0.8, seconds=10, started="2026-11-28 09:00:00 +0000")
    write_run(runs / "a", 0.7, seconds=90, started="2026-11-28 11:00:00 +0000", method="scratch")
    write_run(runs / "deep" / "er" / "c", 0.9, seconds=30)
    write_run(runs / "other", 0.99, split="bbbb")
    (runs / "latest").symlink_to("b", target_is_directory=True)
    return runs


def names(folder: Path, sort: str) -> list[list[str]]:
    return [[Path(row.run).name for row in rows] for rows in read_leaderboard(folder, sort).groups]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("macro_f1", "cba"),
        ("accuracy", "cba"),
        ("log_loss", "cba"),
        ("seconds", "bca"),
        ("date", "acb"),
        ("name", "abc"),
    ],
)
def test_runs_with_the_same_split_are_sorted_together(folder: Path, sort: str, order: str) -> None:
    assert names(folder, sort) == [list(order), ["other"]]


def test_a_cross_validated_run_is_not_ranked_with_a_test_split(folder: Path) -> None:
    write_run(folder / "folds", 0.95, tested="folds")
    assert ["folds"] in names(folder, "macro_f1")
    assert "40 cross-validated pictures" in format_leaderboard(read_leaderboard(folder))


def test_the_table_has_scores_with_intervals_and_says_what_is_comparable(folder: Path) -> None:
    text = format_leaderboard(read_leaderboard(folder))
    assert text.startswith("2 different splits: scores are comparable only within a table.")
    assert "Split aaaa, 40 test pictures" in text
    row = next(line for line in text.splitlines() if line.startswith(str(folder / "a ")))
    assert "0.700 (0.600 to 0.750)" in row
    assert row.endswith("90 s  scratch resnet  2026-11-28 11:00")
    assert "bestiary compare RUN RUN" in text


def test_unfinished_and_damaged_runs_are_named(folder: Path) -> None:
    (folder / "begun").mkdir()
    (folder / "begun" / "asked.toml").write_text("")
    for name, file, content in (
        ("torn", "metrics.json", "{"),
        ("old", "environment.json", "{}"),
        ("edited", "resolved.toml", "[model]\nmethod = 'magic'\n"),
    ):
        (write_run(folder / name, 0.5) / file).write_text(content)
    (write_run(folder / "lost", 0.5) / "environment.json").unlink()
    board = read_leaderboard(folder)
    assert board.unfinished == {str(folder / "begun"): "it has no metrics.json yet"}
    assert {Path(run).name for run in board.damaged} == {"torn", "old", "edited", "lost"}
    assert "split digest" in board.damaged[str(folder / "old")]
    assert f"  {folder / 'begun'}: it has no metrics.json yet" in format_leaderboard(board)
    assert len(board.groups[0]) == 3


def test_what_lies_inside_a_run_is_no_run_of_its_own(folder: Path) -> None:
    write_run(folder / "b" / "folds" / "1", 0.1)
    write_run(folder / ".half", 0.1)
    assert names(folder, "name") == [["a", "b", "c"], ["other"]]
    assert names(folder / "b", "name") == [["b"]]


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There are no runs in"):
        read_leaderboard(tmp_path)
    with pytest.raises(RunError, match="There is no folder"):
        read_leaderboard(tmp_path / "none")


def test_the_command_prints_the_table_or_json(bestiary: Call, folder: Path) -> None:
    done = bestiary("runs", folder, "--sort", "seconds")
    assert (done.code, done.err) == (0, "")
    assert done.out.index(str(folder / "b ")) < done.out.index(str(folder / "a "))
    values = json.loads(bestiary("runs", folder, "--json").out)
    first = values["groups"][0]
    assert (first["split digest"], first["split"], len(first["runs"])) == ("aaaa", "test", 3)
    assert first["runs"][0]["metrics"]["macro_f1"] == {
        "value": 0.9,
        "low": pytest.approx(0.8),
        "high": pytest.approx(0.95),
    }
    assert (values["unfinished"], values["damaged"]) == ({}, {})
    assert "There is no folder none" in one_message(bestiary("runs", "none"))


def test_a_run_of_the_training_itself_is_ranked(probed: Path) -> None:
    [[row]] = read_leaderboard(probed).groups
    metrics = json.loads((probed / "metrics.json").read_text())
    assert (row.method, row.backbone, row.n) == ("probe", "lite0", metrics["n"])
    assert row.seconds == metrics["seconds"]["total"]

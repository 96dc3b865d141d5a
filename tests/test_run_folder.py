"""The run folder: what was asked and what came out, never half-written."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bestiary import files, run_folder
from bestiary.errors import MachineError, RecipeError, RunError, UserError
from bestiary.locks import output_lock
from bestiary.recipe import Recipe
from bestiary.recipe_sections import FeaturesConfig
from bestiary.report.run_files import read_run

RECIPE = Recipe.of({"model": {"backbone": "lite0"}, "seed": 3})
NOBODY = 65534  # a user without any rights


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_says_what_was_asked_and_what_that_means(tmp_path: Path) -> None:
    run = run_folder.create_run_folder(tmp_path / "deep" / "run", RECIPE)
    assert tomllib.loads((run / "asked.toml").read_text(encoding="utf-8")) == {
        "seed": 3,
        "model": {"backbone": "lite0"},
    }
    resolved = tomllib.loads((run / "resolved.toml").read_text(encoding="utf-8"))
    assert resolved["picture"]["size"] == 224
    assert resolved["data"]["test_fraction"] == 0.15
    assert Recipe.of(resolved).resolve() == RECIPE.resolve()
    assert run_folder.load_recipe(run) == RECIPE


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    assert run_folder.create_run_folder(tmp_path, RECIPE) == tmp_path
    assert (tmp_path / "asked.toml").is_file()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already") as told:
        run_folder.create_run_folder(tmp_path, RECIPE)
    assert str(tmp_path) in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        run_folder.create_run_folder(tmp_path / "run", RECIPE)
    with pytest.raises(MachineError, match="Cannot make the run folder"):
        run_folder.create_run_folder(tmp_path / "run" / "below", RECIPE)


@pytest.mark.skipif(sys.platform == "win32", reason="folders of Windows have no such modes")
def test_a_folder_that_may_not_be_written_is_named() -> None:
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:  # others than root may not even enter the parents of `tmp_path`
        Path(folder).chmod(0o555)
        if is_root:
            os.seteuid(NOBODY)  # root may write anywhere
        try:
            with pytest.raises(MachineError, match="Cannot make the run folder .*Permission denied"):
                run_folder.create_run_folder(Path(folder) / "run", RECIPE)
        finally:
            if is_root:
                os.seteuid(0)


def test_runs_are_named_by_date_method_and_recipe(here: Path) -> None:
    one = run_folder.create_run_folder(None, RECIPE)
    assert one.parent == Path("runs")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}-probe-[0-9a-f]{6}", one.name)
    other = run_folder.create_run_folder(None, Recipe.of({"seed": 4}))
    assert one.name[-6:] != other.name[-6:]


def test_two_runs_in_one_second_do_not_meet(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder.time, "strftime", lambda *_: "2000-01-01-000000")
    names = [run_folder.create_run_folder(None, RECIPE).name for _ in range(3)]
    assert len(set(names)) == 3


def test_runs_that_start_at_once_get_a_folder_each(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder.time, "strftime", lambda *_: "2000-01-01-000000")
    start = threading.Barrier(8)

    def create(number: int) -> Path:
        return run_folder.create_run_folder(None, RECIPE, contents=lambda folder: contents(folder, number))

    def contents(folder: Path, number: int) -> None:
        (folder / "number.txt").write_text(str(number))
        start.wait()  # all are about to be renamed

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(create, range(8)))
    assert len(set(runs)) == 8
    assert [(run / "number.txt").read_text() for run in runs] == [str(number) for number in range(8)]
    assert sorted(path.name for path in (here / "runs").iterdir()) == sorted(run.name for run in runs)


def test_a_run_folder_that_another_process_creates_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def contents(folder: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "theirs.txt").write_text("theirs")

    with pytest.raises(RunError, match="run exists already. Choose another --out"):
        run_folder.create_run_folder(tmp_path / "run", RECIPE, contents=contents)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "theirs.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_latest_points_to_the_newest_run(here: Path) -> None:
    for seed in (1, 2):
        run = run_folder.create_run_folder(None, Recipe.of({"seed": seed}))
        run_folder.update_latest_link(run)
        assert (here / "runs" / "latest").resolve() == run.resolve()
        assert run_folder.load_recipe(Path("runs/latest")).seed == seed
    assert not list((here / "runs").glob(".latest*"))


def test_latest_is_left_alone_by_a_run_with_a_place_of_its_own(here: Path) -> None:
    run_folder.create_run_folder(here / "mine", RECIPE)
    assert not (here / "runs").exists()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError, match=re.escape(str(path))):
            run_folder.load_recipe(path)


def test_a_recipe_spoilt_by_hand_is_explained(tmp_path: Path) -> None:
    run = run_folder.create_run_folder(tmp_path / "run", RECIPE)
    (run / "asked.toml").write_text("[model\n")
    with pytest.raises(RecipeError, match="asked.toml is not valid TOML"):
        run_folder.load_recipe(run)


def test_json_comes_back(tmp_path: Path) -> None:
    values = {"name": "Käfer", "counts": [[1, 2]], "nothing": None}
    files.write_json(tmp_path / "some.json", values)
    assert files.read_json(tmp_path / "some.json") == values
    assert "Käfer" in (tmp_path / "some.json").read_text(encoding="utf-8")


def test_json_that_no_reader_takes_is_never_written(tmp_path: Path) -> None:
    files.write_json(tmp_path / "some.json", {"value": 1.0})
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "some.json", {"value": float("nan")})
    assert files.read_json(tmp_path / "some.json") == {"value": 1.0}


@pytest.mark.parametrize("content", [None, "", "{", '{"a": '])
def test_a_damaged_json_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(RunError, match="metrics.json is missing or damaged"):
        files.read_json(tmp_path / "metrics.json")


def test_history_comes_back_line_by_line(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": 0.25, "chosen": True}]
    run_folder.write_history(tmp_path, lines)
    assert run_folder.read_history(tmp_path) == lines
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == lines


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(RunError, match="history.jsonl is missing or damaged"):
        run_folder.read_history(tmp_path)


@pytest.mark.parametrize("program", ["/usr/bin/bestiary", "/usr/lib/bestiary/__main__.py"])
def test_the_environment_says_versions_command_and_machine(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program, "train", "pictures"])
    found = run_folder.collect_environment({"split digest": "abc"})
    assert found["command"] == "bestiary train pictures"
    assert found["split digest"] == "abc"
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"bestiary", "platform", "cores", "started", "version of numpy", "version of onnxruntime"} <= found.keys()
    json.dumps(found)
    monkeypatch.setattr(sys, "argv", ["/usr/lib/pytest/__main__.py"])
    assert run_folder.collect_environment({})["command"] == "__main__.py"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b'{"n": '])
def test_a_scrambled_file_of_a_run_is_told_with_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    for reading in (lambda: read_run(tmp_path), lambda: files.read_json(tmp_path / "metrics.json")):
        with pytest.raises(RunError, match=r"metrics\.json"):
            reading()


@pytest.mark.parametrize("out", ["s3://bucket/run", "sqlite:///tune.db", "file:///tmp/x"])
def test_an_output_that_is_a_url_is_refused(here: Path, out: str) -> None:
    words = "looks like a URL; expected a file or folder on this computer"
    with pytest.raises(UserError, match=words):
        run_folder.require_free_folder(Path(out))
    with pytest.raises(UserError, match=words), output_lock(None, Path(out)):
        pass
    assert list(here.iterdir()) == []
    files.require_local_path(Path("C:/Users/me"))
    files.require_local_path(Path("runs/a:b"))


def test_the_engine_of_features_is_the_recorded_one(tmp_path: Path) -> None:
    def contents(folder: Path) -> None:
        files.write_json(folder / "environment.json", {})

    recipe = Recipe.of({"features": {"precision": "float32"}})
    run = run_folder.create_run_folder(tmp_path / "run", recipe, contents=contents)
    assert run_folder.recorded_features(run) == recipe.features
    chosen = FeaturesConfig(engine="openvino", precision="float32")
    run_folder.record_features(run, chosen)
    assert run_folder.recorded_features(run) == chosen
    run_folder.update_environment(run, {"features": {"engine": "abacus"}})
    with pytest.raises(RecipeError, match=r"features\.engine"):
        run_folder.recorded_features(run)

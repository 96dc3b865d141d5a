"""Progress lines: none of a stage's first seconds is silent, and every line has the number of its stage."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

import bestiary
from bestiary import flow, progress, stages
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.progress import LogReporter
from bestiary.stages import STAGES, StageReporter, number_stages

STAGE = re.compile(r"^\[(\d+)/(\d+)\] (.+): (?:[\d,]+|done) in [\d.]+ s$", re.MULTILINE)
SMALL = {"model": {"backbone": "lite0"}, "picture": {"size": 64}, "evaluate": {"resamples": 200}}


def test_a_step_that_takes_long_is_no_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.02)
    with LogReporter().progress("Reading pictures", 5) as advance:
        time.sleep(0.3)  # the first step has not ended
        advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Reading pictures: 0 of 5, 0 s so far"
    assert lines[-1].startswith("Reading pictures: 5 in ")
    assert 5 <= len(lines) < 0.3 / 0.02  # after the first three, every third


def test_titles_get_the_number_of_their_stage(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = StageReporter(LogReporter(), STAGES["train"])
    titles = ["Reading pictures", "Checking labels", "Computing features", "Epoch 1 of 2", "Predicting", "Fitting"]
    for title in titles:
        with reporter.progress(title, 1) as advance:
            advance(1)
    numbers = [int(number) for number, _, _ in STAGE.findall(capsys.readouterr().err)]
    train = list(STAGES["train"])
    labels, fit, predict = (train.index(stage) + 1 for stage in (stages.LABELS, stages.FIT, stages.TEST))
    # Features after the label check's are those of its own stage; the head of a second fold goes back to its stage.
    assert numbers == [1, labels, labels, fit, predict, fit]


def test_the_stages_of_an_outer_job_are_counted() -> None:
    outer = number_stages(LogReporter(), "tune")
    assert number_stages(outer, "resume") is outer


def test_cached_results_are_not_counted_as_all_pictures(
    collection: SyntheticDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second audit reads only what it must, and says so; the number of checked labels is no result."""
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    shutil.copytree(collection.folder, folder)
    flow.audit(folder, recipe=SMALL, reporter=LogReporter())
    assert "Reading pictures: 120 in" in capsys.readouterr().err
    shutil.copy(next((folder / "bird").iterdir()), folder / "bird" / "new.png")
    flow.audit(folder, recipe=SMALL, reporter=LogReporter())
    second = capsys.readouterr().err
    assert "Reading pictures that are new or changed: 1 in" in second
    assert "Checking labels: done in" in second
    flow.audit(folder, recipe=SMALL, reporter=LogReporter())
    third = capsys.readouterr().err
    assert third.startswith("[1/4] Reading pictures that are new or changed: 0 in")


def test_all_stages_of_training_and_evaluation_are_reported(
    tmp_path_factory: pytest.TempPathFactory, faulty: SyntheticDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path_factory.mktemp("progress") / "run"
    run = flow.train(faulty.folder, recipe=SMALL, out=out, reporter=LogReporter())
    reported = STAGE.findall(capsys.readouterr().err)
    assert {int(total) for _, total, _ in reported} == {len(STAGES["train"])}
    numbers = [int(number) for number, _, _ in reported]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, len(STAGES["train"]) + 1))
    flow.evaluate(run.path, Context.create(reporter=LogReporter(), job="evaluate"))
    assert STAGE.findall(capsys.readouterr().err) == [
        ("1", "3", "Predicting"),
        ("2", "3", "Computing metrics"),
        ("3", "3", "Writing the report"),
    ]
    bestiary.evaluate(run.path, faulty.folder, reporter=LogReporter())
    assert STAGE.findall(capsys.readouterr().err) == [
        ("1", "5", "Reading pictures that are new or changed"),
        ("2", "5", "Searching for duplicates"),
        ("3", "5", "Checking for shortcuts"),
        ("4", "5", "Searching for duplicates of training pictures"),
        ("5", "5", "Predicting"),
    ]

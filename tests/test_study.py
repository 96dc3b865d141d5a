"""A study: the same pictures for every recipe of a seed, goes on after a kill, and says what helped."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("sklearn")

from bestiary import flow, table
from bestiary.cli import app
from bestiary.context import Context
from bestiary.data import dataset as dataset_module
from bestiary.data.dataset import DataSource
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import InterruptedRun, RecipeError, RunError, SourceError, UserError
from bestiary.progress import Reporter
from bestiary.recipe import Recipe
from bestiary.study import study as studies
from bestiary.study.page import COLUMNS, study_rows
from bestiary.study.plan import RunEstimate
from bestiary.study.recipes import read_study_recipes
from bestiary.study.results import Results
from bestiary.study.runs import check_same_splits, read_manifest
from bestiary.study.study import Study, StudyOptions
from bestiary.training.run_lock import run_lock
from bestiary.training.time_estimate import TimeEstimate

pytestmark = pytest.mark.slow

SETTINGS = (
    *('data.classes=["bird","fish","spider","rabbit"]', "data.suspects=false", "evaluate.resamples=100"),
    *('picture.size=64', 'model.backbone="lite0"'),
)  # fmt: skip
GOOD, POOR = "[probe]\nregularisation = [0.01]\n", "[probe]\nregularisation = [1e-5]\n"
SEEDS = (0, 1, 2)


def study(
    pictures: Path,
    recipes: Sequence[str] = (),
    *,
    labels: str | None = None,
    corrections: Path | None = None,
    out: Path | None = None,
    threads: int = 2,
    reporter: Reporter | None = None,
    **options: Any,
) -> Study:
    context = Context.create(threads, reporter)
    source = DataSource(pictures, labels, corrections)
    return studies.study(source, StudyOptions(recipes, **options), out=out, context=context)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recipes: one that learns next to nothing, and one that learns."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in (("poor", POOR), ("good", GOOD)):
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def done(faulty: SyntheticDataset, written: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study. Shared: copy what you change."""
    names = [str(written / f"{name}.toml") for name in ("poor", "good")]
    out = tmp_path_factory.mktemp("studies") / "done"
    return study(faulty.folder, names, settings=SETTINGS, seeds=SEEDS, out=out, threads=2)


def again(done: Study, faulty: SyntheticDataset, written: Path, **changed: Any) -> Study:
    names = [str(written / f"{name}.toml") for name in ("poor", "good")]
    given: dict[str, Any] = {"recipes": names, "settings": SETTINGS, "seeds": SEEDS, "out": done.path, "threads": 2}
    return study(faulty.folder, **{**given, **changed})


# ---- What comes out ------------------------------------------------------------------------------------------------


def test_every_recipe_of_a_seed_has_the_same_pictures_in_the_same_parts(done: Study) -> None:
    digests = set()
    for seed in SEEDS:
        parts = [
            table.read(done.path / "cells" / name / f"seed-{seed}" / "pictures.parquet", table.PICTURES)
            for name in ("poor", "good")
        ]
        assert parts[0].equals(parts[1])
        digests.add(tuple(parts[0]["split"]))
    assert len(digests) == len(SEEDS)


def test_the_better_recipe_is_found_better(done: Study) -> None:
    (difference,) = done.results["differences"]
    assert (difference["recipe"], difference["against"]) == ("good", "poor")
    assert difference["macro_f1"]["verdict"] == "better"
    assert not done.failed


def test_cells_are_ordinary_runs_without_a_report(done: Study) -> None:
    run = done.path / "cells" / "good" / "seed-1"
    assert not (run / "report.html").exists()
    assert Recipe.read(run / "asked.toml").seed == 1
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_scored"] == 1
    assert "Not found" not in (run / "classification_report.txt").read_text()
    assert json.loads((run / "environment.json").read_text())["split digest"]


def test_tables_and_page_hold_the_results(done: Study) -> None:
    with (done.path / "cells.csv").open() as lines:
        cells = list(csv.DictReader(lines))
    assert [(cell["recipe"], cell["seed"]) for cell in cells][:3] == [("poor", "0"), ("good", "0"), ("poor", "1")]
    assert all(float(cell["train_seconds"]) > 0 for cell in cells)
    with (done.path / "differences.csv").open() as lines:
        assert [line["recipe"] for line in csv.DictReader(lines)] == ["good"]
    assert json.loads((done.path / "results.json").read_text()) == json.loads(json.dumps(done.results))
    page = (done.path / "study.html").read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http-equiv", "")
    for line in study_rows(done.results):
        assert len(line) == len(COLUMNS)
        assert line[0] in page


# ---- Going on ------------------------------------------------------------------------------------------------------


def test_a_finished_study_is_not_trained_again(
    done: Study, faulty: SyntheticDataset, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(flow, "resume", never)
    monkeypatch.setattr(studies, "describe_plan", never)
    assert again(done, faulty, written).results == done.results


def test_recipes_and_seeds_may_be_added_and_left_out(
    done: Study, faulty: SyntheticDataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(run: Path, **_: object) -> None:
        for name in ("metrics.json", "predictions.parquet", "bundle.json", "model.onnx", "pictures.parquet"):
            shutil.copy(done.path / "cells" / "poor" / "seed-0" / name, run)

    monkeypatch.setattr(flow, "resume", trained)
    out = shutil.copytree(done.path, tmp_path / "more")
    before = (out / "cells" / "good" / "seed-0" / "metrics.json").stat().st_mtime_ns
    (tmp_path / "other.toml").write_text("[probe]\nregularisation = [0.1]\n")
    names = [str(written / "good.toml"), str(tmp_path / "other.toml")]
    more = again(done, faulty, written, recipes=names, seeds=(0,), out=out)
    assert [(one["recipe"], one["seeds"]) for one in more.results["recipes"]] == [("good", [0]), ("other", [0])]
    assert (out / "cells" / "good" / "seed-0" / "metrics.json").stat().st_mtime_ns == before
    memory = read_manifest(out)
    assert memory is not None
    assert sorted(memory.recipes) == ["good", "other", "poor"]
    assert sorted(memory.splits) == ["0", "1", "2"]


def test_ctrl_c_says_how_to_go_on(
    faulty: SyntheticDataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    soon = RunEstimate(TimeEstimate(1.0, 0.0, 0.0), None)
    monkeypatch.setattr(studies, "create_run", stopped)
    monkeypatch.setattr(
        studies, "estimate_runs", lambda entries, *_, **__: dict.fromkeys([one.name for one in entries], soon)
    )
    names = [str(written / "poor.toml"), str(written / "good.toml")]
    with pytest.raises(InterruptedRun, match="repeat the same command"):
        study(faulty.folder, names, settings=SETTINGS, seeds=(0,), out=tmp_path / "stopped")
    assert read_manifest(tmp_path / "stopped") is not None


KILLED = """
import os, signal, sys
from bestiary import flow
whole, left = flow.score_predictions, [2]

def deadly(*given, **named):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given, **named)

flow.score_predictions = deadly
from bestiary.cli import main
sys.argv = ["bestiary", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
def test_a_killed_study_goes_on_where_it_was(
    done: Study, faulty: SyntheticDataset, written: Path, tmp_path: Path
) -> None:
    """Killed in its second cell, it ends like the one that was left alone, and the first cell is not run again."""
    names, out = [str(written / "poor.toml"), str(written / "good.toml")], tmp_path / "killed"
    words = ["study", str(faulty.folder), *names, "--seeds", "0", "--out", str(out), "--threads", "2"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *words], capture_output=True, text=True, check=False, env=os.environ
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    first, second = out / "cells" / "poor" / "seed-0", out / "cells" / "good" / "seed-0"
    before = (first / "metrics.json").stat().st_mtime_ns
    assert (second / "history.jsonl").exists()
    assert not (second / "metrics.json").exists()
    finished = study(faulty.folder, names, settings=SETTINGS, seeds=(0,), out=out, threads=2)
    assert (first / "metrics.json").stat().st_mtime_ns == before
    assert len(json.loads((second / "sessions.json").read_text())["sessions"]) == 2
    undisturbed = [one["macro_f1"]["values"][0] for one in done.results["recipes"][:2]]
    assert [one["macro_f1"]["values"][0] for one in finished.results["recipes"]] == pytest.approx(undisturbed)


def test_a_cell_that_fails_is_named_and_stops_no_other(
    done: Study, faulty: SyntheticDataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(done.path, tmp_path / "failing")
    for name in ("good", "poor"):
        (out / "cells" / name / "seed-2" / "metrics.json").unlink()

    def fails(run: Path, **_: object) -> None:
        if run.parent.name == "good":
            raise SourceError("a picture has changed")
        shutil.copy(done.path / "cells" / "poor" / "seed-2" / "metrics.json", run)

    monkeypatch.setattr(flow, "resume", fails)
    found = again(done, faulty, written, out=out)
    assert found.failed == {"good, seed 2": "a picture has changed"}
    assert {one["recipe"]: one["seeds"] for one in found.results["recipes"]} == {
        "poor": [0, 1, 2],
        "good": [0, 1],
    }
    assert found.results["missing"] == ["good, seed 2"]
    page = (out / "study.html").read_text()
    assert "a picture has changed" in page
    assert "Not all recipes have the same seeds" in page
    assert "not finished" not in page


def test_a_cell_without_enough_memory_stops_no_other(
    done: Study, faulty: SyntheticDataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(done.path, tmp_path / "large")
    (out / "cells" / "good" / "seed-0" / "metrics.json").unlink()

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 GB\nframe 0")

    monkeypatch.setattr(flow, "resume", fails)
    failed = again(done, faulty, written, out=out).failed
    assert list(failed) == ["good, seed 0"]
    assert "Out of memory (DefaultCPUAllocator: can't allocate memory: 4 GB)" in failed["good, seed 0"]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(flow, "resume", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        again(done, faulty, written, out=out)


def test_differences_are_computed_once_a_seed_and_cells_are_told_of_after_each(
    done: Study, faulty: SyntheticDataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(done.path, tmp_path / "told")
    for path in [*out.glob("cells/*/seed-[01]/metrics.json"), out / "cells.csv", out / "study.html"]:
        path.unlink()
    told, whole = list[tuple[int, bool]](), Results.write_results

    def trained(run: Path, **_: object) -> None:
        cells = out / "cells.csv"
        told.append((len(cells.read_text().splitlines()) if cells.exists() else 0, (out / "study.html").exists()))
        shutil.copy(done.path / "cells" / run.parent.name / run.name / "metrics.json", run)

    def counted(self: Results, *given: Any) -> dict[str, Any]:
        computed.append(1)
        return whole(self, *given)

    computed = list[int]()
    monkeypatch.setattr(flow, "resume", trained)
    monkeypatch.setattr(Results, "write_results", counted)
    assert again(done, faulty, written, out=out).results["differences"] == done.results["differences"]
    assert [lines for lines, _ in told] == [0, 4, 5, 6]
    assert [page for _, page in told] == [False, False, True, True]
    assert len(computed) == 3  # after seeds 0 and 1, and at the end


def test_a_study_in_which_everything_fails_stops_after_three(
    done: Study, faulty: SyntheticDataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, tried = shutil.copytree(done.path, tmp_path / "hopeless"), []
    shutil.rmtree(out / "cells")

    def fails(run: Path, **_: object) -> None:
        tried.append(run)
        raise SourceError("a picture has changed")

    monkeypatch.setattr(flow, "resume", fails)
    with pytest.raises(
        UserError, match=r"No training run finished; these failed: poor, seed 0, good.*a picture has changed"
    ):
        again(done, faulty, written, out=out)
    assert len(tried) == 3


# ---- The command ---------------------------------------------------------------------------------------------------


def test_the_command_takes_seeds_in_both_ways_and_prints_the_table(
    done: Study, faulty: SyntheticDataset, written: Path
) -> None:
    words = ["study", str(faulty.folder), str(written / "poor.toml"), str(written / "good.toml")]
    words += [word for setting in SETTINGS[1:] for word in ("--set", setting)]
    words += ["--classes", "bird,fish,spider,rabbit", "--out", str(done.path), "--quiet"]
    shown = CliRunner().invoke(app, [*words, "--seeds", "0", "1", "2"])
    assert shown.exit_code == 0, shown.output
    assert "better" in shown.output
    assert shown.output.splitlines()[-1] == str(done.path)
    found = CliRunner().invoke(app, [*words, "--seeds", "0,1,2", "--json"])
    assert json.loads(found.stdout)["results"]["seeds"] == [0, 1, 2]
    wrong = CliRunner().invoke(app, [*words, "--seeds", "one"])
    assert isinstance(wrong.exception, UserError)
    assert "--seeds takes whole numbers" in str(wrong.exception)


def test_a_run_folder_is_a_recipe(done: Study) -> None:
    run = done.path / "cells" / "good" / "seed-2"
    entries = read_study_recipes([str(run), "probe"], None, list(SETTINGS))
    assert entries[0].name == "seed-2"
    assert entries[0].recipe().probe.regularisation == (0.01,)
    assert "seed" not in entries[0].overrides


# ---- A folder that is not this study's -----------------------------------------------------------------------------


def test_another_recipe_of_the_same_name_is_refused(
    done: Study, faulty: SyntheticDataset, written: Path, tmp_path: Path
) -> None:
    (tmp_path / "good.toml").write_text("[probe]\nregularisation = [0.1]\n")
    names = [str(written / "poor.toml"), str(tmp_path / "good.toml")]
    with pytest.raises(RunError, match=r'another recipe "good": probe.regularisation was \[0.01\] and is \[0.1\]'):
        again(done, faulty, written, recipes=names)


def test_a_study_that_another_process_works_on_is_refused(done: Study, faulty: SyntheticDataset, written: Path) -> None:
    with run_lock(done.path), pytest.raises(RunError, match="is in use by process .* continue with: the same command"):
        again(done, faulty, written)


def test_a_budget_too_short_leaves_no_folder(
    faulty: SyntheticDataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = RunEstimate(TimeEstimate(100.0, 0.0, 0.0), None)
    monkeypatch.setattr(studies, "estimate_runs", lambda entries, *_, **__: {one.name: long for one in entries})
    names = [str(written / "poor.toml"), str(written / "good.toml")]
    with pytest.raises(RecipeError, match="--budget 60 s is too short"):
        study(faulty.folder, names, settings=SETTINGS, seeds=(0,), out=tmp_path / "short", budget_seconds=60)
    assert not (tmp_path / "short").exists()


def test_a_hopeless_budget_is_refused_before_the_pictures_are_read(
    faulty: SyntheticDataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "scan_pictures", lambda *_: pytest.fail("The pictures were read."))
    names = [str(written / "poor.toml"), str(written / "good.toml")]
    with pytest.raises(RecipeError, match=r"--budget 4 s is too short: reading .* and 6 training runs take about"):
        study(faulty.folder, names, settings=SETTINGS, seeds=SEEDS, out=tmp_path / "short", budget_seconds=4)
    assert not (tmp_path / "short").exists()


def test_another_budget_is_refused(done: Study, faulty: SyntheticDataset, written: Path) -> None:
    with pytest.raises(RunError, match="started with no --budget and cannot continue with --budget 60s"):
        again(done, faulty, written, budget_seconds=60)


def test_other_pictures_are_refused(done: Study, collection: SyntheticDataset, written: Path) -> None:
    for seeds in (SEEDS, (3, 4)):
        with pytest.raises(RunError, match="The pictures of .* have changed"):
            again(done, collection, written, seeds=seeds)
    memory = read_manifest(done.path)
    assert memory is not None
    check_same_splits(done.path, memory, memory.splits)
    with pytest.raises(RunError, match="Seed 0 gives a different split"):
        check_same_splits(done.path, memory, {"0": "another"})

"""A study: the same pictures for every recipe of a seed, goes on after a kill, and says what helped."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

pytest.importorskip("sklearn")

from bestiary import flow, table
from bestiary.cli import app
from bestiary.data.drawn import DrawnCollection
from bestiary.deliver.study_page import COLUMNS, rows
from bestiary.deliver.study_plots import seconds_plot
from bestiary.errors import InterruptedRun, RecipeError, RunError, SourceError, UserError
from bestiary.recipe import Recipe, shipped
from bestiary.search import study as studies
from bestiary.search.study import Study, refuse_few_to_validate, study
from bestiary.search.study_cells import cells_of, refuse_other_splits, remembered
from bestiary.search.study_plan import Forecast, announced, epochs_of, scaled, share_within, total
from bestiary.search.study_recipes import Entry, changes, named, original, pairs_of, read_entries, with_epochs
from bestiary.training.budget import Estimate

SETTINGS = (
    *('data.classes=["bird","fish","spider","rabbit"]', "data.suspects=false", "evaluate.resamples=100"),
    *('picture.size=64', 'model.backbone="lite0"'),
)  # fmt: skip
GOOD, POOR = "[probe]\nregularisation = [0.01]\n", "[probe]\nregularisation = [1e-9]\n"
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recipes: one that learns next to nothing, one that learns, and a twin of it."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in (("poor", POOR), ("good", GOOD), ("twin", GOOD)):
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def done(faulty: DrawnCollection, written: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study. Shared: copy what you change."""
    names = [str(written / f"{name}.toml") for name in ("poor", "good", "twin")]
    out = tmp_path_factory.mktemp("studies") / "done"
    return study(faulty.folder, names, settings=SETTINGS, seeds=SEEDS, out=out, threads=2)


def again(done: Study, faulty: DrawnCollection, written: Path, **changed: Any) -> Study:
    names = [str(written / f"{name}.toml") for name in ("poor", "good", "twin")]
    given: dict[str, Any] = {"recipes": names, "settings": SETTINGS, "seeds": SEEDS, "out": done.path, "threads": 2}
    return study(faulty.folder, **{**given, **changed})


# ---- What comes out ------------------------------------------------------------------------------------------------


def test_every_recipe_of_a_seed_has_the_same_pictures_in_the_same_parts(done: Study) -> None:
    digests = set()
    for seed in SEEDS:
        parts = [
            table.read(done.path / "cells" / name / f"seed-{seed}" / "pictures.parquet", table.PICTURES)
            for name in ("poor", "good", "twin")
        ]
        assert parts[0].equals(parts[1])
        assert parts[0].equals(parts[2])
        digests.add(tuple(parts[0]["split"]))
    assert len(digests) == len(SEEDS)


def test_the_better_recipe_is_found_better_and_its_twin_is_not_told_apart(done: Study) -> None:
    verdicts = {one["recipe"]: one["macro_f1"]["verdict"] for one in done.results["differences"]}
    assert verdicts == {"good": "better", "twin": "better"}
    turned = pairs_of(read_entries(["probe", "scratch"], None, []), "scratch")
    assert [(pair.recipe, pair.against) for pair in turned] == [("probe", "scratch")]


def test_twins_come_out_alike(done: Study) -> None:
    scores = {one["recipe"]: one["macro_f1"]["values"] for one in done.results["recipes"]}
    assert scores["good"] == pytest.approx(scores["twin"], abs=1e-9)


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
    assert [(cell["recipe"], cell["seed"]) for cell in cells][:3] == [("poor", "0"), ("good", "0"), ("twin", "0")]
    assert all(float(cell["train_seconds"]) > 0 for cell in cells)
    with (done.path / "differences.csv").open() as lines:
        assert [line["recipe"] for line in csv.DictReader(lines)] == ["good", "twin"]
    assert json.loads((done.path / "results.json").read_text()) == json.loads(json.dumps(done.results))
    page = (done.path / "study.html").read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http-equiv", "")
    for line in rows(done.results):
        assert len(line) == len(COLUMNS)
        assert line[0] in page


# ---- Going on ------------------------------------------------------------------------------------------------------


def test_a_finished_study_is_not_trained_again(
    done: Study, faulty: DrawnCollection, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(flow, "resume", never)
    monkeypatch.setattr(studies, "announced", never)
    assert again(done, faulty, written).results == done.results


def test_recipes_and_seeds_may_be_added_and_left_out(
    done: Study, faulty: DrawnCollection, written: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(done.path, tmp_path / "more")
    before = (out / "cells" / "good" / "seed-0" / "metrics.json").stat().st_mtime_ns
    more = again(
        done, faulty, written, recipes=[str(written / "poor.toml"), str(written / "good.toml")], seeds=(0, 3), out=out
    )
    assert [one["seeds"] for one in more.results["recipes"]] == [[0, 3], [0, 3]]
    assert (out / "cells" / "good" / "seed-0" / "metrics.json").stat().st_mtime_ns == before
    memory = remembered(out)
    assert memory is not None
    assert sorted(memory.recipes) == ["good", "poor", "twin"]
    assert sorted(memory.splits) == ["0", "1", "2", "3"]


def test_ctrl_c_says_how_to_go_on(
    faulty: DrawnCollection, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, "begin", stopped)
    monkeypatch.setattr(studies, "forecast", lambda entries, *_, **__: {one.name: forecast_of(1) for one in entries})
    names = [str(written / "poor.toml"), str(written / "good.toml")]
    with pytest.raises(InterruptedRun, match="Go on with: the same command"):
        study(faulty.folder, names, settings=SETTINGS, seeds=(0,), out=tmp_path / "stopped")
    assert remembered(tmp_path / "stopped") is not None


KILLED = """
import os, signal, sys
from bestiary.evaluation import judging
from bestiary import flow
whole, left = flow.judged, [2]

def deadly(*given, **named):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given, **named)

flow.judged = deadly
from bestiary.cli import main
sys.argv = ["bestiary", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
def test_a_killed_study_goes_on_where_it_was(
    done: Study, faulty: DrawnCollection, written: Path, tmp_path: Path
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
    done: Study, faulty: DrawnCollection, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        "twin": [0, 1, 2],
    }
    assert found.results["missing"] == ["good, seed 2"]
    assert "a picture has changed" in (out / "study.html").read_text()


def test_a_study_in_which_everything_fails_stops_after_three(
    done: Study, faulty: DrawnCollection, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, tried = shutil.copytree(done.path, tmp_path / "hopeless"), []
    shutil.rmtree(out / "cells")

    def fails(run: Path, **_: object) -> None:
        tried.append(run)
        raise SourceError("a picture has changed")

    monkeypatch.setattr(flow, "resume", fails)
    with pytest.raises(UserError, match=r"No training came to an end: poor, seed 0, good.*a picture has changed"):
        again(done, faulty, written, out=out)
    assert len(tried) == 3


# ---- The command ---------------------------------------------------------------------------------------------------


def test_the_command_takes_seeds_in_both_ways_and_prints_the_table(
    done: Study, faulty: DrawnCollection, written: Path
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


# ---- Recipes -------------------------------------------------------------------------------------------------------


def test_the_preset_changes_one_thing_at_a_time() -> None:
    entries = {entry.name: entry for entry in read_entries([], "original", [])}
    told = {
        name: changes(entry, entries[entry.against])
        for name, entry in entries.items()
        if entry.against and name not in ("scratch", "probe", "finetune")
    }
    assert told == {
        "resize": ["picture.fit: \"crop\" → \"squash\""],
        "mirrored": ["augment.mirror: 0.0 → 0.5", 'train.balance: "none" → "oversample"'],
        "original-v2": ["model.dropout: 0.0 → 0.5"],
        "normalised": ['picture.normalise: "none" → "collection"'],
        "longer": ["train.epochs: 4 → 12"],
    }  # fmt: skip
    assert entries["crop"].recipe().resolved() == Recipe.read(shipped()["original-v1"]).resolved()
    assert entries["original-v2"].recipe().resolved() == Recipe.read(shipped()["original-v2"]).resolved()
    methods = [entries[name].recipe().model.method for name in ("scratch", "probe", "finetune")]
    assert methods == ["scratch", "probe", "finetune"]


def test_a_setting_is_laid_over_those_that_can_use_it() -> None:
    entries = {entry.name: entry for entry in read_entries([], "original", ["train.epochs=2", "picture.size=64"])}
    epochs = {name: entry.recipe().train.epochs for name, entry in entries.items()}
    assert epochs == {
        **dict.fromkeys(("crop", "resize", "mirrored", "original-v2", "normalised", "scratch", "finetune"), 2),
        **{"longer": 6, "probe": None},
    }
    assert {entry.recipe().picture.size for entry in entries.values()} == {64}


def test_a_run_folder_is_a_recipe(done: Study) -> None:
    run = done.path / "cells" / "good" / "seed-2"
    entries = read_entries([str(run), "probe"], None, list(SETTINGS))
    assert entries[0].name == "seed-2"
    assert entries[0].recipe().probe.regularisation == (0.01,)
    assert "seed" not in entries[0].asked


BAD_RECIPES: list[tuple[list[str], list[str], str]] = [
    (["probe"], [], "two recipes or more"),
    (["probe", "prob"], [], 'no recipe "prob".*Did you mean "probe"'),
    (["probe", "missing.toml"], [], "no recipe at missing.toml"),
    (["probe", "probe"], [], '2 recipes are called "probe"'),
    (["probe", "finetune"], ["seed=3"], "given by --seeds"),
    (["probe", "finetune"], ["model.kernel_size=5"], "no effect on any of the recipes"),
    (["probe", "finetune"], ["train.epoch=5"], 'Unknown setting "train.epoch"'),
    (["probe", "finetune"], ["data.folds=3"], "data.folds"),
    (["probe", "finetune"], ["model.backbone=lite9"], 'Recipe "probe": The probe knows the backbones'),
    (["probe", "other-classes.toml"], [], r'data.classes is \[\] in "probe" and \["cat"\] in "other-classes"'),
    (["probe", "other-split.toml"], [], r'data.test_fraction is 0.15 in "probe" and 0.3.*make two studies'),
]


@pytest.mark.parametrize(("names", "settings", "message"), BAD_RECIPES, ids=[case[2][:20] for case in BAD_RECIPES])
def test_recipes_that_cannot_be_studied(
    names: list[str], settings: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other-classes.toml").write_text('[data]\nclasses = ["cat"]\n')
    Path("other-split.toml").write_text("[data]\ntest_fraction = 0.3\n")
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_entries(names, None, settings)


def test_a_folder_that_is_no_run_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder and no run"):
        read_entries(["probe", str(tmp_path)], None, [])


def test_unknown_presets_and_others_to_be_held_against() -> None:
    with pytest.raises(UserError, match='no preset "orignal".*original'):
        read_entries([], "orignal", [])
    with pytest.raises(UserError, match='--against "prob" is none of the recipes. Did you mean "probe"'):
        pairs_of(read_entries(["probe", "finetune"], None, []), "prob")


@pytest.mark.parametrize(("seeds", "message"), [((), "a seed or more"), ((0, 1, 0), "0 twice"), ((-1,), "seed")])
def test_seeds_that_cannot_be(seeds: tuple[int, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        study(tmp_path, ["probe", "finetune"], seeds=seeds, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- A folder that is not this study's -----------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is no study"):
        study(tmp_path / "none", ["probe", "finetune"], out=tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(RunError, match="made by another version"):
        study(tmp_path / "none", ["probe", "finetune"], out=tmp_path)


def test_another_recipe_of_the_same_name_is_refused(
    done: Study, faulty: DrawnCollection, written: Path, tmp_path: Path
) -> None:
    (tmp_path / "good.toml").write_text("[probe]\nregularisation = [0.1]\n")
    names = [str(written / "poor.toml"), str(tmp_path / "good.toml")]
    with pytest.raises(RunError, match=r'another recipe "good": probe.regularisation was \[0.01\] and is \[0.1\]'):
        again(done, faulty, written, recipes=names)


def test_another_budget_is_refused(done: Study, faulty: DrawnCollection, written: Path) -> None:
    with pytest.raises(RunError, match="begun with no --budget and is to go on with --budget 60s"):
        again(done, faulty, written, budget_seconds=60)


def test_other_pictures_are_refused(done: Study, collection: DrawnCollection, written: Path) -> None:
    with pytest.raises(RunError, match="The pictures are not those that .* seed 0 splits them otherwise"):
        again(done, collection, written)
    memory = remembered(done.path)
    assert memory is not None
    refuse_other_splits(done.path, memory, memory.splits)


def test_fewer_validation_pictures_than_classes() -> None:
    shown = pl.DataFrame({"label": ["a", "b", "c", "a", "b"], "split": ["train"] * 3 + ["val"] * 2})
    with pytest.raises(SourceError, match="2 validation pictures of 3 classes"):
        refuse_few_to_validate(shown, 0)
    refuse_few_to_validate(shown.with_columns(label=pl.lit("a")), 0)


# ---- Time ----------------------------------------------------------------------------------------------------------


def forecast_of(seconds: float, epochs: int | None = None) -> Forecast:
    return Forecast(Estimate(10.0, seconds, 0.0), epochs)


def test_a_budget_cuts_the_epochs_of_all_recipes_by_the_same_share() -> None:
    forecasts = [forecast_of(10, epochs=40), forecast_of(10, epochs=4), forecast_of(0)]
    whole = total(forecasts, 2)
    assert whole == 2 * (3 * 10 + 440)
    assert share_within(forecasts, 2, whole) == 1
    share = share_within(forecasts, 2, whole / 2)
    assert 0.3 < share < 0.6
    assert total(forecasts, 2, share) <= whole / 2
    entry = Entry("long", {"train": {"epochs": 40, "warmup_epochs": 8}, "model": {"method": "scratch"}})
    cut = scaled(entry, forecasts[0], 0.25).recipe().resolved().train
    assert (cut.epochs, cut.warmup_epochs) == (10, 2)
    assert [epochs_of(4, 0.01), epochs_of(4, 0.5)] == [1, 2]
    with pytest.raises(RecipeError, match="--budget 5 s is too short: .* 6 trainings take"):
        share_within(forecasts, 2, 5)


def test_what_is_ahead_is_said() -> None:
    words = announced({"long": 2, "probe": 1}, {"long": forecast_of(10, 40), "probe": forecast_of(0)}, 0.5)
    assert words.startswith("3 trainings ahead; done at about ")
    assert "(in 7 min 10 s)" in words
    assert "long 3 min 30 s, probe 10 s" in words
    assert "50% of their epochs" in words


def test_epochs_that_are_set_leave_the_rest_alone() -> None:
    entry = original()[-3]
    assert with_epochs(entry, 6).asked == {"model": {"method": "scratch"}, "train": {"epochs": 6}}


def test_an_error_inside_says_which_recipe_it_is_about() -> None:
    with pytest.raises(RecipeError, match=r'^Recipe "mine": too small$'), named("mine"):
        raise RecipeError("too small")
    with pytest.raises(SourceError, match="^no pictures$"), named("mine"):
        raise SourceError("no pictures")


def test_cells_are_run_seed_by_seed(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, [Entry("a", {}), Entry("b", {})], (3, 4))
    assert [str(cell) for cell in cells] == ["a, seed 3", "b, seed 3", "a, seed 4", "b, seed 4"]


def test_names_in_the_plot_of_seconds_do_not_cover_each_other() -> None:
    recipes = [
        {"recipe": f"recipe {at}", "train_seconds": 60.0 + at, "macro_f1": {"mean": 0.5 + at / 1000}} for at in range(5)
    ]
    drawn = seconds_plot([*recipes, recipes[0] | {"train_seconds": 600.0}], "macro_f1", "Macro F1")
    places = [line.split('"')[3:6:2] for line in drawn.split("<text") if "recipe " in line]
    assert len({tuple(place) for place in places}) == len(places) == 6

"""Data leakage: duplicates across a split are counted, and their effect on the score is measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")

from bestiary import files as files_module
from bestiary import flow, table
from bestiary.context import Context
from bestiary.data.split import SplitItem
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import RecipeError
from bestiary.evaluation.evaluate import split_leakage
from bestiary.recipe import Recipe
from bestiary.study.leakage import (
    LeakageExperiment,
    check_leak_report_supported,
    count_cross_split_pairs,
    leak_report,
    naive_split,
    run_leakage_trial,
    summarise_leakage,
)

SHARES = {"test": 0.2, "val": 0.2}


def clouds(copies: int, *, seed: int = 0) -> LeakageExperiment:
    """Two classes that features hardly tell apart; each picture is there `copies` times, with a little noise."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, 1, (120, 60)).astype(np.float32)
    labels = np.repeat(np.arange(2), 60)
    own[:, 0] += labels
    features = np.repeat(own, copies, axis=0) + rng.normal(0, 0.01, (120 * copies, 60)).astype(np.float32)
    groups, labels = np.repeat(np.arange(120), copies), np.repeat(labels, copies)
    items = [SplitItem(f"{place:064x}", "ab"[labels[place]], int(groups[place])) for place in range(len(labels))]
    return LeakageExperiment(items, features, labels.astype(np.int64), groups, 2, SHARES, 10.0, "none")


def test_many_duplicates_flatter_a_naive_split() -> None:
    found = summarise_leakage([run_leakage_trial(clouds(3), seed) for seed in range(3)])
    assert found["leaked share of test pictures"] > 0.8
    assert found["accuracy on them with twins in training"] > found["accuracy on them without"] + 0.2
    assert found["flattery"]["low"] > 0.1
    assert found["naive minus grouped accuracy"]["value"] > 0.1
    assert found["pairs across the grouped split"] == {"exact": 0, "near": 0, "across labels": 0}
    assert found["pairs across the naive split"]["near"] > 50
    assert "inflated the accuracy by" in found["sentence"]


def test_without_duplicates_there_is_nothing_to_flatter() -> None:
    found = summarise_leakage([run_leakage_trial(clouds(1), seed) for seed in range(3)])
    assert found["leaked share of test pictures"] == 0
    assert found["flattery"]["value"] == 0
    assert "would not have leaked" in found["sentence"]


def test_a_few_leaks_that_change_no_answer_are_not_called_certain() -> None:
    one = {
        **{"naive accuracy": 0.9, "grouped accuracy": 0.9, "test pictures": 100, "leaked test pictures": 2},
        **{"leaked right with twins in training": 2, "leaked right without": 2},
        **{"leaked right only with": 0, "leaked right only without": 0},
        "pairs across the naive split": {"exact": 1, "near": 1, "across labels": 0},
        "pairs across the grouped split": {"exact": 0, "near": 0, "across labels": 0},
    }
    flattery = summarise_leakage([one, one, one])["flattery"]
    assert flattery["low"] < 0 < flattery["high"] < 0.02
    assert flattery["value"] == 0


def test_a_label_keeps_a_picture_to_learn_from() -> None:
    whole = clouds(2)
    few = np.r_[0:4, 120:240]  # two pictures of the first class, each of them twice
    problem = LeakageExperiment(
        [whole.items[at] for at in few],
        whole.features[few],
        whole.labels[few],
        whole.groups[few],
        *(2, SHARES, 10.0, "none"),
    )
    for seed in range(4):
        try:
            found = run_leakage_trial(problem, seed)
        except Exception as error:  # the grouped split cannot give two pictures three parts, and says so
            assert "too few" in str(error)  # noqa: PT017
        else:
            assert found["leaked test pictures"] >= 0


def test_pairs_are_counted_by_kind() -> None:
    one, two = "1" * 64, "2" * 64
    items = [SplitItem(one, "cat", 0), SplitItem(one, "dog", 0), SplitItem(two, "cat", 0), SplitItem(two, "cat", 3)]
    assert count_cross_split_pairs(items, ["train", "test", "val", "test"]) == {
        "exact": 1,
        "near": 2,
        "across labels": 2,
    }
    assert count_cross_split_pairs(items, ["train"] * 4) == {"exact": 0, "near": 0, "across labels": 0}


def test_pairs_of_a_burst_are_no_pairs_of_duplicates() -> None:
    experiment = replace(clouds(3), duplicates=np.arange(360))
    found = summarise_leakage([run_leakage_trial(experiment, seed) for seed in range(2)])
    pairs = found["pairs across the naive split"]
    assert (pairs["exact"], pairs["near"]) == (0, 0)
    assert pairs["of given groups"] > 50
    kinds = "(0 exact, 0 near, 0 across labels; mean of 2 splits)"
    others = f"{pairs['of given groups']:.0f} other pairs of one group"
    assert f"separated 0 pairs of duplicates {kinds} and {others} and inflated" in found["sentence"]
    assert "had a duplicate or another picture of its group in training" in found["sentence"]


def test_pictures_of_a_site_are_not_compared_as_leaks(probed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(probed, tmp_path / "run"))
    before = leak_report(run, Context(2), seeds=2)
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    sites = pictures.with_columns(duplicate_group="group", group=pl.lit(0, pl.Int64), site=pl.lit("here"))
    table.write(sites, run / "pictures.parquet")
    assert leak_report(run, Context(2), seeds=2) == before


def test_pairs_of_large_groups_are_counted_by_their_sizes() -> None:
    rng = np.random.default_rng(0)
    items = [SplitItem(str(rng.integers(12)), "ab"[rng.integers(2)], int(rng.integers(5))) for _ in range(60)]
    parts = rng.choice(["train", "val", "test"], 60).tolist()
    torn = [
        (one, other)
        for (one, its), (other, others) in combinations(zip(items, parts, strict=True), 2)
        if one.group == other.group and its != others
    ]
    exact = sum(one.sha256 == other.sha256 for one, other in torn)
    labels = sum(one.label != other.label for one, other in torn)
    assert count_cross_split_pairs(items, parts) == {"exact": exact, "near": len(torn) - exact, "across labels": labels}
    assert count_cross_split_pairs([SplitItem("", "a", 0)] * 200_000, ["train", "test"] * 100_000)["exact"] == 10**10


def test_a_naive_split_is_stratified_and_the_same_for_the_same_seed() -> None:
    labels = np.repeat(np.arange(3), [100, 50, 5])
    parts = naive_split(labels, SHARES, seed=1)
    assert [int((parts[labels == label] == "test").sum()) for label in range(3)] == [20, 10, 1]
    assert (parts == naive_split(labels, SHARES, seed=1)).all()
    assert (parts != naive_split(labels, SHARES, seed=2)).any()


def test_a_finished_run_tells_what_a_naive_split_would_have_done(probed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(probed, tmp_path / "run"))
    found = leak_report(run, Context(2), seeds=2)
    assert files_module.read_json(run / "leaks.json") == found
    assert found["seeds"] == 2
    assert found["pairs across the naive split"]["exact"] + found["pairs across the naive split"]["near"] > 0
    assert found["sentence"][:30] in (run / "report.html").read_text(encoding="utf-8")
    assert leak_report(run, Context(2), seeds=2) == found


def test_other_methods_are_refused_before_any_work() -> None:
    with pytest.raises(RecipeError, match="--leak-report trains 20 more models"):
        check_leak_report_supported(Recipe.of({"model": {"method": "scratch"}}))


# ---- A split that the source brings ----------------------------------------------------------------------------------


def test_leaks_of_a_given_split_are_said_beside_the_score(faulty: SyntheticDataset, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for label in ("bird", "fish"):
        files = sorted(path for path in faulty.kinds if path.parent.name == label and path.suffix == ".jpg")[:20]
        for number, path in enumerate(files):
            place = root / ("test" if number < 6 else "train") / label
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place / path.name)
    shutil.copy(next((root / "test" / "bird").iterdir()), root / "train" / "bird" / "again.jpg")
    asked = {
        "picture": {"size": 64},
        "model": {"backbone": "lite0"},
        "probe": {"regularisation": [0.01]},
        "evaluate": {"resamples": 100},
    }
    run = flow.train(root, recipe=Recipe.of(asked), out=tmp_path / "run", threads=2)
    leaks = run.metrics["leaks"]
    assert leaks["test pictures"] >= 1
    assert 0 <= leaks["accuracy without them"] <= 1
    for file in ("classification_report.txt", "report.html"):
        text = " ".join((run.path / file).read_text(encoding="utf-8").split())
        assert "The given split leaks" in text


def test_where_every_test_picture_leaks_there_is_no_other_accuracy() -> None:
    shown = pl.DataFrame({"row_id": [0, 1], "group": [0, 0], "split": ["train", "test"]})
    tested = pl.DataFrame({"row_id": [1], "label": ["cat"], "predicted": ["cat"]})
    assert split_leakage(tested, shown)["leaks"]["accuracy without them"] is None
    apart = shown.with_columns(group=pl.Series([0, 1]))
    assert split_leakage(tested, apart) == {}


def test_pictures_of_one_site_are_no_duplicates() -> None:
    shown = pl.DataFrame({"row_id": [0, 1], "group": [0, 0], "duplicate_group": [0, 1], "split": ["train", "test"]})
    tested = pl.DataFrame({"row_id": [1], "label": ["cat"], "predicted": ["cat"]})
    assert split_leakage(tested, shown) == {}
    across_sites = shown.with_columns(group="duplicate_group", duplicate_group="group")
    note = split_leakage(tested, across_sites)["leaks"]["note"]
    assert note.startswith("The split does not keep near-duplicates at different sites together: 1 of 1 test pictures")

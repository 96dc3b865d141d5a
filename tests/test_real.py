"""The real pictures: what the defaults reach on them, and that duplicates do not straddle the split.

All of it from one run, which measures them and computes their features once.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import mean

import imagehash
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("sklearn")

from bestiary import flow, table
from bestiary.context import Context
from bestiary.data.duplicates import connected_groups, find_duplicate_pairs
from bestiary.data.hamming_search import find_near_pairs, hash_bits
from bestiary.data.label_map import label_map
from bestiary.data.scan import scan_pictures
from bestiary.data.sources import list_sources
from bestiary.picture import LIMITS

LARGE_CLASSES = ("butterfly", "cat", "chicken", "dog", "elephant", "horse", "spider")
SMALL_CLASSES = ("cow", "sheep", "squirrel")  # fewer than fifty pictures of each

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(animals10: Path, tmp_path_factory: pytest.TempPathFactory) -> flow.Run:
    """What `bestiary train raw-img --labels animals10` gives: a probe with every default, on all ten classes."""
    return flow.train(animals10, labels="animals10", out=tmp_path_factory.mktemp("real") / "run")


def test_the_default_is_good(run: flow.Run) -> None:
    f1 = {name: one["f1"]["value"] for name, one in run.metrics["per_class"].items()}
    assert sorted(f1) == sorted(LARGE_CLASSES + SMALL_CLASSES)
    assert mean(f1[name] for name in LARGE_CLASSES) >= 0.965
    assert run.metrics["macro_f1"]["value"] == pytest.approx(mean(f1.values()))
    assert run.metrics["macro_f1"]["value"] >= 0.86


def test_no_duplicates_straddle_the_split(run: flow.Run) -> None:
    used = table.read(run.path / "pictures.parquet", table.PICTURES).filter(pl.col("split").is_not_null())
    by_group = used.group_by("group").agg(pl.col("split").n_unique(), pl.len())
    assert by_group.filter(pl.col("len") > 1).height > 0  # there are duplicates in this collection
    assert by_group["split"].max() == 1


def test_every_picture_is_accounted_for(run: flow.Run, animals10: Path) -> None:
    pictures = table.read(run.path / "pictures.parquet", table.PICTURES)
    assert pictures["error"].null_count() == pictures.height  # all are read
    assert pictures.height == sum(1 for path in animals10.rglob("*") if path.is_file() and path.name[0] != ".")
    parts = Counter(pictures["split"])
    assert parts["test"] == run.metrics["n"]
    for name in ("val", "test"):
        assert parts[name] / pictures.height == pytest.approx(0.15, abs=0.01)


@pytest.fixture(scope="module")
def measured(run: flow.Run, animals10: Path) -> pl.DataFrame:
    """All pictures as they were measured for the run: from the cache."""
    return scan_pictures(list_sources([animals10], label_map("animals10")), LIMITS, Context(threads=2))


@pytest.fixture(scope="module")
def outside_pairs(measured: pl.DataFrame) -> NDArray[np.int64]:
    """The pairs that an outside tool sees, at a distance at which all are genuine by eye: their rows, (n, 3)."""
    hashes = []
    for path in measured["path"]:
        with Image.open(path) as image:
            hashes.append(np.packbits(imagehash.phash(image, hash_size=16).hash.ravel()).tobytes().hex())
    pairs = find_near_pairs(hash_bits(hashes), 36)
    assert len(pairs) >= 80
    return pairs


def test_no_pair_that_imagehash_sees_straddles_the_split(
    run: flow.Run, measured: pl.DataFrame, outside_pairs: NDArray[np.int64]
) -> None:
    used = table.read(run.path / "pictures.parquet", table.PICTURES).filter(pl.col("split").is_not_null())
    split = dict(used.select("path", "split").rows())
    paths = measured["path"].to_list()
    assert set(paths) == set(split)
    assert all(split[paths[left]] == split[paths[right]] for left, right in outside_pairs[:, :2].tolist())


def test_every_pair_that_imagehash_sees_is_one_of_our_groups(
    measured: pl.DataFrame, outside_pairs: NDArray[np.int64]
) -> None:
    pairs = find_duplicate_pairs(measured, 40, threads=2)
    group = connected_groups(measured.height, pairs)
    assert (group[outside_pairs[:, 0]] == group[outside_pairs[:, 1]]).all()
    labels = measured["label"].to_list()
    assert all(labels[left] == labels[right] for left, right in pairs[:, :2].tolist())  # none across classes
    assert 105 <= len(pairs) <= 113  # 109, all of them genuine by eye
    assert np.bincount(group).max() <= 6  # false pairs would chain


def test_what_the_audit_finds(run: flow.Run) -> None:
    """Counts that were looked at: docs/log.md."""
    findings = table.read(run.path / "findings.parquet", table.FINDINGS).filter("is_issue")
    counts = Counter(findings["check"])
    assert 15 <= counts["suspect-label"] <= 25
    assert 20 <= counts["outlier"] <= 35
    assert 95 <= counts["near-duplicate"] <= 110
    assert not counts["label-conflict"] + counts["shortcut"] + counts["wrong-extension"] + counts["truncated"]

"""The real pictures: what the defaults reach on them, and that duplicates do not straddle the split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import mean

import imagehash
import numpy as np
import polars as pl
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from bestiary import flow, table
from bestiary.data.hamming_search import find_near_pairs, hash_bits

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
    assert pictures.height == sum(1 for path in animals10.rglob("*") if path.is_file() and path.name[0] != ".")
    parts = Counter(pictures["split"])
    assert parts["test"] == run.metrics["n"]
    for name in ("val", "test"):
        assert parts[name] / pictures.height == pytest.approx(0.15, abs=0.01)


def test_no_pair_that_imagehash_sees_straddles_the_split(run: flow.Run) -> None:
    """An outside tool, at a distance at which all its pairs are genuine by eye."""
    used = table.read(run.path / "pictures.parquet", table.PICTURES).filter(pl.col("split").is_not_null())
    hashes = []
    for path in used["path"]:
        with Image.open(path) as image:
            hashes.append(np.packbits(imagehash.phash(image, hash_size=16).hash.ravel()).tobytes().hex())
    pairs = find_near_pairs(hash_bits(hashes), 36)
    splits = used["split"].to_numpy()
    assert len(pairs) >= 80
    assert (splits[pairs[:, 0]] == splits[pairs[:, 1]]).all()


def test_what_the_audit_finds(run: flow.Run) -> None:
    """Counts that were looked at: docs/log.md."""
    findings = table.read(run.path / "findings.parquet", table.FINDINGS).filter("is_issue")
    counts = Counter(findings["check"])
    assert 15 <= counts["suspect-label"] <= 25
    assert 20 <= counts["outlier"] <= 35
    assert 95 <= counts["near-duplicate"] <= 110
    assert not counts["label-conflict"] + counts["shortcut"] + counts["wrong-extension"] + counts["truncated"]

"""How many planted wrong labels are found: rules held against each other on the same out-of-fold probabilities.

    python benchmarks/suspects.py PICTURES --labels animals10 [--backbone lite2] [--runs 3] [--flip 0.05]

In every class of at least 100 pictures 5 % get the label of another such class, drawn by seed r in run r. "at least":
precision counting only planted labels as wrong, though the collection has wrong labels of its own. "untouched": how
many labels the rule doubts when none was planted. Features come from the cache folder, or are computed first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from cleanlab.filter import find_label_issues

from bestiary import flow
from bestiary.context import Context
from bestiary.evaluation.label_issues import CLEAR, SUSPECT, cross_val_probabilities, detect_label_issues
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import FeatureCache, training_precision
from bestiary.preprocess import Preprocessing

LARGE = 100
FILTERS = ("prune_by_class", "prune_by_noise_rate", "both", "confident_learning", "low_self_confidence")
Labels = npt.NDArray[np.int64]
Marked = npt.NDArray[np.bool_]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--backbone", choices=sorted(BACKBONES), default="lite2")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--flip", type=float, default=0.05)
    asked = options.parse_args()
    pictures = flow.audit(asked.pictures, labels=asked.labels).pictures.filter(pl.col("error").is_null())
    features = features_of(pictures, asked.backbone)
    classes = sorted(pictures["label"].unique())
    true = np.array([classes.index(label) for label in pictures["label"]], np.int64)
    groups = pictures["group"].to_numpy()
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds = []
    for seed in range(asked.runs):
        labels, planted = flipped(true, asked.flip, seed)
        started = time.perf_counter()
        probabilities = cross_val_probabilities(features, labels, groups, len(classes), seed=seed)
        seconds.append(time.perf_counter() - started)
        for name, doubted in rules(probabilities, labels, classes).items():
            found[name].append((doubted[planted].mean(), planted[doubted].mean()))
    untouched = rules(cross_val_probabilities(features, true, groups, len(classes), seed=0), true, classes)
    summarise(found, untouched)
    print(f"{len(true):,} pictures, {asked.backbone}: out-of-fold probabilities in {statistics.median(seconds):.1f} s")


def features_of(pictures: pl.DataFrame, backbone: str) -> npt.NDArray[np.float32]:
    cache = FeatureCache(backbone, Preprocessing(BACKBONES[backbone].size), training_precision(), Context())
    rows = cache.features([Path(path) for path in pictures["path"]], pictures["sha256"].to_list())[:]
    return rows.astype(np.float32)


def flipped(true: Labels, share: float, seed: int) -> tuple[Labels, Marked]:
    """Return labels of which a share is wrong, and which ones they are."""
    rng, labels = np.random.default_rng(seed), true.copy()
    large = np.flatnonzero(np.bincount(true) >= LARGE)
    for label in large:
        own = np.flatnonzero(true == label)
        wrong = rng.choice(own, round(share * len(own)), replace=False)
        labels[wrong] = rng.choice(large[large != label], len(wrong))
    return labels, labels != true


def rules(probabilities: npt.NDArray[np.float64], labels: Labels, classes: list[str]) -> dict[str, Marked]:
    """Return for each rule which labels it doubts."""
    rows = np.arange(len(labels))
    given, others = probabilities[rows, labels], probabilities.copy()
    others[rows, labels] = -1
    best = others.max(axis=1)
    chosen = np.zeros(len(labels), bool)
    chosen[[one.position for one in detect_label_issues(probabilities, labels, classes)]] = True
    return {
        f"bestiary: given < {SUSPECT}, other >= {CLEAR}": chosen,
        "another class is likelier": best > given,
        "margin > 0.3": best - given > 0.3,
        "margin > 0.5": best - given > 0.5,
        "margin > 0.7": best - given > 0.7,
        "other > 9 x given": best > 9 * given,
        **{f"cleanlab: {name}": find_label_issues(labels, probabilities, filter_by=name, n_jobs=1) for name in FILTERS},
    }


def summarise(found: dict[str, list[tuple[float, float]]], untouched: dict[str, Marked]) -> None:
    print(f"{'rule':34} {'found (from, to)':>24} {'precision at least':>24} {'untouched':>10}")
    for name, runs in found.items():
        recall, precision = ([run[at] for run in runs] for at in (0, 1))
        print(f"{name:34} {spread(recall):>24} {spread(precision):>24} {int(untouched[name].sum()):10}")


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f}, {max(values):.3f})"


if __name__ == "__main__":
    main()

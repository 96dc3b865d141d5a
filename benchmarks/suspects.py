"""Recall and precision of rules that detect label issues, on the same out-of-fold probabilities.

    python benchmarks/suspects.py PICTURES --labels animals10 [--backbone lite2] [--runs 3] [--flip 0.05]

In every class with 100 pictures or more, 5 % of the labels are changed to another such class at random; the run number
is the seed. Precision is a lower bound: it counts changed labels only, but the collection has wrong labels as well.
"unchanged": how many labels the rule flags if none is changed. Features come from the cache folder, or are computed
first.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict

import numpy as np
import numpy.typing as npt
import polars as pl
from cleanlab.filter import find_label_issues

from bestiary import flow
from bestiary.context import Context
from bestiary.evaluation.label_issues import CLEAR, SUSPECT, cross_val_probabilities, detect_label_issues
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import training_feature_cache
from bestiary.preprocess import Preprocessing
from familiarity import load_features
from measuring import build_picture_parser, format_mean

MIN_PICTURES = 100
FILTERS = ("prune_by_class", "prune_by_noise_rate", "both", "confident_learning", "low_self_confidence")
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite2", backbones=BACKBONES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--flip", type=float, default=0.05)
    arguments = parser.parse_args()
    pictures = flow.audit(arguments.pictures, labels=arguments.labels).pictures.filter(pl.col("error").is_null())
    preprocess = Preprocessing(BACKBONES[arguments.backbone].size)
    features = load_features(pictures, training_feature_cache(arguments.backbone, preprocess, Context()))
    classes = sorted(pictures["label"].unique())
    true = np.array([classes.index(label) for label in pictures["label"]], np.int64)
    groups = pictures["group"].to_numpy()
    results: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds = []
    for seed in range(arguments.runs):
        labels, changed = flip_labels(true, arguments.flip, seed)
        start = time.perf_counter()
        probabilities = cross_val_probabilities(features, labels, groups, len(classes), seed=seed)
        seconds.append(time.perf_counter() - start)
        for name, flagged in apply_rules(probabilities, labels, classes).items():
            results[name].append((flagged[changed].mean(), changed[flagged].mean()))
    unchanged = apply_rules(cross_val_probabilities(features, true, groups, len(classes), seed=0), true, classes)
    print_summary(results, unchanged)
    median = statistics.median(seconds)
    print(f"{len(true):,} pictures, {arguments.backbone}: out-of-fold probabilities in {median:.1f} s")


def flip_labels(true: Labels, fraction: float, seed: int) -> tuple[Labels, Mask]:
    """Return the labels with a fraction of each large class changed, and which they are."""
    rng, labels = np.random.default_rng(seed), true.copy()
    large = np.flatnonzero(np.bincount(true) >= MIN_PICTURES)
    for label in large:
        own = np.flatnonzero(true == label)
        wrong = rng.choice(own, round(fraction * len(own)), replace=False)
        labels[wrong] = rng.choice(large[large != label], len(wrong))
    return labels, labels != true


def apply_rules(probabilities: npt.NDArray[np.float64], labels: Labels, classes: list[str]) -> dict[str, Mask]:
    """Return for each rule which labels it flags."""
    rows = np.arange(len(labels))
    own, others = probabilities[rows, labels], probabilities.copy()
    others[rows, labels] = -1
    best = others.max(axis=1)
    flagged = np.zeros(len(labels), bool)
    flagged[[issue.position for issue in detect_label_issues(probabilities, labels, classes)[0]]] = True
    return {
        f"bestiary: label < {SUSPECT}, another >= {CLEAR}": flagged,
        "another class is likelier": best > own,
        "margin > 0.3": best - own > 0.3,
        "margin > 0.5": best - own > 0.5,
        "margin > 0.7": best - own > 0.7,
        "another > 9 x label": best > 9 * own,
        **{f"cleanlab: {name}": find_label_issues(labels, probabilities, filter_by=name, n_jobs=1) for name in FILTERS},
    }


def print_summary(results: dict[str, list[tuple[float, float]]], unchanged: dict[str, Mask]) -> None:
    print(f"{'rule':34} {'recall (from, to)':>24} {'precision, lower bound':>24} {'unchanged':>10}")
    for name, runs in results.items():
        recall, precision = ([run[column] for run in runs] for column in (0, 1))
        print(f"{name:34} {format_mean(recall):>24} {format_mean(precision):>24} {int(unchanged[name].sum()):10}")


if __name__ == "__main__":
    main()

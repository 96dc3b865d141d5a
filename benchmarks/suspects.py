"""Recall and precision of rules that detect label issues, on the same out-of-fold probabilities.

    python benchmarks/suspects.py PICTURES --labels animals10 [--backbone lite2] [--runs 3] [--flip 0.05]
    python benchmarks/suspects.py PICTURES --labels animals10 --size 96 --sample 10000 --runs 0
    python benchmarks/suspects.py --drawn features [--runs 10] [--flip 0.05] [--count 6000]
    python benchmarks/suspects.py --drawn pictures --backbone lite0 --size 128 [--runs 10] [--count 1000]

In every class with 100 pictures or more, 5 % of the labels are changed to another such class at random; the run number
is the seed. Precision is a lower bound: it counts changed labels only, but the collection has wrong labels as well.
"unchanged": how many labels the rule flags if none is changed. Features come from the cache folder, or are computed
first. `--sample` takes the same fraction of each class, `--size` another input size than the backbone's: a weak model.

`--drawn` measures what is promised of a weak model, on ten classes that overlap, so that every changed label is known:
points of Gaussian classes, or drawn creatures that were made small and noisy, in a folder that `bestiary audit` reads.
Of labels without a change, at most 0.5 % may count as suspect (doubtful ones do not count); of changed ones, the stated
interval should contain the precision.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from cleanlab.filter import find_label_issues
from PIL import Image

from bestiary import flow
from bestiary.context import Context
from bestiary.demo.creatures import CREATURES
from bestiary.demo.dataset import draw_creature
from bestiary.evaluation.label_issues import CLEAR, SUSPECT, cross_val_probabilities, detect_label_issues
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.models.backbones import bundled_backbone
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import training_feature_cache
from bestiary.preprocess import Preprocessing
from familiarity import load_features
from measuring import build_picture_parser, format_mean, list_class_files

MIN_PICTURES = 100
MAX_COUNTED = 0.005  # of labels without a change
N_CLASSES, DIMENSIONS = len(CREATURES), 64
SEEN_SIDE, SHOWN_SIDE, PIXEL_NOISE = 32, 128, 12.0  # of a drawn picture, in pixels and in grey levels
FILTERS = ("prune_by_class", "prune_by_noise_rate", "both", "confident_learning", "low_self_confidence")
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite2", backbones=BACKBONES, is_optional=True)
    parser.add_argument("--runs", type=int, help="default: 3; drawn: 10")
    parser.add_argument("--flip", type=float, default=0.05)
    parser.add_argument("--size", type=int, help="input size; default: the backbone's")
    parser.add_argument("--sample", type=int, help="number of pictures, stratified by class")
    parser.add_argument("--drawn", choices=sorted(DRAWN))
    parser.add_argument("--count", type=int, help="number of drawn points or pictures")
    parser.add_argument("--accuracy", type=float, default=0.8, help="of the best classifier of drawn points")
    arguments = parser.parse_args()
    if (arguments.pictures is None) == (arguments.drawn is None):
        parser.error("give either PICTURES or --drawn")
    if arguments.drawn:
        measure_drawn(DRAWN[arguments.drawn], arguments)
    else:
        measure_pictures(arguments)


# ---- Labelled pictures, some of whose labels are changed -----------------------------------------------------------


def measure_pictures(arguments: argparse.Namespace) -> None:
    """Print recall and precision of each rule, and what is stated about the unchanged labels."""
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.pictures
        if arguments.sample is not None:
            source = write_sample(source, arguments.sample, Path(folder) / "sample.csv")
        audited = flow.audit(source, labels=arguments.labels, recipe={"data": {"suspects": False}})
    pictures = audited.pictures.filter(pl.col("error").is_null())
    preprocess = Preprocessing(arguments.size or BACKBONES[arguments.backbone].size)
    backbone = bundled_backbone(arguments.backbone)
    features = load_features(pictures, training_feature_cache(backbone, preprocess, Context()))
    classes = sorted(pictures["label"].unique())
    true = np.array([classes.index(label) for label in pictures["label"]], np.int64)
    groups = pictures["group"].to_numpy()
    results: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds = []
    for seed in range(3 if arguments.runs is None else arguments.runs):
        labels, changed = flip_labels(true, arguments.flip, seed)
        start = time.perf_counter()
        probabilities = cross_val_probabilities(features, labels, groups, len(classes), seed=seed)
        seconds.append(time.perf_counter() - start)
        for name, flagged in apply_rules(probabilities, labels, classes).items():
            results[name].append((flagged[changed].mean(), changed[flagged].mean()))
    probabilities = cross_val_probabilities(features, true, groups, len(classes), seed=0)
    print_summary(results, apply_rules(probabilities, true, classes))
    summary = detect_label_issues(probabilities, true, classes)[1]
    print(f"unchanged: accuracy {(probabilities.argmax(axis=1) == true).mean():.3f}; {describe_summary(summary)}")
    print(f"{len(true):,} pictures, {arguments.backbone} at {preprocess.size} px", end="")
    print(f": out-of-fold probabilities in {statistics.median(seconds):.1f} s" if seconds else "")


def write_sample(pictures: Path, count: int, table: Path) -> Path:
    """Write a table of pictures, the same fraction of each class folder, and return its path."""
    files = list_class_files(pictures)
    rng, by_class = np.random.default_rng(0), defaultdict(list)
    for file in files:
        by_class[file.parent.name].append(file)
    rows = [
        (str(own[row]), label)
        for label, own in sorted(by_class.items())
        for row in sorted(rng.choice(len(own), round(count * len(own) / len(files)), replace=False))
    ]
    pl.DataFrame(rows, schema=["path", "label"], orient="row").write_csv(table)
    return table


def describe_summary(summary: LabelIssueSummary | None) -> str:
    return "no label is suspect" if summary is None else summary.describe()


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
    for name, flagged in unchanged.items():
        recall, precision = ([run[column] for run in results[name]] for column in (0, 1))
        means = [format_mean(values) if values else "" for values in (recall, precision)]
        print(f"{name:34} {means[0]:>24} {means[1]:>24} {int(flagged.sum()):10}")


# ---- Drawn classes that overlap ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnRun:
    """What is stated about drawn labels, and what is true.

    pictures: all labels; named: suspect ones; precision: the fraction of these that was changed, NaN without one;
    recall: the fraction of the changed labels that is named; summary: what is stated.
    """

    pictures: int
    named: int
    precision: float
    recall: float
    summary: LabelIssueSummary | None

    @property
    def counted(self) -> float:
        """The fraction of the labels that count as suspect."""
        return 0.0 if self.summary is None or self.summary.is_doubtful else self.named / self.pictures

    @property
    def is_inside(self) -> bool:
        """Whether the stated interval contains the precision."""
        return self.summary is not None and self.summary.low <= self.precision <= self.summary.high


Draw = Callable[[int, argparse.Namespace], Iterator[DrawnRun]]


def measure_drawn(draw: Draw, arguments: argparse.Namespace) -> None:
    """Print, without and with changed labels, how many count as suspect and whether the stated precision holds."""
    runs = []
    for seed in range(10 if arguments.runs is None else arguments.runs):
        runs.append([*draw(seed, arguments)])
        print(f"seed {seed}:", "; ".join(describe_summary(run.summary) for run in runs[-1]), flush=True)
    for changed, group in zip((0.0, arguments.flip), zip(*runs, strict=True), strict=True):
        print_drawn(changed, group)


def print_drawn(changed: float, runs: Sequence[DrawnRun]) -> None:
    counted = [run.counted for run in runs]
    more = sum(one > MAX_COUNTED for one in counted)
    print(f"{100 * changed:g} % of {runs[0].pictures:,} labels changed, {len(runs)} seeds:")
    if stated := [run.summary for run in runs if run.summary is not None]:
        print(f"  accuracy out of fold, where a label is named: {format_mean([one.accuracy for one in stated])}")
    print(f"  named: {format_mean([float(run.named) for run in runs])}")
    if not changed:
        print(f"  count as suspect: at most {100 * max(counted):.2f} % of the labels; above 0.5 % on {more} seeds")
    if changed and (named := [run for run in runs if run.named]):
        print(f"  precision: {format_mean([run.precision for run in named])}")
        print(f"  stated: {format_mean([one.precision for one in stated])}")
        print(f"  recall: {format_mean([run.recall for run in runs])}")
        inside = sum(run.is_inside for run in runs)
        print(f"  the stated interval contains the precision on {inside} of {len(runs)} seeds")


def change_labels(true: Labels, fraction: float, seed: int) -> Labels:
    """Return the labels, each changed to another class with this probability."""
    rng = np.random.default_rng([seed, 1])
    shift = np.where(rng.random(len(true)) < fraction, rng.integers(1, N_CLASSES, len(true)), 0)
    return (true + shift) % N_CLASSES


def draw_features(seed: int, arguments: argparse.Namespace) -> Iterator[DrawnRun]:
    """Yield the results for points of Gaussian classes, without and with changed labels."""
    count = arguments.count or 6_000
    features, true = draw_gaussians(seed, count, arguments.accuracy)
    names = [f"class {number}" for number in range(N_CLASSES)]
    for fraction in (0.0, arguments.flip):
        labels = change_labels(true, fraction, seed)
        probabilities = cross_val_probabilities(features, labels, np.arange(count), N_CLASSES, seed=seed)
        issues, summary = detect_label_issues(probabilities, labels, names)
        yield compare_with_truth([issue.position for issue in issues], labels != true, summary)


def compare_with_truth(named: Sequence[int], changed: Mask, summary: LabelIssueSummary | None) -> DrawnRun:
    hits = int(changed[list(named)].sum())
    precision, recall = hits / len(named) if named else np.nan, hits / max(int(changed.sum()), 1)
    return DrawnRun(len(changed), len(named), precision, recall, summary)


def draw_gaussians(seed: int, count: int, accuracy: float) -> tuple[npt.NDArray[np.float32], Labels]:
    """Return points (n, 64) of spherical Gaussian classes, so far apart that the best classifier has this accuracy."""
    rng = np.random.default_rng(seed)
    means, noise = rng.normal(0, 1, (N_CLASSES, DIMENSIONS)), rng.normal(0, 1, (count, DIMENSIONS))
    true = rng.integers(0, N_CLASSES, count)
    low, high = 0.0, 10.0
    for _ in range(30):
        spread = (low + high) / 2
        points = spread * means[true] + noise
        nearest = (spread * points @ means.T - spread**2 / 2 * (means**2).sum(axis=1)).argmax(axis=1)
        low, high = (spread, high) if (nearest == true).mean() < accuracy else (low, spread)
    return points.astype(np.float32), true


def draw_pictures(seed: int, arguments: argparse.Namespace) -> Iterator[DrawnRun]:
    """Yield the results of an audit of drawn pictures, without and with changed labels."""
    count, kinds = arguments.count or 1_000, sorted(CREATURES)
    rng = np.random.default_rng(seed)
    true = np.arange(count) % N_CLASSES
    images = [degrade_picture(draw_creature(kinds[label], rng), rng) for label in true]
    recipe = {"model": {"backbone": arguments.backbone}, "picture": {"size": arguments.size}}
    for fraction in (0.0, arguments.flip):
        labels = change_labels(true, fraction, seed)
        with tempfile.TemporaryDirectory() as folder:
            for kind in kinds:
                (Path(folder) / kind).mkdir()
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                image.save(Path(folder) / kinds[label] / f"{number}.png")
            audited = flow.audit(folder, recipe=recipe)
        issues = audited.findings.filter(pl.col("is_issue") & (pl.col("check") == "suspect-label"))
        named = [int(Path(path).stem) for path in issues["path"]]
        yield compare_with_truth(named, labels != true, audited.label_issues)


def degrade_picture(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the picture as if it were seen from far away: reduced to SEEN_SIDE pixels, with noise, and enlarged."""
    small = np.asarray(image.resize((SEEN_SIDE, SEEN_SIDE)), np.float64)
    noisy = small + rng.normal(0, PIXEL_NOISE, small.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).resize((SHOWN_SIDE, SHOWN_SIDE))


DRAWN: dict[str, Draw] = {"features": draw_features, "pictures": draw_pictures}


if __name__ == "__main__":
    main()

"""Compares the fits of linear heads in this working tree with an older commit: label check, probe, and learning curve.

    python benchmarks/heads.py REV [--pictures 60000] [--channels 1280] [--classes 10] [--pairs 3] [--json FILE]

Needs no pictures: features are drawn with the correlations of a network's, so that a linear head is right about three
times in four, and lie on disk in float16, as those of a large collection do. 70 % of them are training and 15 %
validation rows. Each measurement is a process of its own that imports either tree, in the order old, new, new, old and
so on. Prints the seconds by the clock and of the processor, the peak memory, and the ratios new/old; when other jobs
run on the machine, the ratio of processor seconds is the most reliable. Prints as well how far the results of the two
trees differ.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from against_commit import Tree, describe_tree, prepare, read_git, unpack
from measuring import build_parser, count_cores, format_median, read_processor_name, read_versions

MEASUREMENTS = ("labels", "probe", "curve")
LATENT, SIGNAL, NOISE = 300, 0.24, 0.3  # dimensions that the channels mix, spread of the classes, noise of a channel
CHUNK_ROWS = 1_024
CHOSEN: list[float] = []
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--channels", type=int, default=1_280)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--what", default=",".join(MEASUREMENTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inner", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        measure(*arguments.inner)
        return
    with tempfile.TemporaryDirectory() as name:
        result = compare(arguments, Path(name))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


# ---- Drawn features ------------------------------------------------------------------------------------------------


def draw_features(arguments: argparse.Namespace, folder: Path) -> None:
    """Write features float16 (pictures, channels) and labels int64 (pictures,) to the folder."""
    rng = np.random.default_rng(0)
    labels = rng.integers(arguments.classes, size=arguments.pictures)
    spread = np.arange(1, LATENT + 1)[:, None] ** -0.75
    mixing = (rng.normal(size=(LATENT, arguments.channels)) * spread).astype(np.float32)
    centres = rng.normal(size=(arguments.classes, LATENT)) * SIGNAL
    offsets = rng.normal(size=arguments.channels) - 0.5
    shape = (arguments.pictures, arguments.channels)
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, shape)
    for start in range(0, arguments.pictures, CHUNK_ROWS):
        own = labels[start : start + CHUNK_ROWS]
        latent = (rng.normal(size=(len(own), LATENT)) + centres[own]).astype(np.float32)
        noise = NOISE * rng.normal(size=(len(own), arguments.channels))
        features[start : start + len(own)] = 0.3 * np.maximum(latent @ mixing + offsets + noise, 0)
    features.flush()
    np.save(folder / "labels.npy", labels)


# ---- One measurement, in a process of its own ----------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Features on disk with their labels: LabelledFeatures of either tree."""

    everything: Any
    train: Any
    val: Any


def measure(what: str, folder: str, out: str) -> None:
    """Run one measurement with the bestiary on PYTHONPATH; write its results to `out` and print its costs."""
    from bestiary.batches.feature_matrix import DiskMatrix
    from bestiary.models.features import LabelledFeatures

    features, labels = np.load(Path(folder) / "features.npy", mmap_mode="r"), np.load(Path(folder) / "labels.npy")

    def on_disk(rows: slice, dtype: npt.DTypeLike = np.float16) -> LabelledFeatures:
        matrix = DiskMatrix(Path(folder), features.shape[1], dtype)
        for start in range(*rows.indices(len(features)))[::CHUNK_ROWS]:
            matrix.append(np.asarray(features[start : min(start + CHUNK_ROWS, rows.indices(len(features))[1])], dtype))
        return LabelledFeatures(matrix, labels[rows])

    classes, n = int(labels.max()) + 1, len(labels)
    val = on_disk(slice(int(0.7 * n), int(0.85 * n)), np.float32)
    rows = Rows(on_disk(slice(0, n)), on_disk(slice(0, int(0.7 * n))), val)
    features._mmap.close()  # its pages would count as memory
    before, started, processor = _peak_megabytes(), time.perf_counter(), time.process_time()
    results = MEASURE[what](rows, classes)
    costs = {"seconds": time.perf_counter() - started, "processor": time.process_time() - processor}
    np.save(out, results)
    print(json.dumps(costs | {"memory": _peak_megabytes(), "before": before, "C": sum(CHOSEN)}))


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check_labels(rows: Rows, classes: int) -> npt.NDArray[np.float64]:
    """Return the out-of-fold probabilities of all rows."""
    from bestiary.evaluation.label_issues import cross_val_probabilities

    features, labels = rows.everything.features, rows.everything.labels
    return cross_val_probabilities(features, labels, np.arange(len(labels)), classes, seed=0)


def fit_probe(rows: Rows, classes: int) -> npt.NDArray[np.float64]:
    """Return the probabilities of the validation rows with the head of the chosen C, which is added to CHOSEN."""
    from bestiary.models.logistic_regression import linear_logits
    from bestiary.quick_metrics import softmax
    from bestiary.training.probe import default_c_values, fit_head

    values = default_c_values(len(rows.train.labels))
    head, history = fit_head(rows.train, rows.val, classes, c_values=values, balance="none")
    CHOSEN.extend(line["regularisation"] for line in history if line.get("chosen"))
    return softmax(linear_logits(rows.val.features, head.weight, head.bias))


def fit_curve(rows: Rows, classes: int) -> npt.NDArray[np.float64]:
    """Return the macro-F1 of the learning curve."""
    from bestiary.evaluation.learning_curve import learning_curve

    train, groups = len(rows.train.labels), (np.arange(len(rows.train.labels)), np.arange(len(rows.val.labels)))
    names = [f"class {number}" for number in range(classes)]
    curve = learning_curve(rows.train, rows.val, groups, names, c_value=120 / train, seed=0)
    return np.array([[point["macro_f1"]["value"] for point in curve["points"]]])


MEASURE = {"labels": check_labels, "probe": fit_probe, "curve": fit_curve}


# ---- Both trees ----------------------------------------------------------------------------------------------------


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run and print the measurements; return them for the JSON file."""
    commit = read_git("rev-parse", "--verify", f"{arguments.revision}^{{commit}}").strip()
    unpack(commit, folder / "older")
    trees = [
        prepare(Tree("old", folder / "older", sys.executable, folder / "old")),
        prepare(Tree("new", ROOT, sys.executable, folder / "new")),
    ]
    draw_features(arguments, folder)
    result: dict[str, Any] = {
        "old": commit,
        "new": describe_tree(),
        "processor": read_processor_name(),
        "cores": count_cores(),
        "versions": read_versions(("numpy", "scipy", "scikit-learn")),
        "measurements": {},
    }
    print(f"{result['processor']}, {result['cores']} cores; {result['versions']}")
    print(f"old: {commit[:10]}; new: {result['new']}; {arguments.pictures:,} x {arguments.channels} features")
    for what in arguments.what.split(","):
        result["measurements"][what] = measure_pairs(what, trees, folder, arguments)
    return result


def measure_pairs(what: str, trees: list[Tree], folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run old, new, new, old and so on; print medians, ratios and how far the results differ."""
    costs: dict[str, list[dict[str, float]]] = {tree.name: [] for tree in trees}
    for number in range(arguments.pairs):
        for tree in trees if number % 2 == 0 else reversed(trees):
            out = folder / f"{what}-{tree.name}.npy"
            costs[tree.name].append(json.loads(tree.run(__file__, "HEAD", "--inner", what, folder, out)))
    print(f"\n{what}")
    for name, runs in costs.items():
        seconds, processor = ([run[key] for run in runs] for key in ("seconds", "processor"))
        memory = max(run["memory"] for run in runs)
        print(f"  {name}: {format_median(seconds)}; processor {format_median(processor)}; peak {memory:.0f} MB", end="")
        print(f"; C {runs[0]['C']:g}" if what == "probe" else "")
    ratios = {key: compare_runs(costs, key) for key in ("seconds", "processor", "memory")}
    print("  new/old: " + ", ".join(f"{key} {ratio:.3f}" for key, ratio in ratios.items()))
    old, new = (np.load(folder / f"{what}-{tree.name}.npy") for tree in trees)
    difference = float(np.nanmax(np.abs(old - new)))
    print(
        f"  largest difference of the results: {difference:.5f}{describe_agreement(what, old, new, folder)}", flush=True
    )
    return {"runs": costs, "new/old": ratios, "difference": difference}


def compare_runs(costs: dict[str, list[dict[str, float]]], key: str) -> float:
    """Return the median of the ratios new/old over the pairs."""
    return statistics.median(new[key] / old[key] for old, new in zip(costs["old"], costs["new"], strict=True))


def describe_agreement(what: str, old: Any, new: Any, folder: Path) -> str:
    """Return the accuracy of both results, and how many rows they classify alike."""
    if what == "curve":
        return f" of macro-F1 {old.round(4).tolist()[0]}"
    labels = np.load(folder / "labels.npy")
    labels = labels if what == "labels" else labels[int(0.7 * len(labels)) : int(0.85 * len(labels))]
    accuracy = [float((rows.argmax(axis=1) == labels).mean()) for rows in (old, new)]
    differ = int((old.argmax(axis=1) != new.argmax(axis=1)).sum())
    return f"; accuracy {accuracy[0]:.4f} and {accuracy[1]:.4f}, {differ} of {len(labels):,} rows classified otherwise"


if __name__ == "__main__":
    main()

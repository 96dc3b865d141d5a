"""Compares calibration methods, and checks the coverage of conformal prediction sets, over several splits.

    python benchmarks/calibration.py PICTURES --labels animals10 [--seeds 5]

No scaling, temperature scaling and vector scaling (a factor and an offset for each class: Guo et al. 2017) are fitted
on the validation split and evaluated on the test split: log-loss, Brier score and ECE. Prediction sets: the fraction of
test pictures whose set contains their label, at three levels. "binomial" is the fraction of splits in which it lies in
the 95 % binomial interval; "beta-binomial" also accounts for the limited number of validation pictures that the
threshold is computed from (Vovk 2012). Features come from the cache folder, or are computed first.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import minimize
from scipy.stats import betabinom, binom

from bestiary import flow
from bestiary.context import Context
from bestiary.data.split import SplitItem, stratified_group_split
from bestiary.evaluation.metrics import compute_metrics
from bestiary.export.calibration import fit_temperature
from bestiary.inference.conformal import conformal_threshold, fit_conformal, set_coverage
from bestiary.machine import disable_malloc_trim
from bestiary.models.backbones import bundled_backbone
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import FeatureCache, LabelledFeatures
from bestiary.models.logistic_regression import linear_logits
from bestiary.preprocess import Preprocessing
from bestiary.quick_metrics import log_softmax, softmax
from bestiary.training.probe import default_c_values, fit_head
from familiarity import load_features
from measuring import build_picture_parser

LEVELS = (0.9, 0.95, 0.99)
Array = npt.NDArray[Any]


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite2", backbones=BACKBONES)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    disable_malloc_trim()
    pictures = flow.audit(arguments.pictures, labels=arguments.labels).pictures.filter(pl.col("error").is_null())
    preprocess = Preprocessing(BACKBONES[arguments.backbone].size)
    backbone = bundled_backbone(arguments.backbone)
    features = load_features(pictures, FeatureCache(backbone, preprocess, "float32", Context()))
    names = sorted(pictures["label"].unique())
    labels = np.array([names.index(label) for label in pictures["label"]], np.int64)
    items = [SplitItem(*row) for row in pictures.select("sha256", "label", "group").iter_rows()]
    values: dict[str, list[float]] = defaultdict(list)
    for seed in range(arguments.seeds):
        splits = np.array(stratified_group_split(items, {"test": 0.15, "val": 0.15}, seed=seed))
        train, val, test = (
            LabelledFeatures(features[splits == p], labels[splits == p]) for p in ("train", "val", "test")
        )
        head, _ = fit_head(train, val, len(names), c_values=default_c_values(len(train.labels)), balance="none")
        val_logits, test_logits = (linear_logits(part.features, head.weight, head.bias) for part in (val, test))
        temperature = fit_temperature(val_logits, val.labels)
        factor, offset = fit_vector_scaling(val_logits, val.labels)
        scaled = {
            "none": test_logits,
            "temperature": test_logits / temperature,
            "vector": test_logits * factor + offset,
        }
        for name, logits in scaled.items():
            metrics = compute_metrics(test.labels, softmax(logits), names, resamples=10)
            for metric in ("log_loss", "brier", "ece"):
                values[f"{name:12} {metric}"].append(metrics[metric]["value"])
        val_probabilities, test_probabilities = (softmax(part / temperature) for part in (val_logits, test_logits))
        for name, value in score_sets(val_probabilities, val.labels, test_probabilities, test.labels).items():
            values[name].append(value)
    for name, series in values.items():
        print(f"{name:44} {statistics.mean(series):.4f} ({min(series):.4f} to {max(series):.4f})")


def fit_vector_scaling(logits: Array, labels: Array, strength: float = 1.0) -> tuple[Array, Array]:
    """Return the factor and the offset, (classes,) each, with the lowest loss; regularised towards 1 and 0."""
    k = logits.shape[1]

    def loss(x: Array) -> float:
        total = -log_softmax(logits * x[:k] + x[k:])[np.arange(len(labels)), labels].sum()
        return float(total + strength * (((x[:k] - 1) ** 2).sum() + (x[k:] ** 2).sum()) / 2) / len(labels)

    start = np.concatenate([np.ones(k), np.zeros(k)])
    best = minimize(loss, start, method="L-BFGS-B").x
    return best[:k], best[k:]


def score_sets(
    val_probabilities: Array, val_labels: Array, test_probabilities: Array, test_labels: Array
) -> dict[str, float]:
    """Return the coverage and the size of the prediction sets at each level, fitted on validation pictures."""
    table, scores = fit_conformal(val_probabilities, val_labels), dict[str, float]()
    for level in LEVELS:
        within, sizes = set_coverage(test_probabilities, test_labels, conformal_threshold(table, level))
        n, hits, rank = len(test_labels), int(within.sum()), int(np.ceil(level * (len(val_labels) + 1)))
        low, high = binom.interval(0.95, n, level)
        wide_low, wide_high = betabinom.interval(0.95, n, rank, len(val_labels) + 1 - rank)
        scores[f"sets {level}: covered"] = hits / n
        scores[f"sets {level}: labels in a set"] = float(sizes.mean())
        scores[f"sets {level}: empty"] = float((sizes == 0).mean())
        scores[f"sets {level}: inside, binomial"] = float(low <= hits <= high)
        scores[f"sets {level}: inside, beta-binomial"] = float(wide_low <= hits <= wide_high)
    return scores


if __name__ == "__main__":
    main()

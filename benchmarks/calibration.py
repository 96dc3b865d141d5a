"""Whether probabilities mean what they say, and prediction sets hold what they promise: several splits.

    python benchmarks/calibration.py PICTURES --labels animals10 [--seeds 5]

No scaling, temperature scaling and vector scaling (a factor and an offset for each class: Guo et al. 2017), fitted on
the validation split and judged on the test split: log-loss, Brier score and ECE. Sets: the share of test pictures whose
set holds their label, at three levels; "binomial" counts those inside the 95 % interval of a sum of so many independent
pictures, "both splits" inside the beta-binomial one, which also knows that the bound comes from a few hundred
validation pictures (Vovk 2012). Features come from the cache folder, or are computed first.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
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
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import FeatureCache, LabelledFeatures
from bestiary.models.logistic_regression import linear_logits
from bestiary.preprocess import Preprocessing
from bestiary.quick_metrics import log_softmax, softmax
from bestiary.training.probe import default_c_values, fit_head
from familiarity import features_of

LEVELS = (0.9, 0.95, 0.99)
Array = npt.NDArray[Any]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--backbone", choices=sorted(BACKBONES), default="lite2")
    options.add_argument("--seeds", type=int, default=5)
    asked = options.parse_args()
    disable_malloc_trim()
    pictures = flow.audit(asked.pictures, labels=asked.labels).pictures.filter(pl.col("error").is_null())
    view = Preprocessing(BACKBONES[asked.backbone].size)
    features = features_of(pictures, FeatureCache(asked.backbone, view, "float32", Context()))
    names = sorted(pictures["label"].unique())
    labels = np.array([names.index(label) for label in pictures["label"]], np.int64)
    items = [SplitItem(*row) for row in pictures.select("sha256", "label", "group").iter_rows()]
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(asked.seeds):
        parts = np.array(stratified_group_split(items, {"test": 0.15, "val": 0.15}, seed=seed))
        train, val, test = (
            LabelledFeatures(features[parts == p], labels[parts == p]) for p in ("train", "val", "test")
        )
        head, _ = fit_head(train, val, len(names), c_values=default_c_values(len(train.labels)), balance="none")
        logits, here = (linear_logits(part.features, head.weight, head.bias) for part in (val, test))
        temperature = fit_temperature(logits, val.labels)
        factor, offset = vector_scaling(logits, val.labels)
        scaled = {"none": here, "temperature": here / temperature, "vector": here * factor + offset}
        for name, shares in scaled.items():
            body = compute_metrics(test.labels, softmax(shares), names, resamples=10)
            for metric in ("log_loss", "brier", "ece"):
                found[f"{name:12} {metric}"].append(body[metric]["value"])
        sets(softmax(logits / temperature), val.labels, softmax(here / temperature), test.labels, found)
    for name, values in found.items():
        print(f"{name:44} {statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")


def vector_scaling(logits: Array, truth: Array, strength: float = 1.0) -> tuple[Array, Array]:
    """Return factor and offset (classes,) each with the lowest loss; pulled towards 1 and 0, as temperature is to 1."""
    k = logits.shape[1]

    def loss(x: Array) -> float:
        total = -log_softmax(logits * x[:k] + x[k:])[np.arange(len(truth)), truth].sum()
        return float(total + strength * (((x[:k] - 1) ** 2).sum() + (x[k:] ** 2).sum()) / 2) / len(truth)

    start = np.concatenate([np.ones(k), np.zeros(k)])
    best = minimize(loss, start, method="L-BFGS-B").x
    return best[:k], best[k:]


def sets(known: Array, labels: Array, here: Array, truth: Array, found: dict[str, list[float]]) -> None:
    table = fit_conformal(known, labels)
    for level in LEVELS:
        within, sizes = set_coverage(here, truth, conformal_threshold(table, level))
        n, hits, rank = len(truth), int(within.sum()), int(np.ceil(level * (len(labels) + 1)))
        low, high = binom.interval(0.95, n, level)
        wide_low, wide_high = betabinom.interval(0.95, n, rank, len(labels) + 1 - rank)
        found[f"sets {level}: covered"].append(hits / n)
        found[f"sets {level}: labels in a set"].append(float(sizes.mean()))
        found[f"sets {level}: empty"].append(float((sizes == 0).mean()))
        found[f"sets {level}: inside, binomial"].append(float(low <= hits <= high))
        found[f"sets {level}: inside, both splits"].append(float(wide_low <= hits <= wide_high))


if __name__ == "__main__":
    main()

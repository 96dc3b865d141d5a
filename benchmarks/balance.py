"""Answers to classes of unequal size, held against each other on the probe: five splits, differences paired by split.

    python benchmarks/balance.py PICTURES --labels animals10 [--backbone lite0] [--seeds 5] [--strengths 0.03 0.1]

For each split and balance: the probe is fitted, its temperature found on validation, the test pictures scored.
Printed: the mean over the splits, and the mean difference to "none" with its 95 % t-interval over the splits. The
splits are of the same pictures: the interval says how sure the difference is on this collection.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import AuditedDataset
from bestiary.evaluation.metrics import compute_metrics
from bestiary.export.calibration import fit_temperature
from bestiary.export.finalize import softmax
from bestiary.files import cache_folder
from bestiary.flow import audit
from bestiary.machine import available_cores
from bestiary.models.logistic_regression import linear_logits
from bestiary.preprocess import Preprocessing
from bestiary.progress import SilentReporter
from bestiary.recipe import Balance, Recipe
from bestiary.training.balance import BALANCES
from bestiary.training.probe import fit_probe
from bestiary.training.task import TrainingTask

FIGURES = ("macro_f1", "balanced_accuracy", "log_loss", "ece")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--backbone", default="lite0")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--strengths", type=float, nargs="*", default=())
    asked = options.parse_args()
    collection = audit(asked.pictures, labels=asked.labels)
    found = defaultdict[str, list[tuple[float, ...]]](list)
    for seed in range(asked.seeds):
        for balance in BALANCES:
            if balance != "balanced-sampler":  # the probe's class-weights
                found[balance].append(scores(collection, asked, seed, balance))
                print(seed, balance, np.round(found[balance][-1], 4), flush=True)
    for name, rows in found.items():
        print(name, describe(np.array(rows), np.array(found["none"])))


def scores(collection: AuditedDataset, asked: argparse.Namespace, seed: int, balance: Balance) -> tuple[float, ...]:
    """Return the figures on the test pictures of one split."""
    settings: dict[str, Any] = {
        "seed": seed,
        "model": {"backbone": asked.backbone},
        "train": {"balance": balance},
        "probe": {"regularisation": asked.strengths},
    }
    recipe = Recipe.of(settings).resolve()
    shown, _ = assign_splits(collection, recipe.data, seed=seed)
    classes = tuple(sorted(shown.filter(shown["split"] == "train")["label"].unique()))
    assert recipe.picture.size is not None
    view = Preprocessing(recipe.picture.size)
    with tempfile.TemporaryDirectory() as run:
        task = TrainingTask(
            recipe, shown, classes, view, Path(run), cache_folder(), available_cores(), SilentReporter()
        )
        probe, test = fit_probe(task), task.split("test")
        features = task.fill_features(test, "float32").load(test.keys)
    head, val = probe.head, probe.val
    temperature = fit_temperature(linear_logits(val.features, head.weight, head.bias), val.labels)
    shares = softmax(linear_logits(features, head.weight, head.bias) / temperature)
    metrics = compute_metrics(test.labels, shares, list(classes), resamples=100)
    return tuple(float(metrics[name]["value"]) for name in FIGURES)


def describe(rows: NDArray[np.float64], plain: NDArray[np.float64]) -> str:
    difference = rows - plain
    mean, spread = difference.mean(axis=0), difference.std(axis=0, ddof=1) / np.sqrt(len(rows))
    half = stats.t.ppf(0.975, len(rows) - 1) * spread
    return " | ".join(
        f"{name} {value:.4f} ({gain:+.4f}, {gain - width:+.4f} to {gain + width:+.4f})"
        for name, value, gain, width in zip(FIGURES, rows.mean(axis=0), mean, half, strict=True)
    )


if __name__ == "__main__":
    main()

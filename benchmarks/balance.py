"""Compares the class balancing methods of the probe: five splits, differences paired by split.

    python benchmarks/balance.py PICTURES --labels animals10 [--backbone lite0] [--seeds 5] [--strengths 0.03 0.1]

For each split and method: fits the probe and its temperature, and scores the test pictures. Prints the mean over the
splits, and the mean difference to "none" with its 95 % t-interval over the splits. All splits are of the same pictures:
the interval holds for this collection only.
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

from bestiary.context import Context
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import AuditedDataset
from bestiary.evaluation.metrics import compute_metrics
from bestiary.export.calibration import fit_temperature
from bestiary.export.finalize import softmax
from bestiary.flow import audit
from bestiary.models.logistic_regression import linear_logits
from bestiary.recipe import Recipe
from bestiary.recipe_sections import Balance
from bestiary.training.balance import BALANCES
from bestiary.training.probe import fit_probe
from bestiary.training.task import make_task
from measuring import build_picture_parser

METRICS = ("macro_f1", "balanced_accuracy", "log_loss", "ece")


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite0")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strengths", type=float, nargs="*", default=())
    arguments = parser.parse_args()
    collection = audit(arguments.pictures, labels=arguments.labels)
    scores = defaultdict[str, list[tuple[float, ...]]](list)
    for seed in range(arguments.seeds):
        for balance in BALANCES:
            if balance != "balanced-sampler":  # the same as class-weights for the probe
                scores[balance].append(score_split(collection, arguments, seed, balance))
                print(seed, balance, np.round(scores[balance][-1], 4), flush=True)
    for name, rows in scores.items():
        print(name, format_scores(np.array(rows), np.array(scores["none"])))


def score_split(
    collection: AuditedDataset, arguments: argparse.Namespace, seed: int, balance: Balance
) -> tuple[float, ...]:
    """Return the metrics of `METRICS` on the test pictures of one split."""
    settings: dict[str, Any] = {
        "seed": seed,
        "model": {"backbone": arguments.backbone},
        "train": {"balance": balance},
        "probe": {"regularisation": arguments.strengths},
    }
    recipe = Recipe.of(settings).resolve()
    pictures, _ = assign_splits(collection, recipe.data, seed=seed)
    classes = tuple(sorted(pictures.filter(pictures["split"] == "train")["label"].unique()))
    with tempfile.TemporaryDirectory() as run:
        task = make_task(Path(run), recipe, pictures, Context())
        probe, test = fit_probe(task), task.split("test")
        features = task.fill_features(test, "float32").load(test.keys)
    head, val = probe.head, probe.val
    temperature = fit_temperature(linear_logits(val.features, head.weight, head.bias), val.labels)
    probabilities = softmax(linear_logits(features, head.weight, head.bias) / temperature)
    metrics = compute_metrics(test.labels, probabilities, list(classes), resamples=100)
    return tuple(float(metrics[name]["value"]) for name in METRICS)


def format_scores(rows: NDArray[np.float64], baseline: NDArray[np.float64]) -> str:
    difference = rows - baseline
    mean, error = difference.mean(axis=0), difference.std(axis=0, ddof=1) / np.sqrt(len(rows))
    half = stats.t.ppf(0.975, len(rows) - 1) * error
    return " | ".join(
        f"{name} {value:.4f} ({gain:+.4f}, {gain - width:+.4f} to {gain + width:+.4f})"
        for name, value, gain, width in zip(METRICS, rows.mean(axis=0), mean, half, strict=True)
    )


if __name__ == "__main__":
    main()

"""Scores by what is new in a picture: known sites against sites never seen, and what a split that ignores groups adds.

Every picture is predicted out of fold, by linear heads on the same cached features, in two or three ways that differ
only in what a fold keeps together: nothing, the groups (duplicates, bursts, events), or whole sites. The differences
are paired, and all intervals are over sites, or over groups if there are no sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Bools, Floats, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, select_rows
from bestiary.data.joined_groups import groups_without_sites
from bestiary.data.split import stratified_group_folds
from bestiary.evaluation.cluster_intervals import cluster_bootstrap, cluster_mean, cluster_rate
from bestiary.evaluation.intervals import group_indices, metric_value
from bestiary.models.features import LabelledFeatures, features_by_split
from bestiary.models.logistic_regression import linear_logits
from bestiary.recipe_sections import Balance
from bestiary.training.probe import chosen_c_value, fit_head
from bestiary.training.task import TrainedModel, TrainingTask

FOLDS, FOLDS_OF_LARGE = 10, 5  # with few folds, models are trained on clearly fewer sites than the final one
LARGE, RESAMPLES = 20_000, 1000
MIN_CLUSTERS = 3
WORST_SITES = 20
RANDOM, GROUPED, NEW_SITES = "random", "grouped", "new_sites"


def measure_group_scores(task: TrainingTask, trained: TrainedModel) -> dict[str, Any]:
    """Return the scores by group and site for `metrics.json`, or nothing without given groups and sites.

    Only the probe has features for it; another method gets a note. Pictures of all splits take part: the scores are
    cross-validated estimates, beside those of the test split.
    """
    pictures = task.pictures.filter(pl.col("split").is_not_null())
    columns = [name for name in ("site", "given_group") if name in pictures.columns and pictures[name].count()]
    if not columns:
        return {}
    if task.recipe.model.method != "probe":
        note = "Scores by site and group are measured with --method probe only: each needs many training runs."
        return {"group_scores": {"note": note}}
    clusters = _cluster_indices(pictures, columns[0])
    if int(clusters.max()) + 1 < MIN_CLUSTERS:
        return {}
    groupings = {RANDOM: np.arange(pictures.height), GROUPED: groups_without_sites(pictures)}
    if columns[0] == "site":
        groupings[NEW_SITES] = pictures["group"].to_numpy()
    predictions, context = {}, task.context
    folds = FOLDS if pictures.height <= LARGE else FOLDS_OF_LARGE
    steps = folds * len(groupings)
    with context.timer.stage("lessons"), context.reporter.progress("Scores of new groups", steps) as advance:
        predictor = FoldPredictor.of(task, trained, pictures)
        for name, groups in groupings.items():
            predictions[name] = predictor.predict(group_indices(groups), folds, advance)
    scores = compare_group_scores(
        predictor.labels,
        predictions,
        clusters,
        trials=pictures["group"].n_unique() if columns[0] != "site" else len(np.unique(groupings[GROUPED])),
        seed=task.recipe.seed,
    )
    named = "site" if columns[0] == "site" else "group"
    tables = {
        "classes": _class_rows(predictor.labels, predictions, clusters, task.classes),
        "clusters": _worst_clusters(pictures[columns[0]], predictor.labels, predictions),
    }
    result = {"by": named, "folds": folds, "learner": f"probe with {task.recipe.model.backbone}", **scores, **tables}
    return {"group_scores": result | {"sentence": describe_group_scores(result)}}


def compare_group_scores(
    labels: Ints, predictions: Mapping[str, Ints], clusters: Ints, *, trials: int, seed: int
) -> dict[str, Any]:
    """Return accuracy and macro-F1 of each way, and the differences to the strictest, with intervals over clusters.

    labels and predictions: int64 (n,); clusters: int64 (n,) from 0. The last of `predictions` is the strictest way.
    """
    strictest = list(predictions)[-1]
    correct = {name: (predicted == labels).astype(np.float64) for name, predicted in predictions.items()}
    f1 = {name: _f1_scorer(labels, predicted, clusters) for name, predicted in predictions.items()}
    ways: dict[str, Any] = {}
    for name in predictions:
        low, high = cluster_bootstrap(f1[name], clusters, resamples=RESAMPLES, seed=seed)
        value = float(f1[name](np.ones((1, int(clusters.max()) + 1)))[0])
        ways[name] = {
            "accuracy": cluster_rate(correct[name], clusters, trials=trials),
            "macro_f1": metric_value(value, max(0.0, low), min(1.0, high)),
        }
    differences = {
        name: {
            "accuracy": cluster_mean(correct[name] - correct[strictest], clusters),
            "macro_f1": _f1_difference(f1[name], f1[strictest], clusters, seed),
        }
        for name in predictions
        if name != strictest
    }
    return {"n": len(labels), "units": int(clusters.max()) + 1, "ways": ways, "differences": differences}


def describe_group_scores(scores: Mapping[str, Any]) -> str:
    """Return the scores in a few sentences."""
    ways, differences, noun = scores["ways"], scores["differences"], f"{scores['by']}s"
    strictest = list(ways)[-1]
    sentences = [f"Accuracy on pictures of new {noun}: {_format_metric(ways[strictest]['accuracy'])}."]
    if scores["by"] == "site":
        sentences.insert(0, f"Accuracy on new pictures of known sites: {_format_metric(ways[GROUPED]['accuracy'])}.")
        sentences.append(f"The difference is {_format_points(differences[GROUPED]['accuracy'])}.")
    sentences.append(
        f"A random split, which divides {noun}, would report {_format_metric(ways[RANDOM]['accuracy'])}; its bias is"
        f" {_format_points(differences[RANDOM]['accuracy'])}."
    )
    basis = f"{scores['folds']}-fold cross-validation of {scores['n']:,} pictures of {scores['units']:,} {noun}"
    return f"{' '.join(sentences)} From {basis}, with 95 % intervals over {noun}."


def _format_metric(metric: Mapping[str, float]) -> str:
    value, low, high = (f"{100 * metric[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} % ({low} to {high} %)"


def _format_points(metric: Mapping[str, float]) -> str:
    value, low, high = (f"{100 * metric[key]:.1f}" for key in ("value", "low", "high"))
    text = f"{value} percentage points ({low} to {high})"
    return f"not significant, {text}" if metric["low"] <= 0 <= metric["high"] else text


# ---- Predictions out of fold ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoldPredictor:
    """Predicts every picture by a head that was fitted without its fold."""

    features: FeatureMatrix
    labels: Ints
    classes: int
    c_value: float
    balance: Balance
    seed: int

    @classmethod
    def of(cls, task: TrainingTask, trained: TrainedModel, pictures: pl.DataFrame) -> FoldPredictor:
        """Return the predictor of all pictures of a run, on the features that it was trained on."""
        labels = table.label_indices(pictures["label"], task.classes)
        columns = pictures["sha256"].to_list(), pictures["split"].to_list()
        features = features_by_split(task.feature_cache("float32"), table.list_files(pictures), *columns)
        c_value = chosen_c_value(trained.history)
        balance, seed = task.recipe.train.balance, task.recipe.seed
        return cls(features, labels, len(task.classes), c_value, balance, seed)

    def predict(self, groups: Ints, folds: int, advance: Callable[[int], object]) -> Ints:
        """Return the predicted label of each picture, int64 (n,); groups, int64 (n,), are never divided by a fold."""
        fold_of = stratified_group_folds(self.labels, groups, folds=folds, seed=self.seed)
        predicted = np.zeros(len(self.labels), np.int64)
        for fold in range(folds):
            tested = fold_of == fold
            if tested.any():
                predicted[tested] = self._predict_fold(~tested, tested)
            advance(1)
        return predicted

    def _predict_fold(self, train: Bools, test: Bools) -> Ints:
        """Return the labels of the test rows; a label that has no training picture in this fold is never predicted."""
        present, own = np.unique(self.labels[train], return_inverse=True)
        if len(present) < 2:
            return np.full(int(test.sum()), present[0], np.int64)
        training = LabelledFeatures(select_rows(self.features, train), own.astype(np.int64))
        tested = select_rows(self.features, test)
        scored = LabelledFeatures(tested, np.zeros(len(tested), np.int64))  # its loss is not used: there is one C
        head, _ = fit_head(training, scored, len(present), c_values=[self.c_value], balance=self.balance)
        chosen: Ints = present[linear_logits(tested, head.weight, head.bias).argmax(axis=1)]
        return chosen


def _cluster_indices(pictures: pl.DataFrame, column: str) -> Ints:
    """Return the cluster of each picture, int64 (n,) from 0: its site or group; without one its group of duplicates."""
    names = pictures.select(pl.coalesce(column, pl.format("\0{}", "group")))
    return group_indices(names.to_series().to_numpy())


# ---- Tables --------------------------------------------------------------------------------------------------------


def _f1_scorer(labels: Ints, predicted: Ints, clusters: Ints) -> Callable[[Floats], Floats]:
    """Return a function from weights of clusters (draws, clusters) to macro-F1 (draws,) over the labels that occur."""
    k, count = int(max(labels.max(), predicted.max())) + 1, int(clusters.max()) + 1
    correct = predicted == labels
    sums = [np.zeros((count, k)) for _ in range(3)]
    for total, index, rows in ((sums[0], labels, correct), (sums[1], labels, None), (sums[2], predicted, None)):
        chosen = slice(None) if rows is None else rows
        np.add.at(total, (clusters[chosen], index[chosen]), 1.0)

    def score(weights: Floats) -> Floats:
        hits, actual, answered = (weights @ total for total in sums)
        occurs = actual > 0
        f1 = np.divide(2 * hits, actual + answered, out=np.zeros_like(hits), where=actual + answered > 0)
        means: Floats = (f1 * occurs).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)
        return means

    return score


def _f1_difference(
    first: Callable[[Floats], Floats], second: Callable[[Floats], Floats], clusters: Ints, seed: int
) -> dict[str, float]:
    def difference(weights: Floats) -> Floats:
        return first(weights) - second(weights)

    low, high = cluster_bootstrap(difference, clusters, resamples=RESAMPLES, seed=seed)
    return metric_value(float(difference(np.ones((1, int(clusters.max()) + 1)))[0]), low, high)


def _class_rows(
    labels: Ints, predictions: Mapping[str, Ints], clusters: Ints, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return a row for each class, the largest loss first: pictures, sites or groups, and its recall in each way."""
    rows = []
    for index, label in enumerate(classes):
        own = labels == index
        recalls = {name: float((predicted[own] == index).mean()) for name, predicted in predictions.items()}
        rows.append({"label": label, "n": int(own.sum()), "units": len(np.unique(clusters[own])), "recall": recalls})
    strictest, looser = list(predictions)[-1], list(predictions)[-2]
    return sorted(rows, key=lambda row: (row["recall"][strictest] - row["recall"][looser], row["label"]))


def _worst_clusters(names: pl.Series, labels: Ints, predictions: Mapping[str, Ints]) -> list[dict[str, Any]]:
    """Return the sites or groups with the most mistakes when held out, with their pictures and accuracy."""
    strictest = predictions[list(predictions)[-1]]
    frame = pl.DataFrame({"name": names, "correct": strictest == labels}).drop_nulls()
    rows = frame.group_by("name").agg(
        n=pl.len(), mistakes=(~pl.col("correct")).sum(), accuracy=pl.col("correct").mean()
    )
    return rows.sort(["mistakes", "name"], descending=[True, False]).head(WORST_SITES).to_dicts()

"""The prediction table: a model's prediction for each picture, beside the picture's label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from bestiary import table
from bestiary.array_types import Array, Floats
from bestiary.batches.decoding import missing_picture_error
from bestiary.evaluation.metrics import compute_metrics
from bestiary.inference.bundle import Bundle
from bestiary.inference.predictor import Prediction, Predictor
from bestiary.preprocess import VerifiedFile
from bestiary.progress import Reporter


def prediction_table(pictures: pl.DataFrame, predictions: Iterable[Prediction], classes: Sequence[str]) -> pl.DataFrame:
    """Return `table.PREDICTIONS` and `p_<label>` for pictures (`row_id, path, split, label`) and their predictions.

    An unreadable picture has null for `predicted` and the probabilities.
    """
    rows = [
        [prediction.label, prediction.probability, prediction.unknown, prediction.familiarity]
        + [prediction.probabilities.get(name) for name in classes]
        for prediction in predictions
    ]
    schema = {name: table.PREDICTIONS[name] for name in ("predicted", "probability", "unknown", "familiarity")}
    predicted = pl.DataFrame(rows, schema=schema | {f"p_{name}": pl.Float64 for name in classes}, orient="row")
    return pictures.select("row_id", "path", "split", "label").hstack(predicted)  # raises if one has fewer rows


def predict_table(predictor: Predictor, pictures: pl.DataFrame, reporter: Reporter) -> pl.DataFrame:
    """Return the prediction table of pictures, from their files. Raises SourceError for one that cannot be read."""
    files = map(VerifiedFile.of, table.list_files(pictures), pictures["sha256"])
    predictions = []
    with reporter.progress("Predicting", pictures.height) as advance:
        for prediction in predictor.predict_many(files):
            if prediction.error is not None:
                raise missing_picture_error(prediction.error)
            predictions.append(prediction)
            advance(1)
    return prediction_table(pictures, predictions, predictor.classes)


def join_pictures(predictions: pl.DataFrame, pictures: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Return the predictions, in their order, with columns of the picture table added by `row_id`."""
    return predictions.join(pictures.select("row_id", *columns), on="row_id", how="left", maintain_order="left")


def class_probabilities(predictions: pl.DataFrame, classes: Sequence[str]) -> Floats:
    """Return the columns `p_<label>` as float64 (n, classes)."""
    return predictions.select([f"p_{name}" for name in classes]).to_numpy()


def score_table(
    predictions: pl.DataFrame, groups: Array, bundle: Bundle, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Return the metrics of metrics.json for a prediction table; `groups`: equal for duplicates."""
    metrics = compute_metrics(
        table.label_indices(predictions["label"], bundle.classes),
        class_probabilities(predictions, bundle.classes),
        list(bundle.classes),
        groups,
        resamples=resamples,
        seed=seed,
        unknown=predictions["unknown"].to_numpy(),
        y_pred=table.label_indices(predictions["predicted"], bundle.classes),
    )
    return metrics | {"unknown": {"threshold": bundle.threshold, **metrics["unknown"]}}

"""The prediction table: what the model said of each picture, beside what the picture is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary import table
from bestiary.array_types import Ints
from bestiary.batches.decoding import missing_picture_error
from bestiary.batches.preprocess import VerifiedFile
from bestiary.evaluation.metrics import compute_metrics
from bestiary.inference.predictor import Predictor
from bestiary.progress import Reporter


class PredictionLike(Protocol):
    """One answer of the predictor."""

    @property
    def label(self) -> str | None: ...  # noqa: D102
    @property
    def probability(self) -> float: ...  # noqa: D102
    @property
    def unknown(self) -> bool: ...  # noqa: D102
    @property
    def familiarity(self) -> float: ...  # noqa: D102
    @property
    def probabilities(self) -> dict[str, float]: ...  # noqa: D102


def prediction_table(pictures: pl.DataFrame, answers: Iterable[PredictionLike], classes: Sequence[str]) -> pl.DataFrame:
    """Return `table.PREDICTIONS` and `p_<label>` for pictures (`row_id, path, split, label`) and the answers to them.

    A picture that could not be read any more has null for `predict_table` and probabilities.
    """
    rows = [
        [answer.label, answer.probability, answer.unknown, answer.familiarity]
        + [answer.probabilities.get(name) for name in classes]
        for answer in answers
    ]
    schema = {name: table.PREDICTIONS[name] for name in ("predicted", "probability", "unknown", "familiarity")}
    answered = pl.DataFrame(rows, schema=schema | {f"p_{name}": pl.Float64 for name in classes}, orient="row")
    known = pictures.select("row_id", "path", "split", "label")
    return pl.concat([known, answered], how="horizontal")


def score_table(
    predictions: pl.DataFrame,
    groups: npt.ArrayLike,
    classes: Sequence[str],
    *,
    threshold: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the metrics of the contract for a prediction table; `groups` tells which pictures are duplicates."""
    return compute_metrics(
        label_indices(predictions, classes),
        predictions.select([f"p_{name}" for name in classes]).to_numpy(),
        list(classes),
        np.asarray(groups),
        resamples=resamples,
        seed=seed,
        unknown=predictions["unknown"].to_numpy(),
        threshold=threshold,
    )


def label_indices(frame: pl.DataFrame, classes: Sequence[str]) -> Ints:
    """Return the position of each row's label among `classes`, int64 (n,)."""
    place = {name: position for position, name in enumerate(classes)}
    return np.array([place[label] for label in frame["label"]], np.int64)


def predict_table(predictor: Predictor, pictures: pl.DataFrame, reporter: Reporter) -> pl.DataFrame:
    """Return the prediction table of pictures, from their files. Raises SourceError for one that cannot be read."""
    with reporter.progress("Predicting", pictures.height) as advance:
        answers = []
        files = (VerifiedFile(Path(path), sha256) for path, sha256 in pictures.select("path", "sha256").iter_rows())
        for answer in predictor.predict_many(files):
            if answer.error is not None:
                raise missing_picture_error(answer.error)
            answers.append(answer)
            advance(1)
    return prediction_table(pictures, answers, predictor.classes)

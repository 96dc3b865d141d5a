"""How a model does on spoilt pictures: noise, blur, compression, light, at five strengths.

The corruptions are those of ImageNet-C (Hendrycks and Dietterich 2019), by the library `imagecorruptions`, applied to
the picture as the model sees it. Pictures of the validation split are used: the test split is not looked at for this.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import run_folder, table
from bestiary.array_types import Pixels
from bestiary.errors import import_optional
from bestiary.evaluation import intervals
from bestiary.evaluation.external import FOLDER
from bestiary.inference.predictor import Predictor
from bestiary.machine import available_cores
from bestiary.progress import Reporter

# Of the library's nineteen: without glass blur, which takes seconds a picture, and near copies of others.
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "gaussian_blur",
    "fog",
    "brightness",
    "contrast",
    "saturate",
    "pixelate",
    "jpeg_compression",
)
STRENGTHS = (1, 2, 3, 4, 5)
MAX_PICTURES = 200
TABLE = {
    "corruption": pl.String,
    "strength": pl.Int64,
    "n": pl.Int64,
    "accuracy": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "confidence": pl.Float64,
    "answered": pl.Float64,
}


def evaluate_corrupted(run: Path, *, threads: int | None = None, reporter: Reporter) -> pl.DataFrame:
    """Return how a finished run does on spoilt validation pictures, written to `evaluations/corruptions.parquet`."""
    seed = run_folder.load_recipe(run).seed
    predictor = Predictor(run, threads=threads or available_cores(), engine="fastest")
    validation = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("split") == "val")
    scores = corrupted_scores(predictor, validation, seed=seed, reporter=reporter)
    table.write(scores, run / FOLDER / "corruptions.parquet")
    return scores


def corrupted_scores(
    predictor: Predictor, pictures: pl.DataFrame, *, seed: int, reporter: Reporter, max_pictures: int = MAX_PICTURES
) -> pl.DataFrame:
    """Return a row (`TABLE`) for the pictures as they are ("none", 0) and for each corruption at each strength.

    pictures: `path, label`; of more than `max_pictures`, so many drawn by `seed`. accuracy: with Wilson's 95 % interval.
    confidence: the mean top probability, to be held against accuracy. answered: the share that is not called unknown.
    Raises MissingExtraError without the library.
    """
    library = import_optional("imagecorruptions", extra="corruptions")
    chosen = pictures.sample(min(max_pictures, pictures.height), seed=seed, shuffle=True)
    view = predictor.bundle.preprocess
    clean = [view.load_pixels(Path(path)) for path in chosen["path"]]
    plan = [("none", 0), *((name, strength) for name in CORRUPTIONS for strength in STRENGTHS)]
    rows = []
    with reporter.progress("Spoiling pictures", len(plan) * len(clean)) as advance:
        for name, strength in plan:
            spoilt = clean if name == "none" else _iter_corrupted(library, clean, name, strength, seed)
            rows.append([name, strength, *_scores(predictor, spoilt, chosen["label"].to_list(), advance)])
    return pl.DataFrame(rows, schema=TABLE, orient="row")


def _iter_corrupted(library: Any, clean: list[Pixels], name: str, strength: int, seed: int) -> Iterator[Pixels]:
    np.random.seed(seed)  # the library draws its noise from numpy's global generator
    for pixels in clean:
        yield np.ascontiguousarray(library.corrupt(pixels, severity=strength, corruption_name=name), np.uint8)


def _scores(predictor: Predictor, pictures: Any, labels: list[str], advance: Any) -> list[float]:
    right, sure, answered = [], [], []
    for answer, label in zip(predictor.predict_many(pictures), labels, strict=True):
        right.append(answer.label == label)
        sure.append(answer.probability)
        answered.append(not answer.unknown)
        advance(1)
    accuracy = float(np.mean(right))
    low, high = intervals.wilson_interval(np.array(accuracy), np.array(len(right)))
    return [len(right), accuracy, float(low), float(high), float(np.mean(sure)), float(np.mean(answered))]

"""Robustness to corruptions: accuracy under noise, blur, compression and changes of light, at five severities.

The corruptions are those of ImageNet-C (Hendrycks and Dietterich 2019), by the library `imagecorruptions`, applied to
the model's input. Pictures of the validation split are used: the test split is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from bestiary.machine import FeatureDevice, available_cores
from bestiary.progress import Advance, Reporter

# Of the library's nineteen: without glass blur, which takes seconds a picture, and near copies of others.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "motion_blur", "gaussian_blur"),
    *("fog", "brightness", "contrast", "saturate", "pixelate", "jpeg_compression"),
)
STRENGTHS = (1, 2, 3, 4, 5)
MAX_PICTURES = 200
TABLE = {"corruption": pl.String, "strength": pl.Int64, "n": pl.Int64}
TABLE |= dict.fromkeys(("accuracy", "low", "high", "confidence", "answered"), pl.Float64)


def evaluate_corrupted(
    run: Path, *, threads: int | None = None, device: FeatureDevice = "auto", reporter: Reporter
) -> pl.DataFrame:
    """Return the scores of a finished run on corrupted validation pictures; write `evaluations/corruptions.parquet`."""
    seed = run_folder.load_recipe(run).seed
    predictor = Predictor(run, threads=threads or available_cores(), engine="fastest", device=device)
    validation = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("split") == "val")
    scores = corrupted_scores(predictor, validation, seed=seed, reporter=reporter)
    table.write(scores, run / FOLDER / "corruptions.parquet")
    return scores


def corrupted_scores(
    predictor: Predictor, pictures: pl.DataFrame, *, seed: int, reporter: Reporter, max_pictures: int = MAX_PICTURES
) -> pl.DataFrame:
    """Return a row (`TABLE`) for the clean pictures ("none", 0) and for each corruption at each strength.

    pictures: `path, label`; at most `max_pictures` are sampled by `seed`. accuracy: with Wilson's 95 % interval.
    confidence: the mean top probability, to compare with accuracy. answered: the fraction predicted in-distribution,
    that is not "unknown". Raises MissingExtraError without the library.
    """
    library = import_optional("imagecorruptions", extra="corruptions")
    sample = pictures.sample(min(max_pictures, pictures.height), seed=seed, shuffle=True)
    clean = [predictor.bundle.preprocess.load_pixels(file) for file in table.list_files(sample)]
    plan = [("none", 0), *((name, strength) for name in CORRUPTIONS for strength in STRENGTHS)]
    rows = []
    with reporter.progress("Scoring corrupted pictures", len(plan) * len(clean)) as advance:
        for name, strength in plan:
            images = clean if name == "none" else _iter_corrupted(library, clean, name, strength, seed)
            rows.append([name, strength, *_scores(predictor, images, sample["label"].to_list(), advance)])
    return pl.DataFrame(rows, schema=TABLE, orient="row")


def _iter_corrupted(library: Any, clean: list[Pixels], name: str, strength: int, seed: int) -> Iterator[Pixels]:
    np.random.seed(seed)  # the library draws its noise from numpy's global generator
    for pixels in clean:
        yield np.ascontiguousarray(library.corrupt(pixels, severity=strength, corruption_name=name), np.uint8)


def _scores(predictor: Predictor, images: Iterable[Pixels], labels: list[str], advance: Advance) -> list[float]:
    rows = []
    for prediction, label in zip(predictor.predict_many(images), labels, strict=True):
        rows.append((prediction.label == label, prediction.probability, not prediction.unknown))
        advance(1)
    accuracy, confidence, answered = np.array(rows, np.float64).mean(axis=0).tolist()
    return [len(rows), *intervals.rate_metric(accuracy, len(rows)).values(), confidence, answered]

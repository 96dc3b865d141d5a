"""Galleries of test pictures in the report: choice, order, names, thumbnails and heatmaps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary.array_types import Float32s
from bestiary.box import PictureFile, parse_reference
from bestiary.errors import PictureError, RunError
from bestiary.inference.heatmap import model_input_view, overlay_heatmap
from bestiary.inference.predictor import Predictor
from bestiary.machine import available_cores
from bestiary.preprocess import Preprocessing
from bestiary.text import common_folder, relative_name
from bestiary.thumbnails import LARGEST_BYTES, small_data_uri, thumbnail_data_uri

GALLERY = 48  # mistakes; fewer of the others
PICTURE_PIXELS = 400  # of thumbnails, which open larger
MAX_MORE, MORE_PIXELS, MORE_BYTES = 120, 176, 6 * 1024  # further mistakes, so that each confusion has a picture
HEATMAP_PIXELS, HEATMAP_BYTES = 280, 12 * 1024
TOP = 5  # classes whose probabilities are given with a picture


@dataclass(frozen=True)
class GalleryPicture:
    """A picture of the test split. `image` is a data address, or None if the file is missing.

    `evidence`: the same with the model's heatmap drawn on, where there is one. `top`: the most probable classes, with
    their probabilities. `row_id`: of the prediction table; pictures with the same one are the same.
    tag: what is doubtful about its label, such as "suspect label", or empty.
    """

    row_id: int
    image: str | None
    name: str
    path: str
    label: str
    predicted: str
    probability: float
    unknown: bool
    tag: str
    top: Sequence[tuple[str, float]]
    evidence: str | None = None


def build_galleries(
    test: pl.DataFrame,
    tags: Mapping[int, str],
    names: Mapping[str, str],
    heatmaps: Callable[[Sequence[str]], Sequence[str | None]],
) -> dict[str, Any]:
    """Return galleries of test pictures: mistakes (most confident first), more mistakes, unknown, correct predictions.

    test: the prediction table of the test split; tags: what is doubtful about a label, by row id; names: the short name
    of each path; heatmaps: returns copies of pictures with the heatmap drawn on, for the mistakes. `tally` counts all
    pictures of each kind, also those that are not shown. The further mistakes are smaller.
    """
    is_correct = pl.col("label") == pl.col("predicted")
    answered = test.filter(~pl.col("unknown"))
    wrong = answered.filter(~is_correct).sort("probability", descending=True)
    correct = answered.filter(is_correct).sort("probability")
    unknown = test.filter(pl.col("unknown")).sort("familiarity", nulls_last=True)
    embedded = pl.concat([wrong.head(GALLERY), unknown.head(GALLERY // 4)])["row_id"]
    more = _more_mistakes(test, set(embedded.to_list()))
    mistakes = gallery_pictures(wrong.head(GALLERY), names, tags)
    overlays = heatmaps([picture.path for picture in mistakes])
    return {
        "tally": {
            "wrong": wrong.height,
            "right": correct.height,
            "unknown": unknown.height,
            "unknown_right": unknown.filter(is_correct).height,
        },
        "wrong": [replace(picture, evidence=image) for picture, image in zip(mistakes, overlays, strict=True)],
        "more_wrong": gallery_pictures(more, names, tags, side=MORE_PIXELS, largest_bytes=MORE_BYTES),
        "n_mistakes": test.filter(~is_correct).height,
        "unknown": gallery_pictures(unknown.head(GALLERY // 4), names, tags),
        "right": gallery_pictures(_least_confident_and_sample(correct), names, tags),
    }


def _least_confident_and_sample(correct: pl.DataFrame) -> pl.DataFrame:
    """Return the least confident predictions, and a random sample of the others with a fixed seed."""
    half = GALLERY // 4
    others = range(half, correct.height)
    sample = random.Random(0).sample(others, min(half, len(others)))
    return correct[[*range(min(half, correct.height)), *sorted(sample)]]


def _more_mistakes(test: pl.DataFrame, embedded: set[int]) -> pl.DataFrame:
    """Return mistakes that are not embedded yet, unknown ones too, sorted by confusion.

    The most confident of each confusion are chosen first, then the second of each, and so on.
    """
    pair = ("label", "predicted")
    wrong = test.filter(pl.col("label") != pl.col("predicted")).sort("probability", descending=True)
    ranked = wrong.with_columns(rank=pl.int_range(pl.len()).over(pair))
    rest = ranked.filter(~pl.col("row_id").is_in(list(embedded))).sort("rank", maintain_order=True).head(MAX_MORE)
    return rest.sort(*pair, "rank").drop("rank")


def gallery_pictures(
    rows: pl.DataFrame,
    names: Mapping[str, str],
    tags: Mapping[int, str],
    *,
    side: int = PICTURE_PIXELS,
    largest_bytes: int = LARGEST_BYTES,
) -> list[GalleryPicture]:
    """Return the pictures of these rows of a prediction table, with thumbnails."""
    columns = ("row_id", "path", "label", "predicted", "probability", "unknown")
    images = thumbnails(rows["path"].to_list(), side, largest_bytes=largest_bytes)
    return [
        GalleryPicture(
            row_id,
            image,
            names.get(path, path),
            path,
            label,
            predicted,
            probability,
            unknown,
            tags.get(row_id, ""),
            top,
        )
        for image, top, (row_id, path, label, predicted, probability, unknown) in zip(
            images, _top_probabilities(rows), rows.select(columns).iter_rows(), strict=True
        )
    ]


def _top_probabilities(rows: pl.DataFrame) -> list[list[tuple[str, float]]]:
    """Return for each row the most probable classes with their probabilities, rounded down: they are for reading."""
    columns = [name for name in rows.columns if name.startswith("p_")]
    probabilities = rows.select(columns).to_numpy()
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    return [
        [(columns[at].removeprefix("p_"), math.floor(1e4 * float(own[at])) / 1e4) for at in best.tolist()]
        for own, best in zip(probabilities, order, strict=True)
    ]


def thumbnails(paths: Sequence[str | None], side: int, *, largest_bytes: int = LARGEST_BYTES) -> list[str | None]:
    """Return a data address for each path, or reference to a crop, computed on all cores; None if it is unreadable."""

    def small(path: str | None) -> str | None:
        return thumbnail_data_uri(parse_reference(path), side, largest_bytes=largest_bytes) if path else None

    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(small, paths))


def strip_common_folder(paths: Sequence[str]) -> dict[str, str]:
    """Return each path without the folders that all of them share.

    >>> strip_common_folder(["/a/b/cat/1.jpg", "/a/b/dog/2.jpg"])["/a/b/dog/2.jpg"]
    'dog/2.jpg'
    """
    root = common_folder(paths)
    return {path: relative_name(path, root) for path in paths}


def heatmap_overlays(run: Path, paths: Sequence[str], *, threads: int | None = None) -> list[str | None]:
    """Return a data address for each picture with the heatmap of the prediction drawn on; None if it is missing.

    A run whose model is missing or damaged has none.
    """
    try:
        predictor = Predictor(run, threads=threads)
    except RunError:
        return [None] * len(paths)
    files = [parse_reference(path) for path in paths]
    predictions = zip(files, predictor.predict_many(files), strict=True)
    return [_overlay(file, prediction.heatmap, predictor.bundle.preprocess) for file, prediction in predictions]


def _overlay(path: PictureFile, heatmap: Float32s | None, preprocess: Preprocessing) -> str | None:
    if heatmap is None:
        return None
    try:
        picture = overlay_heatmap(model_input_view(path, preprocess), heatmap)
    except (OSError, PictureError):
        return None
    return small_data_uri(picture, HEATMAP_PIXELS, largest_bytes=HEATMAP_BYTES)

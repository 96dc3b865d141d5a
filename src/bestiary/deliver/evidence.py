"""Where the evidence for an answer lies: small copies of pictures with the model's heatmap drawn on, for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bestiary.batches.decoding import View
from bestiary.deliver.thumbnails import small_data_uri
from bestiary.errors import PictureError, RunError
from bestiary.inference.heatmap import heatmap_over, seen
from bestiary.inference.predictor import Predictor

SIDE_PIXELS, LARGEST_BYTES = 280, 12 * 1024


def overlays(run: Path, paths: Sequence[str], *, threads: int | None = None) -> list[str | None]:
    """Return a data address for each picture: its heatmap for the model's answer, drawn on; None if it has gone.

    A run whose model is not there, or damaged, has none: its report can be written all the same.
    """
    try:
        predictor = Predictor(run, threads=threads)
    except RunError:
        return [None] * len(paths)
    drawn = list[str | None]()
    for path, answer in zip(paths, predictor.predict_many(map(Path, paths)), strict=True):
        drawn.append(None if answer.heatmap is None else _overlay(Path(path), answer.heatmap, predictor.bundle.view))
    return drawn


def _overlay(path: Path, heatmap: npt.NDArray[np.float32], view: View) -> str | None:
    try:
        picture = heatmap_over(seen(path, view), heatmap)
    except (OSError, PictureError):
        return None
    return small_data_uri(picture, SIDE_PIXELS, largest_bytes=LARGEST_BYTES)

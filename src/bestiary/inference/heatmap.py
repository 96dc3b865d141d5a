"""Class-activation heatmaps drawn over pictures and saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from bestiary.array_types import Float32s, Pixels
from bestiary.errors import MachineError
from bestiary.files import atomic_path, next_free_name
from bestiary.inference.predictor import Prediction
from bestiary.picture import open_picture
from bestiary.preprocess import Preprocessing
from bestiary.text import truncate_name

HEATMAP_STRENGTH, HEATMAP_PIXELS = 0.55, 640
HEATMAP_NAME_BYTES = 200  # of the picture's name in the heatmap's name: a file name has 255 bytes at most


def save_heatmaps(
    predictions: Iterable[Prediction], folder: Path, preprocess: Preprocessing, *, resume: bool = False
) -> Iterator[Prediction]:
    """Yield the predictions, after saving for each picture a copy with the evidence drawn on it, under the same name.

    resume: names used by an earlier run are skipped; without it, an existing file raises MachineError.
    """
    suffix = ".heatmap.png"
    existing = folder.glob(f"*{suffix}") if resume else ()
    taken = {file.name.removesuffix(suffix).casefold() for file in existing}  # file systems may ignore case
    for prediction in predictions:
        if prediction.heatmap is not None and prediction.path is not None:
            picture = Path(prediction.path)
            stem = truncate_name(picture.stem, HEATMAP_NAME_BYTES)
            name = next_free_name(stem, lambda free: free.casefold() in taken)
            taken.add(name.casefold())
            image = overlay_heatmap(model_input_view(picture, preprocess), prediction.heatmap)
            _save_new_image(image, folder / f"{name}{suffix}")
        yield prediction


def overlay_heatmap(pixels: Pixels, heatmap: Float32s) -> Image.Image:
    """Return the picture with the evidence for its label in warm colours; pixels: uint8 (height, width, 3)."""
    evidence = np.clip(heatmap, 0, None)
    evidence = evidence / max(float(evidence.max()), 1e-12)
    size = (pixels.shape[1], pixels.shape[0])
    smooth = np.asarray(Image.fromarray(evidence.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    weight = np.clip(smooth, 0, 1)[..., None]
    warm = np.concatenate([np.full_like(weight, 255), 255 * (1 - weight) * 0.9, np.zeros_like(weight)], axis=-1)
    grey = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1) * 0.5 + pixels * 0.5
    mixed = grey * (1 - HEATMAP_STRENGTH * weight) + warm * HEATMAP_STRENGTH * weight
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def model_input_view(path: Path, preprocess: Preprocessing) -> Pixels:
    """Return the part of a picture that the model sees; with `fit` "squash" in its own shape and with more detail."""
    if preprocess.fit != "squash":
        return preprocess.load_pixels(path)
    image = open_picture(path, at_least=HEATMAP_PIXELS, limits=preprocess.limits, rules=preprocess.rules).image
    image.thumbnail((HEATMAP_PIXELS, HEATMAP_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _save_new_image(image: Image.Image, path: Path) -> None:
    if path.exists():
        raise MachineError(f"{path} exists already, and is not overwritten. Choose another folder for the heatmaps.")
    with atomic_path(path) as temporary:
        image.save(temporary)

"""Class-activation heatmaps drawn over pictures and saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from bestiary.array_types import Bools, Float32s, Pixels
from bestiary.box import Crop, PictureFile
from bestiary.crops import decode_file
from bestiary.errors import MachineError
from bestiary.files import atomic_path, next_free_name
from bestiary.inference.link_folders import UNKNOWN, valid_file_name
from bestiary.inference.predictor import Prediction
from bestiary.preprocess import Preprocessing
from bestiary.text import truncate_name

HEATMAP_STRENGTH, HEATMAP_PIXELS = 0.55, 640
HEATMAP_NAME_BYTES, LABEL_NAME_BYTES = 150, 60  # in a heatmap's name: a file name has 255 bytes at most
OUTLINE_FRACTION = 240  # the line is at least one pixel wide, and this fraction of the shorter side
SUFFIX = ".heatmap.png"


def save_heatmaps(
    predictions: Iterable[Prediction],
    folder: Path,
    preprocess: Preprocessing,
    *,
    sources: Sequence[Path] = (),
    resume: bool = False,
) -> Iterator[Prediction]:
    """Yield the predictions, after saving for each picture a copy with the evidence drawn on it.

    Its name is that of the picture, with the answer: `cats/1.jpg` becomes `cats/1-lynx-87.heatmap.png` for a lynx with
    87 %. sources: the folders that the pictures were found in; the folders below them are kept. Equal names get a
    number. resume: names used by an earlier run are skipped; without it, an existing file raises MachineError.
    """
    existing = folder.rglob(f"*{SUFFIX}") if resume else ()
    taken = {str(file.relative_to(folder)).casefold() for file in existing}  # file systems may ignore case
    for prediction in predictions:
        if prediction.heatmap is not None and prediction.path is not None:
            picture = Path(prediction.path)
            file = picture if prediction.box is None else Crop(picture, prediction.box)
            parent, stem = _folder_below(picture, sources), _name_with_answer(picture, prediction)
            name = next_free_name(stem, lambda free: str(parent / f"{free}{SUFFIX}").casefold() in taken)  # noqa: B023 - called at once
            taken.add(str(parent / f"{name}{SUFFIX}").casefold())
            image = overlay_heatmap(model_input_view(file, preprocess), prediction.heatmap)
            _save_new_image(image, folder / parent / f"{name}{SUFFIX}")
        yield prediction


def _folder_below(picture: Path, sources: Sequence[Path]) -> Path:
    """Return the folder of a picture below the source that it is in, else below the current folder, else none."""
    for source in sources:
        if picture != source and picture.is_relative_to(source):
            return picture.parent.relative_to(source)
    return Path() if picture.is_absolute() or ".." in picture.parts else picture.parent


def _name_with_answer(picture: Path, prediction: Prediction) -> str:
    """Return the name of a heatmap without its suffix: that of the picture, the label, and its per cent."""
    label = truncate_name(valid_file_name(str(prediction.label)), LABEL_NAME_BYTES)
    stem = truncate_name(picture.stem, HEATMAP_NAME_BYTES)
    unknown = "-unknown" if prediction.unknown and label != UNKNOWN else ""
    percent = min(round(100 * prediction.probability), 99)  # nothing is certain
    return f"{stem}-{label}-{percent}{unknown}"


def overlay_heatmap(pixels: Pixels, heatmap: Float32s) -> Image.Image:
    """Return the picture in grey, with the evidence for its label in warm colours; pixels: uint8 (height, width, 3).

    Where the evidence is more than half of its maximum, a line in black and white surrounds it, which can be seen on
    any colour.
    """
    evidence = np.clip(heatmap, 0, None)
    evidence = evidence / max(float(evidence.max()), 1e-12)
    size = (pixels.shape[1], pixels.shape[0])
    smooth = np.asarray(Image.fromarray(evidence.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    weight = np.clip(smooth, 0, 1)[..., None]
    warm = np.concatenate([np.full_like(weight, 255), 255 * (1 - weight) * 0.9, np.zeros_like(weight)], axis=-1)
    grey = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    mixed = grey * (1 - HEATMAP_STRENGTH * weight) + warm * HEATMAP_STRENGTH * weight
    drawn = np.clip(mixed, 0, 255).astype(np.uint8)
    _draw_outline(drawn, smooth >= 0.5)
    return Image.fromarray(drawn)


def _draw_outline(pixels: Pixels, region: Bools) -> None:
    """Draw a line around a region, bool (height, width): black inside, white outside."""
    mask, width = Image.fromarray(region.astype(np.uint8)), 2 * max(1, min(region.shape) // OUTLINE_FRACTION) + 1
    inside, outside = mask.filter(ImageFilter.MinFilter(width)), mask.filter(ImageFilter.MaxFilter(width))
    pixels[region & (np.asarray(inside) == 0)] = 0
    pixels[~region & (np.asarray(outside) == 1)] = 255


def model_input_view(file: PictureFile, preprocess: Preprocessing) -> Pixels:
    """Return the part of a picture that the model sees; with `fit` "squash" in its own shape and with more detail."""
    if preprocess.fit != "squash":
        return preprocess.load_pixels(file)
    image = decode_file(file, HEATMAP_PIXELS, preprocess.limits, preprocess.rules)
    image.thumbnail((HEATMAP_PIXELS, HEATMAP_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _save_new_image(image: Image.Image, path: Path) -> None:
    if path.exists():
        raise MachineError(f"{path} exists already, and is not overwritten. Choose another folder for the heatmaps.")
    with atomic_path(path) as temporary:
        image.save(temporary)

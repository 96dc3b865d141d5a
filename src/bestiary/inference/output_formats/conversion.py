"""What the writers of other programs' formats share: the predictions that were collected, and what is known of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bestiary.box import convert_box, pop_box
from bestiary.crops import read_upright_size
from bestiary.inference.output_formats.input_table import InputTable
from bestiary.inference.predictor import Prediction
from bestiary.text import printable
from bestiary.version import __version__

PROBABILITY_DIGITS = 6
WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Conversion:
    """What a file of predictions is written from, beside the predictions.

    model: digest of the graph. folder: that the pictures were taken from, which file names are relative to, None if
    there are several inputs. unknown_label: of unknown pictures, None if none was chosen. table: of the pictures,
    package: folder of a Camtrap DP that they belong to. boxes: whether the predictions are of boxes; detector: what is
    said of the detector that drew them, by the names of MegaDetector's format.
    """

    classes: tuple[str, ...]
    model: str
    folder: Path | None = None
    unknown_label: str | None = None
    table: InputTable | None = None
    package: Path | None = None
    boxes: bool = False
    detector: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classifier(self) -> str:
        """The name of the model, by its digest."""
        return f"bestiary {__version__}, model {self.model}"


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Yield the predictions in a file of JSON lines, in their order."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            values = json.loads(line)
            box = pop_box(values)
            yield Prediction(**{"labels": None, **values, "box": box})


def relative_name(path: str | None, folder: Path | None) -> str:
    """Return the name of a picture with forward slashes, relative to the folder if it lies in it."""
    picture = Path(str(path))
    if folder is not None and picture.is_relative_to(folder):
        picture = picture.relative_to(folder)
    return printable(picture.as_posix())


def fraction_box(prediction: Prediction) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the box in fractions of the picture, within it; all of it without a box.

    A box in pixels takes the size of the picture from its file. Raises PictureError if that cannot be read.
    """
    box = prediction.box
    if box is None:
        return WHOLE_PICTURE
    is_plain = box.unit == "fraction" and box.picture_size is None
    width, height, orientation = (1, 1, 1) if is_plain else read_upright_size(Path(str(prediction.path)))
    box_left, box_top, across, down = convert_box(box, width, height, orientation)
    left, end = (min(max(side / width, 0.0), 1.0) for side in (box_left, box_left + across))
    top, bottom = (min(max(side / height, 0.0), 1.0) for side in (box_top, box_top + down))
    return decimal(left), decimal(top), decimal(end - left), decimal(bottom - top)


def decimal(value: float) -> float:
    """Return a probability as a rounded float, which JSON writes as a decimal number, 1.0 rather than 1."""
    return round(float(value), PROBABILITY_DIGITS)


def ranked_classes(prediction: Prediction, names: Sequence[str]) -> list[tuple[str, float]]:
    """Return these classes with their probabilities, the most probable first."""
    return sorted(((name, prediction.probabilities[name]) for name in names), key=lambda pair: -pair[1])


def utc_now() -> datetime:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def dump_json(value: Any) -> str:
    """Return JSON on one line; text that is not UTF-8 is escaped before."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)

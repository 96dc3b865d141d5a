"""Shortcut detection (shortcut learning, Geirhos et al. 2020; spurious correlations).

Finds properties of files that predict the label without the content: size, format, compression, border and colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Float32s, Floats, Ints
from bestiary.data.measure import COLOURS
from bestiary.data.split import stratified_group_folds
from bestiary.progress import Advance, ignore_steps

FOLDS = 5
MAX_PICTURES = 20_000  # larger datasets are sampled: bounds time and memory
# A property is a shortcut if it takes a guess at least MIN_GAIN_ALL_CLASSES of the way from chance to certainty, or if
# pictures of one class are predicted as that class MIN_GAIN_SINGLE_CLASS more often than others are. Three standard
# errors are subtracted first, so that a few pictures prove nothing. Content alone goes some of the way: on 5,511
# ordinary photographs of ten animals all properties together reach 0.20, and 0.42 for butterflies, by their colours:
# docs/log.md.
MIN_GAIN_ALL_CLASSES, MIN_GAIN_SINGLE_CLASS = 0.3, 0.4
STANDARD_ERRORS = 3


@dataclass(frozen=True)
class FileProperty:
    """A property of a picture that does not depend on what it shows.

    Properties of one family have one cause, and one finding: wide files are also heavy. `columns` are the measurements
    that it is computed from; it is skipped if they are missing.
    """

    name: str
    family: str
    columns: tuple[str, ...]
    values: tuple[pl.Expr, ...]


@dataclass(frozen=True)
class ShortcutScore:
    """How well a property predicts the label: recall and false positive rate per class, in 0..1, and class sizes."""

    recall: Floats
    false_positive_rate: Floats
    counts: Ints

    @property
    def gain(self) -> float:
        """Return the mean recall, rescaled to 0 for chance and 1 for certainty."""
        chance = 1 / len(self.counts)
        return float((self.recall.mean() - chance) / (1 - chance))

    @property
    def gain_lower_bound(self) -> float:
        """Return the gain minus three standard errors."""
        error = 0.5 * np.sqrt((1 / self.counts).sum()) / len(self.counts)
        return self.gain - STANDARD_ERRORS * float(error)

    @property
    def class_gains(self) -> Floats:
        """Return recall minus false positive rate per class."""
        gains: Floats = self.recall - self.false_positive_rate
        return gains

    @property
    def affected_classes(self) -> list[int]:
        """Return the classes that are predicted beyond chance, the most obvious first."""
        lower_bounds = self.class_gains - STANDARD_ERRORS * 0.5 / np.sqrt(self.counts)
        order = np.argsort(-self.class_gains, kind="stable")
        return [int(index) for index in order if lower_bounds[index] >= MIN_GAIN_SINGLE_CLASS]


def _of(name: str, family: str, *columns: str) -> FileProperty:
    return FileProperty(name, family, columns, tuple(pl.col(column) for column in columns))


_pixels = pl.col("width").cast(pl.Float64) * pl.col("height")
_suffix = pl.col("path").str.to_lowercase().str.extract(r"\.([^./\\]+)$").fill_null("")
PROPERTIES = (
    _of("width", "size", "width"),
    _of("height", "size", "height"),
    FileProperty("shape", "size", ("width", "height"), (pl.col("width") / pl.col("height"),)),
    _of("number of bytes", "size", "bytes"),
    FileProperty("bytes per pixel", "writing", ("bytes", "width", "height"), (pl.col("bytes") / _pixels,)),
    FileProperty("format", "writing", ("format",), (pl.col("format").rank("dense"),)),
    FileProperty("extension", "writing", ("path",), (_suffix.rank("dense"),)),
    _of("JPEG quality", "writing", "quantisation"),
    _of("JPEG colour subsampling", "writing", "subsampling"),
    _of("border colour", "border", *COLOURS[3:]),
    _of("mean colour", "colour", *COLOURS[:3]),
    _of("brightness", "colour", "luma"),
    _of("saturation", "colour", "saturation"),
)
WARNING = "A model may learn it instead of the content."
COLOUR_WARNING = "If colour does not distinguish the classes, a model may learn it instead of the content."


def find_shortcuts(pictures: pl.DataFrame, *, seed: int = 0, advance: Advance = ignore_steps) -> pl.DataFrame:
    """Return findings (`table.FINDINGS`, check "shortcut", no row) for file properties that predict the label.

    pictures: `label, group, error` and columns of `ImageMeasurements`; properties of missing columns are skipped. Each
    property is tested alone, and if none is a shortcut, all of them together, by cross-validation with grouped
    duplicates; the strongest of each family is reported. score: 1 is chance, 0 is certainty.
    """
    usable = pictures.filter(pl.col("error").is_null())
    if usable.height > MAX_PICTURES:
        usable = usable.sample(MAX_PICTURES, seed=seed)
    classes = sorted(usable["label"].unique())
    if len(classes) < 2:
        return pl.DataFrame(schema=table.FINDINGS)
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.tree import DecisionTreeClassifier

    settings = {"min_samples_leaf": 5, "class_weight": "balanced", "random_state": 0}
    tree, forest = DecisionTreeClassifier(max_depth=8, **settings), ExtraTreesClassifier(40, **settings)
    labels = table.label_indices(usable["label"], classes)
    folds = stratified_group_folds(labels, usable["group"].to_numpy(), folds=FOLDS, seed=seed)
    properties = [p for p in PROPERTIES if set(p.columns) <= set(usable.columns) - _not_of_crops(usable)]
    values = [_values(usable, file_property) for file_property in properties]
    strongest: dict[str, tuple[float, str]] = {}
    for file_property, columns in zip(properties, values, strict=True):
        result = _score_columns(columns, labels, folds, tree)
        advance(1)
        warning = COLOUR_WARNING if file_property.family == "colour" else WARNING
        message = _message(f"The files' {file_property.name} alone predicts", result, classes, warning)
        if message and _score(result) < strongest.get(file_property.family, (2.0, ""))[0]:
            strongest[file_property.family] = _score(result), message
    if not strongest and properties:
        result = _score_columns(np.hstack(values), labels, folds, forest)
        advance(1)
        subject = "Size, format and colours of the files together predict"
        if message := _message(subject, result, classes, WARNING):
            strongest["all"] = _score(result), message
    empty = dict.fromkeys(table.FINDINGS) | {"check": "shortcut", "is_issue": True}
    rows = [empty | {"score": max(0.0, score), "message": message} for score, message in sorted(strongest.values())]
    return pl.DataFrame(rows, schema=table.FINDINGS)


def _not_of_crops(usable: pl.DataFrame) -> set[str]:
    """Return the columns that say nothing about the source of a crop, if there are crops.

    The size of a box is that of its animal, and the bytes are those of the whole file.
    """
    has_crops = "crop_left" in usable.columns and usable["crop_left"].count() > 0
    return {"width", "height", "bytes"} if has_crops else set()


def _score(result: ShortcutScore) -> float:
    return 1 - max(result.gain, float(result.class_gains.max()))


def _values(usable: pl.DataFrame, file_property: FileProperty) -> Float32s:
    named = [value.cast(pl.Float32).alias(str(index)) for index, value in enumerate(file_property.values)]
    return usable.select(named).to_numpy()


def _score_columns(columns: Float32s, labels: Ints, folds: Ints, model: Any) -> ShortcutScore:
    """Return the cross-validated score of a model of these columns, float32 (n, columns)."""
    predicted = np.full(len(labels), -1)
    for number in range(FOLDS):
        test = folds == number
        if test.any() and not test.all():
            predicted[test] = model.fit(columns[~test], labels[~test]).predict(columns[test])
    counts = np.bincount(labels)
    true_positives = np.bincount(labels[predicted == labels], minlength=len(counts))
    positives = np.bincount(predicted[predicted >= 0], minlength=len(counts))
    negatives = np.maximum(len(labels) - counts, 1)
    return ShortcutScore(true_positives / counts, (positives - true_positives) / negatives, counts)


def _message(subject: str, result: ShortcutScore, classes: list[str], warning: str) -> str | None:
    """Return the message of a finding, or None if the property is no shortcut."""
    affected = result.affected_classes
    if result.gain_lower_bound >= MIN_GAIN_ALL_CLASSES:
        recall, chance = 100 * result.recall.mean(), 100 / len(classes)
        most = f"; strongest for {' and '.join(classes[index] for index in affected[:3])}" if affected else ""
        return f"{subject} the label with {recall:.0f} % mean recall (chance: {chance:.0f} %){most}. {warning}"
    if not affected:
        return None
    first = affected[0]
    recall, rate = 100 * result.recall[first], 100 * result.false_positive_rate[first]
    return f"{subject} {classes[first]}: recall {recall:.0f} %, false positive rate {rate:.0f} %. {warning}"

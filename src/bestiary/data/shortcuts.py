"""What gives a class away without a look at what is in the picture: the size of the files, their format, a border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Float32s, Floats, Ints
from bestiary.data.split import stratified_group_folds

FOLDS = 5
MAX_PICTURES = 20_000  # more are drawn from: time and memory stay the same
# A property gives the classes away when it takes a guess at least EVERY_CLASS of the way from chance to certainty, or
# one class when its pictures are named that class ONE_CLASS more often than others are. Three standard errors are taken
# off first, so that a few pictures prove nothing. Content alone goes some of the way: on 5,511 ordinary photographs of
# ten animals all properties together reach 0.20, and 0.42 for butterflies, by their colours: docs/log.md.
MIN_GAIN_ALL_CLASSES, MIN_GAIN_SINGLE_CLASS = 0.3, 0.4
STANDARD_ERRORS = 3


@dataclass(frozen=True)
class FileProperty:
    """Something that can be told of a picture without knowing what it shows.

    Properties of one family have one cause, and one finding: wide files are also heavy. `columns` are what it is
    computed from; it is left out where they were not measured.
    """

    name: str
    family: str
    columns: tuple[str, ...]
    values: tuple[pl.Expr, ...]


@dataclass(frozen=True)
class ShortcutScore:
    """How well the class can be told from a property: `recall` and `mistaken` for each class, in 0..1.

    recall: the share of a class's pictures that are named so; mistaken: the share of all others that are.
    """

    recall: Floats
    false_positive_rate: Floats
    counts: Ints

    @property
    def gain(self) -> float:
        """Return how far the mean recall is from chance to certainty."""
        chance = 1 / len(self.counts)
        return float((self.recall.mean() - chance) / (1 - chance))

    @property
    def gain_lower_bound(self) -> float:
        """Return the gain less its standard errors."""
        error = 0.5 * np.sqrt((1 / self.counts).sum()) / len(self.counts)
        return self.gain - STANDARD_ERRORS * float(error)

    @property
    def class_gains(self) -> Floats:
        """Return for each class how much more often it is named for its own pictures than for others."""
        gains: Floats = self.recall - self.false_positive_rate
        return gains

    @property
    def affected_classes(self) -> list[int]:
        """Return the classes that are surely given away, the most obvious first."""
        sure = self.class_gains - STANDARD_ERRORS * 0.5 / np.sqrt(self.counts)
        return [int(at) for at in np.argsort(-self.class_gains, kind="stable") if sure[at] >= MIN_GAIN_SINGLE_CLASS]


def _of(*columns: str) -> tuple[pl.Expr, ...]:
    return tuple(pl.col(name) for name in columns)


def _code(text: pl.Expr) -> pl.Expr:
    return text.rank("dense")


_pixels = pl.col("width").cast(pl.Float64) * pl.col("height")
_suffix = pl.col("path").str.to_lowercase().str.extract(r"\.([^./\\]+)$").fill_null("")
_colour, _border = ("red", "green", "blue"), ("border_red", "border_green", "border_blue")
PROPERTIES = (
    FileProperty("width", "size", ("width",), _of("width")),
    FileProperty("height", "size", ("height",), _of("height")),
    FileProperty("shape", "size", ("width", "height"), (pl.col("width") / pl.col("height"),)),
    FileProperty("number of bytes", "size", ("bytes",), _of("bytes")),
    FileProperty("bytes per pixel", "writing", ("bytes", "width", "height"), (pl.col("bytes") / _pixels,)),
    FileProperty("format", "writing", ("format",), (_code(pl.col("format")),)),
    FileProperty("extension", "writing", ("path",), (_code(_suffix),)),
    FileProperty("JPEG quality", "writing", ("quantisation",), _of("quantisation")),
    FileProperty("JPEG colour subsampling", "writing", ("subsampling",), _of("subsampling")),
    FileProperty("border colour", "border", _border, _of(*_border)),
    FileProperty("mean colour", "colour", _colour, _of(*_colour)),
    FileProperty("brightness", "colour", ("luma",), _of("luma")),
    FileProperty("saturation", "colour", ("saturation",), _of("saturation")),
)
WARNINGS = {
    "colour": "If colour is not what tells the classes apart, a model may learn it instead of what is to be seen.",
}
WARNING = "A model may learn that instead of what is to be seen."


def find_shortcuts(pictures: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """Return findings (`table.FINDINGS`, check "shortcut", no row) where a property of the files tells the class.

    measured: `label, group, error` and columns of `Inspection`; what is missing is not considered. Each property is
    tried alone, and all of them together, in cross-validation with duplicates on one side; of each family the
    strongest is reported. score: 1 is chance, 0 is certainty.
    """
    usable = pictures.filter(pl.col("error").is_null())
    if usable.height > MAX_PICTURES:
        usable = usable.sample(MAX_PICTURES, seed=seed)
    classes = sorted(usable["label"].unique())
    if len(classes) < 2:
        return pl.DataFrame(schema=table.FINDINGS)
    place = {name: position for position, name in enumerate(classes)}
    labels = np.array([place[label] for label in usable["label"]], np.int64)
    folds = stratified_group_folds(labels, usable["group"].to_numpy(), folds=FOLDS, seed=seed)
    known = [one for one in PROPERTIES if set(one.columns) <= set(usable.columns)]
    values = [_values(usable, one) for one in known]
    rows = _strongest(known, values, labels, folds, classes)
    if not rows and known:
        found = _score_columns(np.hstack(values), labels, folds, _forest)
        if message := _message("Size, format and colours of the files together", found, classes, WARNING):
            rows = [(1 - max(found.gain, found.class_gains.max()), message)]
    return _findings(rows)


def _values(usable: pl.DataFrame, file_property: FileProperty) -> Float32s:
    named = [value.cast(pl.Float32).alias(str(at)) for at, value in enumerate(file_property.values)]
    return usable.select(named).to_numpy()


def _strongest(
    properties: list[FileProperty], values: list[Float32s], labels: Ints, folds: Ints, classes: list[str]
) -> list[tuple[float, str]]:
    """Return score and message of the strongest property of each family that gives something away."""
    best: dict[str, tuple[float, str]] = {}
    for one, columns in zip(properties, values, strict=True):
        found = _score_columns(columns, labels, folds, _tree)
        message = _message(f"The files' {one.name} alone", found, classes, WARNINGS.get(one.family, WARNING))
        score = 1 - max(found.gain, float(found.class_gains.max()))
        if message and score < best.get(one.family, (2.0, ""))[0]:
            best[one.family] = score, message
    return sorted(best.values())


def _score_columns(columns: Float32s, labels: Ints, folds: Ints, make: Callable[[], Any]) -> ShortcutScore:
    """Return how well a model of these columns, float32 (n, columns), tells pictures it was not fitted on."""
    guessed = np.full(len(labels), -1)
    for number in range(FOLDS):
        held = folds == number
        if held.any() and not held.all():
            guessed[held] = make().fit(columns[~held], labels[~held]).predict(columns[held])
    counts = np.bincount(labels)
    hits = np.bincount(labels[guessed == labels], minlength=len(counts))
    named = np.bincount(guessed[guessed >= 0], minlength=len(counts))
    return ShortcutScore(hits / counts, (named - hits) / np.maximum(len(labels) - counts, 1), counts)


def _tree() -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=8, min_samples_leaf=5, class_weight="balanced", random_state=0)


def _forest() -> Any:
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(40, min_samples_leaf=5, class_weight="balanced", random_state=0)


def _message(subject: str, shortcut: ShortcutScore, classes: list[str], warning: str) -> str | None:
    """Return the sentence for a person, or None where nothing is given away."""
    verb = "tells" if subject.endswith("alone") else "tell"
    given_away = shortcut.affected_classes
    if shortcut.gain_lower_bound >= MIN_GAIN_ALL_CLASSES:
        rate, chance = 100 * shortcut.recall.mean(), 100 / len(classes)
        above = f", above all {' and '.join(classes[at] for at in given_away[:3])}" if given_away else ""
        return f"{subject} {verb} the class in {rate:.0f} of 100 cases (chance: {chance:.0f}){above}. {warning}"
    if given_away:
        at = given_away[0]
        return (
            f"{subject} {verb} {classes[at]} from the rest: {100 * shortcut.recall[at]:.0f} of 100 are found, and"
            f" {100 * shortcut.false_positive_rate[at]:.0f} of 100 others taken for it. {warning}"
        )
    return None


def _findings(rows: list[tuple[float, str]]) -> pl.DataFrame:
    empty = dict.fromkeys(table.FINDINGS)
    found = [
        empty | {"check": "shortcut", "score": max(0.0, score), "is_issue": True, "message": message}
        for score, message in rows
    ]
    return pl.DataFrame(found, schema=table.FINDINGS)

"""Slices of the tested pictures in which the model is worse: small, dark, blurry, long, grey, of one format, folder.

A slice is told apart only if its mistakes are more than chance and its own classes explain: in each class the mistakes
are dealt at random to the slice and the rest, which gives the exact chance of as many mistakes in the slice (the
stratified exact test of Cochran, Mantel and Haenszel, one-sided), corrected for the number of slices (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import hypergeom

from bestiary.array_types import Bools, Floats, Ints
from bestiary.evaluation.intervals import metric_value, wilson_interval
from bestiary.stats import holm
from bestiary.text import format_percent, format_points

SMALLEST = 20  # different pictures inside a slice, and as many outside: of fewer nothing can be said
EXTREME_FRACTION = 0.1  # of the pictures make an extreme: the darkest tenth
SIGNIFICANCE_LEVEL = 0.05  # a corrected p below this is called worse
MAX_VALUES = 12  # of a format or a folder; a property with more values describes single pictures, not sources


_long, _short = pl.max_horizontal("width", "height"), pl.min_horizontal("width", "height")


@dataclass(frozen=True)
class ExtremeSlice:
    """The pictures with the least (or the most) of something measured; `words` name its edge, `{}` a number."""

    name: str
    values: pl.Expr
    description: str
    needs: tuple[str, ...]
    is_upper: bool = False
    digits: int = 2


EXTREMES = (
    ExtremeSlice("small", _short.cast(pl.Float64), "shorter side of {} px or less", ("width", "height"), digits=0),
    ExtremeSlice(
        "large", _short.cast(pl.Float64), "shorter side of {} px or more", ("width", "height"), True, digits=0
    ),
    ExtremeSlice("long and narrow", _long / _short, "at least {} times as long as wide", ("width", "height"), True),
    ExtremeSlice("dark", pl.col("luma"), "mean brightness of {} or less", ("luma",)),
    ExtremeSlice("bright", pl.col("luma"), "mean brightness of {} or more", ("luma",), True),
    ExtremeSlice("of little contrast", pl.col("contrast"), "contrast of {} or less", ("contrast",)),
    ExtremeSlice("blurry", pl.col("sharpness"), "sharpness of {} or less", ("sharpness",), digits=3),
    ExtremeSlice("grey or pale", pl.col("saturation"), "colour saturation of {} or less", ("saturation",)),
    ExtremeSlice(
        "strongly compressed",
        pl.col("bytes") / (_long * _short),
        "{} bytes a pixel or less",
        ("bytes", "width", "height"),
    ),
)


@dataclass(frozen=True)
class _Slice:
    name: str
    description: str
    inside: Bools


def find_weak_slices(predictions: pl.DataFrame, pictures: pl.DataFrame) -> dict[str, Any]:
    """Return what metrics.json says of slices: `{"tested", "evaluate_slice", "smallest", "worse", "summarise_slices", "rows"}`.

    predictions: `row_id, label, predicted` of the tested pictures; pictures: `table.PICTURES`, and `table.MEASURES` as
    far as they are there. A row is about the classes that occur inside the slice and outside of it: `name, description, n`;
    `accuracy` inside; `rest`, the accuracy outside of pictures of the same classes in the same shares, and their
    `difference`, with 95 % intervals; `wrong`, and `expected_wrong` if each class were as often wrong inside as
    outside; `p`, `p_holm`, `worse`; `noticed_at`, the highest accuracy at which it would have been called worse, None
    if no number of mistakes would have done; `worth`, the estimated rise of macro-F1 if each class were answered in the
    slice as outside of it; `counted_in`, the worse slices before it: what they share with it is worth something there.
    `tested` slices were looked at, `evaluate_slice` of them could have been called worse. Groups of duplicates count once.
    """
    answered = predictions.select("row_id", "label", "predicted").drop_nulls()
    known = answered.join(pictures.drop("label"), on="row_id", how="left", maintain_order="left")
    units = _SliceData.of(known)
    found = [one for one in _candidates(known) if units.is_testable(one.inside)]
    rows = [units.evaluate_slice(one, len(found)) for one in found]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p, "worse": p < SIGNIFICANCE_LEVEL and row["difference"]["value"] < 0}
    order = sorted(range(len(rows)), key=lambda at: (rows[at]["p_holm"], rows[at]["p"]))
    rows = units.with_worth([rows[at] for at in order], [found[at] for at in order])
    return {
        "tested": len(rows),
        "judged": sum(map(_has_power, rows)),
        "smallest": SMALLEST,
        "worse": [row["name"] for row in rows if row["worse"]],
        "sentence": summarise_slices(rows),
        "rows": rows,
    }


def summarise_slices(rows: Sequence[dict[str, Any]]) -> str:
    """Return what was found, in a sentence or two."""
    if not rows:
        return f"There are too few test pictures to look for slices: each needs {SMALLEST}, and as many outside of it."
    able = sum(map(_has_power, rows))
    if not able:
        return (
            f"There are too few mistakes to judge any of the {len(rows)} slices that were looked at: even if all that"
            " could lay in one of them, that might be chance."
        )
    judged = f"{able} slice{'s' * (able != 1)} that could be judged"
    if able < len(rows):
        judged += f" (for {len(rows) - able} more there are too few mistakes)"
    if worse := [row for row in rows if row["worse"]]:
        named = "; ".join(
            f"{row['name']} pictures ({row['words']}): right {_rate(row['accuracy'])}, other pictures of the same"
            f" classes {_rate(row['rest'])}"
            for row in worse
        )
        return f"It is worse, beyond chance, in {len(worse)} of the {judged}: {named}."
    least = format_percent(float(np.median([row["noticed_at"] for row in rows if row["noticed_at"] is not None])))
    return (
        f"In none of the {judged} is it worse beyond chance. Half of them would have stood out if right about {least}"
        " or less."
    )


def _has_power(row: dict[str, Any]) -> bool:
    """Return whether so many mistakes as there are could have shown that a slice is worse."""
    return row["worse"] or row["noticed_at"] is not None


def _rate(entry: dict[str, float]) -> str:
    low, high = (format_points(entry[end], 0) for end in ("low", "high"))
    return f"{format_percent(entry['value'])} ({low} to {high})"


def _candidates(answered: pl.DataFrame) -> Iterator[_Slice]:
    for extreme in EXTREMES:
        if set(extreme.needs) <= set(answered.columns):
            yield from _extreme(extreme, answered)
    yield from _values(answered["format"], "stored as {}")
    yield from _values(answered["path"].map_elements(_source, return_dtype=pl.String), "from the folder {}")


def _extreme(extreme: ExtremeSlice, answered: pl.DataFrame) -> Iterator[_Slice]:
    """Yield the extreme tenth, or the fewest pictures that can be judged; nothing where most have the same value."""
    values = answered.select(extreme.values.cast(pl.Float64)).to_series().fill_null(float("nan")).to_numpy()
    finite = np.sort(values[np.isfinite(values)])
    wanted = max(round(EXTREME_FRACTION * len(finite)), SMALLEST)
    if len(finite) < 2 * SMALLEST:
        return
    edge = float(finite[-wanted] if extreme.is_upper else finite[wanted - 1])
    inside = (values >= edge if extreme.is_upper else values <= edge) & np.isfinite(values)
    if inside.sum() <= len(finite) / 2:
        yield _Slice(extreme.name, extreme.description.format(f"{edge:,.{extreme.digits}f}"), inside)


def _values(values: pl.Series, description: str) -> Iterator[_Slice]:
    """Yield a slice for each value of a property but the commonest; nothing for a property of too many values."""
    counts = values.drop_nulls().value_counts(sort=True)
    if 2 <= counts.height <= MAX_VALUES:
        for value in counts.to_series(0)[1:]:
            yield _Slice(value, description.format(value), (values == value).fill_null(False).to_numpy())


def _source(path: str) -> str:
    """Return the name of the folder above the one that names the class: that of a source, where several were merged."""
    return (["", "", *path.replace("\\", "/").split("/")])[-3]


@dataclass(frozen=True)
class _SliceData:
    """The tested pictures as arrays of shape (n,): what they are, what was said, and who is a duplicate of whom."""

    y_true: Ints
    y_pred: Ints
    groups: Ints
    k: int

    @classmethod
    def of(cls, answered: pl.DataFrame) -> _SliceData:
        names = sorted({*answered["label"], *answered["predicted"].drop_nulls()})
        place = {name: at for at, name in enumerate(names)}
        truth, said = (np.array([place[name] for name in answered[column]]) for column in ("label", "predicted"))
        groups = answered["group"].fill_null(-1).to_numpy()
        return cls(truth, said, np.unique(groups, return_inverse=True)[1].astype(np.int64), len(names))

    @property
    def wrong(self) -> Bools:
        return np.asarray(self.y_true != self.y_pred)

    def first_of_groups(self, inside: Bools) -> Ints:
        """Return the positions of the first picture of each group inside, and of each outside."""
        first = np.unique(2 * self.groups + inside, return_index=True)[1]
        return np.asarray(first, np.int64)

    def is_testable(self, inside: Bools) -> bool:
        """Return whether there are enough pictures on both sides, of classes that occur on both."""
        rows = self.first_of_groups(inside)
        within, truth = inside[rows], self.y_true[rows]
        return bool(min((~within).sum(), (within & self._shared(within, truth)).sum()) >= SMALLEST)

    def evaluate_slice(self, candidate: _Slice, tested: int) -> dict[str, Any]:
        """Return the row of a slice, but for what depends on the others."""
        rows = self.first_of_groups(candidate.inside)
        rows = rows[self._shared(candidate.inside[rows], self.y_true[rows])]
        within, wrong, truth = candidate.inside[rows], self.wrong[rows], self.y_true[rows]
        chances = _chances(within, wrong, truth, self.k)
        seen, count = int((wrong & within).sum()), int(within.sum())
        tail = chances[::-1].cumsum()[::-1]  # tail[w]: the chance of w mistakes or more
        enough = np.flatnonzero(tail <= SIGNIFICANCE_LEVEL / tested)
        inner, outer = _accuracy_inside(wrong[within]), _accuracy_outside(within, wrong, truth, self.k)
        return {
            "name": candidate.name,
            "words": candidate.description,
            "n": count,
            "accuracy": inner,
            "rest": outer,
            "difference": _difference(inner, outer),
            "wrong": seen,
            "expected_wrong": round(float((np.arange(len(chances)) * chances).sum()), 2),
            "p": float(min(1.0, tail[seen])),
            "noticed_at": round(1 - int(enough[0]) / count, 4) if len(enough) else None,
        }

    def with_worth(self, rows: Sequence[dict[str, Any]], candidates: Sequence[_Slice]) -> list[dict[str, Any]]:
        """Return the rows with what they are worth; what several worse slices share counts in the first alone."""
        worse, done = list[_Slice](), list[dict[str, Any]]()
        for row, one in zip(rows, candidates, strict=True):
            counted = [other for other in worse if row["worse"] and (other.inside & one.inside).any()]
            fresh = one.inside & ~np.any([other.inside for other in counted], axis=0) if counted else one.inside
            done.append(
                row | {"worth": self._worth(one.inside, fresh), "counted_in": [other.name for other in counted]}
            )
            worse += [one] if row["worse"] else []
        return done

    def _shared(self, within: Bools, y_true: Ints) -> Bools:
        """Return which pictures are of classes that occur inside and outside."""
        return np.isin(y_true, np.intersect1d(y_true[within], y_true[~within]))

    def _worth(self, inside: Bools, fresh: Bools) -> float:
        """Return the rise of macro-F1 if the `fresh` pictures of a slice were answered as those outside of it.

        Class by class: the row of the confusion matrix becomes that of the pictures outside, scaled to the same number;
        that of a class which does not occur outside stays. A slice that is better is worth nothing.
        """
        as_is, outside, moved = (self._confusion(which) for which in (inside | ~inside, ~inside, fresh))
        sizes, others = moved.sum(axis=1, keepdims=True), outside.sum(axis=1, keepdims=True)
        alike = outside * sizes / np.maximum(others, 1)
        mended = as_is + np.where(others > 0, alike - moved, 0)
        return round(max(0.0, macro_f1_from_confusion(mended) - macro_f1_from_confusion(as_is)), 5)

    def _confusion(self, which: Bools) -> Floats:
        """Return the confusion matrix (k, k) of some of the pictures, duplicates and all; rows: what they are."""
        cells = np.bincount(self.y_true[which] * self.k + self.y_pred[which], minlength=self.k * self.k)
        return cells.reshape(self.k, self.k).astype(np.float64)


def macro_f1_from_confusion(counts: Floats) -> float:
    """Return macro-F1 of a confusion matrix (k, k), rows what the pictures are; counts may be fractions."""
    named = counts.sum(axis=0) + counts.sum(axis=1)
    return float((2 * np.diag(counts) / np.where(named > 0, named, 1)).mean())


def _chances(within: Bools, wrong: Bools, y_true: Ints, k: int) -> Floats:
    """Return the chance of 0, 1, 2, … mistakes inside if each class's mistakes fall inside and outside alike."""
    pictures, mistakes, drawn = (
        np.bincount(y_true, rows, minlength=k).astype(np.int64) for rows in (None, wrong, within)
    )
    chances = np.ones(1)
    for total, bad, inside in zip(pictures.tolist(), mistakes.tolist(), drawn.tolist(), strict=True):
        if bad and inside:
            chances = np.convolve(chances, hypergeom.pmf(np.arange(min(bad, inside) + 1), total, bad, inside))
    return np.append(chances, np.zeros(max(0, int((wrong & within).sum()) + 1 - len(chances))))


def _accuracy_inside(wrong: Bools) -> dict[str, float]:
    value = 1 - float(wrong.mean())
    low, high = wilson_interval(np.array(value), np.array(len(wrong)))
    return metric_value(value, float(low), float(high))


def _accuracy_outside(within: Bools, wrong: Bools, y_true: Ints, k: int) -> dict[str, float]:
    """Return the accuracy outside if the classes had the shares that they have inside; all occur on both sides.

    The interval adds Wilson's distances of the classes in squares (MOVER: Zou and Donner, 2008).
    """
    inside = np.bincount(y_true[within], minlength=k)
    outside, mistakes = (np.bincount(y_true[rows], minlength=k) for rows in (~within, ~within & wrong))
    shares, rates = inside / inside.sum(), 1 - mistakes / np.maximum(outside, 1)
    lows, highs = wilson_interval(rates, outside)
    value = float(shares @ rates)
    below, above = (float(np.sqrt(((shares * gap) ** 2).sum())) for gap in (rates - lows, highs - rates))
    return metric_value(value, max(value - below, 0.0), min(value + above, 1.0))


def _difference(inner: dict[str, float], outer: dict[str, float]) -> dict[str, float]:
    """Return inside minus outside; the interval is Newcombe's (1998, method 10), from Wilson's of both."""
    value = inner["value"] - outer["value"]
    below = np.hypot(inner["value"] - inner["low"], outer["high"] - outer["value"])
    above = np.hypot(inner["high"] - inner["value"], outer["value"] - outer["low"])
    return metric_value(value, float(value - below), float(value + above))

"""Weak slices: subsets of the test pictures with lower accuracy (small, dark, blurry, grey, one format, one folder).

A slice is weak only if chance, its own classes and its own sites do not explain its errors: within each class, and each
site if there are sites, the errors are assigned at random to the slice and the rest, which gives the exact probability
of as many errors in the slice (the stratified exact test of Cochran, Mantel and Haenszel, one-sided), corrected for the
number of slices (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Bools, Floats, Ints
from bestiary.data.joined_groups import groups_without_sites
from bestiary.evaluation.intervals import group_indices, metric_value, rate_metric
from bestiary.stats import holm, wilson_interval
from bestiary.text import format_percent, format_points

SMALLEST = 20  # groups of duplicates inside a slice, and as many outside: with fewer a slice is not tested
EXTREME_FRACTION = 0.1  # of the pictures are in an extreme slice: the darkest tenth
SIGNIFICANCE_LEVEL = 0.05  # of the corrected p
MAX_VALUES = 12  # of a format or a folder; a property with more values describes single pictures, not sources

_long, _short = pl.max_horizontal("width", "height"), pl.min_horizontal("width", "height")
_short_pixels, _pixel_bytes = _short.cast(pl.Float64), pl.col("bytes") / (_long * _short)


@dataclass(frozen=True)
class ExtremeSlice:
    """The pictures with the lowest (or highest) values; `{}` in the description is the value at its edge."""

    name: str
    values: pl.Expr
    description: str
    needs: tuple[str, ...]
    is_upper: bool = False
    digits: int = 2


SIDES = ("width", "height")
EXTREMES = (
    ExtremeSlice("small", _short_pixels, "shorter side of {} px or less", SIDES, digits=0),
    ExtremeSlice("large", _short_pixels, "shorter side of {} px or more", SIDES, is_upper=True, digits=0),
    ExtremeSlice("long and narrow", _long / _short, "at least {} times as long as wide", SIDES, is_upper=True),
    ExtremeSlice("dark", pl.col("luma"), "mean brightness of {} or less", ("luma",)),
    ExtremeSlice("bright", pl.col("luma"), "mean brightness of {} or more", ("luma",), is_upper=True),
    ExtremeSlice("of little contrast", pl.col("contrast"), "contrast of {} or less", ("contrast",)),
    ExtremeSlice("blurry", pl.col("sharpness"), "sharpness of {} or less", ("sharpness",), digits=3),
    ExtremeSlice("grey or pale", pl.col("saturation"), "colour saturation of {} or less", ("saturation",)),
    ExtremeSlice("strongly compressed", _pixel_bytes, "{} bytes a pixel or less", ("bytes", *SIDES)),
)


@dataclass(frozen=True)
class _Slice:
    name: str
    description: str
    inside: Bools


def find_weak_slices(predictions: pl.DataFrame, pictures: pl.DataFrame) -> dict[str, Any]:
    """Return `slices` of metrics.json: `{"tested", "judged", "smallest", "worse", "sentence", "rows"}`.

    predictions: `row_id, label, predicted` of the test pictures; pictures: `table.PICTURES`, and those of
    `table.MEASURES` that exist. A row is about the classes that occur inside the slice and outside: `name, words, n`;
    `accuracy` inside; `rest`, the accuracy outside of pictures of the same classes in the same proportions, and their
    `difference`, with 95 % intervals; `wrong`, and `expected_wrong` if each class had the same error rate inside as
    outside; `p`, `p_holm`, `worse`; `noticed_at`, the highest accuracy that would have been significant, None if no
    number of errors would have been; `worth`, the estimated rise of macro-F1 if each class were predicted in the slice
    as outside; `counted_in`, the worse slices before it: the `worth` of pictures in both counts there. `tested` slices
    were tested, `judged` of them could have been significant. Groups count once; with sites, those without the sites,
    since pictures are compared with others of their site. `same`: what compared pictures have in common.
    """
    predicted = predictions.select("row_id", "label", "predicted").drop_nulls()
    joined = predicted.join(pictures.drop("label"), on="row_id", how="left", maintain_order="left")
    data = _SliceData.from_table(joined)
    slices = [candidate for candidate in _iter_candidates(joined) if data.is_testable(candidate.inside)]
    rows = [data.test_slice(candidate, len(slices)) for candidate in slices]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p, "worse": p < SIGNIFICANCE_LEVEL and row["difference"]["value"] < 0}
    order = sorted(range(len(rows)), key=lambda at: (rows[at]["p_holm"], rows[at]["p"]))
    rows = data.with_worth([rows[at] for at in order], [slices[at] for at in order])
    return {
        "tested": len(rows),
        "judged": sum(map(_has_power, rows)),
        "smallest": SMALLEST,
        "worse": [row["name"] for row in rows if row["worse"]],
        "sentence": summarise_slices(rows),
        "rows": rows,
    }


def summarise_slices(rows: Sequence[dict[str, Any]]) -> str:
    """Return the result in a sentence or two."""
    if not rows:
        return f"There are too few test pictures to test slices: each needs {SMALLEST}, and as many outside of it."
    n_testable = sum(map(_has_power, rows))
    if not n_testable:
        return (
            f"There are too few errors to test any of the {len(rows)} slices: even all errors in one slice could be"
            " due to chance."
        )
    testable = f"{n_testable} testable slice{'s' * (n_testable != 1)}"
    if n_testable < len(rows):
        testable += f" ({len(rows) - n_testable} more have too few errors)"
    if worse := [row for row in rows if row["worse"]]:
        names = "; ".join(
            f"{row['name']} pictures ({row['words']}): accuracy {_format_rate(row['accuracy'])}, other pictures of the"
            f" same {row['same']} {_format_rate(row['rest'])}"
            for row in worse
        )
        return f"Accuracy is significantly lower in {len(worse)} of the {testable}: {names}."
    median = format_percent(float(np.median([row["noticed_at"] for row in rows if row["noticed_at"] is not None])))
    return (
        f"In none of the {testable} is accuracy significantly lower. In half of them, an accuracy of about {median} or"
        " less would have been detected."
    )


def _has_power(row: dict[str, Any]) -> bool:
    """Return whether the existing number of errors could have shown that the slice is worse."""
    return row["worse"] or row["noticed_at"] is not None


def _format_rate(rate: dict[str, float]) -> str:
    return f"{format_percent(rate['value'])} ({format_points(rate['low'], 0)} to {format_points(rate['high'], 0)})"


def _iter_candidates(joined: pl.DataFrame) -> Iterator[_Slice]:
    for extreme in EXTREMES:
        if set(extreme.needs) <= set(joined.columns):
            yield from _iter_extreme(extreme, joined)
    yield from _iter_values(joined["format"], "stored as {}")
    yield from _iter_values(joined["path"].map_elements(_source, return_dtype=pl.String), "from the folder {}")


def _iter_extreme(extreme: ExtremeSlice, joined: pl.DataFrame) -> Iterator[_Slice]:
    """Yield the extreme tenth, or the fewest testable pictures; nothing if most pictures have the same value."""
    values = joined.select(extreme.values.cast(pl.Float64)).to_series().fill_null(float("nan")).to_numpy()
    finite = np.sort(values[np.isfinite(values)])
    size = max(round(EXTREME_FRACTION * len(finite)), SMALLEST)
    if len(finite) < 2 * SMALLEST:
        return
    edge = float(finite[-size] if extreme.is_upper else finite[size - 1])
    inside = (values >= edge if extreme.is_upper else values <= edge) & np.isfinite(values)
    if inside.sum() <= len(finite) / 2:
        yield _Slice(extreme.name, extreme.description.format(f"{edge:,.{extreme.digits}f}"), inside)


def _iter_values(values: pl.Series, description: str) -> Iterator[_Slice]:
    """Yield a slice for each value of a property but the most frequent; nothing for a property of too many values."""
    counts = values.drop_nulls().value_counts(sort=True)
    if 2 <= counts.height <= MAX_VALUES:
        for value in counts.to_series(0)[1:]:
            yield _Slice(value, description.format(value), (values == value).fill_null(False).to_numpy())


def _source(path: str) -> str:
    """Return the folder above the class folder: the name of a source, if several were merged."""
    return (["", "", *path.replace("\\", "/").split("/")])[-3]


@dataclass(frozen=True)
class _SliceData:
    """The test pictures as arrays of shape (n,): class, predicted class, group, stratum (class, and site if any)."""

    y_true: Ints
    y_pred: Ints
    groups: Ints
    strata: Ints
    k: int
    same: str

    @classmethod
    def from_table(cls, joined: pl.DataFrame) -> _SliceData:
        names = sorted({*joined["label"], *joined["predicted"]})
        y_true, y_pred = (table.label_indices(joined[column], names) for column in ("label", "predicted"))
        if "site" not in joined.columns or not joined["site"].count():
            groups = group_indices(joined["group"].fill_null(-1).to_numpy())
            return cls(y_true, y_pred, groups, y_true, len(names), "classes")
        sites = group_indices(joined["site"].fill_null("").to_numpy())
        strata = np.unique(sites * len(names) + y_true, return_inverse=True)[1].astype(np.int64)
        return cls(y_true, y_pred, groups_without_sites(joined), strata, len(names), "classes and sites")

    def first_of_groups(self, inside: Bools) -> Ints:
        """Return the positions of the first picture of each group inside, and of each outside."""
        first = np.unique(2 * self.groups + inside, return_index=True)[1]
        return np.asarray(first, np.int64)

    def is_testable(self, inside: Bools) -> bool:
        """Return whether there are enough pictures on both sides, of strata that occur on both."""
        rows = self.first_of_groups(inside)
        within = inside[rows]
        return bool(min((~within).sum(), (within & _on_both_sides(within, self.strata[rows])).sum()) >= SMALLEST)

    def test_slice(self, candidate: _Slice, tested: int) -> dict[str, Any]:
        """Return the row of a slice, without the keys that depend on the others."""
        rows = self.first_of_groups(candidate.inside)
        rows = rows[_on_both_sides(candidate.inside[rows], self.strata[rows])]
        within, strata = candidate.inside[rows], self.strata[rows]
        wrong = np.asarray(self.y_true[rows] != self.y_pred[rows])
        chances = _error_count_probabilities(within, wrong, strata, int(strata.max()) + 1)
        errors, n = int((wrong & within).sum()), int(within.sum())
        tail = chances[::-1].cumsum()[::-1]  # tail[e]: the probability of e errors or more
        enough = np.flatnonzero(tail <= SIGNIFICANCE_LEVEL / tested)
        inner = rate_metric(1 - float(wrong[within].mean()), n)
        outer = _accuracy_outside(within, wrong, strata, int(strata.max()) + 1)
        return {
            "name": candidate.name,
            "words": candidate.description,
            "same": self.same,
            "n": n,
            "accuracy": inner,
            "rest": outer,
            "difference": _difference(inner, outer),
            "wrong": errors,
            "expected_wrong": round(float((np.arange(len(chances)) * chances).sum()), 2),
            "p": float(min(1.0, tail[errors])),
            "noticed_at": round(1 - int(enough[0]) / n, 4) if len(enough) else None,
        }

    def with_worth(self, rows: Sequence[dict[str, Any]], slices: Sequence[_Slice]) -> list[dict[str, Any]]:
        """Return the rows with their worth; pictures in several worse slices count in the first alone."""
        worse, result = list[_Slice](), list[dict[str, Any]]()
        for row, own in zip(rows, slices, strict=True):
            earlier = [previous for previous in worse if row["worse"] and (previous.inside & own.inside).any()]
            fresh = own.inside & ~np.any([previous.inside for previous in earlier], axis=0) if earlier else own.inside
            counted_in = [previous.name for previous in earlier]
            result.append(row | {"worth": self._worth(own.inside, fresh), "counted_in": counted_in})
            worse += [own] if row["worse"] else []
        return result

    def _worth(self, inside: Bools, fresh: Bools) -> float:
        """Return the rise of macro-F1 if the `fresh` pictures of a slice were predicted like those outside of it.

        Class by class: the row of the confusion matrix becomes that of the pictures outside, scaled to the same number;
        that of a class without pictures outside stays. A slice that is better has the worth 0.
        """
        total, outside, moved = (self._confusion(rows) for rows in (inside | ~inside, ~inside, fresh))
        sizes, n_outside = moved.sum(axis=1, keepdims=True), outside.sum(axis=1, keepdims=True)
        like_outside = outside * sizes / np.maximum(n_outside, 1)
        improved = total + np.where(n_outside > 0, like_outside - moved, 0)
        return round(max(0.0, macro_f1_from_confusion(improved) - macro_f1_from_confusion(total)), 5)

    def _confusion(self, rows: Bools) -> Floats:
        """Return the confusion matrix (k, k) of some of the pictures, with duplicates; rows: true classes."""
        cells = np.bincount(self.y_true[rows] * self.k + self.y_pred[rows], minlength=self.k * self.k)
        return cells.reshape(self.k, self.k).astype(np.float64)


def macro_f1_from_confusion(counts: Floats) -> float:
    """Return macro-F1 of a confusion matrix (k, k), rows: true classes; counts may be fractions."""
    totals = counts.sum(axis=0) + counts.sum(axis=1)
    return float((2 * np.diag(counts) / np.where(totals > 0, totals, 1)).mean())


def _on_both_sides(within: Bools, strata: Ints) -> Bools:
    """Return which pictures are of strata that occur inside and outside."""
    return np.isin(strata, np.intersect1d(strata[within], strata[~within]))


def _error_count_probabilities(within: Bools, wrong: Bools, strata: Ints, k: int) -> Floats:
    """Return the probability of 0, 1, 2, … errors inside if each stratum has the same error rate inside and out."""
    from scipy.stats import hypergeom

    pictures, errors, drawn = (
        np.bincount(strata, rows, minlength=k).astype(np.int64) for rows in (None, wrong, within)
    )
    chances = np.ones(1)
    for total, bad, inside in zip(pictures.tolist(), errors.tolist(), drawn.tolist(), strict=True):
        if bad and inside:
            chances = np.convolve(chances, hypergeom.pmf(np.arange(min(bad, inside) + 1), total, bad, inside))
    return np.append(chances, np.zeros(max(0, int((wrong & within).sum()) + 1 - len(chances))))


def _accuracy_outside(within: Bools, wrong: Bools, strata: Ints, k: int) -> dict[str, float]:
    """Return the accuracy outside, with the proportions of the strata inside; all strata occur on both sides.

    The interval adds the squared Wilson distances of the strata (MOVER: Zou and Donner, 2008).
    """
    inside = np.bincount(strata[within], minlength=k)
    outside, errors = (np.bincount(strata[rows], minlength=k) for rows in (~within, ~within & wrong))
    fractions, rates = inside / inside.sum(), 1 - errors / np.maximum(outside, 1)
    lows, highs = wilson_interval(rates, outside)
    value = float(fractions @ rates)
    below, above = (float(np.sqrt(((fractions * gap) ** 2).sum())) for gap in (rates - lows, highs - rates))
    return metric_value(value, max(value - below, 0.0), min(value + above, 1.0))


def _difference(inner: dict[str, float], outer: dict[str, float]) -> dict[str, float]:
    """Return inside minus outside; the interval is Newcombe's (1998, method 10), from Wilson's of both."""
    value = inner["value"] - outer["value"]
    below = np.hypot(inner["value"] - inner["low"], outer["high"] - outer["value"])
    above = np.hypot(inner["high"] - inner["value"], outer["value"] - outer["low"])
    return metric_value(value, float(value - below), float(value + above))

"""Overlapping classes: two classes that may be one, by similar names or shared pictures."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

import polars as pl

SHARED_FRACTION = 0.5  # of the pictures of a class that have a duplicate in another class
_BETWEEN = re.compile(r"(?<=\w)[\s_-]+(?=\w)")


def overlapping_class_warnings(pictures: pl.DataFrame) -> list[str]:
    """Return a warning for each set of classes that may be one.

    pictures: `label, group, error` at least; pictures of one group are duplicates.
    """
    usable = pictures.filter(pl.col("error").is_null())
    remedy = "If they are one class, give both folders one label: --labels FILE.csv with folder,label."
    quoted = ([f'"{name}"' for name in names] for names in similar_names(usable["label"]))
    by_name = [f"The classes {', '.join(q[:-1])} and {q[-1]} have nearly the same name. {remedy}" for q in quoted]
    return by_name + [
        f'{count:,} of {total:,} pictures of class "{label}" are in "{second}" too: only one can be correct. {remedy}'
        for label, second, count, total in _shared_pictures(usable)
    ]


def similar_names(labels: Iterable[str]) -> list[list[str]]:
    """Return the sets of names that differ only in case, a plural s, or word separators; single letters may differ so.

    >>> similar_names(["cat", "Cats", "dog", "guinea pig", "Guinea_pig", "a", "A", "-1", "1"])
    [['Cats', 'cat'], ['Guinea_pig', 'guinea pig']]
    """
    named: dict[str, list[str]] = defaultdict(list)
    for label in sorted(set(labels)):
        key = _BETWEEN.sub(" ", unicodedata.normalize("NFKC", label).casefold().strip())
        named[key.removesuffix("s") if len(key) > 3 else key].append(label)
    return [names for key, names in named.items() if len(names) > 1 and len(key) > 1]


def _shared_pictures(usable: pl.DataFrame) -> list[tuple[str, str, int, int]]:
    """Return class, second class, number of its pictures with a duplicate there, and class size; the worst first."""
    mixed = usable.filter(pl.col("label").n_unique().over("group") > 1).select("label", "group")
    pairs = mixed.join(mixed.unique().rename({"label": "second"}), on="group", maintain_order="left")
    counts = pairs.filter(pl.col("label") != pl.col("second")).group_by("label", "second").agg(count=pl.len())
    overlaps = counts.join(usable.group_by("label").agg(total=pl.len()), on="label", maintain_order="left")
    overlaps = overlaps.filter(pl.col("count") >= SHARED_FRACTION * pl.col("total"))
    return overlaps.sort("count", "label", "second", descending=[True, False, False]).rows()

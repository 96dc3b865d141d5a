"""Two classes that may be one: nearly the same name, or the same pictures."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

import polars as pl

SHARED = 0.5  # of a class's pictures that lie in another class as well
_BETWEEN = re.compile(r"(?<=\w)[\s_-]+(?=\w)")


def overlapping_class_warnings(pictures: pl.DataFrame) -> list[str]:
    """Return a sentence for each set of classes that may be one.

    pictures: `label, group, error` at least; pictures of one group are duplicates.
    """
    usable = pictures.filter(pl.col("error").is_null())
    remedy = "If they are one class, give both folders one label: --labels FILE.csv with folder,label."
    alike = [
        f"The classes {_quote_names(names)} have nearly the same name. {remedy}"
        for names in similar_names(usable["label"])
    ]
    return alike + [
        f'{count:,} of {of:,} pictures of class "{label}" lie in "{other}" as well: they can be right in one only.'
        f" {remedy}"
        for label, other, count, of in _shared_groups(usable)
    ]


def similar_names(labels: Iterable[str]) -> list[list[str]]:
    """Return the names that differ in capitals, an ending s, or in what stands between words; single letters may.

    >>> similar_names(["cat", "Cats", "dog", "guinea pig", "Guinea_pig", "a", "A", "-1", "1"])
    [['Cats', 'cat'], ['Guinea_pig', 'guinea pig']]
    """
    named: dict[str, list[str]] = defaultdict(list)
    for label in sorted(set(labels)):
        key = _BETWEEN.sub(" ", unicodedata.normalize("NFKC", label).casefold().strip())
        named[key.removesuffix("s") if len(key) > 3 else key].append(label)
    return [names for key, names in named.items() if len(names) > 1 and len(key) > 1]


def _shared_groups(usable: pl.DataFrame) -> list[tuple[str, str, int, int]]:
    """Return class, other class, how many of its pictures have a duplicate there, and of how many; the worst first."""
    mixed = usable.filter(pl.col("label").n_unique().over("group") > 1).select("label", "group")
    others = mixed.unique().rename({"label": "other"})
    pairs = mixed.join(others, on="group").filter(pl.col("label") != pl.col("other"))
    sizes = usable.group_by("label").agg(of=pl.len())
    found = pairs.group_by("label", "other").agg(count=pl.len()).join(sizes, on="label")
    found = found.filter(pl.col("count") >= SHARED * pl.col("of")).sort(
        "count", "label", "other", descending=[True, False, False]
    )
    return list(found.select("label", "other", "count", "of").iter_rows())


def _quote_names(names: list[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"

"""From a source to a picture table that is audited and split: everything before a model is thought of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bestiary import table
from bestiary.data import audit, duplicates
from bestiary.data.collection import measured
from bestiary.data.labels import label_map
from bestiary.data.sources import Listing, list_pictures
from bestiary.data.split import Item, digest, split
from bestiary.errors import SourceError, nearest
from bestiary.picture import Limits
from bestiary.progress import Reporter
from bestiary.recipe import Data


@dataclass(frozen=True)
class Audited:
    """A collection that was looked at: `table.PICTURES` and `given_split`, grouped but not split; and the findings."""

    pictures: pl.DataFrame
    findings: pl.DataFrame
    passed_over: Mapping[str, int]


def audited(
    source: Path, labels: str | None, data: Data, limits: Limits, *, threads: int, cache: Path, reporter: Reporter
) -> Audited:
    """Return the pictures of a source, measured and grouped by duplicates, with what is wrong with them.

    Raises SourceError when there is nothing to look at, or when `data.classes` names a label that does not occur.
    """
    listing = _chosen(list_pictures(source, label_map(labels), reporter=reporter), data.classes)
    found = measured(listing, limits, threads=threads, cache=cache, reporter=reporter)
    near_bits = data.near_duplicate_bits if data.near_duplicates else None
    pairs = duplicates.duplicate_pairs(found, near_bits, threads=threads)
    found = found.with_columns(group=pl.Series(duplicates.groups(found.height, pairs)))
    return Audited(_picture_table(found), audit.find(found, pairs), dict(listing.passed_over))


def divided(collection: Audited, data: Data, *, seed: int) -> tuple[pl.DataFrame, str]:
    """Return `table.PICTURES` with `split` filled in, and a digest of who is where.

    A split that the source brings is kept; where it has no validation part, one is taken from training. Raises
    SourceError, naming the class and what to do, when there are too few classes or pictures.
    """
    pictures = collection.pictures
    usable = pictures.filter(pl.col("error").is_null())
    _check_classes(usable, data)
    given = usable["given_split"]
    if given.null_count() == usable.height:
        parts = pl.Series(_split(usable, {"test": data.test_fraction, "val": data.val_fraction}, seed))
    else:
        parts = _given(usable, data, seed)
    usable = usable.with_columns(split=parts)
    found = digest(_items(usable), parts.to_list())
    pictures = pictures.drop("split").join(usable.select("row_id", "split"), on="row_id", how="left")
    return pictures.select(list(table.PICTURES)).sort("row_id"), found


def _chosen(listing: Listing, classes: tuple[str, ...]) -> Listing:
    if not classes:
        return listing
    known = listing.labels()
    for name in classes:
        if name not in known:
            raise SourceError(f'No picture has the label "{name}". {nearest(name, known)}')
    kept = [picture for picture in listing.pictures if picture.label in classes]
    passed_over = listing.passed_over.copy()
    passed_over["of other classes"] += len(listing.pictures) - len(kept)
    unusable = [one for one in listing.unusable if one.label in classes]
    return Listing(kept, passed_over, unusable)


def _picture_table(found: pl.DataFrame) -> pl.DataFrame:
    columns = {name: kind for name, kind in table.PICTURES.items() if name != "split"}
    return found.select(
        *(pl.col(name).cast(kind) for name, kind in columns.items()),
        pl.lit(None, pl.String).alias("split"),
        "given_split",
    )


def _check_classes(usable: pl.DataFrame, data: Data) -> None:
    counts = usable.group_by("label").len().sort("len", "label")
    if counts.height < 2:
        only = f'only one class, "{counts["label"][0]}"' if counts.height else "no pictures that can be read"
        raise SourceError(f"There is {only}. A classifier needs two or more: one folder of pictures for each.")
    label, few = counts.row(0)
    if few < data.min_per_class:
        raise SourceError(
            f'Class "{label}" has {few} pictures that can be read; at least {data.min_per_class} are needed. Add'
            " pictures, leave the class out with --classes, or lower --set data.min_per_class."
        )


def _items(usable: pl.DataFrame) -> list[Item]:
    return [Item(*row) for row in usable.select("sha256", "label", "group").iter_rows()]


def _split(usable: pl.DataFrame, shares: Mapping[str, float], seed: int) -> list[str]:
    return split(_items(usable), shares, seed=seed)


def _given(usable: pl.DataFrame, data: Data, seed: int) -> pl.Series:
    given = usable["given_split"]
    if missing := given.null_count():
        raise SourceError(f"{missing:,} of {usable.height:,} pictures have no split. Give all of them one, or none.")
    if absent := {"train", "test"} - set(given):
        raise SourceError(f"The split that the source brings has no {' and no '.join(sorted(absent))} part.")
    if unseen := set(usable["label"]) - set(usable.filter(given == "train")["label"]):
        raise SourceError(
            f'Class "{min(unseen)}" has no training picture in the split that the source brings. Add some, or leave'
            " the class out with --classes."
        )
    if "val" in set(given):
        return given
    training = usable.filter(given == "train")
    shared = pl.DataFrame({"row_id": training["row_id"], "part": _split(training, {"val": data.val_fraction}, seed)})
    return usable.join(shared, on="row_id", how="left", maintain_order="left")["part"].fill_null("test")

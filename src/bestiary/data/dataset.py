"""From a source to a picture table that is audited and split: everything before a model is thought of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from bestiary import table
from bestiary.data import audit, duplicates
from bestiary.data.apply_corrections import Corrected, correct
from bestiary.data.corrections import Corrections
from bestiary.data.label_map import label_map
from bestiary.data.overlapping_classes import twin_words
from bestiary.data.scan import measured
from bestiary.data.shortcuts import find_shortcuts
from bestiary.data.sources import Listing, list_sources
from bestiary.errors import SourceError, did_you_mean
from bestiary.machine import trim_memory
from bestiary.picture import DecodeLimits
from bestiary.progress import Reporter
from bestiary.recipe import DataConfig

Places = duplicates.Places


@dataclass(frozen=True)
class Audited:
    """A collection that was looked at: pictures, grouped but not split; the findings; and what corrections did.

    pictures: `table.PICTURES`, `given_split`, and `given_label` and `dropped`: what corrections changed.
    not_looked_for: checks that were not made, each with the reason.
    """

    pictures: pl.DataFrame
    findings: pl.DataFrame
    passed_over: Mapping[str, int]
    corrected: Corrected | None = None
    not_looked_for: Mapping[str, str] = field(default_factory=dict)


def audited(
    sources: Sequence[Path],
    labels: str | None,
    data: DataConfig,
    limits: DecodeLimits,
    *,
    threads: int,
    cache: Path,
    reporter: Reporter,
    corrections: Corrections | None = None,
) -> Audited:
    """Return the pictures of the sources, measured and grouped by duplicates, with what is wrong with them.

    Raises SourceError when there is nothing to look at, or when `data.classes` names a label that does not occur.
    """
    listing = list_sources(sources, label_map(labels), reporter=reporter)
    return audited_listing(
        listing, data, limits, threads=threads, cache=cache, reporter=reporter, corrections=corrections
    )


def audited_listing(
    listing: Listing,
    data: DataConfig,
    limits: DecodeLimits,
    *,
    threads: int,
    cache: Path | None,
    reporter: Reporter,
    corrections: Corrections | None = None,
) -> Audited:
    """Return the pictures of a listing as `audited` does; without a `cache`, measurements are not remembered."""
    done = None
    if corrections is None:  # a correction may bring a picture into the classes asked for: then all are measured
        listing = _chosen(listing, data.classes)
    found = measured(listing, limits, threads=threads, cache=cache, reporter=reporter)
    passed_over = dict(listing.passed_over)
    if corrections is None:
        found = found.with_columns(given_label="label", dropped=False)
    else:
        found, done = correct(found, corrections, say=reporter.info)
        found = _of_classes(found, data.classes, passed_over)
    near_bits = data.near_duplicate_bits if data.near_duplicates else None
    # What was dropped still holds its group together, so that leaving it out moves nobody.
    sound = found.with_columns(error=pl.when("dropped").then(None).otherwise("error"))
    pairs = duplicates.duplicate_pairs(sound, near_bits, threads=threads)
    found = found.with_columns(group=pl.Series(duplicates.groups(found.height, pairs)))
    for words in twin_words(found):
        reporter.info(words)
    pairs = _without_dropped(found, pairs, near_bits)
    findings = audit.find(found, pairs, test_fraction=1.0 if data.folds else data.test_fraction)
    if data.suspects:
        with reporter.progress("Looking for shortcuts", found.height) as advance:
            findings = audit.in_order(pl.concat([findings, find_shortcuts(found, seed=0)]))
            advance(found.height)
    pictures = _picture_table(found)
    trim_memory()
    return Audited(pictures, findings, passed_over, done)


def _without_dropped(found: pl.DataFrame, pairs: Places, near_bits: int | None) -> Places:
    """Return the pairs of the pictures that are left; where one was dropped, those of its group are looked for anew.

    A group is held together by some of its pairs only: with a picture, all that joined two others may have gone.
    """
    if not found["dropped"].any():
        return pairs
    torn = found["group"].is_in(found.filter("dropped")["group"].unique().implode())
    left = (torn & ~found["dropped"]).to_numpy().nonzero()[0]
    again = duplicates.duplicate_pairs(found[left], near_bits)
    again = np.column_stack([left[again[:, :2]].reshape(-1, 2), again[:, 2:]])
    return np.concatenate([pairs[~torn.to_numpy()[pairs[:, 0]]], again])


def _chosen(listing: Listing, classes: tuple[str, ...]) -> Listing:
    if not classes:
        return listing
    _refuse_unknown(classes, listing.labels())
    kept = [picture for picture in listing.pictures if picture.label in classes]
    passed_over = listing.passed_over.copy()
    passed_over["of other classes"] += len(listing.pictures) - len(kept)
    unusable = [one for one in listing.unusable if one.label in classes]
    return Listing(kept, passed_over, unusable)


def _of_classes(found: pl.DataFrame, classes: tuple[str, ...], passed_over: dict[str, int]) -> pl.DataFrame:
    """Return the pictures of these classes by their corrected labels, and the dropped ones that were of them."""
    if not classes:
        return found
    _refuse_unknown(classes, found["label"].unique().to_list())
    kept = found.filter(pl.col("label").is_in(classes)).drop("row_id").with_row_index("row_id")
    if found.height > kept.height:
        passed_over["of other classes"] = found.height - kept.height
    return kept


def _refuse_unknown(classes: tuple[str, ...], known: list[str]) -> None:
    for name in classes:
        if name not in known:
            raise SourceError(f'No picture has the label "{name}". {did_you_mean(name, known)}')


def _picture_table(found: pl.DataFrame) -> pl.DataFrame:
    columns = {name: kind for name, kind in table.PICTURES.items() if name != "split"}
    return found.select(
        *(pl.col(name).cast(kind) for name, kind in columns.items()),
        pl.lit(None, pl.String).alias("split"),
        "given_split",
        "given_label",
        "dropped",
        *(pl.col(name).cast(kind) for name, kind in table.MEASURES.items()),
    )

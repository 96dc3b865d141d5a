"""From a source to a picture table that is audited and split: everything before a model is thought of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Ints
from bestiary.data import audit, duplicates
from bestiary.data.apply_corrections import CorrectionResult, apply_corrections
from bestiary.data.corrections import Corrections
from bestiary.data.label_map import label_map
from bestiary.data.overlapping_classes import overlapping_class_warnings
from bestiary.data.scan import scan_pictures
from bestiary.data.shortcuts import find_shortcuts
from bestiary.data.sources import PictureList, list_sources
from bestiary.errors import SourceError, did_you_mean
from bestiary.machine import trim_memory
from bestiary.picture import DecodeLimits
from bestiary.progress import Reporter
from bestiary.recipe import DataConfig


@dataclass(frozen=True)
class AuditedDataset:
    """A collection that was looked at: pictures, grouped but not split; the findings; and what corrections did.

    pictures: `table.PICTURES`, `given_split`, and `given_label` and `dropped`: what corrections changed.
    not_looked_for: checks that were not made, each with the reason.
    """

    pictures: pl.DataFrame
    findings: pl.DataFrame
    passed_over: Mapping[str, int]
    corrected: CorrectionResult | None = None
    not_looked_for: Mapping[str, str] = field(default_factory=dict)


def audit_sources(
    sources: Sequence[Path],
    labels: str | None,
    data: DataConfig,
    limits: DecodeLimits,
    *,
    threads: int,
    cache: Path,
    reporter: Reporter,
    corrections: Corrections | None = None,
) -> AuditedDataset:
    """Return the pictures of the sources, measured and grouped by duplicates, with what is wrong with them.

    Raises SourceError when there is nothing to look at, or when `data.classes` names a label that does not occur.
    """
    listing = list_sources(sources, label_map(labels), reporter=reporter)
    return audit_listing(
        listing, data, limits, threads=threads, cache=cache, reporter=reporter, corrections=corrections
    )


def audit_listing(
    listing: PictureList,
    data: DataConfig,
    limits: DecodeLimits,
    *,
    threads: int,
    cache: Path | None,
    reporter: Reporter,
    corrections: Corrections | None = None,
) -> AuditedDataset:
    """Return the pictures of a listing as `audit_sources` does; without a `cache`, measurements are not remembered."""
    done = None
    if corrections is None:  # a correction may bring a picture into the classes asked for: then all are measured
        listing = _filter_listing(listing, data.classes)
    found = scan_pictures(listing, limits, threads=threads, cache=cache, reporter=reporter)
    passed_over = dict(listing.skipped)
    if corrections is None:
        found = found.with_columns(given_label="label", dropped=False)
    else:
        found, done = apply_corrections(found, corrections, say=reporter.info)
        found = _filter_classes(found, data.classes, passed_over)
    near_bits = data.near_duplicate_bits if data.near_duplicates else None
    # What was dropped still holds its group together, so that leaving it out moves nobody.
    sound = found.with_columns(error=pl.when("dropped").then(None).otherwise("error"))
    pairs = duplicates.find_duplicate_pairs(sound, near_bits, threads=threads)
    found = found.with_columns(group=pl.Series(duplicates.connected_groups(found.height, pairs)))
    for words in overlapping_class_warnings(found):
        reporter.info(words)
    pairs = _without_dropped(found, pairs, near_bits)
    findings = audit.find_issues(found, pairs, test_fraction=1.0 if data.folds else data.test_fraction)
    if data.suspects:
        with reporter.progress("Looking for shortcuts", found.height) as advance:
            findings = audit.sort_findings(pl.concat([findings, find_shortcuts(found, seed=0)]))
            advance(found.height)
    pictures = _picture_table(found)
    trim_memory()
    return AuditedDataset(pictures, findings, passed_over, done)


def _without_dropped(pictures: pl.DataFrame, pairs: Ints, near_bits: int | None) -> Ints:
    """Return the pairs of the pictures that are left; where one was dropped, those of its group are looked for anew.

    A group is held together by some of its pairs only: with a picture, all that joined two others may have gone.
    """
    if not pictures["dropped"].any():
        return pairs
    torn = pictures["group"].is_in(pictures.filter("dropped")["group"].unique().implode())
    left = (torn & ~pictures["dropped"]).to_numpy().nonzero()[0]
    again = duplicates.find_duplicate_pairs(pictures[left], near_bits)
    again = np.column_stack([left[again[:, :2]].reshape(-1, 2), again[:, 2:]])
    return np.concatenate([pairs[~torn.to_numpy()[pairs[:, 0]]], again])


def _filter_listing(listing: PictureList, classes: tuple[str, ...]) -> PictureList:
    if not classes:
        return listing
    _check_class_names(classes, listing.labels())
    kept = [picture for picture in listing.pictures if picture.label in classes]
    passed_over = listing.skipped.copy()
    passed_over["of other classes"] += len(listing.pictures) - len(kept)
    unusable = [one for one in listing.unusable if one.label in classes]
    return PictureList(kept, passed_over, unusable)


def _filter_classes(pictures: pl.DataFrame, classes: tuple[str, ...], skipped: dict[str, int]) -> pl.DataFrame:
    """Return the pictures of these classes by their corrected labels, and the dropped ones that were of them."""
    if not classes:
        return pictures
    _check_class_names(classes, pictures["label"].unique().to_list())
    kept = pictures.filter(pl.col("label").is_in(classes)).drop("row_id").with_row_index("row_id")
    if pictures.height > kept.height:
        skipped["of other classes"] = pictures.height - kept.height
    return kept


def _check_class_names(classes: tuple[str, ...], labels: list[str]) -> None:
    for name in classes:
        if name not in labels:
            raise SourceError(f'No picture has the label "{name}". {did_you_mean(name, labels)}')


def _picture_table(pictures: pl.DataFrame) -> pl.DataFrame:
    columns = {name: kind for name, kind in table.PICTURES.items() if name != "split"}
    return pictures.select(
        *(pl.col(name).cast(kind) for name, kind in columns.items()),
        pl.lit(None, pl.String).alias("split"),
        "given_split",
        "given_label",
        "dropped",
        *(pl.col(name).cast(kind) for name, kind in table.MEASURES.items()),
    )

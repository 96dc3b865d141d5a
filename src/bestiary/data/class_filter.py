"""Pictures of chosen classes, of a list and of a table: what `data.classes` leaves."""

from __future__ import annotations

import polars as pl

from bestiary.data.sources import PictureList
from bestiary.errors import SourceError, did_you_mean


def filter_listing(listing: PictureList, classes: tuple[str, ...]) -> PictureList:
    """Return the pictures of a list whose label is one of these classes; all without classes."""
    if not classes:
        return listing
    _check_class_names(classes, listing.labels())
    pictures = [picture for picture in listing.pictures if picture.label in classes]
    skipped = listing.skipped.copy()
    skipped["of other classes"] += len(listing.pictures) - len(pictures)
    unusable = [file for file in listing.unusable if file.label in classes]
    notices = [notice for notice in listing.notices if not notice.folder or notice.folder in classes]
    return PictureList(pictures, skipped, unusable, notices, listing.folders)


def filter_classes(pictures: pl.DataFrame, classes: tuple[str, ...], skipped: dict[str, int]) -> pl.DataFrame:
    """Return the pictures, dropped ones included, whose corrected label is one of these classes."""
    if not classes:
        return pictures
    _check_class_names(classes, pictures["label"].unique().to_list())
    own = pictures.filter(pl.col("label").is_in(classes)).drop("row_id").with_row_index("row_id")
    if pictures.height > own.height:
        skipped["of other classes"] = pictures.height - own.height
    return own


def _check_class_names(classes: tuple[str, ...], labels: list[str]) -> None:
    for name in classes:
        if name not in labels:
            raise SourceError(f'No picture has the label "{name}". {did_you_mean(name, labels)}')

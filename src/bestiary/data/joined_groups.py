"""The groups of the split: duplicates, given groups and sites joined, so that none of them is divided."""

from __future__ import annotations

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Ints
from bestiary.data.duplicates import connected_groups
from bestiary.data.notices import GROUPS, SourceNotice
from bestiary.data.picture_groups import LARGE_FRACTION


def join_groups(pictures: pl.DataFrame) -> tuple[Ints, list[SourceNotice]]:
    """Return the group of each picture for the split, int64 (n,), and notices about it.

    pictures: `group` of duplicates, `given_group` and `site` (text or null), `sha256`, `error`, and those of
    `table.CROPS`. Pictures that share any of them are in one group, and so are the boxes of one file. Where
    near-duplicates of different sites would join more than half of the pictures into one group that is smaller without
    them (empty scenes at night look alike everywhere), they do not; equal files always do.
    """
    duplicates = pictures["group"].to_numpy()
    is_cropped = "crop_left" in pictures.columns and pictures["crop_left"].count() > 0
    if not (pictures["given_group"].count() or pictures["site"].count() or is_cropped):
        return duplicates.astype(np.int64), []
    columns = [pictures["given_group"], pictures["site"]]
    links = [_link_equal(column) for column in (*columns, pictures["file_sha256" if is_cropped else "sha256"])]
    joined = _connect(pictures.height, [*links, _link_equal(pictures["group"])])
    limit = LARGE_FRACTION * pictures.height
    if not pictures["site"].count() or np.bincount(joined).max() <= limit:
        return joined, []
    within = pictures.select(key=pl.struct("group", "site").hash())["key"]
    apart = _connect(pictures.height, [*links, _link_equal(within)])
    if np.bincount(apart).max() > limit:
        return joined, []
    sites = pl.DataFrame({"group": duplicates, "site": pictures["site"]}).drop_nulls()
    crossing = sites.filter(pl.col("site").n_unique().over("group") > 1)
    message = (
        f"{crossing.height:,} pictures have a near-duplicate at another site. Kept together, they would join more than"
        " half of all pictures into one group, so that only equal files and near-duplicates of one site stay in one"
        " split. Pictures without an animal often look alike at different sites."
    )
    return apart, [SourceNotice(GROUPS, message, is_issue=False)]


def groups_without_sites(pictures: pl.DataFrame) -> Ints:
    """Return groups of duplicates and of given groups only, int64 (n,) from 0.

    pictures: of a run, or as the audit returns them.
    """
    columns = table.with_duplicate_groups(pictures)
    if "given_group" not in columns.columns:  # an older run
        columns = columns.with_columns(given_group=pl.lit(None, pl.String))
    numbers = columns["group"].rank("dense").cast(pl.Int64) - 1
    joined, _ = join_groups(columns.with_columns(group=numbers, site=pl.lit(None, pl.String)))
    return joined


def torn_group_notices(pictures: pl.DataFrame) -> list[SourceNotice]:
    """Return notices about given groups and sites with pictures in several of the splits that the source gives."""
    split = pl.col("given_split").is_not_null() & pl.col("error").is_null()
    notices = []
    for column, noun in (("given_group", "group"), ("site", "site")):
        own = pictures.filter(split & pl.col(column).is_not_null())
        parts = own.group_by(column, maintain_order=True).agg(parts=pl.col("given_split").n_unique())
        if torn := int((parts["parts"] > 1).sum()):
            message = (
                f"The given split divides {torn:,} of {parts.height:,} {noun}s: their pictures are in several splits,"
                f" so that the score is that of pictures from known {noun}s. --split resplit keeps each {noun} in one."
            )
            notices.append(SourceNotice(GROUPS, message))
    return notices


def _link_equal(values: pl.Series) -> Ints:
    """Return pairs (n, 2) that connect each row to the first row with the same value; nulls and "" to none."""
    frame = pl.DataFrame({"value": values}).with_row_index("row")
    frame = frame.filter(pl.col("value").is_not_null() & (pl.col("value").cast(pl.String) != ""))
    frame = frame.with_columns(first=pl.col("row").first().over("value")).filter(pl.col("first") != pl.col("row"))
    return frame.select(pl.col("first", "row").cast(pl.Int64)).to_numpy().reshape(-1, 2)


def _connect(count: int, links: list[Ints]) -> Ints:
    return connected_groups(count, np.concatenate(links))

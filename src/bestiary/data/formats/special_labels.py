"""Special labels in a table of rows: replaced by their family, or left out with a reason."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from bestiary.special_labels import special_family


def left_out_reason(family: str) -> str:
    """Return the reason of the rows of a family that become no label."""
    return f"labelled as {family}"


def map_special_labels(rows: pl.DataFrame, left_out: Collection[str]) -> pl.DataFrame:
    """Return the rows with special labels replaced by their family, and a reason for those of the families left out.

    rows: columns label and reason; a reason that a row has already stays.
    """
    labels = rows["label"].unique().drop_nulls().to_list()
    families = {label: family for label in labels if (family := special_family(label)) is not None}
    if not families:
        return rows
    is_special = pl.col("label").is_in(list(families))
    family_of_label = pl.col("label").replace_strict(families, default=None, return_dtype=pl.String)
    reasons = {name: left_out_reason(name) for name in left_out}
    reason = pl.lit(None, pl.String)
    if reasons:
        reason = family_of_label.replace_strict(reasons, default=None, return_dtype=pl.String)
    return rows.with_columns(
        label=pl.when(is_special).then(family_of_label).otherwise("label"), reason=pl.coalesce("reason", reason)
    )

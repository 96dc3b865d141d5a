"""Labels that are no species: an empty picture, a human, a vehicle, or an animal that nobody could name.

Each format and each project spells them otherwise; `special_family` maps them to one of `SPECIAL_FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import polars as pl

_SPELLINGS = {
    "empty": (
        "blank",
        "empty",
        "false trigger",
        "misfire",
        "no animal",
        "no animals",
        "none",
        "nothing",
        "nothing here",
        "vide",
    ),
    "human": (
        "homo",
        "homo sapiens",
        "homo species",
        "human",
        "human camera trapper",
        "humans",
        "humain",
        "people",
        "person",
        "persons",
    ),
    "vehicle": ("motorised vehicle", "motorized vehicle", "vehicle", "vehicles", "vehicule", "véhicule"),
    "unknown": (
        "cv failed",
        "indéfini",
        "no cv result",
        "unclassified",
        "undefined",
        "unidentifiable",
        "unidentified",
        "unidentified animal",
        "unknown",
        "unknown animal",
        "unknown species",
    ),
}
_FAMILIES = {spelling: family for family, spellings in _SPELLINGS.items() for spelling in spellings}
_BETWEEN_WORDS = re.compile(r"[\s_-]+")


def special_family(label: str) -> str | None:
    """Return the family of a label that is no species, in any case and with any character between words; else None.

    >>> special_family("No CV Result"), special_family("false_trigger"), special_family("Vulpes vulpes")
    ('unknown', 'empty', None)
    """
    return _FAMILIES.get(_BETWEEN_WORDS.sub(" ", label.strip()).casefold())


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

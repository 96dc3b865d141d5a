"""Labels that are no species: an empty picture, a human, a vehicle, or an animal that nobody could name.

Each format and each project spells them otherwise; `special_family` maps them to one family.
"""

from __future__ import annotations

import re
from typing import Literal

Family = Literal["empty", "human", "vehicle", "unknown"]

_SPELLINGS: dict[Family, tuple[str, ...]] = {
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


def special_family(label: str) -> Family | None:
    """Return the family of a label that is no species, in any case and with any character between words; else None.

    >>> special_family("No CV Result"), special_family("false_trigger"), special_family("Vulpes vulpes")
    ('unknown', 'empty', None)
    """
    return _FAMILIES.get(_BETWEEN_WORDS.sub(" ", label.strip()).casefold())

"""Labels of camera traps that name no animal: blank pictures, humans, vehicles, and those that nobody could name."""

from __future__ import annotations

from typing import Literal

Family = Literal["animal", "blank", "human", "vehicle", "unknown"]

WORDS: dict[Family, frozenset[str]] = {
    "blank": frozenset({"blank", "empty", "none", "nothing", "no animal", "no animals", "misfire", "false trigger"}),
    "human": frozenset({"human", "humans", "homo sapiens", "homo species", "person", "people", "human camera trapper"}),
    "vehicle": frozenset({"vehicle", "vehicles"}),
    "unknown": frozenset({"unknown", "unidentified", "undefined", "no cv result", "cv failed"}),
}


def label_family(label: str) -> Family:
    """Return what a label stands for, whatever its case and separators.

    >>> label_family("Blank"), label_family("no_animal"), label_family("Homo sapiens"), label_family("red fox")
    ('blank', 'blank', 'human', 'animal')
    """
    words = " ".join(label.casefold().replace("_", " ").replace("-", " ").split())
    return next((family for family, names in WORDS.items() if words in names), "animal")

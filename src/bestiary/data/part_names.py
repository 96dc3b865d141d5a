"""How the parts of a split are called, as folders or in a table."""

from __future__ import annotations

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validation", "valid", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
ENDINGS = ("set", "_set", "-set", " set")


def part_named(name: str) -> str | None:
    """Return the part of a split that is meant by a name, or None if it is no such name.

    >>> part_named("Testing"), part_named("training_set"), part_named("trainspotting")
    ('test', 'train', None)
    """
    lower = name.strip().lower()
    stems = [lower, *(lower.removesuffix(ending) for ending in ENDINGS)]
    return next((PARTS[stem] for stem in stems if stem in PARTS), None)

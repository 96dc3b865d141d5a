"""The parts of a split that a source brings: which part is tested where not all three are there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from bestiary.data.notices import SPLIT_FOLDERS, SourceNotice
from bestiary.data.sources import PictureList
from bestiary.errors import SourceError
from bestiary.recipe_sections import DataConfig

RESPLIT = "--split resplit re-splits all pictures"


def choose_split_parts(listing: PictureList, data: DataConfig) -> PictureList:
    """Return the list with the split that `data.split` asks for, and a notice where it is not that of the source.

    auto: of train and val, the usual layout of tutorials, val is tested, and training takes its validation pictures
    from train; train alone is split again. Other parts stay as they are.
    """
    parts = {picture.split for picture in listing.pictures}
    if data.split == "keep" or not parts - {None}:
        return listing
    if data.split == "resplit":
        message = "The given split is not used: all pictures are re-split."
        return _change_parts(listing, lambda _: None, message)
    if data.split == "auto" and parts == {"train"}:
        message = "The pictures have a train split only: the validation and test splits are drawn from it."
        return _change_parts(listing, lambda _: None, message)
    if data.split == "auto" and parts == {"train", "val"}:
        message = (
            "The pictures have the splits train and val, and no test split: val is used as the test split, and a"
            f" validation split is drawn from train. Alternatives: --split draw-test draws the test split from train,"
            f" {RESPLIT}."
        )
        return _change_parts(listing, lambda part: "test" if part == "val" else part, message)
    return listing


def require_trainable_parts(splits: Collection[str | None], data: DataConfig) -> None:
    """Raise SourceError if the parts of a source cannot be trained on.

    splits: of every picture, None without one.
    """
    parts = set(splits) - {None}
    if not parts:
        return
    if data.folds:
        raise SourceError(
            "The pictures are split already, and cross-validation would ignore that. Remove --folds to use the given"
            " split, or add --split resplit."
        )
    if missing := sum(split is None for split in splits):
        raise SourceError(f"{missing:,} of {len(splits):,} pictures have no split. Give all pictures a split, or none.")
    if data.split == "draw-test" and "test" in parts:
        raise SourceError(
            "The pictures have a test split already, so --split draw-test would draw none. Leave --split out to use it;"
            f" {RESPLIT}."
        )
    needed = {"train"} if data.split == "draw-test" else {"train", "test"}
    if absent := sorted(needed - parts):
        missing_parts, present = " and no ".join(absent), " and ".join(sorted(map(str, parts)))
        raise SourceError(
            f"The given split has no {missing_parts} split, only {present}. Add one, or re-split: {RESPLIT}."
        )


def _change_parts(listing: PictureList, change: Callable[[str | None], str | None], message: str) -> PictureList:
    pictures = [replace(picture, split=change(picture.split)) for picture in listing.pictures]
    notice = SourceNotice(SPLIT_FOLDERS, message, is_issue=False)
    return replace(listing, pictures=pictures, notices=[*listing.notices, notice])

"""What an audit page shows for a check: pictures on cards, those of one group of duplicates together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from bestiary.report.gallery import relative_name, thumbnails

PICTURE_PIXELS = 256
PICTURE_BYTES = 16 * 1024
MAX_GROUP_PICTURES = 12  # pictures of one group
MAX_TEXT = 160  # characters

Row = dict[str, Any]


@dataclass(frozen=True)
class CheckFindings:
    """The findings of one check that name pictures, worst first, and all pictures.

    In both, `group` joins the pictures that belong side by side for this check; in the findings it may be null.
    """

    findings: pl.DataFrame
    pictures: pl.DataFrame

    @property
    def groups(self) -> pl.Series:
        """The numbers of the groups that are concerned."""
        return self.findings["group"].drop_nulls().unique(maintain_order=True)

    @property
    def singles(self) -> pl.Series:
        """The paths of the pictures that are marked on their own."""
        return self.findings.filter(pl.col("group").is_null())["path"].unique(maintain_order=True)

    @property
    def n(self) -> int:
        """How many exhibits there would be if all were shown."""
        return len(self.groups) + len(self.singles)

    @property
    def n_pictures(self) -> int:
        """How many pictures are concerned: those named, and the others of their groups."""
        return self.pictures.filter(pl.col("group").is_in(self.groups.implode())).height + len(self.singles)


@dataclass(frozen=True)
class PictureCard:
    """A picture as it is shown. `image` is a data address, None if it cannot be shown; `facts` are size and format.

    `message` is what the findings say of it: empty for the picture that the others of a group are compared with.
    """

    path: str
    name: str
    label: str
    facts: str
    message: str
    suggested: str
    image: str | None = None


@dataclass(frozen=True)
class CardGroup:
    """A picture, or the pictures of one group; `more` of the group are not shown."""

    cards: Sequence[PictureCard]
    more: int = 0

    @property
    def current_labels(self) -> list[str]:
        """The labels that the pictures have, each once."""
        return list(dict.fromkeys(card.label for card in self.cards))

    @property
    def labels(self) -> list[str]:
        """The labels that the pictures have or should have, each once."""
        return list(dict.fromkeys([*self.current_labels, *(card.suggested for card in self.cards if card.suggested)]))


def findings_of_check(check: str, findings: pl.DataFrame, pictures: pl.DataFrame) -> CheckFindings:
    """Return the findings of a check that name pictures, with the groups in which that check should be shown.

    A group of duplicates may hold several sets of equal files; as exact duplicates only equal files stand together.
    What is left out of the collection is no longer shown with its group.
    """
    found = findings.filter((pl.col("check") == check) & pl.col("path").is_not_null())
    found = found.sort("score", "row_id", nulls_last=True, maintain_order=True)
    if check == "exact-duplicate":
        pictures = pictures.with_columns(group=pl.col("sha256").rank("dense").cast(pl.Int64))
        of = pictures.select("row_id", "group")
        found = found.drop("group").join(of, on="row_id", how="left", maintain_order="left")
    return CheckFindings(found, pictures.with_columns(group=pl.when(pl.col("error").is_null()).then("group")))


def choose_cards(check_findings: CheckFindings, root: str, *, max_pictures: int) -> list[CardGroup]:
    """Return the worst exhibits, with `max_pictures` pictures in all (a first group is shown in any case), without images.

    root: the folder that names are relative to. A group that does not fit is left out rather than torn apart.
    """
    key = pl.coalesce(pl.format("\0{}", "group"), "path")  # no path can begin with this character
    findings = check_findings.findings.with_columns(key=key)
    first = findings["key"].unique(maintain_order=True).head(max_pictures)
    findings = findings.filter(pl.col("key").is_in(first.implode()))
    about: dict[str, list[Row]] = {}
    for row in findings.iter_rows(named=True):
        about.setdefault(row["path"], []).append(row)
    members = _members(findings, check_findings.pictures)

    shown: list[CardGroup] = []
    for name in first:
        rows = members[name]
        seen = rows[:MAX_GROUP_PICTURES]
        if shown and len(seen) > max_pictures:
            break
        shown.append(CardGroup([_card(row, about.get(row["path"], []), root) for row in seen], len(rows) - len(seen)))
        max_pictures -= len(seen)
    return shown


def load_images(groups: Mapping[str, Sequence[CardGroup]]) -> dict[str, list[CardGroup]]:
    """Return the exhibits of each check with images; a picture that several checks show is opened once."""
    paths = list(dict.fromkeys(card.path for some in groups.values() for exhibit in some for card in exhibit.cards))
    images = dict(zip(paths, thumbnails(paths, PICTURE_PIXELS, largest_bytes=PICTURE_BYTES), strict=True))
    return {
        check: [
            replace(exhibit, cards=[replace(card, image=images[card.path]) for card in exhibit.cards])
            for exhibit in some
        ]
        for check, some in groups.items()
    }


def middle_ellipsis(text: str, max_length: int = MAX_TEXT) -> str:
    """Return a text, without its middle if it is too long to be shown.

    >>> middle_ellipsis("a" * 9 + "b" * 9, 7)
    'aaa…bbb'
    """
    half = (max_length - 1) // 2
    return text if len(text) <= max_length else f"{text[:half]}…{text[-half:]}"


def _members(findings: pl.DataFrame, pictures: pl.DataFrame) -> dict[str, list[Row]]:
    """Return the pictures of each key: a whole group, or the one that is marked, even if the table lacks it."""
    members: dict[str, list[Row]] = {}
    of_groups = pictures.filter(pl.col("group").is_in(findings["group"].drop_nulls().unique().implode()))
    for row in of_groups.sort("row_id").iter_rows(named=True):
        members.setdefault(f"\0{row['group']}", []).append(row)
    alone = findings.filter(pl.col("group").is_null()).unique("path")
    known = pictures.filter(pl.col("path").is_in(alone["path"].implode()))
    members |= {row["path"]: [row] for row in known.iter_rows(named=True)}
    return {
        row["key"]: [dict.fromkeys(pictures.columns) | {"path": row["path"]}] for row in findings.to_dicts()
    } | members


def _card(row: Row, findings: Sequence[Row], root: str) -> PictureCard:
    name = relative_name(row["path"], root)
    messages = dict.fromkeys((finding["message"] or "").replace(row["path"], name) for finding in findings)
    suggested = next((finding["suggested_label"] for finding in findings if finding["suggested_label"]), "")
    return PictureCard(
        path=row["path"],
        name=middle_ellipsis(name),
        label=middle_ellipsis(row["label"] or ""),
        facts=_facts(row),
        message=middle_ellipsis(" ".join(messages), 2 * MAX_TEXT),
        suggested=middle_ellipsis(suggested),
    )


def _facts(row: Row) -> str:
    """Return size, weight, format and split of a picture, as far as they are known."""
    part = row.get("given_split") or row["split"]
    size = f"{row['width']:,} × {row['height']:,} px" if row["width"] and row["height"] else ""
    size_bytes = row["bytes"] or 0
    weight = f"{size_bytes / 1000:,.0f} kB" if size_bytes >= 1000 else f"{size_bytes} bytes" if size_bytes else ""
    return " · ".join(fact for fact in (size, weight, row["format"], f"in {part}" if part else "") if fact)

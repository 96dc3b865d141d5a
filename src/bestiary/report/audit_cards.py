"""Cards of the audit page: pictures with their findings, duplicates of one group together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from bestiary.box import parse_reference, path_of
from bestiary.report.gallery import thumbnails
from bestiary.text import relative_name

PICTURE_PIXELS = 256
PICTURE_BYTES = 16 * 1024
MAX_GROUP_PICTURES = 12
MAX_TEXT = 160  # characters

Row = dict[str, Any]


@dataclass(frozen=True)
class CheckFindings:
    """The findings of one check that name pictures, worst first, and all pictures.

    In both, `group` joins the pictures that are shown together for this check; in the findings it may be null.
    """

    findings: pl.DataFrame
    pictures: pl.DataFrame

    @property
    def groups(self) -> pl.Series:
        """The numbers of the groups with findings."""
        return self.findings["group"].drop_nulls().unique(maintain_order=True)

    @property
    def singles(self) -> pl.Series:
        """The paths of the pictures with findings of their own."""
        return self.findings.filter(pl.col("group").is_null())["path"].unique(maintain_order=True)

    @property
    def n(self) -> int:
        """The number of card groups if all were shown."""
        return len(self.groups) + len(self.singles)

    @property
    def n_pictures(self) -> int:
        """The number of pictures with findings, with the others of their groups."""
        return self.pictures.filter(pl.col("group").is_in(self.groups.implode())).height + len(self.singles)


@dataclass(frozen=True)
class PictureCard:
    """A picture on the page. `image` is a data address, None if it cannot be shown; `facts` are size and format.

    `message` joins the messages of its findings: empty for the picture that the others of a group are compared with.
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
        """The labels of the pictures, each once."""
        return list(dict.fromkeys(card.label for card in self.cards))

    @property
    def labels(self) -> list[str]:
        """The current and the suggested labels of the pictures, each once."""
        return list(dict.fromkeys([*self.current_labels, *(card.suggested for card in self.cards if card.suggested)]))


def findings_of_check(check: str, findings: pl.DataFrame, pictures: pl.DataFrame) -> CheckFindings:
    """Return the findings of a check that name pictures, with the groups in which that check is shown.

    A group of duplicates may hold several sets of equal files; exact duplicates are grouped by file content.
    Pictures that are left out are not shown with their group.
    """
    findings = findings.filter((pl.col("check") == check) & pl.col("path").is_not_null())
    findings = findings.sort("score", "row_id", nulls_last=True, maintain_order=True)
    if check == "exact-duplicate":
        pictures = pictures.with_columns(group=pl.col("sha256").rank("dense").cast(pl.Int64))
        groups = pictures.select("row_id", "group")
        findings = findings.drop("group").join(groups, on="row_id", how="left", maintain_order="left")
    return CheckFindings(findings, pictures.with_columns(group=pl.when(pl.col("error").is_null()).then("group")))


def choose_cards(check_findings: CheckFindings, root: str, *, max_pictures: int) -> list[CardGroup]:
    """Return the worst card groups, without images, `max_pictures` pictures in all (the first group is always shown).

    root: the folder that names are relative to. A group that does not fit is left out whole.
    """
    key = pl.coalesce(pl.format("\0{}", "group"), "path")  # no path can begin with this character
    findings = check_findings.findings.with_columns(key=key)
    first = findings["key"].unique(maintain_order=True).head(max_pictures)
    findings = findings.filter(pl.col("key").is_in(first.implode()))
    by_path: dict[str, list[Row]] = {}
    for row in findings.iter_rows(named=True):
        by_path.setdefault(row["path"], []).append(row)
    members = _members(findings, check_findings.pictures)

    groups: list[CardGroup] = []
    for name in first:
        rows = members[name][:MAX_GROUP_PICTURES]
        if groups and len(rows) > max_pictures:
            break
        cards = [_card(row, by_path.get(row["path"], []), root) for row in rows]
        groups.append(CardGroup(cards, len(members[name]) - len(rows)))
        max_pictures -= len(rows)
    return groups


def load_images(groups: Mapping[str, Sequence[CardGroup]]) -> dict[str, list[CardGroup]]:
    """Return the card groups of each check with images; a picture in several checks is opened once."""
    paths = list(dict.fromkeys(card.path for some in groups.values() for group in some for card in group.cards))
    images = dict(zip(paths, thumbnails(paths, PICTURE_PIXELS, largest_bytes=PICTURE_BYTES), strict=True))
    return {
        check: [
            replace(group, cards=[replace(card, image=images[card.path]) for card in group.cards]) for group in some
        ]
        for check, some in groups.items()
    }


def middle_ellipsis(text: str, max_length: int = MAX_TEXT) -> str:
    """Return a text, without its middle if it is too long.

    >>> middle_ellipsis("a" * 9 + "b" * 9, 7)
    'aaa…bbb'
    """
    half = (max_length - 1) // 2
    return text if len(text) <= max_length else f"{text[:half]}…{text[-half:]}"


def _members(findings: pl.DataFrame, pictures: pl.DataFrame) -> dict[str, list[Row]]:
    """Return the pictures of each key: a whole group, or a single picture, even if the picture table lacks it."""
    members = {row["key"]: [dict.fromkeys(pictures.columns) | {"path": row["path"]}] for row in findings.to_dicts()}
    singles = findings.filter(pl.col("group").is_null())["path"].unique()
    in_table = pictures.filter(pl.col("path").is_in(singles.implode()))
    members |= {row["path"]: [row] for row in in_table.iter_rows(named=True)}
    groups: dict[str, list[Row]] = {}
    grouped = pictures.filter(pl.col("group").is_in(findings["group"].drop_nulls().unique().implode()))
    for row in grouped.sort("row_id").iter_rows(named=True):
        groups.setdefault(f"\0{row['group']}", []).append(row)
    return members | groups


def _card(row: Row, findings: Sequence[Row], root: str) -> PictureCard:
    name = relative_name(row["path"], root)
    path = str(path_of(parse_reference(row["path"])))
    messages = dict.fromkeys((finding["message"] or "").replace(path, name) for finding in findings)
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
    """Return dimensions, file size, format and split of a picture, as far as they are known."""
    split = row.get("given_split") or row["split"]
    pixels = f"{row['width']:,} × {row['height']:,} px" if row["width"] and row["height"] else ""
    n = row["bytes"] or 0
    size = f"{n / 1000:,.0f} kB" if n >= 1000 else f"{n} bytes" if n else ""
    return " · ".join(fact for fact in (pixels, size, row["format"], f"in {split}" if split else "") if fact)

"""`corrections.csv`: what a person decided about single pictures, keyed by content so that it survives renaming."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bestiary.errors import SourceError

COLUMNS = ("sha256", "action", "label", "note", "when")
ACTIONS = ("keep", "drop", "relabel")


@dataclass(frozen=True)
class Correction:
    """One decision: `keep` confirms the label, `drop` leaves the picture out, `relabel` gives it `label`."""

    sha256: str
    action: str
    label: str
    note: str


@dataclass(frozen=True)
class Corrections:
    """Decisions by content, the last one for each picture, and a digest of all of them."""

    decisions: dict[str, Correction]
    digest: str

    def unknown(self, found: pl.DataFrame) -> list[str]:
        """Return the hashes that no measured picture has."""
        return sorted(self.decisions.keys() - set(found["sha256"]))

    def applied(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return the measured table with labels replaced, and dropped pictures left out by `error`, not by removal."""
        of = {name: self._by_action(name) for name in ACTIONS}
        relabelled = pl.col("sha256").replace_strict({one.sha256: one.label for one in of["relabel"]}, default=None)
        reasons = {
            one.sha256: f"Dropped by the corrections{f': {one.note}' if one.note else ''}." for one in of["drop"]
        }
        dropped = pl.col("sha256").replace_strict(reasons, default=None)
        return found.with_columns(
            label=pl.coalesce(relabelled.cast(pl.String), "label"), error=pl.coalesce("error", dropped.cast(pl.String))
        )

    def settled(self) -> set[str]:
        """Return the hashes of pictures whose label a person has confirmed or given: nobody need ask again."""
        return {one.sha256 for name in ("keep", "relabel") for one in self._by_action(name)}

    def _by_action(self, action: str) -> list[Correction]:
        return [one for one in self.decisions.values() if one.action == action]


NONE = Corrections({}, "")


def read_corrections(path: Path | None) -> Corrections:
    """Return the decisions of a CSV with the columns sha256, action, label, note, when; None gives no decisions.

    Of several rows about a picture the last one holds. Raises SourceError, naming the row and what was expected.
    """
    if path is None:
        return NONE
    try:
        content = path.read_bytes()
        rows = list(csv.reader(content.decode("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"The corrections {path} cannot be read: {error}.") from None
    if not rows or tuple(rows[0][:3]) != COLUMNS[:3]:
        raise SourceError(f"The corrections {path} must begin with the line {','.join(COLUMNS)}.")
    decisions = {one.sha256: one for one in _parsed(rows[1:], path)}
    return Corrections(decisions, hashlib.sha256(content).hexdigest()[:16])


def _parsed(rows: list[list[str]], path: Path) -> Iterator[Correction]:
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        sha256, action, label, note = (*(cell.strip() for cell in row), "", "", "", "")[:4]
        if not re.fullmatch(r"[0-9a-f]{64}", sha256.lower()):
            raise SourceError(f'{path}, line {number}: "{sha256}" is no SHA-256 of 64 hexadecimal digits.')
        if action not in ACTIONS:
            raise SourceError(f'{path}, line {number}: action "{action}" is none of {", ".join(ACTIONS)}.')
        if (action == "relabel") != bool(label) and action != "keep":
            raise SourceError(f"{path}, line {number}: relabel needs a label, drop takes none.")
        yield Correction(sha256.lower(), action, label, note)

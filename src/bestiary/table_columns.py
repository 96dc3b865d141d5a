"""Roles of a table's columns: which column has the path, the label, the group or the box of a picture."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Protocol

from bestiary.box import PIXELS_FROM, BoxUnit
from bestiary.errors import SourceError, UserError, did_you_mean
from bestiary.picture_formats import PICTURE_SUFFIXES
from bestiary.text import format_names
from bestiary.text_table import list_columns

# Names that are taken for a role if exactly one column has one of them, without case, spaces, hyphens and underscores.
PATH_NAMES = (
    *("path", "file", "filename", "filepath", "filelocation", "image", "imagepath", "imagefile", "imagename"),
    *("imagefilename", "img", "imgpath", "imgname", "picture", "picturepath", "photo", "photopath"),
)
LABEL_NAMES = ("label", "species", "class", "category", "classname", "labelname", "speciesname")
OPTIONAL = ("split", "group", "site", "time")
ROLES = ("path", "label", *OPTIONAL, "box", "corners")
BOX_ROLES = {"box": "left+top+width+height", "corners": "left+top+right+bottom"}
CORNER_NAMES = ("xmin", "ymin", "xmax", "ymax")  # of a box without a role, as VoTT and others write it
SYNTAX = "path=File,label=Species,group=Burst,site=Camera,time=Taken,box=left+top+width+height"
_ROLE = re.compile(rf"(?:^|,)\s*({'|'.join(ROLES)})\s*=")
_ANY_ROLE = re.compile(r"(?:^|,)\s*(\w+)\s*=")


class Table(Protocol):
    """A table with named columns."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names."""

    def read_sample(self, n_rows: int) -> dict[str, list[str | None]]:
        """Return the first rows by column; raises SourceError."""


@dataclass(frozen=True)
class Columns:
    """The column of each role, and the four columns of the box; None: the table has none.

    box_role: "box" for corner and size, "corners" for two corners. guessed: roles whose column was not named.
    """

    names: Mapping[str, str]
    box: tuple[str, str, str, str] | None = None
    box_role: str = "box"
    guessed: tuple[str, ...] = ()

    def list_names(self) -> list[str]:
        """Return the names of all columns that have a role."""
        return list(dict.fromkeys([*self.names.values(), *(self.box or ())]))

    def list_numbers(self) -> list[str]:
        """Return the names of the columns that are no names of anything: those of times and boxes."""
        return [*(name for role, name in self.names.items() if role == "time"), *(self.box or ())]

    def describe(self) -> str:
        """Return which column is taken for what."""
        listed = [f'{role} from the column "{name}"' for role, name in self.names.items()]
        if self.box:
            listed.append(f"boxes from {' + '.join(self.box)}")
        return ", ".join(listed)


def parse_columns(text: str) -> dict[str, str]:
    """Return the column of each role from `path=File,label=Species`; column names may contain commas and spaces.

    >>> parse_columns("path=File,label=Species, common,box=x+y+w+h")
    {'path': 'File', 'label': 'Species, common', 'box': 'x+y+w+h'}
    """
    matches = list(_ROLE.finditer(text))
    unknown = [match[1] for match in _ANY_ROLE.finditer(text) if match[1] not in ROLES]
    if unknown and not matches:
        raise UserError(f'--columns: there is no role "{unknown[0]}". {did_you_mean(unknown[0], ROLES)}')
    if not matches or matches[0].start() != 0:
        raise UserError(f'--columns takes the column of each role, for example --columns {SYNTAX}; got "{text}".')
    ends = [match.start() for match in matches[1:]] + [len(text)]
    columns: dict[str, str] = {}
    for match, end in zip(matches, ends, strict=True):
        role, name = match[1], text[match.end() : end].strip()
        if role in columns:
            raise UserError(f'--columns: the role "{role}" has two columns, "{columns[role]}" and "{name}".')
        columns[role] = name
    return columns


def choose_columns(table: Table, requested: Mapping[str, str], *, needs_label: bool = True) -> Columns:
    """Return the column of each role: as requested, else by its name where exactly one column has a usual one.

    Raises SourceError, with the columns of the table and a command, if path or label cannot be decided, a requested
    column is missing or a used name occurs twice; UserError for an unknown role.
    """
    _check_roles(requested)
    names: dict[str, str] = {}
    guessed: list[str] = []
    usual = {"path": PATH_NAMES, "label": LABEL_NAMES, **{role: [role] for role in OPTIONAL}}
    for role, aliases in usual.items():
        if role in requested:
            names[role] = _require_column(table, requested[role])
            continue
        taken = {*names.values(), *requested.values()}
        candidates = [name for name in table.columns if _simplify(name) in aliases and name not in taken]
        exact = [name for name in candidates if name.strip() == role]
        candidates = exact if len(exact) == 1 else candidates
        if len(set(candidates)) == 1:  # of two of one name, none is chosen
            names[role] = _require_column(table, candidates[0])
            guessed.append(role)
        elif role == "path" or (role == "label" and needs_label):
            _check_named_for_another(table, role, requested)
            raise _undecided_error(table, role, candidates, requested, needs_label=needs_label)
    box_role = next((role for role in BOX_ROLES if role in requested), "box")
    box = _box_columns(table, requested[box_role], box_role) if box_role in requested else None
    if box is None and set(CORNER_NAMES) <= set(table.columns):
        box_role, box = "corners", _box_columns(table, "+".join(CORNER_NAMES), "corners")
    return Columns(names, box, box_role, tuple(guessed))


def box_unit(largest: Iterable[float]) -> BoxUnit:
    """Return the unit of all boxes of a table: pixels if that is what most of them are in.

    largest: the largest number of each box. A box in fractions may reach a little beyond the picture.
    """
    counts = Counter(number > PIXELS_FROM for number in largest)
    return "pixels" if counts[True] > counts[False] else "fraction"


def read_number(text: str, delimiter: str) -> float:
    """Return a cell as a number, not-a-number for another text.

    A decimal comma is one in a table whose columns are not separated by commas.

    >>> read_number("0,25", ";"), read_number(" 12 ", ","), read_number("wide", ",")
    (0.25, 12.0, nan)
    """
    try:
        return float(text.replace(",", ".") if delimiter != "," else text)
    except ValueError:
        return math.nan


def find_label_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns that have a usual name of the label."""
    return [name for name in columns if _simplify(name) in LABEL_NAMES]


def _check_roles(requested: Mapping[str, str]) -> None:
    for role in requested:
        if role not in ROLES:
            raise UserError(f'Columns: there is no role "{role}". {did_you_mean(role, ROLES)}')
    if "box" in requested and "corners" in requested:
        raise UserError("Columns: box (corner and size) and corners (two corners) are both named. Leave out one.")


def _box_columns(table: Table, text: str, role: str) -> tuple[str, str, str, str]:
    parts = [part.strip() for part in text.split("+")]
    if len(parts) != 4:
        raise UserError(f'Columns: {role} takes four columns, {role}={BOX_ROLES[role]}; got "{text}".')
    first, second, third, fourth = (_require_column(table, part) for part in parts)
    return first, second, third, fourth


def _require_column(table: Table, name: str) -> str:
    """Return the name of a column as the table has it; raise SourceError if it is missing or there are two of it."""
    matches = [column for column in table.columns if column == name]
    if not matches:
        folded = [column for column in table.columns if column.casefold() == name.strip().casefold()]
        matches = folded if len(folded) == 1 else []
    if len(matches) > 1:
        raise SourceError(f'The table {table.path} has {len(matches)} columns "{name}". Rename all but one of them.')
    if not matches:
        meant = did_you_mean(name, [column for column in table.columns if column]).partition("Known:")[0]
        raise SourceError(
            f'The table {table.path} has no column "{name}". {meant}It has: {list_columns(table.columns)}.'
        )
    return matches[0]


def _check_named_for_another(table: Table, role: str, requested: Mapping[str, str]) -> None:
    """Raise SourceError if a column that is usual for path or label is named for another role: it cannot be both."""
    usual = PATH_NAMES if role == "path" else LABEL_NAMES
    for named_role, name in requested.items():
        if _simplify(name) in usual and name in table.columns:
            raise SourceError(
                f'The table {table.path} has no column for the {role} beside "{name}", which is named as {named_role}.'
                f" Name another column as {named_role}, or another {role}: --columns {role}=COLUMN."
            )


def _undecided_error(
    table: Table, role: str, candidates: Sequence[str], requested: Mapping[str, str], *, needs_label: bool
) -> SourceError:
    hint = ""
    if candidates:
        why = f"several columns that may be the {role} ({format_names(candidates)})"
    else:
        usual = ", ".join(PATH_NAMES[1:4] if role == "path" else LABEL_NAMES[1:4])
        why, hint = f'no column "{role}"', f"Columns such as {usual} are recognised. "
    hint_delimiter = "" if len(table.columns) > 1 else " The columns must be separated by commas, semicolons or tabs."
    columns = _propose_columns(table, requested, needs_label=needs_label)
    example = f'Name the {"columns" if needs_label else "column"}, for example: --columns "{columns}".'
    return SourceError(
        f"The table {table.path} has {why}; it has: {list_columns(table.columns)}.{hint_delimiter} {hint}{example}"
    )


def _propose_columns(table: Table, requested: Mapping[str, str], *, needs_label: bool) -> str:
    """Return an example of `--columns` with columns of the table: a path looks like a picture, a label repeats."""
    names = [name for name in table.columns if name]
    path, label = requested.get("path"), requested.get("label")
    try:
        sample = table.read_sample(1000)
    except SourceError:
        sample = {}
    if any(sample.values()):
        looks = {name: sum(map(_is_picture_text, cells)) for name, cells in sample.items()}
        path = path or max(sample, key=lambda name: (looks[name], _simplify(name) in PATH_NAMES))
        counts = {name: len(set(cells)) for name, cells in sample.items()}
        rest = [name for name, cells in sample.items() if name != path and counts[name] < max(2, len(cells))]
        usual = [name for name in rest if _simplify(name) in LABEL_NAMES]
        label = label or next(iter([*usual, *(n for n in rest if counts[n] > 1), *rest]), None)
    path = path or (names[0] if names else "COLUMN")
    label = label or next((name for name in names if name != path), "COLUMN")
    return f"path={path},label={label}" if needs_label else f"path={path}"


def _is_picture_text(text: str | None) -> bool:
    return text is not None and Path(PureWindowsPath(text.partition("?")[0]).name).suffix.lower() in PICTURE_SUFFIXES


def _simplify(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()

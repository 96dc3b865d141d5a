"""Label maps from folder names to labels: the built-in map for Animals-10, or a CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from bestiary.errors import SourceError, did_you_mean

# The folder names of the dataset are Italian.
ANIMALS10 = {
    "cane": "dog",
    "cavallo": "horse",
    "elefante": "elephant",
    "farfalla": "butterfly",
    "gallina": "chicken",
    "gatto": "cat",
    "mucca": "cow",
    "pecora": "sheep",
    "ragno": "spider",
    "scoiattolo": "squirrel",
}
LABEL_MAPS = {"animals10": ANIMALS10}


def label_map(name: str | None) -> Mapping[str, str]:
    """Return folder name -> label. `name` is a built-in map or the path of a CSV with two columns, folder and label.

    None gives an empty map: every folder name is its own label. Raises SourceError for an unknown name or a bad CSV.
    """
    if name is None:
        return {}
    if name in LABEL_MAPS:
        return LABEL_MAPS[name]
    path = Path(name)
    if not path.is_file():
        raise SourceError(
            f'There is no label map "{name}". {did_you_mean(name, LABEL_MAPS)} Or pass the path of a CSV.'
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"The label map {path} cannot be read: {error}.") from None
    if rows and [cell.lower() for cell in rows[0]] == ["folder", "label"]:
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not all(row):
            raise SourceError(f"{path}, row {number}: expected folder,label; got {','.join(row)!r}.")
    return {row[0]: row[1] for row in rows}


def absolute_label_map(name: str | None) -> str | None:
    """Return the name of a label map as a run records it: a built-in name, or the absolute path of a CSV.

    >>> absolute_label_map("animals10")
    'animals10'
    """
    return name if name is None or name in LABEL_MAPS else str(Path(name).absolute())

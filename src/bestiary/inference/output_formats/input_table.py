"""A table of pictures with its own columns (CSV, semicolons or tabs), and the predictions beside them."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bestiary.errors import IntegrityError, SourceError, UserError
from bestiary.files import atomic_path
from bestiary.inference import writers
from bestiary.inference.predictor import Prediction
from bestiary.text import format_names, printable

DELIMITERS = (",", ";", "\t")
PATH_COLUMNS = ("path", "file_name", "filepath", "file_path", "filename", "file", "image", "picture")
FOLDER_COLUMN = "relativepath"  # of Timelapse, beside `File`
PREFIX = "predicted_"
MAX_COLUMNS = 12
_ELSEWHERE = re.compile(r"^([A-Za-z]:[/\\]|[/\\]|[A-Za-z][A-Za-z0-9+.-]+://)")  # a drive, root, server or address
BOM, BLOCK_BYTES = b"\xef\xbb\xbf", 1 << 20


class InputTable:
    """The pictures that a table lists, one a row, in its order. The rows are read when they are needed."""

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        """Read the header, and check that every row has its columns. Raises SourceError.

        folder: where the pictures lie, default: where the table lies.
        """
        self.path, self.folder = path, path.parent if folder is None else folder
        self._names: dict[Path, str] = {}  # of the files that are there without the leading folders of their names
        try:
            with path.open("rb") as file:
                self.digest = hashlib.file_digest(file, "sha256").hexdigest()
            with path.open("rb") as file:
                self.encoding = _find_encoding(file.read(len(BOM)), path)
            with path.open(encoding=self.encoding, newline="") as lines:
                self.delimiter, self.columns = _read_header(lines, path)
        except OSError as error:
            raise SourceError(f"The table {path} cannot be read: {error.strerror or error}.") from None
        self._path_column, self._folder_column = self._find_path_columns()
        self.n_rows = sum(1 for _ in self.iter_rows())
        if not self.n_rows:
            raise SourceError(f"The table {path} has no rows below its header.")

    def iter_rows(self) -> Iterator[list[str]]:
        """Yield the cells of each row; blank lines are passed over."""
        with self.path.open(encoding=self.encoding, newline="") as lines:
            rows = csv.reader(lines, delimiter=self.delimiter)
            next(rows)
            for cells in rows:
                if not cells:
                    continue
                if len(cells) != len(self.columns):
                    raise SourceError(
                        f"Line {rows.line_num} of {self.path} has {len(cells)} cells; its header has"
                        f" {len(self.columns)}."
                    )
                yield cells

    def iter_pictures(self) -> Iterator[Path]:
        """Yield the picture of each row."""
        return map(self.find_picture, self.iter_rows())

    def find_picture(self, cells: list[str]) -> Path:
        """Return the path of the picture of a row; a backslash is a separator where there is no file of that name.

        A path of another computer that is not here, such as `D:\\survey\\cam1\\1.jpg`, is looked for in the folder
        with its leading folders dropped one at a time. Raises SourceError if two such paths match one file.
        """
        name = cells[self._path_column]
        if self._folder_column is not None and cells[self._folder_column]:
            name = f"{cells[self._folder_column]}/{name}"
        picture = self.folder / name
        if "\\" in name and not picture.exists():
            picture = self.folder / name.replace("\\", "/")
        if not _ELSEWHERE.match(name) or picture.exists():
            return picture
        return self._find_without_leading(name) or picture

    def _find_without_leading(self, name: str) -> Path | None:
        parts = re.split(r"[/\\]+", name)
        tails = (self.folder.joinpath(*parts[start:]) for start in range(1, len(parts)) if ".." not in parts)
        picture = next((tail for tail in tails if tail.is_file()), None)
        if picture is not None and self._names.setdefault(picture, name) != name:
            raise SourceError(
                f"{self.path}: {self._names[picture]} and {name} both match {picture}. Pass the folder above, in which"
                " their paths differ."
            )
        return picture

    def _find_path_columns(self) -> tuple[int, int | None]:
        names = [name.strip().casefold() for name in self.columns]
        path_column = next((names.index(name) for name in PATH_COLUMNS if name in names), None)
        if path_column is None:
            raise SourceError(
                f"The table {self.path} has no column with the paths of pictures: its columns are"
                f" {format_names(self.columns, MAX_COLUMNS)}. Name one of them {', '.join(PATH_COLUMNS)}."
            )
        has_folders = names[path_column] == "file" and FOLDER_COLUMN in names
        return path_column, names.index(FOLDER_COLUMN) if has_folders else None


def added_columns(classes: Iterable[str], *, sets: bool) -> list[str]:
    """Return the columns that predictions add to a table."""
    names = writers.prediction_columns(list(classes), sets=sets)[1:]
    return [name if name.startswith("p_") else PREFIX + name for name in names]


def check_columns(table: InputTable, classes: Iterable[str], *, sets: bool) -> None:
    """Raise UserError if the table has a column already that predictions add."""
    if taken := [name for name in added_columns(classes, sets=sets) if name in table.columns]:
        raise UserError(
            f"The table {table.path} has the {'columns' if len(taken) > 1 else 'column'}"
            f" {format_names(taken, MAX_COLUMNS)} already, which a prediction would add. Rename or remove them."
        )


def write_table(
    predictions: Iterable[Prediction], path: Path, table: InputTable, classes: tuple[str, ...], *, sets: bool
) -> None:
    """Write the rows of the table as they are, with the columns of their predictions after them.

    predictions: in the order of the rows. Cells of the table are not changed; those that are added cannot run as a
    formula in a spreadsheet.
    """
    encoding = "utf-8-sig" if table.encoding == "utf-8-sig" else "utf-8"
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding=encoding, errors="backslashreplace", newline="") as out,
    ):
        rows = csv.writer(out, delimiter=table.delimiter, lineterminator="\n")
        rows.writerow([*table.columns, *added_columns(classes, sets=sets)])
        for cells, prediction in zip(table.iter_rows(), predictions, strict=True):
            if printable(str(table.find_picture(cells))) != printable(str(prediction.path)):
                raise IntegrityError(f"The row of {cells} has the prediction of {prediction.path}.")
            _, *values = writers.prediction_row(prediction, classes, sets=sets)
            rows.writerow([*cells, *(writers.escape_formula(value, "'") for value in values)])


def _find_encoding(head: bytes, path: Path) -> str:
    """Return the encoding of a table: UTF-8, with or without a mark at its start, else that of Windows."""
    if head == BOM:
        return "utf-8-sig"
    try:
        with path.open(encoding="utf-8", newline="") as text:
            while text.read(BLOCK_BYTES):
                pass
    except UnicodeDecodeError:
        return "cp1252" if _can_decode(path, "cp1252") else "latin-1"
    return "utf-8"


def _can_decode(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding, newline="") as text:
            while text.read(BLOCK_BYTES):
                pass
    except UnicodeDecodeError:
        return False
    return True


def _read_header(lines: Iterable[str], path: Path) -> tuple[str, list[str]]:
    """Return the delimiter that gives the most columns, and their names."""
    line = next(iter(lines), "")
    by_delimiter = {delimiter: next(csv.reader([line], delimiter=delimiter), []) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda name: len(by_delimiter[name]))
    columns = by_delimiter[delimiter]
    if not columns or not any(name.strip() for name in columns):
        raise SourceError(f"The table {path} has no header.")
    if len(set(columns)) < len(columns):
        twice = sorted({name for name in columns if columns.count(name) > 1})
        raise SourceError(f"The table {path} has two columns of the same name: {format_names(twice, MAX_COLUMNS)}.")
    return delimiter, columns

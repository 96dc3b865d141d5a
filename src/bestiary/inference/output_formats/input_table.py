"""A table of pictures, or of boxes in them, with its own columns, and the predictions beside them."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from bestiary.box import Box, BoxUnit, Crop, PictureFile
from bestiary.errors import IntegrityError, SourceError, UserError
from bestiary.files import atomic_path
from bestiary.inference import writers
from bestiary.inference.predictor import Prediction
from bestiary.table_columns import BOX_ROLES, box_unit, choose_columns, parse_columns, read_number
from bestiary.text import format_names, printable
from bestiary.text_table import clean_name, read_layout, unreadable_error

FOLDER_COLUMN = "relativepath"  # of Timelapse, beside `File`
ROLES = ("path", "time", *BOX_ROLES)  # of `--columns`
PREFIX = "predicted_"
MAX_COLUMNS = 12
NO_TEXT_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".xls", ".ods")
_ELSEWHERE = re.compile(r"^([A-Za-z]:[/\\]|[/\\]|[A-Za-z][A-Za-z0-9+.-]+://)")  # a drive, root, server or address


class InputTable:
    """The pictures or boxes that a table lists, one a row, in its order. The rows are read when they are needed."""

    def __init__(
        self, path: Path, folder: Path | None = None, columns: str | None = None, *, boxes: bool = True
    ) -> None:
        """Read the header, and check that every row has its columns. Raises SourceError.

        folder: where the pictures lie, default: where the table lies. columns: of `ROLES`, as `--columns` has them.
        boxes: whether columns of boxes are used.
        """
        self.path, self.folder = path, path.parent if folder is None else folder
        self._names: dict[Path, str] = {}  # of the files that are there without the leading folders of their names
        requested = parse_columns(columns) if columns else {}
        if wrong := [role for role in requested if role not in ROLES]:
            raise UserError(
                f"--columns: with --table, the role {wrong[0]} has no use; expected {', '.join(ROLES)}. Events by a"
                " column are --group COLUMN."
            )
        if path.suffix.lower() in NO_TEXT_SUFFIXES:
            raise SourceError(
                f"--table {path}: expected a table as text (commas, semicolons or tabs). Export it as CSV, or give a"
                " list of paths on stdin: bestiary predict RUN - < paths.txt"
            )
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            layout = read_layout(path)
            self.encoding, self.delimiter = layout.encoding, layout.delimiter
            self.header = next(self._iter_lines())[1]
            self.columns = tuple(clean_name(name) for name in self.header)
            self._check_header()
            roles = choose_columns(self, requested, needs_label=False)
            self.roles = roles if boxes else replace(roles, box=None)
            self.n_rows, self._unit = self._scan_rows()
        except OSError as error:
            raise unreadable_error(path, str(error.strerror or error)) from None
        except (UnicodeError, csv.Error) as error:
            raise unreadable_error(path, str(error)) from None
        if not self.n_rows:
            raise SourceError(f"The table {path} has no rows below its header.")
        digest.update((columns or "").encode())
        self.digest = digest.hexdigest()

    @property
    def has_boxes(self) -> bool:
        """Whether the table has columns of boxes."""
        return self.roles.box is not None

    def read_sample(self, n_rows: int) -> dict[str, list[str | None]]:
        """Return the first rows by column, of columns that have a name."""
        rows = [cells for _, cells in islice(self._iter_lines(), 1, n_rows + 1)]
        columns = {name: index for index, name in enumerate(self.columns) if name}
        return {name: [row[i] if i < len(row) else None for row in rows] for name, i in columns.items()}

    def iter_rows(self) -> Iterator[list[str]]:
        """Yield the cells of each row; blank lines are passed over."""
        for number, cells in islice(self._iter_lines(), 1, None):
            if len(cells) != len(self.columns):
                raise SourceError(
                    f"Line {number} of {self.path} has {len(cells)} cells; its header has {len(self.columns)}. Put"
                    " texts that have the delimiter in them into quotation marks."
                )
            yield cells

    def iter_files(self) -> Iterator[PictureFile]:
        """Yield the picture of each row, or the box in it; a row without a box is the whole picture."""
        for cells in self.iter_rows():
            picture, box = self.find_picture(cells), self._find_box(cells)
            yield picture if box is None else Crop(picture, box)

    def iter_values(self, column: str) -> Iterator[tuple[Path, str]]:
        """Yield the picture of each row, and its cell of a column."""
        position = self.columns.index(column)
        for cells in self.iter_rows():
            yield self.find_picture(cells), cells[position].strip()

    def find_picture(self, cells: list[str]) -> Path:
        """Return the path of the picture of a row; a backslash is a separator where there is no file of that name.

        A path of another computer that is not here, such as `D:\\survey\\cam1\\1.jpg`, is looked for in the folder
        with its leading folders dropped one at a time. Raises SourceError if two such paths match one file.
        """
        name, folder_column = cells[self._path_column], self._folder_column
        if folder_column is not None and cells[folder_column]:
            name = f"{cells[folder_column]}/{name}"
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

    def _find_box(self, cells: list[str]) -> Box | None:
        """Return the box of a row, None if its cells are empty; one that is not four numbers has not-a-numbers."""
        if (numbers := self._read_numbers(cells)) is None:
            return None
        left, top, width, height = numbers
        if self.roles.box_role == "corners":
            width, height = width - left, height - top
        return Box(left, top, width, height, self._unit)

    def _read_numbers(self, cells: list[str]) -> list[float] | None:
        texts = [cells[position].strip() for position in self._box_columns]
        return [read_number(text, self.delimiter) for text in texts] if any(texts) else None

    def _scan_rows(self) -> tuple[int, BoxUnit]:
        """Return the number of rows, and the unit of the boxes. Raises SourceError if no box is four numbers."""
        n_rows, n_boxes, is_number, largest = 0, 0, False, array("d")
        for cells in self.iter_rows():
            n_rows += 1
            if (numbers := self._read_numbers(cells)) is not None:
                n_boxes += 1
                is_number = is_number or all(map(math.isfinite, numbers))
                largest.extend([max((abs(number) for number in numbers if math.isfinite(number)), default=0.0)])
        if n_boxes and not is_number:
            raise SourceError(
                f"The table {self.path} has no box of four numbers in the columns {' + '.join(self.roles.box or ())}."
                f" Expected numbers with a decimal point; for other columns --columns box={BOX_ROLES['box']}."
            )
        return n_rows, box_unit(largest)

    def _iter_lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the cells of each line that is not blank, the header first."""
        is_header = True
        with self.path.open(encoding=self.encoding, newline="") as lines:
            rows = csv.reader(lines, delimiter=self.delimiter)
            for cells in rows:
                if any(cells) if is_header else cells:
                    is_header = False
                    yield rows.line_num, cells

    def _check_header(self) -> None:
        if twice := sorted({name for name in self.columns if name and self.columns.count(name) > 1}):
            names = format_names(twice, MAX_COLUMNS)
            raise SourceError(
                f"The table {self.path} has two columns of the same name: {names}. Rename all but one of them."
            )

    @cached_property
    def _path_column(self) -> int:
        return self.columns.index(self.roles.names["path"])

    @cached_property
    def _folder_column(self) -> int | None:
        names = [name.casefold() for name in self.columns]
        return names.index(FOLDER_COLUMN) if names[self._path_column] == "file" and FOLDER_COLUMN in names else None

    @cached_property
    def _box_columns(self) -> list[int]:
        return [self.columns.index(name) for name in self.roles.box or ()]


def added_columns(classes: Iterable[str], *, sets: bool, reasons: bool) -> list[str]:
    """Return the columns that predictions add to a table."""
    names = writers.prediction_columns(list(classes), sets=sets, reasons=reasons)[1:]
    return [name if name.startswith("p_") else PREFIX + name for name in names]


def check_columns(table: InputTable, classes: Iterable[str], extra: Mapping[str, bool]) -> None:
    """Raise UserError if the table has a column already that predictions add. extra: `sets` and `reasons`."""
    if taken := [name for name in added_columns(classes, **extra) if name in table.columns]:
        raise UserError(
            f"The table {table.path} has the {'columns' if len(taken) > 1 else 'column'}"
            f" {format_names(taken, MAX_COLUMNS)} already, which a prediction would add. Rename or remove them."
        )


def write_table(
    predictions: Iterable[Prediction],
    path: Path,
    table: InputTable,
    classes: tuple[str, ...],
    extra: Mapping[str, bool],
) -> None:
    """Write the rows of the table as they are, with the columns of their predictions after them.

    predictions: in the order of the rows. extra: whether they have `sets` and `reasons`. Cells of the table are not
    changed; those that are added cannot run as a formula in a spreadsheet. UTF-16 becomes UTF-8 with a byte order mark.
    """
    encoding = "utf-8-sig" if table.encoding.startswith(("utf-8-sig", "utf-16")) else "utf-8"
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding=encoding, errors="backslashreplace", newline="") as out,
    ):
        rows = csv.writer(out, delimiter=table.delimiter, lineterminator="\n")
        rows.writerow([*table.header, *added_columns(classes, **extra)])
        for cells, prediction in zip(table.iter_rows(), predictions, strict=True):
            if printable(str(table.find_picture(cells))) != printable(str(prediction.path)):
                raise IntegrityError(f"The row of {cells} has the prediction of {prediction.path}.")
            _, *values = writers.prediction_row(prediction, classes, **extra)
            rows.writerow([*cells, *(writers.escape_formula(value, "'") for value in values)])

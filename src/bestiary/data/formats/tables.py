"""Tables with a row for each label: CSV, TSV, semicolons, JSON lines, parquet, with columns by name or as asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from bestiary.data.formats.label_table import ROWS, LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.table_file import TABLE_SUFFIXES, TableFile, open_table, read_header
from bestiary.data.formats.times import format_times
from bestiary.data.split import SPLIT_NAMES, parse_split_name
from bestiary.errors import SourceError
from bestiary.table_columns import BOX_ROLES, OPTIONAL, Columns, box_unit, choose_columns
from bestiary.text import format_names
from bestiary.text_table import ENCODING_TITLES, list_columns

UNKNOWN = ("box_confidence", "picture_width", "picture_height")  # what a table does not say
NO_PICTURE, NO_LABEL = "row without a picture", "without a label"
MEANINGS = {"group": "a burst", "site": "a camera", "time": "when it was taken"}  # of the roles that are optional


def is_table(path: Path) -> bool:
    """Return whether a file has the suffix of a table; a .txt only if its first line has two columns or more."""
    suffix = path.suffix.lower()
    return path.is_file() and suffix in TABLE_SUFFIXES and (suffix != ".txt" or len(read_header(path)) > 1)


def read_table(path: Path, options: ReadOptions) -> LabelTable:
    """Return the rows of a table. Raises SourceError if its columns cannot be decided, and for an unknown split."""
    table = open_table(path)
    columns = choose_columns(table, options.columns)
    frame = table.read(columns.list_names(), numbers=columns.list_numbers())
    result = convert_rows(frame, columns, table)
    note = f"The table {path} ({table.describe()}): {columns.describe()}.{_describe_unused(table, columns)}"
    return LabelTable(result.rows, result.left_out, (note, *_encoding_notes(table, frame), *result.notes))


FORMAT = LabelFormat("table", "a table", is_table, read_table)


def convert_rows(frame: pl.DataFrame, columns: Columns, table: TableFile) -> LabelTable:
    """Return the rows of a frame of texts by the roles of its columns, and those without a picture or label."""
    texts = {role: frame[name].str.strip_chars() for role, name in columns.names.items() if role in ROWS}
    texts |= {"file": frame[columns.names["path"]]}
    missing = pl.Series([None] * frame.height, dtype=pl.String)
    texts = {role: texts.get(role, missing) for role in ("file", "label", "split", "group", "site", "time")}
    rows = pl.DataFrame(texts).with_columns(pl.when(pl.all().str.len_chars() > 0).then(pl.all()))
    rows = rows.with_columns(_parse_splits(rows["split"], table.path))
    times, notes = format_times(rows["time"])
    rows = rows.with_columns(time=times)
    boxes, box_notes = _read_boxes(frame, columns, table)
    rows = rows.with_columns(*boxes, *(pl.lit(None, ROWS[name]).alias(name) for name in UNKNOWN))
    is_blank = rows["file"].is_null() & rows["label"].is_null() & rows["split"].is_null()  # an empty line
    reason = pl.when(pl.col("file").is_null()).then(pl.lit(NO_PICTURE)).when(pl.col("label").is_null())
    rows = rows.with_columns(reason=reason.then(pl.lit(NO_LABEL))).filter(~is_blank)
    left_out = rows.filter(pl.col("reason").is_not_null()).select(pl.col("file").fill_null(""), "reason")
    labelled = rows.filter(pl.col("reason").is_null()).select(list(ROWS))
    if not labelled.height:
        counts = ", ".join(f"{n:,} {reason}" for reason, n in left_out["reason"].value_counts().iter_rows())
        raise SourceError(
            f"The table {table.path} has no row with a picture and a label ({counts or 'it has no rows'};"
            f" {columns.describe()})."
        )
    empty = [name for role, name in columns.names.items() if role in OPTIONAL and not rows[role].count()]
    notes += [f'The column "{name}" of the table {table.path} is empty.' for name in empty]
    return LabelTable(labelled, left_out, (*notes, *box_notes))


def _describe_unused(table: TableFile, columns: Columns) -> str:
    """Return the columns without a role, and how to name those of a burst, a camera or a time that has none yet."""
    unused = [name for name in table.columns if name not in columns.list_names()]
    if not unused:
        return ""
    missing = [f"{role}=COLUMN ({meaning})" for role, meaning in MEANINGS.items() if role not in columns.names]
    hint = f" If one of them is of use, name it: --columns {' or '.join(missing)}." if missing else ""
    return f" Not used: {list_columns(unused)}.{hint}"


def _encoding_notes(table: TableFile, frame: pl.DataFrame) -> tuple[str, ...]:
    title = ENCODING_TITLES.get(table.encoding)
    if title is None or title == "UTF-16":
        return ()
    cells = (cell for column in frame for cell in column.unique().to_list())
    example = next((cell for cell in cells if cell and not cell.isascii()), None)
    phrase = f", for example “{example}”" if example else ""
    return (f"The table {table.path} is not UTF-8: it is read as {title}{phrase}. Save it as UTF-8 if that is wrong.",)


def _parse_splits(texts: pl.Series, path: Path) -> pl.Series:
    """Return the split of each text; raise SourceError for one that is no split."""
    names = {text: parse_split_name(text) for text in texts.unique().drop_nulls().to_list()}
    if unknown := sorted(text for text, name in names.items() if name is None):
        expected = ", ".join(sorted(SPLIT_NAMES))
        raise SourceError(f'{path}: unknown split "{unknown[0]}". Expected one of: {expected}.')
    return texts.replace_strict(names, default=None, return_dtype=pl.String).alias("split")


def _read_boxes(frame: pl.DataFrame, columns: Columns, table: TableFile) -> tuple[pl.DataFrame, list[str]]:
    """Return the box columns of `ROWS`; all boxes of a table have one unit: that which most of them must have.

    A box in pixels has a value above 2; one that reaches a little beyond the picture, in fractions, has not.
    """
    names = ("box_left", "box_top", "box_width", "box_height")
    if columns.box is None:
        empty = {name: pl.Series([None] * frame.height, dtype=pl.Float64) for name in names}
        return pl.DataFrame(empty | {"box_unit": pl.Series([None] * frame.height, dtype=pl.String)}), []
    values = [_parse_numbers(frame[name], table) for name in columns.box]
    is_empty = pl.DataFrame([frame[name].str.strip_chars().fill_null("") == "" for name in columns.box])
    if columns.box_role == "corners":
        values[2:] = [values[2] - values[0], values[3] - values[1]]
    boxes = pl.DataFrame(dict(zip(names, values, strict=True)))
    is_box = ~is_empty.select(pl.all_horizontal(pl.all())).to_series()
    sides = boxes.with_columns(pl.when(pl.all().is_finite()).then(pl.all()))
    if is_box.any() and sides.filter(is_box).drop_nulls().is_empty():
        first = ", ".join(f'"{cell or ""}"' for cell in frame.filter(is_box).select(columns.box).row(0))
        raise SourceError(
            f"The table {table.path} has no box of four numbers in the columns {' + '.join(columns.box)}; the first is"
            f" {first}. Expected numbers with a decimal point; for other columns --columns"
            f" {columns.box_role}={BOX_ROLES[columns.box_role]}."
        )
    largest = sides.filter(is_box).select(pl.max_horizontal(pl.all().abs())).to_series().drop_nulls()
    unit = box_unit(largest)
    boxes = boxes.with_columns(pl.when(is_box).then(pl.all().fill_null(float("nan"))))
    boxes = boxes.with_columns(box_unit=pl.when(is_box).then(pl.lit(unit)))
    title = "fractions of the picture" if unit == "fraction" else "pixels"
    return boxes, [f"The boxes of the table {table.path} are read as {title}."] if is_box.any() else []


def _parse_numbers(texts: pl.Series, table: TableFile) -> pl.Series:
    """Return a column as numbers, null for another text; decimal commas as `table_columns.read_number` has them."""
    texts = texts.str.strip_chars()
    if table.delimiter != ",":
        texts = texts.str.replace(",", ".", literal=True)
    return texts.cast(pl.Float64, strict=False)


def count_reasons(left_out: pl.DataFrame) -> dict[str, int]:
    """Return how many rows were left out for each reason."""
    return dict(left_out["reason"].value_counts(sort=True).iter_rows())


def name_files(files: Sequence[str], limit: int = 3) -> str:
    """Return the first names of files that were left out, for a message."""
    names = list(dict.fromkeys(file for file in files if file))
    return format_names(names, limit)

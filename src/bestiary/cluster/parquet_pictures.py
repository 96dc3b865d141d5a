"""Pictures as bytes in a column of parquet, as Hugging Face's datasets store them, read a few rows at a time."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Iterator
from typing import Any

from bestiary.cluster.file_systems import EXTRA, file_errors, open_file_system
from bestiary.cluster.uris import BYTES_COLUMN, ID_COLUMN, Location
from bestiary.errors import PictureError, SourceError, import_optional
from bestiary.text import format_names

SUFFIX = ".parquet"
ROWS_AT_ONCE = 32
IDS_AT_ONCE = 10_000
READ_BYTES = 1 << 20


class ParquetPictures:
    """The pictures of a parquet file. Thread-safe; fastest if rows are read in order.

    The column is a struct with the field `bytes`, as of Hugging Face, or a column of bytes.
    """

    def __init__(self, location: Location) -> None:
        """Read the schema. Raises SourceError if it is no parquet file, or if no single column has the pictures."""
        parquet = import_optional("pyarrow.parquet", extra=EXTRA)
        self._location = location
        with file_errors(location):
            source = open_file_system(location).open_input_file(location.path)
            self._file = parquet.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False)
        self.n_rows: int = self._file.metadata.num_rows
        self._schema = self._file.schema_arrow
        self._column = self._find_bytes_column()
        self._is_nested = self._is_struct(self._column)
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = [0, *itertools.accumulate(counts)]
        self._lock = threading.Lock()
        self._rows: Iterator[Any] = iter(())
        self._chunks: list[tuple[int, Any]] = []  # the first row of each chunk in memory; the last two

    def iter_ids(self) -> Iterator[str]:
        """Yield the identity of each row: of the option `id_column`, else `URI#row=NUMBER`."""
        name = self._location.option(ID_COLUMN)
        if name is None:
            yield from (f"{self._location.uri}#row={row}" for row in range(self.n_rows))
            return
        if name not in self._schema.names:
            columns = format_names(self._schema.names)
            raise SourceError(f'{self._location.uri} has no column "{name}" of identities. Its columns: {columns}.')
        chunks = self._file.iter_batches(batch_size=IDS_AT_ONCE, columns=[name], use_threads=False)
        while True:
            with file_errors(self._location):
                chunk = next(chunks, None)
            if chunk is None:
                return
            for value in chunk.column(0).to_pylist():
                if value is None:
                    raise SourceError(
                        f'{self._location.uri} has rows without a value in "{name}". Name another column.'
                    )
                yield str(value)

    def read(self, row: int) -> bytes:
        """Return the bytes of a picture. Raises PictureError if the row has none, SourceError if it cannot be read."""
        with self._lock:
            try:
                content = self._read(row)
            except Exception:  # nothing comes after an error of an iterator: the next row begins another
                self._chunks.clear()
                raise
        if content is None:
            raise PictureError(
                f'{self._location.uri} has no bytes in row {row} of the column "{self._column}".', check="unreadable"
            )
        return content

    def _read(self, row: int) -> bytes | None:
        for start, values in self._chunks:
            if start <= row < start + len(values):
                return values[row - start].as_py()  # type: ignore[no-any-return]
        next_row = self._chunks[-1][0] + len(self._chunks[-1][1]) if self._chunks else -1
        group = bisect.bisect_right(self._starts, row) - 1
        if not (self._chunks and next_row <= row and self._starts[group] <= next_row):
            next_row = self._starts[group]
            self._chunks.clear()
            self._rows = self._file.iter_batches(
                batch_size=ROWS_AT_ONCE,
                row_groups=list(range(group, self._file.num_row_groups)),
                columns=[f"{self._column}.bytes" if self._is_nested else self._column],
                use_threads=False,
            )
        while True:
            with file_errors(self._location):
                values = next(self._rows).column(0)
            values = values.field("bytes") if self._is_nested else values
            self._chunks = [*self._chunks[-1:], (next_row, values)]
            if row < next_row + len(values):
                return values[row - next_row].as_py()  # type: ignore[no-any-return]
            next_row += len(values)

    def _is_struct(self, name: str) -> bool:
        types = import_optional("pyarrow.types", extra=EXTRA)
        kind = self._schema.field(name).type
        return bool(types.is_struct(kind)) and kind.get_field_index("bytes") >= 0

    def _has_bytes(self, name: str) -> bool:
        types = import_optional("pyarrow.types", extra=EXTRA)
        kind = self._schema.field(name).type
        kind = kind.field("bytes").type if self._is_struct(name) else kind
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def _find_bytes_column(self) -> str:
        uri, names = self._location.uri, [str(name) for name in self._schema.names if self._has_bytes(name)]
        if (wanted := self._location.option(BYTES_COLUMN)) is not None:
            if wanted in names:
                return wanted
            have = f"Columns with bytes: {format_names(names)}." if names else "It has none."
            raise SourceError(f'{uri} has no column "{wanted}" of bytes. {have}')
        if not names:
            raise SourceError(
                f"{uri} has no column of bytes: expected one of type binary, or a struct with the field bytes, as of"
                f" Hugging Face. Its columns: {format_names(self._schema.names)}."
            )
        if len(names) > 1:
            raise SourceError(
                f"{uri} has several columns of bytes: {format_names(names)}. Name one, as in {uri}?{BYTES_COLUMN}="
                f"{names[0]}."
            )
        return names[0]

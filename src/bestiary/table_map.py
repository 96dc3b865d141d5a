"""Mapping of a function over the rows of a table on other computers: what `--cluster` hands to the stages of a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bestiary.errors import MachineError
from bestiary.files import cache_folder

if TYPE_CHECKING:
    import polars as pl

NODE = "node"  # the column that names the computer of a result


class TableFunction(Protocol):
    """A function of tables that can be pickled; what it loads for its work may stay in its process."""

    def __call__(self, rows: pl.DataFrame, /) -> pl.DataFrame:
        """Return one row for each of the rows, in their order."""


class TableMap(Protocol):
    """Other computers that apply a function to chunks of a table; `cluster.ray_table_map` has one by Ray Data."""

    def iter_mapped(
        self, function: TableFunction, rows: pl.DataFrame, *, whole_files: bool = False
    ) -> Iterator[pl.DataFrame]:
        """Yield the results of all rows, each once, in any order, with the column NODE.

        rows: with a column `path`, of files. whole_files: rows of one file that follow one another are handed over
        together; otherwise a chunk of the table begins at a multiple of 32 rows. Raises MachineError if a computer
        fails for good.
        """


def unshared_file_error(node: str, path: str, reason: str) -> MachineError:
    """Return the error for a file that a node cannot read, or sees otherwise, though this computer reads it well."""
    cache = cache_folder().absolute()
    is_cached = Path(path).absolute().is_relative_to(cache)
    way_on = (
        f"It is in the cache folder {cache}, where archives are unpacked: set BESTIARY_CACHE to a shared folder, or"
        " unpack the archive yourself."
        if is_cached
        else "Move the pictures to a file system that all nodes share."
    )
    return MachineError(
        f'The node "{node}" does not see {path} as this computer does: {reason} With --cluster, every node reads the'
        f" pictures at the same path. {way_on}"
    )

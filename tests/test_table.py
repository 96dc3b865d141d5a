"""The tables of a run: what is read is what was written, or it is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import polars as pl
import pytest

from bestiary import table
from bestiary.errors import RunError

COLUMNS: dict[str, type[pl.DataType]] = {"path": pl.String, "probability": pl.Float64}
ROWS = pl.DataFrame({"path": [f"{n}.jpg" for n in range(300)], "probability": [n / 300 for n in range(300)]})


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table.write(ROWS, path)
    assert table.read(path, COLUMNS).equals(ROWS)
    assert pl.read_parquet(path).equals(ROWS)  # by any program that reads parquet
    assert pl.scan_parquet(path).select("probability").collect().equals(ROWS.select("probability"))


@pytest.mark.parametrize("folder", ["x-[1]", "[", "a*?"])
def test_a_folder_with_brackets_is_no_pattern(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "rows.parquet"
    table.write(ROWS, path)
    assert table.read(path, COLUMNS).equals(ROWS)


def test_no_byte_can_change_unnoticed(tmp_path: Path) -> None:
    path, plain = tmp_path / "rows.parquet", tmp_path / "plain.parquet"
    table.write(ROWS, path)
    ROWS.write_parquet(plain)
    for place, unnoticed in ((path, 0), (plain, 1)):
        whole, read_as_others = place.read_bytes(), 0
        for at in range(4, len(whole), len(whole) // 60):
            place.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            with contextlib.suppress(RunError):
                read_as_others += not table.read(place, COLUMNS).equals(ROWS)
        assert min(read_as_others, 1) == unnoticed


def test_a_table_that_another_program_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table.write(ROWS, path)
    pl.read_parquet(path).head(3).write_parquet(path)
    assert table.read(path, COLUMNS).height == 3


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no table at all, but text that is long enough to hold one"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"rows\.parquet is damaged"):
        table.read(path, COLUMNS)


def test_a_folder_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be read: Is a directory"):
        table.read(tmp_path, COLUMNS)

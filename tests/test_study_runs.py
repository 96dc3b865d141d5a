"""What a study remembers of its pictures: any that comes, goes or changes is noticed, whatever its seeds."""

from __future__ import annotations

import polars as pl
import pytest

from bestiary.machine import is_out_of_memory_error
from bestiary.study.runs import collection_digest

PICTURES = pl.DataFrame(
    {"row_id": [0, 1, 2], "sha256": ["a", "b", None], "label": ["cat", "dog", "dog"], "error": [None, None, "broken"]},
    schema_overrides={"error": pl.String},
)


@pytest.mark.parametrize(
    "other",
    [
        PICTURES[:2],
        pl.concat([PICTURES, PICTURES[1:2].with_columns(row_id=pl.lit(3, pl.Int64))]),
        PICTURES.with_columns(label=pl.Series(["cat", "cat", "dog"])),
        PICTURES.with_columns(sha256=pl.Series(["a", "c", None])),
        PICTURES.with_columns(error=pl.Series(["dropped", None, "broken"])),
        PICTURES.with_columns(sha256=pl.Series(["b", "a", None]), label=pl.Series(["dog", "cat", "dog"])),
    ],
    ids=["gone", "come", "label", "content", "left out", "order"],
)
def test_a_change_of_the_pictures_changes_their_digest(other: pl.DataFrame) -> None:
    assert collection_digest(other) != collection_digest(PICTURES)
    assert collection_digest(PICTURES[::-1]) == collection_digest(PICTURES)


def test_only_errors_of_memory_are_taken_for_such() -> None:
    import torch

    with pytest.raises(RuntimeError) as told:
        torch.empty(10**15)
    assert is_out_of_memory_error(told.value)
    assert is_out_of_memory_error(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory_error(MemoryError())
    assert not is_out_of_memory_error(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory_error(KeyError("label"))

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from bestiary.array_types import Ints
from bestiary.batches.loader import iter_eval_batches, iter_train_batches, steps_per_epoch

ROWS = 23
LABELS = np.arange(ROWS, dtype=np.int64) % 3


def read(positions: Ints) -> NDArray[np.uint8]:
    """Pictures whose every pixel is their own row number."""
    return np.broadcast_to(positions.astype(np.uint8)[:, None, None, None], (len(positions), 4, 4, 3)).copy()


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("bestiary-read")]


def epoch(number: int, *, seed: int = 0, batch_size: int = 5) -> list[int]:
    batches = iter_train_batches(read, LABELS, np.arange(ROWS), batch_size=batch_size, seed=seed, epoch=number)
    return [int(position) for batch in batches for position in batch.indices]


def test_evaluation_counts_every_row_once_the_last_partial_batch_included() -> None:
    batches = list(iter_eval_batches(read, ROWS, batch_size=5))
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(ROWS))
    assert [len(batch.images) for batch in batches] == [5, 5, 5, 5, 3]
    assert np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).tolist() == list(range(ROWS))


def test_nothing_to_evaluate_gives_no_batch() -> None:
    assert list(iter_eval_batches(read, 0, batch_size=5)) == []


def test_pixels_labels_and_positions_stay_together() -> None:
    for batch in iter_train_batches(read, LABELS, np.arange(ROWS), batch_size=5, seed=0, epoch=1):
        assert (batch.images[:, 0, 0, 0] == batch.indices).all()
        assert (batch.labels == batch.indices % 3).all()


def test_same_seed_and_epoch_give_the_same_batches_and_others_do_not() -> None:
    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)
    assert epoch(1) != epoch(1, seed=1)


def test_a_smaller_last_batch_is_left_out_unless_it_is_the_only_one() -> None:
    assert len(epoch(1, batch_size=5)) == 20
    assert len(epoch(1, batch_size=23)) == 23
    assert len(epoch(1, batch_size=64)) == 23
    assert len(set(epoch(1))) == 20


@pytest.mark.parametrize(("rows", "steps"), [(0, 0), (3, 1), (5, 1), (9, 1), (10, 2), (23, 4)])
def test_steps_are_counted_as_batches_are_made(rows: int, steps: int) -> None:
    order = np.arange(rows, dtype=np.int64)
    made = len(list(iter_train_batches(read, LABELS, order, batch_size=5, seed=0, epoch=1)))
    assert made == steps_per_epoch(rows, 5) == steps


def test_an_order_may_repeat_rows() -> None:
    order = np.array([4, 4, 4, 9], dtype=np.int64)
    (batch,) = iter_train_batches(read, LABELS, order, batch_size=8, seed=0, epoch=1)
    assert sorted(batch.indices.tolist()) == [4, 4, 4, 9]


def test_reading_runs_ahead_by_two_batches_at_most() -> None:
    asked: list[int] = []

    def counting(positions: Ints) -> NDArray[np.uint8]:
        asked.append(len(asked))
        return read(positions)

    batches = iter_eval_batches(counting, ROWS, batch_size=2)
    next(batches)
    deadline = time.monotonic() + 5
    while len(asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(asked) == 3
    batches.close()


def test_an_error_while_reading_is_raised_where_its_batch_would_have_been() -> None:
    def failing(positions: Ints) -> NDArray[np.uint8]:
        if 12 in positions:
            raise OSError("the disk is gone")
        return read(positions)

    batches = iter_eval_batches(failing, ROWS, batch_size=5)
    assert len(next(batches).images) == 5
    assert len(next(batches).images) == 5
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert reading_threads() == []


def test_the_thread_ends_when_the_consumer_stops_early() -> None:
    batches = iter_train_batches(read, LABELS, np.arange(ROWS), batch_size=2, seed=0, epoch=1)
    next(batches)
    assert len(reading_threads()) == 1
    batches.close()
    assert reading_threads() == []

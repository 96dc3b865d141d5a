"""Arrays kept on disk: whole or not at all, and never silently wrong."""

from __future__ import annotations

import errno
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from bestiary.batches import array_cache as store_module
from bestiary.batches.array_cache import ArrayCache
from bestiary.errors import IntegrityError, MachineError
from full_disk import largest_file

SHAPE = (5, 4, 3)
ROWS = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), dtype=np.uint8)
KEYS = [f"picture-{number}" for number in range(8)]


def opened(folder: Path) -> ArrayCache:
    return ArrayCache(folder, SHAPE, np.uint8)


def filled(folder: Path, first: int = 0, last: int = 8) -> ArrayCache:
    store = opened(folder)
    with store.writer() as segment:
        segment.append(KEYS[first:last], ROWS[first:last])
    return store


def test_rows_come_back_as_they_were_in_the_order_asked(tmp_path: Path) -> None:
    filled(tmp_path)
    order = [3, 0, 7, 3, 3, 1]
    found = opened(tmp_path).read([KEYS[number] for number in order])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, ROWS[order])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_every_bit_of_a_number_is_kept(tmp_path: Path, dtype: type[np.generic]) -> None:
    bits = np.random.default_rng(1).bytes(4 * 6 * np.dtype(dtype).itemsize)
    rows = np.frombuffer(bits, dtype).reshape(4, 6)  # with infinities and NaNs among them
    store = ArrayCache(tmp_path, (6,), dtype)
    with store.writer() as segment:
        segment.append(KEYS[:4], rows)
    assert ArrayCache(tmp_path, (6,), dtype).read(KEYS[:4]).tobytes() == bits


def test_rows_of_a_view_are_written_in_their_own_order(tmp_path: Path) -> None:
    store, mirrored = opened(tmp_path), ROWS[:, :, ::-1]
    with store.writer() as segment:
        segment.append(KEYS, mirrored)
    np.testing.assert_array_equal(store.read(KEYS), mirrored)


def test_nothing_asked_gives_no_rows(tmp_path: Path) -> None:
    assert opened(tmp_path).read([]).shape == (0, *SHAPE)


def test_missing_names_each_absent_key_once(tmp_path: Path) -> None:
    store = filled(tmp_path, 2, 4)
    assert store.missing_keys([KEYS[5], KEYS[2], KEYS[0], KEYS[5], KEYS[3], KEYS[0]]) == [0, 2]
    assert store.missing_keys(KEYS[2:4]) == []
    assert KEYS[2] in store
    assert KEYS[0] not in store


def test_segments_add_up(tmp_path: Path) -> None:
    filled(tmp_path, 0, 3)
    store = opened(tmp_path)
    with store.writer() as segment:
        segment.append(KEYS[3:5], ROWS[3:5])
        segment.append(KEYS[5:], ROWS[5:])
    for one in (store, opened(tmp_path)):
        np.testing.assert_array_equal(one.read(KEYS), ROWS)


def test_writing_nothing_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "store").writer():
        pass
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_was_finished_before_an_interruption_is_kept(tmp_path: Path, stop: type[BaseException]) -> None:
    store = opened(tmp_path)
    with pytest.raises(stop), store.writer() as segment:
        segment.append(KEYS[:3], ROWS[:3])
        raise stop
    for one in (store, opened(tmp_path)):
        assert one.missing_keys(KEYS) == [3, 4, 5, 6, 7]
        np.testing.assert_array_equal(one.read(KEYS[:3]), ROWS[:3])


def test_an_interruption_in_the_middle_of_a_row_keeps_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = iter([zlib.crc32, zlib.crc32])

    def stops_at_the_third(content: bytes) -> int:
        for checksum in sums:
            return checksum(content)
        raise KeyboardInterrupt  # its bytes are written, its checksum is not

    store = opened(tmp_path)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch, store.writer() as segment:
        patch.setattr(store_module.zlib, "crc32", stops_at_the_third)
        segment.append(KEYS, ROWS)
    reopened = opened(tmp_path)
    assert reopened.missing_keys(KEYS) == list(range(2, 8))
    np.testing.assert_array_equal(reopened.read(KEYS[:2]), ROWS[:2])


def test_an_error_of_the_system_discards_the_segment(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(OSError, match="unplugged"), store.writer() as segment:
        segment.append(KEYS[:3], ROWS[:3])
        raise OSError(errno.EIO, "unplugged")
    assert store.missing_keys(KEYS) == list(range(8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit on Windows")
@pytest.mark.parametrize("room", [100, 16_000])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path, room: int) -> None:
    """With little room the write fails, with more the flush at the end."""
    rows = np.random.default_rng(0).integers(0, 256, (20, 1000), dtype=np.uint8)
    keys = [str(number) for number in range(20)]
    store = ArrayCache(tmp_path, (1000,), np.uint8)
    with pytest.raises(MachineError, match="BESTIARY_CACHE") as told, largest_file(room), store.writer() as segment:
        segment.append(keys, rows)
    assert str(tmp_path) in str(told.value)
    assert store.missing_keys(keys) == list(range(20))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = opened(tmp_path / "file" / "store")
    with pytest.raises(MachineError, match="file/store|file.store"), store.writer() as segment:
        segment.append(KEYS, ROWS)


def test_a_damaged_byte_is_noticed_and_its_segment_removed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (rows,) = tmp_path.glob("*.rows")
    content = bytearray(rows.read_bytes())
    content[4 * ROWS[0].nbytes + 7] ^= 1
    rows.write_bytes(content)
    np.testing.assert_array_equal(store.read(KEYS[:4]), ROWS[:4])
    with pytest.raises(IntegrityError) as told:
        store.read(KEYS[3:6])
    assert str(rows) in str(told.value)
    assert "run again" in str(told.value)
    assert opened(tmp_path).missing_keys(KEYS) == list(range(8))


def test_a_truncated_file_is_ignored_and_computed_again(tmp_path: Path) -> None:
    filled(tmp_path, 0, 4)
    filled(tmp_path, 4, 8)
    sizes = {path: path.stat().st_size for path in tmp_path.glob("*.rows")}
    damaged = min(sizes)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    store = opened(tmp_path)
    lost = store.missing_keys(KEYS)
    assert lost in ([0, 1, 2, 3], [4, 5, 6, 7])
    with store.writer() as segment:
        segment.append([KEYS[number] for number in lost], ROWS[lost])
    np.testing.assert_array_equal(opened(tmp_path).read(KEYS), ROWS)


@pytest.mark.parametrize("index", ["", "[[", "5", '{"a": 1}', '[["a"]]'])
def test_a_damaged_index_is_ignored(tmp_path: Path, index: str) -> None:
    filled(tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_text(index)
    assert opened(tmp_path).missing_keys(KEYS) == list(range(8))


def test_rows_without_an_index_do_not_exist(tmp_path: Path) -> None:
    filled(tmp_path)
    (index,) = tmp_path.glob("*.json")
    index.unlink()
    assert opened(tmp_path).missing_keys(KEYS) == list(range(8))


def test_two_stores_write_to_the_same_folder(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    with one.writer() as first, other.writer() as second:
        first.append(KEYS[:5], ROWS[:5])
        second.append(KEYS[3:], ROWS[3:])  # keys 3 and 4 twice, as two runs at once would
    assert one.missing_keys(KEYS) == [5, 6, 7]
    assert other.missing_keys(KEYS) == [0, 1, 2]
    np.testing.assert_array_equal(opened(tmp_path).read(KEYS), ROWS)


def test_rows_are_named_now_and_then_so_that_a_killed_process_loses_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SAVE_EVERY_SECONDS", 0.0)
    store = opened(tmp_path)
    with store.writer() as segment:
        segment.append(KEYS[:3], ROWS[:3])
        monkeypatch.setattr(store_module, "SAVE_EVERY_SECONDS", 60.0)
        segment.append(KEYS[3:5], ROWS[3:5])
        seen = opened(tmp_path)  # what another process finds, now or after this one was killed
        assert seen.missing_keys(KEYS) == [3, 4, 5, 6, 7]
        np.testing.assert_array_equal(seen.read(KEYS[:3]), ROWS[:3])
    np.testing.assert_array_equal(opened(tmp_path).read(KEYS[:5]), ROWS[:5])


def test_rows_that_a_killed_process_left_are_removed_when_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 0, 3)
    orphan = tmp_path / "0123.rows"
    orphan.write_bytes(b"left behind")
    filled(tmp_path, 3, 5)
    assert orphan.exists()  # it may be another process's, just now
    monkeypatch.setattr(store_module, "STALE_SECONDS", -1.0)
    filled(tmp_path, 5, 8)
    assert not orphan.exists()
    np.testing.assert_array_equal(opened(tmp_path).read(KEYS), ROWS)

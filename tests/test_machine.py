import errno
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from bestiary import profiling, table
from bestiary.errors import MachineError, RunError
from bestiary.files import atomic_path, cache_folder, write_text
from bestiary.machine import available_cores, disable_malloc_trim
from bestiary.profiling import PeakMemory, StageTimer


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.json"
    write_text(path, "ä old")
    write_text(path, "ä new")
    assert path.read_text(encoding="utf-8") == "ä new"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_fails_halfway_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def full(self: Path, text: str, encoding: str) -> int:
        self.write_bytes(text.encode()[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(MachineError, match=r"Cannot write .*metrics\.json: No space left on device\. Free some space"):
        write_text(path, "new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are POSIX's")
def test_a_table_that_finds_no_room_is_told_too(tmp_path: Path) -> None:
    """Parquet is written by native code, with errors of its own; a limit on file sizes stands for the full disk."""
    program = f"""if True:
        import resource, pathlib, polars as pl
        from bestiary import table
        from bestiary.errors import MachineError
        frame = pl.DataFrame({{"x": pl.Series(range(100_000)).shuffle(0)}})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            table.write(frame, pathlib.Path({str(tmp_path)!r}) / "pictures.parquet")
        except MachineError as error:
            print("told:", error)
    """
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("told: Cannot write ")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match=r"Cannot write .*file/x\.json: "):
        write_text(tmp_path / "file" / "x.json", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MachineError, match=r"Cannot write .*folder: "):
        write_text(tmp_path / "folder", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    write_text(path, "text")
    assert path.read_text() == "text"


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path, texts = tmp_path / "x", [str(number) * 100_000 for number in range(8)]
    writers = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("BESTIARY_CACHE", "~/own")
    assert cache_folder() == Path.home() / "own"
    monkeypatch.setenv("BESTIARY_CACHE", "own")
    assert cache_folder() == Path.cwd() / "own"
    monkeypatch.delenv("BESTIARY_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bestiary"
    assert not any(tmp_path.iterdir())


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_another_c_library_than_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert disable_malloc_trim() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep its memory")
def test_glibc_keeps_what_was_freed_until_it_is_told_to_give_it_back() -> None:
    """Without being told, glibc gives 100 MB back as soon as they are freed."""
    program = """if True:
        import sys, psutil, numpy as np
        from bestiary.machine import disable_malloc_trim, trim_memory
        if "keep" in sys.argv[1]:
            assert disable_malloc_trim()
        before = psutil.Process().memory_info().rss
        held = np.ones(100 * 2**20, np.uint8)
        del held
        if "give back" in sys.argv[1]:
            trim_memory()
        print(psutil.Process().memory_info().rss - before)
    """
    kept, *given_back = (
        int(subprocess.run([sys.executable, "-c", program, how], capture_output=True, check=True).stdout)
        for how in ("keep", "as it comes", "keep, then give back")
    )
    assert kept > 90 * 2**20
    assert max(given_back) < 10 * 2**20


def test_the_clock_adds_up_stages() -> None:
    clock = StageTimer()
    for name in ("train", "report", "train"):
        with clock.stage(name):
            time.sleep(0.02)
    totals = clock.totals()
    assert list(totals) == ["train", "report", "total"]
    assert 0.04 <= totals["train"] < 0.4
    assert totals["total"] >= round(totals["train"] + totals["report"] - 0.02, 2)


def test_peak_memory_sees_what_was_there_for_a_while() -> None:
    program = """
import time
import numpy as np
from bestiary.profiling import PeakMemory
with PeakMemory(interval_seconds=0.02) as memory:
    time.sleep(0.2)
    before = memory.megabytes
    held = np.ones(200 * 2**20, np.uint8)
    time.sleep(1.0)
    del held
    time.sleep(0.1)
print(before, memory.megabytes - before)
"""  # a process of its own: this one may have freed memory that it takes again
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, more = map(float, done.stdout.split())
    assert before > 5
    assert 190 <= more <= 260


def test_samples_of_memory_take_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = 0

    def sample_slowly() -> int:
        nonlocal samples
        samples, end = samples + 1, time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return 0

    monkeypatch.setattr(profiling, "_tree_sampler", lambda: sample_slowly)
    with PeakMemory(interval_seconds=0.001):
        time.sleep(1)
    assert samples <= 3  # each is followed by a pause of 0.67 s; one more at the end


def test_peak_memory_counts_the_processes_that_were_started() -> None:
    program = "held = bytearray(b'1') * (150 * 2**20); import time; time.sleep(20)"
    with PeakMemory(interval_seconds=0.05) as memory:
        time.sleep(0.2)
        before = memory.megabytes
        with subprocess.Popen([sys.executable, "-c", program]) as child:
            deadline = time.monotonic() + 15
            while memory.megabytes < before + 140 and time.monotonic() < deadline:
                time.sleep(0.05)
            child.kill()
    assert memory.megabytes >= before + 140


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    frame = pl.DataFrame({name: [] for name in table.PREDICTIONS}, schema=table.PREDICTIONS)
    table.write(frame, tmp_path / "predictions.parquet")
    assert table.read(tmp_path / "predictions.parquet", table.PREDICTIONS).schema == frame.schema


def test_a_table_that_is_missing_damaged_or_another_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pictures.parquet"
    with pytest.raises(RunError, match=r"pictures\.parquet is missing\. Is .* a finished run\?"):
        table.read(path, table.PICTURES)
    path.write_bytes(b"PAR1 this is not a table PAR1")
    with pytest.raises(RunError, match=r"pictures\.parquet is damaged"):
        table.read(path, table.PICTURES)
    table.write(pl.DataFrame({"row_id": [1]}), path)
    with pytest.raises(RunError, match=r'has no column "path"; it has: row_id\.'):
        table.read(path, table.PICTURES)

"""One process on a run at a time, and seconds that add up over sessions."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bestiary import files, flow, run_folder
from bestiary.context import Context
from bestiary.errors import RunError
from bestiary.profiling import PeakMemory, StageTimer
from bestiary.recipe import Recipe
from bestiary.training.run_lock import LOCK, run_lock
from bestiary.training.run_session import open_session

HOLD = """
import sys, time
from pathlib import Path
from bestiary.training.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(run: Path) -> subprocess.Popen[str]:
    """Another process that has the run."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_has_the_run(tmp_path: Path) -> None:
    other = holder(tmp_path)
    try:
        with (
            pytest.raises(RunError, match=f"in use by process {other.pid} on .*--resume {tmp_path}"),
            run_lock(tmp_path),
        ):
            pass
    finally:
        other.kill()
        other.communicate()


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    other = holder(tmp_path)
    other.kill()
    other.communicate()
    assert (tmp_path / LOCK).exists()
    with run_lock(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_run_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ours"), run_lock(tmp_path):
        raise ValueError("ours")
    with run_lock(tmp_path), pytest.raises(RunError, match="in use"), run_lock(tmp_path):
        pass


@pytest.mark.parametrize("command", [flow.resume, lambda run: flow.evaluate(run, Context.create(job="evaluate"))])
def test_commands_that_write_into_a_run_are_refused_while_another_has_it(
    probed: Path, command: Callable[[Path], object]
) -> None:
    with run_lock(probed), pytest.raises(RunError, match="in use"):
        command(probed)


def test_seconds_of_all_sessions_add_up(tmp_path: Path) -> None:
    memory = PeakMemory()
    with open_session(tmp_path, first := StageTimer(), memory), first.stage("train"):
        time.sleep(0.05)
    one = files.read_json(tmp_path / "sessions.json")["sessions"]
    with open_session(tmp_path, second := StageTimer(), memory) as account:
        with second.stage("train"):
            time.sleep(0.05)
        with second.stage("report"):
            time.sleep(0.02)
        seconds = account.seconds
    assert account.earlier == one
    assert seconds["train"] >= one[0]["seconds"]["train"] + 0.05 >= 0.1
    assert seconds["report"] >= 0.02
    assert seconds["total"] >= seconds["train"] + seconds["report"] - 0.03
    assert list(seconds)[-1] == "total"
    assert len(files.read_json(tmp_path / "sessions.json")["sessions"]) == 2


DIE = """
import os, signal, sys, time
from pathlib import Path
from bestiary.profiling import PeakMemory, StageTimer
from bestiary.training import run_session
run_session.RECORD_EVERY_SECONDS = 0.02
with run_session.open_session(Path(sys.argv[1]), clock := StageTimer(), PeakMemory()), clock.stage("train"):
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
def test_the_time_of_a_killed_session_counts(tmp_path: Path) -> None:
    """The account is written while the work goes on, not only when it ends."""
    assert subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    (noted,) = files.read_json(tmp_path / "sessions.json")["sessions"]
    assert noted["seconds"]["train"] > 0.1


def test_a_run_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "pictures.parquet").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_folder.create_run_folder(tmp_path / "run", Recipe(), contents=fails)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (".metrics.json.abc.json", "checkpoints/.last.pt.abc.pt", "metrics.json", "checkpoints/last.pt"):
        (tmp_path / name).write_text("")
    run_folder.remove_partial_files(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"metrics.json", "checkpoints/last.pt"}

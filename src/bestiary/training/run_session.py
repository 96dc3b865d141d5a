"""Sessions of a run: the time and memory of every process that worked on it, killed ones included."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bestiary.batches.decoding import missing_picture_error
from bestiary.errors import InterruptedRun, MachineError, PictureError, SourceError
from bestiary.files import read_json, write_json
from bestiary.profiling import PeakMemory, StageTimer
from bestiary.progress import Reporter
from bestiary.run_folder import update_environment
from bestiary.training.run_lock import run_lock

SESSIONS = "sessions.json"
RECORD_EVERY_SECONDS = 5.0


class RunSession:
    """The time and memory of a run so far, over all its sessions."""

    def __init__(self, run: Path, timer: StageTimer, memory: PeakMemory) -> None:
        """Read what earlier sessions recorded."""
        path = run / SESSIONS
        self._run, self._path, self._timer, self._memory = run, path, timer, memory
        self.earlier: list[dict[str, Any]] = read_json(path)["sessions"] if path.exists() else []

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage and in total, summed over all sessions."""
        return sum_stage_seconds([*(session["seconds"] for session in self.earlier), self._timer.totals()])

    @property
    def peak_megabytes(self) -> int:
        """The highest memory use of any session, in MB."""
        return max(round(self._memory.megabytes), *(int(session["peak_rss_mb"]) for session in self.earlier), 0)

    def usage(self) -> dict[str, Any]:
        """Return seconds and peak memory as `metrics.json` has them."""
        return {"seconds": self.seconds, "peak_rss_mb": self.peak_megabytes}

    def report_earlier(self, reporter: Reporter) -> None:
        """Report the earlier sessions of a resumed run, and note them in its `environment.json`."""
        if sessions := len(self.earlier):
            times = f"{sessions} time{'s' * (sessions > 1)}"
            reporter.info(
                f"Resuming {self._run} after {times.replace('time', 'session')} of {self.seconds['total']:.0f} s."
            )
            update_environment(self._run, {"resumed": f"{times}; the seconds are those of all sessions"})

    def record(self) -> None:
        """Write the time and memory so far into the run folder."""
        session = {"seconds": self._timer.totals(), "peak_rss_mb": round(self._memory.megabytes)}
        write_json(self._path, {"sessions": [*self.earlier, session]})


@contextlib.contextmanager
def open_session(run: Path, timer: StageTimer, memory: PeakMemory) -> Iterator[RunSession]:
    """Lock the run and record its time every few seconds, so that a killed session counts as well.

    Ctrl-C becomes InterruptedRun; a picture that is missing or was changed becomes SourceError. Both messages include
    the command that resumes the run.
    """
    try:
        with run_lock(run), _record_time(RunSession(run, timer, memory)) as session:
            yield session
    except KeyboardInterrupt:
        raise InterruptedRun(run) from None
    except (SourceError, PictureError) as error:
        message = missing_picture_error(error) if isinstance(error, PictureError) else error
        command = f"bestiary train --resume {shlex.quote(str(run))}"
        raise SourceError(f"{message} After restoring the pictures, resume with: {command}") from None


@contextlib.contextmanager
def _record_time(session: RunSession) -> Iterator[RunSession]:
    stop = threading.Event()
    recorder = threading.Thread(target=_record_until, args=(session, stop), daemon=True, name="bestiary-session")
    session.record()
    recorder.start()
    try:
        yield session
    finally:
        stop.set()
        recorder.join()
        with contextlib.suppress(MachineError):  # a full disk is reported where results are written
            session.record()


def sum_stage_seconds(sessions: list[dict[str, float]]) -> dict[str, float]:
    """Return the sum of seconds of each stage.

    >>> sum_stage_seconds([{"audit": 1.0, "total": 2.0}, {"train": 3.0, "total": 4.0}])
    {'audit': 1.0, 'train': 3.0, 'total': 6.0}
    """
    stages = dict.fromkeys([*(name for seconds in sessions for name in seconds if name != "total"), "total"])
    return {stage: round(sum(seconds.get(stage, 0.0) for seconds in sessions), 2) for stage in stages}


def _record_until(session: RunSession, stop: threading.Event) -> None:
    while not stop.wait(RECORD_EVERY_SECONDS):
        with contextlib.suppress(MachineError):
            session.record()

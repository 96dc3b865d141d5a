"""One measured process: wall and processor seconds, peak memory of the whole process tree, load of the machine."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

INTERVAL_SECONDS = 1.0  # a sample of a tree with torch costs some 0.04 s of a processor
TIMED_OUT = 124  # exit code of `timeout`


@dataclass(frozen=True)
class Measured:
    """A finished process. peak_mb: sum of the proportional set sizes (PSS) of its tree, the largest of all samples.

    load: average of the last minute, before the start and at the end; at: start in UTC.
    """

    code: int
    output: str
    seconds: float
    cpu_seconds: float
    peak_mb: float
    load: tuple[float, float]
    at: str

    def figures(self) -> dict[str, Any]:
        """Return what belongs into results.json."""
        figures = asdict(self)
        for name in ("code", "output"):
            del figures[name]
        return figures


def run_measured(
    command: Sequence[object],
    environment: Mapping[str, str],
    folder: Path,
    timeout_seconds: float,
    *,
    with_memory: bool = True,
) -> Measured:
    """Run a command to its end, or until the timeout; stderr and stdout are captured together."""
    load, at, start = os.getloadavg()[0], time.strftime("%Y-%m-%d %H:%M", time.gmtime()), time.perf_counter()
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            process_group=0,  # not a new session, which would get a priority of its own
        )
        peak = _PeakMemory(process.pid)
        if with_memory:
            peak.start()
        alarm = threading.Timer(timeout_seconds, os.killpg, (process.pid, 9))
        alarm.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        alarm.cancel()
        peak.stop()
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code  # wait4 has reaped it
    return Measured(
        TIMED_OUT if seconds >= timeout_seconds else code,
        log.read_text(encoding="utf-8", errors="replace"),
        round(seconds, 2),
        round(usage.ru_utime + usage.ru_stime, 1),
        round(peak.peak_mb),
        (round(load, 1), round(os.getloadavg()[0], 1)),
        at,
    )


class _PeakMemory:
    """Samples the memory of a group of processes until it is stopped."""

    def __init__(self, group: int) -> None:
        self.group, self.peak_mb = group, 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(INTERVAL_SECONDS):
            sizes = [read_pss(process) for process in Path("/proc").iterdir() if self._is_ours(process)]
            self.peak_mb = max(self.peak_mb, sum(sizes) / 1024)

    def _is_ours(self, process: Path) -> bool:
        if not process.name.isdigit():
            return False
        try:
            return os.getpgid(int(process.name)) == self.group
        except OSError:
            return False


def read_pss(process: Path) -> int:
    """Return the proportional set size of a process in KB; 0 if it has ended."""
    try:
        for line in (process / "smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0

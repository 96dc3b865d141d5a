"""Work on a Ray cluster of this computer beside the same work in one process.

    python benchmarks/cluster.py predict RUN PICTURES [--files 20000] [--runs 3] [--threads N]

`predict`: pictures a second of `predict --cluster local` and of `predict`, alternating, of the seconds that both report
for predicting, and for writing the predictions, so without the start of Ray; and of whole processes. PICTURES is listed
again and again until there are enough. The outputs are compared byte by byte. Prints each run, medians and the ratio.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measuring import build_command, build_parser, count_cores, list_picture_files, read_processor_name, read_versions

# The last line of a task on stderr, as bestiary.progress writes it.
LINE = re.compile(r"^(Predicting|Writing the predictions): [\d,]+ in ([\d.]+) s$", re.MULTILINE)


@dataclass(frozen=True)
class RunTime:
    """Seconds of a run. reported: of its tasks; total: of the process."""

    reported: float
    total: float


def main() -> None:
    parser = build_parser(__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    add_predict(parts.add_parser("predict"))
    arguments = parser.parse_args()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{read_processor_name()}, {count_cores()} cores, load {load:.1f}; {read_versions(['bestiary', 'ray'])}")
    measure: Callable[[argparse.Namespace], None] = arguments.measure
    measure(arguments)


# ---- predict -------------------------------------------------------------------------------------------------------


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.set_defaults(measure=measure_predict)


def measure_predict(arguments: argparse.Namespace) -> None:
    files = list_picture_files(arguments.pictures)
    names = [str(path.absolute()) for path in itertools.islice(itertools.cycle(files), arguments.files)]
    modes = {"predict": [], "predict --cluster local": ["--cluster", "local"]}
    times: dict[str, list[RunTime]] = {name: [] for name in modes}
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "list.txt"
        listed.write_text("\n".join(names), encoding="utf-8")
        for number in range(arguments.runs):
            outputs = []
            for mode, options in modes.items():
                outputs.append(Path(folder) / f"{number}-{len(options)}.csv")
                command = build_command("predict", arguments.run, "-", "--out", outputs[-1], *options)
                command += ["--threads", str(arguments.threads)]
                times[mode].append(time_run(command, listed))
                print(f"{mode:24} {describe_run(times[mode][-1], len(names))}", flush=True)
            first, second = (path.read_bytes() for path in outputs)
            print(f"run {number + 1}: the outputs are {'equal' if first == second else 'DIFFERENT'}", flush=True)
    alone, cluster = times.values()
    for title, kind in (("without starts", "reported"), ("whole processes", "total")):
        medians = [statistics.median(getattr(run, kind) for run in runs) for runs in (alone, cluster)]
        print(
            f"{title}, medians: {medians[0]:.1f} s and {medians[1]:.1f} s, ratio of rates {medians[0] / medians[1]:.2f}"
        )


def time_run(command: list[str], listed: Path) -> RunTime:
    start = time.perf_counter()
    with listed.open("rb") as paths:
        done = subprocess.run(command, stdin=paths, capture_output=True, text=True, check=False)
    total = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    return RunTime(sum(float(seconds) for _, seconds in LINE.findall(done.stderr)), total)


def describe_run(run: RunTime, count: int) -> str:
    return f"{count / run.reported:.1f} a second ({run.reported:.1f} s), whole process {run.total:.1f} s"


if __name__ == "__main__":
    main()

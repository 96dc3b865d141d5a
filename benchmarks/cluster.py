"""Work on a Ray cluster of this computer beside the same work in one process.

    python benchmarks/cluster.py predict RUN PICTURES [--files 20000] [--runs 3] [--threads N]
    python benchmarks/cluster.py audit PICTURES [--runs 3] [--threads N]
    python benchmarks/cluster.py train PICTURES [--epochs 4] [--size 96] [--runs 3] [--threads N]

`predict`: pictures a second of `predict --cluster local` and of `predict`, alternating, of the seconds that both report
for predicting, and for writing the predictions, so without the start of Ray; and of whole processes. PICTURES is listed
again and again until there are enough. The outputs are compared byte by byte. Prints each run, medians and the ratio.
`audit`: the same of `audit`, each time with an empty cache: the seconds of reading pictures, and of computing features.

`train`: pictures a second of `train --method scratch --cluster local --workers N`, which have a thread each, and of one
process with N threads, alternating: the median of all epochs but the first, as the history has them; and the scores.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
    add_audit(parts.add_parser("audit"))
    add_train(parts.add_parser("train"))
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


# ---- audit: measurements and features ------------------------------------------------------------------------------


AUDIT_LINE = re.compile(r"(Reading pictures|Computing features): ([\d,]+) in ([\d.]+) s$", re.MULTILINE)


def add_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.set_defaults(measure=measure_audit)


def measure_audit(arguments: argparse.Namespace) -> None:
    modes = {"audit": [], "audit --cluster local": ["--cluster", "local"]}
    rates: dict[tuple[str, str], list[float]] = {}
    # Each cache would measure the engines for itself, and might choose another one.
    engine = ["--set", "features.engine=openvino", "--set", "features.precision=float32"]
    for number in range(arguments.runs):
        written = []
        for mode, options in modes.items():
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                command = build_command("audit", arguments.pictures, "--out", out, *engine, *options)
                command += ["--threads", str(arguments.threads)]
                environment = {**os.environ, "BESTIARY_CACHE": str(Path(folder) / "cache")}
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                if done.returncode:
                    raise SystemExit(done.stderr)
                written.append({path.name: path.read_bytes() for path in out.iterdir()})
            for task in ("Reading pictures", "Computing features"):
                lines = [line for line in AUDIT_LINE.findall(done.stderr) if line[0] == task]
                count = sum(int(files.replace(",", "")) for _, files, _ in lines)
                rates.setdefault((task, mode), []).append(count / sum(float(seconds) for *_, seconds in lines))
                print(f"{mode:22} {task}: {rates[task, mode][-1]:.1f} a second", flush=True)
        print(f"run {number + 1}: the files are {'equal' if written[0] == written[1] else 'DIFFERENT'}", flush=True)
    for task in ("Reading pictures", "Computing features"):
        alone, cluster = (statistics.median(rates[task, mode]) for mode in modes)
        print(f"{task}, medians: {alone:.1f} and {cluster:.1f} a second, ratio {cluster / alone:.2f}")


# ---- train ---------------------------------------------------------------------------------------------------------


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.set_defaults(measure=measure_train)


def measure_train(arguments: argparse.Namespace) -> None:
    threads = str(arguments.threads)
    modes = {"one process": [], "cluster": ["--cluster", "local", "--workers", threads]}
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.runs):
            for mode, options in modes.items():
                out = Path(folder) / f"{number}-{len(options)}"
                command = build_command("train", arguments.pictures, "--method", "scratch", "--out", out, *options)
                command += ["--threads", threads, "--set", "data.suspects=false", "--set", "evaluate.resamples=100"]
                command += ["--set", f"train.epochs={arguments.epochs}", "--set", f"picture.size={arguments.size}"]
                start = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                total, lines = time.perf_counter() - start, (out / "history.jsonl").read_text().splitlines()
                history = [json.loads(line) for line in lines]
                rates[mode] += [line["images_per_second"] for line in history[1:]]
                score = json.loads((out / "metrics.json").read_text())["macro_f1"]["value"]
                last = ", ".join(f"{line['images_per_second']:.1f}" for line in history)
                print(
                    f"{mode:12} {last} pictures a second; macro-F1 {score:.4f}; whole process {total:.1f} s", flush=True
                )
    alone, cluster = (statistics.median(values) for values in rates.values())
    print(f"medians: {alone:.1f} and {cluster:.1f} pictures a second, ratio {cluster / alone:.2f}")


if __name__ == "__main__":
    main()

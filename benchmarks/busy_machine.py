"""Trains from scratch within a time budget while another program uses one core, with automatic threads and with one.

    python benchmarks/busy_machine.py PICTURES [--labels animals10] [--budget 5m] [--seeds 0 1 2] [--quiet-machine]
        [--set train.batch_size=32]

Every run is a whole process; the cache of decoded pictures is filled before by a run that is not counted. The other
program is a loop bound to one core; training is not bound. --quiet-machine leaves it out. Goals, over the seeds: every
run ends within its budget and with the learning rate at its end; with automatic threads macro-F1 is not lower than with
`--threads 1`, and at least 0.9 of its pictures are trained on in a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from measuring import (
    add_settings,
    build_command,
    build_picture_parser,
    count_cores,
    expand_settings,
    format_mean,
    read_processor_name,
    run_command,
)

LOOP = "import os\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {%d})\nwhile True: pass"
VARIANTS: dict[str, tuple[str, ...]] = {"automatic": (), "--threads 1": ("--threads", "1")}


@dataclass(frozen=True)
class Outcome:
    """schedule: the fraction that was trained; rate: last learning rate, of the highest; threads: of each epoch."""

    seconds: float
    macro_f1: float
    pictures_per_second: float
    size: int
    epochs: float
    planned_epochs: int
    schedule: float
    rate: float
    threads: tuple[int, ...]


def main() -> None:
    parser = build_picture_parser(__doc__)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--core", type=int, default=count_cores() - 1, help="the core that the other program uses")
    parser.add_argument("--quiet-machine", action="store_true", help="without another program")
    add_settings(parser, "a setting of the recipe for all runs")
    arguments = parser.parse_args()
    print(f"{read_processor_name()}, {count_cores()} cores; scratch, --budget {arguments.budget}", flush=True)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(arguments, folder / "warm-up", folder / "cache", ("--set", "train.epochs=1"), budget=False)
        for seed in arguments.seeds:
            for number, (variant, options) in enumerate(VARIANTS.items()):
                run = folder / f"run-{seed}-{number}"
                with contextlib.nullcontext() if arguments.quiet_machine else busy_core(arguments.core):
                    seconds = train(arguments, run, folder / "cache", (*options, "--set", f"seed={seed}"))
                outcomes[variant].append(read_outcome(run, seconds))
                print(format_outcome(f"seed {seed}, {variant}", outcomes[variant][-1]), flush=True)
    print_summary(outcomes)


@contextlib.contextmanager
def busy_core(core: int) -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", LOOP % core])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def train(
    arguments: argparse.Namespace, run: Path, cache: Path, options: Sequence[str], *, budget: bool = True
) -> float:
    """Train a run and return its seconds."""
    limit = ["--budget", arguments.budget] if budget else []
    source = [arguments.pictures, "--labels", arguments.labels, "--method", "scratch", "--out", run]
    command = build_command("train", *source, *limit, *expand_settings(arguments.settings), *options)
    start = time.perf_counter()
    try:
        run_command(command, cache)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)}\n{error.stderr}") from None
    return time.perf_counter() - start


def read_outcome(run: Path, seconds: float) -> Outcome:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    recipe = tomllib.loads((run / "resolved.toml").read_text(encoding="utf-8"))
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    done = [0, *(line["steps"] for line in lines)]
    steps = [after - before for before, after in pairwise(done)]
    batch = recipe["train"]["batch_size"]
    training_seconds = sum(count * batch / line["images_per_second"] for count, line in zip(steps, lines, strict=True))
    return Outcome(
        seconds=seconds,
        macro_f1=metrics["macro_f1"]["value"],
        pictures_per_second=sum(steps) * batch / training_seconds,
        size=recipe["picture"]["size"],
        epochs=sum(steps) / steps[0],
        planned_epochs=recipe["train"]["epochs"],
        schedule=lines[-1]["schedule"],
        rate=lines[-1]["learning_rate"] / max(line["learning_rate"] for line in lines),
        threads=tuple(line.get("threads", environment["training threads"]) for line in lines),
    )


def format_outcome(name: str, outcome: Outcome) -> str:
    threads = "".join(map(str, outcome.threads)) if max(outcome.threads) < 10 else str(outcome.threads)
    return (
        f"{name:24} {outcome.seconds:6.1f} s  macro-F1 {outcome.macro_f1:.3f}  {outcome.pictures_per_second:6.1f}"
        f" pictures/s  {outcome.size} px  {outcome.epochs:.1f} of {outcome.planned_epochs} epochs"
        f"  schedule {outcome.schedule:.2f}  last rate {outcome.rate:.3f} of the highest  threads {threads}"
    )


def print_summary(outcomes: dict[str, list[Outcome]]) -> None:
    print("\nmean (lowest, highest)")
    for name, runs in outcomes.items():
        pictures = [run.pictures_per_second for run in runs]
        print(
            f"{name:12} macro-F1 {format_mean([run.macro_f1 for run in runs])}"
            f"  pictures/s {statistics.mean(pictures):.1f} ({min(pictures):.1f}, {max(pictures):.1f})"
            f"  longest {max(run.seconds for run in runs):.1f} s"
            f"  highest last rate {max(run.rate for run in runs):.3f}"
        )
    automatic, single = (outcomes[name] for name in VARIANTS)
    pairs = list(zip(automatic, single, strict=True))
    speed = [run.pictures_per_second / other.pictures_per_second for run, other in pairs]
    print(
        f"automatic against --threads 1: macro-F1"
        f" {statistics.mean(run.macro_f1 - other.macro_f1 for run, other in pairs):+.3f},"
        f" pictures a second {statistics.mean(speed):.2f} times as many ({min(speed):.2f} to {max(speed):.2f})"
    )


if __name__ == "__main__":
    main()

"""Compares the planned and the actual time of training runs, with and without a time budget.

    python benchmarks/budget.py PICTURES [--labels animals10] [--only NAME]

Every run is a whole process with its own cache; "lite0, again" uses the cache of the run before it. Goals: with a
budget the whole run, report included, takes up to 1.05 of it; without a budget the plan is met within 15 %.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measuring import build_command, build_environment, build_picture_parser


@dataclass(frozen=True)
class Case:
    name: str
    options: tuple[str, ...]
    budget_seconds: int | None = None


CASES = (
    Case("probe, 60 s", ("--budget", "60s"), 60),
    Case("probe, 3 min", ("--budget", "3m"), 180),
    Case("scratch, 5 min", ("--budget", "5m", "--method", "scratch"), 300),
    Case("probe lite0, cold", ("--backbone", "lite0")),
    Case("probe lite0, again", ("--backbone", "lite0")),
    Case("scratch, 4 epochs", ("--method", "scratch", "--set", "train.epochs=4", "--set", "picture.size=96")),
)


def main() -> None:
    parser = build_picture_parser(__doc__)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, case in enumerate(case for case in CASES if arguments.only in case.name):
            cache = folder / ("cache" if "lite0" in case.name else f"cache-{number}")
            print(format_line(case, *run_case(arguments, case, folder / f"run-{number}", cache)), flush=True)


def run_case(arguments: argparse.Namespace, case: Case, run: Path, cache: Path) -> tuple[str, float, float, float]:
    """Return the printed plan, and seconds: planned, actual since the plan was printed, and total."""
    command = build_command("train", arguments.pictures, "--labels", arguments.labels, *case.options, "--out", run)
    environment = {**build_environment(cache), "PYTHONUNBUFFERED": "1"}
    start, plan_time, plan = time.perf_counter(), 0.0, ""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if "finished at about" in line:
            plan_time, plan = time.perf_counter(), line.strip()
    if process.wait():
        raise SystemExit(f"{case.name} failed")
    end = time.perf_counter()
    planned = json.loads((run / "environment.json").read_text(encoding="utf-8"))["planned seconds"]
    return plan, planned, end - plan_time, end - start


def format_line(case: Case, plan: str, planned: float, actual: float, total: float) -> str:
    budget = ""
    if case.budget_seconds:
        budget = f"; {total:.0f} s in total, {total / case.budget_seconds:.2f} of the budget"
    plan = re.sub(r"; finished at about.*", "", plan)
    return f"{case.name:20} {plan}: planned {planned:.0f} s, took {actual:.0f} s ({actual / planned - 1:+.0%}){budget}"


if __name__ == "__main__":
    main()

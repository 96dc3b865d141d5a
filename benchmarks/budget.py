"""Whether a run ends when it said it would: promised and actual times, with budgets and without.

    python benchmarks/budget.py PICTURES [--labels animals10] [--only NAME]

Whole processes, each with a cache of its own, filled or empty as its line says. A budget is kept if the whole run,
report included, takes no more than 1.05 of it; without one the promise should be met within 15 %.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


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
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--only", default="")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, case in enumerate(case for case in CASES if asked.only in case.name):
            cache = folder / ("cache" if "lite0" in case.name else f"cache-{number}")
            print(line(case, *measured(asked, case, folder / f"run-{number}", cache)), flush=True)


def measured(asked: argparse.Namespace, case: Case, run: Path, cache: Path) -> tuple[str, float, float, float]:
    """Return the plan in words, and seconds: promised from the plan on, taken from the plan on, and in all."""
    command = [sys.executable, "-u", "-m", "bestiary", "train", str(asked.pictures), "--labels", asked.labels]
    command += [*case.options, "--out", str(run)]
    environment = {**os.environ, "BESTIARY_CACHE": str(cache)}
    began, planned, plan = time.perf_counter(), 0.0, ""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    for said in process.stderr:
        if "done at about" in said:
            planned, plan = time.perf_counter(), said.strip()
    if process.wait():
        raise SystemExit(f"{case.name} failed")
    ended = time.perf_counter()
    promised = json.loads((run / "environment.json").read_text(encoding="utf-8"))["planned seconds"]
    return plan, promised, ended - planned, ended - began


def line(case: Case, plan: str, promised: float, taken: float, whole: float) -> str:
    kept = ""
    if case.budget_seconds:
        kept = f"; {whole:.0f} s in all, {whole / case.budget_seconds:.2f} of the budget"
    words = re.sub(r"; done at about.*", "", plan)
    return f"{case.name:20} {words}: promised {promised:.0f} s, took {taken:.0f} s ({taken / promised - 1:+.0%}){kept}"


if __name__ == "__main__":
    main()

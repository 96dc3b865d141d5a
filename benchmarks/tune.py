"""Number of trials within a budget, speed-up by a second process, and training time saved by pruning.

    python benchmarks/tune.py probe PICTURES [--labels animals10] [--budget 5m] [--cache empty|warm]
    python benchmarks/tune.py two PICTURES [--labels animals10] [--trials 40]
    python benchmarks/tune.py scratch PICTURES [--labels animals10] [--budget 45m] [--classes ...] [--set ...]
    python benchmarks/tune.py pruning PICTURES [--labels animals10] [--trials 12] [--classes ...] [--set ...]

Whole processes. `probe`: a search within its budget; goal: 60 trials in 5 minutes on two cores. `two`: the same number
of trials by a single process and by two with a common storage, one thread each, features cached; the time is from the
start of the first trial to the end of the last; goal: 1.6 times as fast. `scratch`: a search within its budget, and the
default recipe trained in full, both on the same test pictures. `pruning`: the fraction of training time that pruning
saves over --trials trials; goal: a half.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import add_settings, build_command, build_parser, expand_settings


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("what", choices=["probe", "two", "scratch", "pruning"])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--labels")
    parser.add_argument("--classes")
    parser.add_argument("--budget")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--threads", type=int)
    add_settings(parser)
    parser.add_argument("--cache", choices=["empty", "warm"], default="warm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.cache == "empty":
            os.environ["BESTIARY_CACHE"] = str(folder / "cache")
        {"probe": measure_probe, "two": measure_two, "scratch": measure_scratch, "pruning": measure_pruning}[
            arguments.what
        ](arguments, folder)


def measure_probe(arguments: argparse.Namespace, folder: Path) -> None:
    start = time.perf_counter()
    summary = wait_for(start_search(arguments, folder / "search", "--budget", arguments.budget or "5m"))
    seconds = time.perf_counter() - start
    print(f"{count_trials(summary)} trials in {seconds:.0f} s, cache {arguments.cache}; {format_scores(summary)}")


def measure_two(arguments: argparse.Namespace, folder: Path) -> None:
    trials = arguments.trials or 40
    arguments.threads, words = 1, ("--trials", str(trials), "--fresh-seeds", "0")
    wait_for(start_search(arguments, folder / "first", "--trials", "1", "--fresh-seeds", "0"))  # fills the caches
    wait_for(start_search(arguments, folder / "single", *words))
    storage = ("--storage", str(folder / "common.db"))
    for process in [start_search(arguments, folder / f"double-{number}", *words, *storage) for number in (1, 2)]:
        wait_for(process)
    single, double = (measure_span(folder / file) for file in ("single/tune.db", "common.db"))
    print(f"{trials} trials: a single process {single:.1f} s, two {double:.1f} s, {single / double:.2f} times as fast")


def measure_scratch(arguments: argparse.Namespace, folder: Path) -> None:
    start = time.perf_counter()
    summary = wait_for(
        start_search(arguments, folder / "search", "--method", "scratch", "--budget", arguments.budget or "45m")
    )
    seconds = time.perf_counter() - start
    saved = summary["pruning"]["share saved"]
    print(f"{count_trials(summary)} trials, all in {seconds:.0f} s; saved by pruning {saved:.0%}")
    command = build_command(
        "train", *build_options(arguments), "--method", "scratch", "--out", folder / "default", "--json"
    )
    default = wait_for(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    print(f"default: test macro-F1 {default['metrics']['macro_f1']['value']:.4f}; {format_scores(summary)}")
    compare = build_command("compare", folder / "default", summary["run"])
    print(subprocess.run(compare, capture_output=True, text=True).stdout)


def measure_pruning(arguments: argparse.Namespace, folder: Path) -> None:
    words = ("--method", "scratch", "--trials", str(arguments.trials or 12), "--fresh-seeds", "0")
    summary = wait_for(start_search(arguments, folder / "search", *words))
    pruning = summary["pruning"]
    print(f"{summary['trials']}, {pruning['seconds']:.0f} s of training,", end=" ")
    print(f"{pruning['seconds without']:.0f} s without pruning")
    print(f"saved {pruning['share saved']:.1%}; {format_scores(summary)}")


def start_search(arguments: argparse.Namespace, out: Path, *words: str) -> subprocess.Popen[str]:
    command = build_command("tune", *build_options(arguments), *words, "--out", out, "--json")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def build_options(arguments: argparse.Namespace) -> list[str]:
    words = [str(arguments.pictures)]
    words += ["--labels", arguments.labels] if arguments.labels else []
    words += ["--classes", arguments.classes] if arguments.classes else []
    words += ["--threads", str(arguments.threads)] if arguments.threads else []
    return words + expand_settings(arguments.settings)


def wait_for(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit("a command failed")
    summary: dict[str, Any] = json.loads(output)
    return summary


def count_trials(summary: dict[str, Any]) -> int:
    return int(sum(summary["trials"].values()))


def format_scores(summary: dict[str, Any]) -> str:
    winner, default, test = summary["winner"], summary["default"], summary["test"]["macro_f1"]
    return (
        f"validation macro-F1 {default['macro_f1']:.4f} (default) to {winner['macro_f1']:.4f}; test macro-F1 of the"
        f" winner {test['value']:.4f} ({test['low']:.4f} to {test['high']:.4f}). {summary['luck']['sentence']}"
    )


def measure_span(storage: Path) -> float:
    """Return the seconds from the start of the first trial to the end of the last."""
    import optuna

    study = optuna.load_study(study_name="tune-probe", storage=f"sqlite:///{storage}")
    starts = [trial.datetime_start for trial in study.trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in study.trials if trial.datetime_complete]
    return (max(ends) - min(starts)).total_seconds()


if __name__ == "__main__":
    main()

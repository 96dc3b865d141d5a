"""Helpers of the benchmarks: argument parsers, bestiary as a process, timing, and the machine.

Imports only the standard library, so that it adds nothing to what a benchmark measures in its own process.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RARE_CLASSES = frozenset({"cow", "sheep", "squirrel"})  # fewer than 50 of the 5,511 pictures of docs/measured.md


# ---- Arguments -----------------------------------------------------------------------------------------------------


def build_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that prints the script's docstring unchanged as its help."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def build_picture_parser(
    doc: str | None,
    *,
    backbone: str | None = None,
    backbones: Iterable[str] | None = None,
    is_optional: bool = False,
) -> argparse.ArgumentParser:
    """Return a parser for PICTURES and --labels, and for --backbone if `backbone`, its default, is set."""
    parser = build_parser(doc)
    parser.add_argument("pictures", type=Path, nargs="?" if is_optional else None)
    parser.add_argument("--labels", default="animals10")
    if backbone:
        parser.add_argument("--backbone", choices=sorted(backbones) if backbones else None, default=backbone)
    return parser


def parse_choices(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a comma-separated list; raises ArgumentTypeError for one that is not known."""
    chosen, names = tuple(text.split(",")), tuple(known)
    if unknown := [name for name in chosen if name not in names]:
        raise argparse.ArgumentTypeError(f'"{unknown[0]}" is none of {", ".join(names)}')
    return chosen


def add_settings(parser: argparse.ArgumentParser, purpose: str | None = None) -> None:
    """Add the repeatable option --set; `expand_settings` passes it on to bestiary."""
    parser.add_argument("--set", dest="settings", action="append", default=[], help=purpose)


def expand_settings(settings: Iterable[str]) -> list[str]:
    """Return the settings as command-line arguments.

    >>> expand_settings(["seed=1", "picture.size=96"])
    ['--set', 'seed=1', '--set', 'picture.size=96']
    """
    return [argument for setting in settings for argument in ("--set", setting)]


# ---- Pictures ------------------------------------------------------------------------------------------------------


def list_class_files(pictures: Path) -> list[Path]:
    """Return the files in the class folders of a collection, sorted."""
    return sorted(path for path in pictures.glob("*/*") if path.is_file())


def list_picture_files(folder: Path) -> list[Path]:
    """Return the JPEG and PNG files at any depth, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})


# ---- Processes -----------------------------------------------------------------------------------------------------


def build_command(*arguments: object) -> list[str]:
    """Return the command that runs bestiary with this interpreter."""
    return [sys.executable, "-m", "bestiary", *map(str, arguments)]


def build_environment(cache: Path) -> dict[str, str]:
    """Return the environment of this process with another cache folder."""
    return {**os.environ, "BESTIARY_CACHE": str(cache)}


def run_command(command: Sequence[object], cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command and return its captured output; raises CalledProcessError if it fails."""
    environment = build_environment(cache) if cache else None
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, env=environment)


# ---- Times ---------------------------------------------------------------------------------------------------------


def time_call(function: Callable[[], object]) -> float:
    """Return how many seconds one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def time_calls(function: Callable[[], object], runs: int) -> list[float]:
    """Return the seconds of each call, after one that warms up caches and compiled graphs."""
    function()
    return [time_call(function) for _ in range(runs)]


def format_median(seconds: Sequence[float]) -> str:
    """Return the median, the range and the number of times.

    >>> format_median([0.43, 0.42, 0.45])
    'median 0.430 s (0.420 to 0.450, n = 3)'
    """
    return f"median {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f}, n = {len(seconds)})"


def format_mean(values: Sequence[float]) -> str:
    """Return the mean and the range of scores.

    >>> format_mean([0.9, 1.0])
    '0.950 (0.900, 1.000)'
    """
    return f"{statistics.mean(values):.3f} ({min(values):.3f}, {max(values):.3f})"


# ---- The machine ---------------------------------------------------------------------------------------------------


def read_processor_name() -> str:
    """Return the name of the processor."""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def count_cores() -> int:
    """Return the number of processor cores that this process may use, as `bestiary.machine.available_cores` does."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of each package in this environment; "none" if a package is not installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return versions

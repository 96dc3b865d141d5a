"""How long a full audit takes, with suspect labels, and how that grows with the collection: whole processes.

    python benchmarks/audit.py PICTURES [--labels animals10] [--times 1 2 4 8] [--backbone lite2] [--cached]

The collection is made larger by copies that were encoded anew, with another brightness and 8 % cut off at two edges, so
that each copy is a file and a picture of its own. Cold: an empty cache folder. Cached: the same again. Beside wall time
stands processor time, which says more where other jobs hold the cores. Peak memory is that of all its processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bestiary.machine import available_cores
from bestiary.picture import open_picture

# Runs the command in a process that watches its own memory and that of its workers, and prints it.
PROGRAM = """
import sys
from bestiary.cli.app import main
from bestiary.profiling import PeakMemory
import bestiary.cli
with PeakMemory() as memory:
    try:
        main()
    finally:
        print(f"PEAK {memory.megabytes:.0f}", file=sys.stderr)
"""


@dataclass(frozen=True)
class Measured:
    """Seconds by the clock, seconds of processors, and the peak of memory in MB."""

    seconds: float
    processor_seconds: float
    peak_mb: int


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--times", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--backbone", default="lite2")
    options.add_argument("--part", type=int, default=1, help="only every so many-th picture, to see the slope sooner")
    asked = options.parse_args()
    files = sorted(path for path in asked.pictures.glob("*/*") if path.is_file())[:: asked.part]
    rows: list[tuple[int, Measured, Measured]] = []
    for times in asked.times:
        with tempfile.TemporaryDirectory() as name:
            collection = enlarged(files, Path(name) / "pictures", times)
            cold, cached = (one_audit(collection, Path(name) / "cache", asked) for _ in range(2))
        rows.append((len(files) * times, cold, cached))
        print(f"{times} x: {rows[-1][0]:,} pictures; cold {cold}; cached {cached}", flush=True)
    if len(rows) > 1:
        sizes = np.log([size for size, _, _ in rows])
        for place, kind in ((1, "cold"), (2, "cached")):
            for unit in ("seconds", "processor_seconds"):
                slope = np.polyfit(sizes, np.log([getattr(row[place], unit) for row in rows]), 1)[0]
                print(f"{kind}: log-log slope of {unit} {slope:.2f}")


def one_audit(collection: Path, cache: Path, asked: argparse.Namespace) -> Measured:
    command = [sys.executable, "-c", PROGRAM, "audit", str(collection), "--labels", asked.labels, "--json", "--quiet"]
    command += ["--set", f"model.backbone={asked.backbone}"]
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "BESTIARY_CACHE": str(cache)}
    )
    seconds, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(round(seconds, 1), round(used, 1), int(done.stderr.rpartition("PEAK ")[2]))


def enlarged(files: list[Path], folder: Path, times: int) -> Path:
    """Return a folder with links to the pictures, and copies of each that show a little less, brighter or darker."""

    def copies(path: Path) -> None:
        place = folder / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path.absolute())
        image = open_picture(path).image if times > 1 else None
        for number in range(1, times):
            assert image is not None
            across, down = number % 3 * 0.04, number // 3 * 0.04
            box = [round(side * share) for side, share in zip(image.size * 2, _corners(across, down), strict=True)]
            changed = image.crop((box[0], box[1], box[2], box[3])).point(lambda value, n=number: value + 4 * n)
            changed.save(place / f"{path.stem}-{number}.jpg", quality=85)

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(copies, files))
    return folder


def _corners(across: float, down: float) -> tuple[float, float, float, float]:
    return across, down, across + 0.92, down + 0.92


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None
    main()

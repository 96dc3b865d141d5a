"""How long a full audit takes, with suspect labels, and how that grows with the collection: whole processes.

    python benchmarks/audit.py PICTURES [--labels animals10] [--times 1 2 4 8] [--backbone lite2] [--cached]

The collection is enlarged with copies that are encoded again, with another brightness and cropped by 8 %, so that each
copy is a different file and a different picture. Cold: an empty cache folder. Cached: the same audit again. Processor
time is printed next to wall time, because it depends less on other jobs. Peak memory includes all processes.
"""

from __future__ import annotations

import argparse
import os
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
from measuring import build_picture_parser, list_class_files, run_command

# Runs the command, measures the memory of its process and of its workers, and prints the peak.
PROGRAM = """
import sys
from bestiary.cli.app import main
from bestiary.profiling import PeakMemory
with PeakMemory() as memory:
    try:
        main()
    finally:
        print(f"PEAK {memory.megabytes:.0f}", file=sys.stderr)
"""


@dataclass(frozen=True)
class Usage:
    """Wall time, processor time and peak memory of an audit."""

    seconds: float
    processor_seconds: float
    peak_mb: int


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite2")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--every", type=int, default=1, help="use every n-th picture only, to get the slope sooner")
    arguments = parser.parse_args()
    files = list_class_files(arguments.pictures)[:: arguments.every]
    rows: list[tuple[int, Usage, Usage]] = []
    for times in arguments.times:
        with tempfile.TemporaryDirectory() as name:
            collection = enlarge_collection(files, Path(name) / "pictures", times)
            cold, cached = (run_audit(collection, Path(name) / "cache", arguments) for _ in range(2))
        rows.append((len(files) * times, cold, cached))
        print(f"{times} x: {rows[-1][0]:,} pictures; cold {cold}; cached {cached}", flush=True)
    if len(rows) > 1:
        sizes = np.log([size for size, _, _ in rows])
        for column, kind in ((1, "cold"), (2, "cached")):
            for unit in ("seconds", "processor_seconds"):
                slope = np.polyfit(sizes, np.log([getattr(row[column], unit) for row in rows]), 1)[0]
                print(f"{kind}: log-log slope of {unit} {slope:.2f}")


def run_audit(collection: Path, cache: Path, arguments: argparse.Namespace) -> Usage:
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "audit",
        str(collection),
        "--labels",
        arguments.labels,
        "--json",
        "--quiet",
    ]
    command += ["--set", f"model.backbone={arguments.backbone}"]
    start, before = time.perf_counter(), os.times()
    process = run_command(command, cache)
    seconds, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Usage(round(seconds, 1), round(used, 1), int(process.stderr.rpartition("PEAK ")[2]))


def enlarge_collection(files: list[Path], folder: Path, times: int) -> Path:
    """Fill a folder with links to the pictures and with cropped, brighter copies of each; return the folder."""

    def write_copies(path: Path) -> None:
        class_folder = folder / path.parent.name
        class_folder.mkdir(parents=True, exist_ok=True)
        (class_folder / path.name).symlink_to(path.absolute())
        image = open_picture(path).image if times > 1 else None
        for number in range(1, times):
            assert image is not None
            across, down = number % 3 * 0.04, number // 3 * 0.04
            box = [round(side * part) for side, part in zip(image.size * 2, _corners(across, down), strict=True)]
            copy = image.crop((box[0], box[1], box[2], box[3])).point(lambda value, n=number: value + 4 * n)
            copy.save(class_folder / f"{path.stem}-{number}.jpg", quality=85)

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(write_copies, files))
    return folder


def _corners(across: float, down: float) -> tuple[float, float, float, float]:
    return across, down, across + 0.92, down + 0.92


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None
    main()

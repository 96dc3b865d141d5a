"""Growth of peak memory with the size of the collection: the same pictures once and several times in a table.

    python benchmarks/memory.py PICTURES [--times 4] [--method probe] [--labels animals10]

The search for near-duplicates is off, and the copies differ as files, so that every copy counts as a picture.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

from measuring import add_settings, build_command, build_picture_parser, expand_settings, list_class_files, run_command


def main() -> None:
    parser = build_picture_parser(__doc__)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--method", default="probe")
    add_settings(parser)
    arguments = parser.parse_args()
    peaks = {times: measure_peak(arguments, times) for times in (1, arguments.times)}
    growth = peaks[arguments.times] / peaks[1] - 1
    print(f"{arguments.method}: {peaks[1]} MB once, {peaks[arguments.times]} MB {arguments.times} times: {growth:+.1%}")


def measure_peak(arguments: argparse.Namespace, times: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_table(arguments.pictures, folder, times)
        command = build_command("train", table, "--labels", arguments.labels, "--json", "--quiet")
        command += ["--method", arguments.method, "--set", "data.near_duplicates=false", "--out", str(folder / "run")]
        command += expand_settings(arguments.settings)
        return int(json.loads(run_command(command, folder / "cache").stdout)["metrics"]["peak_rss_mb"])


def write_table(pictures: Path, folder: Path, times: int) -> Path:
    """Write a table with `times` copies of each picture; decoders ignore the byte that makes the copies differ."""
    table = folder / "pictures.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for path in list_class_files(pictures):
            rows.writerow([path.absolute(), path.parent.name])
            for number in range(1, times):
                copy_path = folder / f"{number}" / path.parent.name / path.name
                copy_path.parent.mkdir(parents=True, exist_ok=True)
                copy_path.write_bytes(path.read_bytes() + bytes([number]))
                rows.writerow([copy_path, path.parent.name])
    return table


if __name__ == "__main__":
    main()

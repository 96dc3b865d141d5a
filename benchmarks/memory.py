"""Whether peak memory grows with the collection: the same pictures listed once and several times in a table.

    python benchmarks/memory.py PICTURES [--times 4] [--method probe] [--labels animals10]

Near-duplicates are switched off, and each copy is a file of its own, so that every copy counts as a picture.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--times", type=int, default=4)
    options.add_argument("--method", default="probe")
    options.add_argument("--labels", default="animals10")
    options.add_argument("--set", dest="settings", action="append", default=[])
    asked = options.parse_args()
    peaks = {times: peak(asked, times) for times in (1, asked.times)}
    growth = peaks[asked.times] / peaks[1] - 1
    print(f"{asked.method}: {peaks[1]} MB once, {peaks[asked.times]} MB {asked.times} times: {growth:+.1%}")


def peak(asked: argparse.Namespace, times: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_table(asked.pictures, folder, times)
        command = [sys.executable, "-m", "bestiary", "train", str(table), "--labels", asked.labels, "--json", "--quiet"]
        command += ["--method", asked.method, "--set", "data.near_duplicates=false", "--out", str(folder / "run")]
        command += [word for setting in asked.settings for word in ("--set", setting)]
        environment = {**os.environ, "BESTIARY_CACHE": str(folder / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(json.loads(done.stdout)["metrics"]["peak_rss_mb"])


def write_table(pictures: Path, folder: Path, times: int) -> Path:
    """List every picture `times` times; copies get a byte at the end, which decoders ignore, so that they differ."""
    table = folder / "pictures.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for path in sorted(path for path in pictures.glob("*/*") if path.is_file()):
            rows.writerow([path.absolute(), path.parent.name])
            for copy in range(1, times):
                twin = folder / f"{copy}" / path.parent.name / path.name
                twin.parent.mkdir(parents=True, exist_ok=True)
                twin.write_bytes(path.read_bytes() + bytes([copy]))
                rows.writerow([twin, path.parent.name])
    return table


if __name__ == "__main__":
    main()

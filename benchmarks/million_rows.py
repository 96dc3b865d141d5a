"""Time and memory of reading, grouping and splitting a table or a COCO Camera Traps file of many rows.

    python benchmarks/million_rows.py [--rows 1000000] [--format csv|coco]

Draws the file, with empty picture files in 200 folders, 1,000 sites, bursts of three and ten labels. A new process then
lists the pictures, groups them by sequence and site and splits them, without opening one: content hashes are drawn.
Prints wall and processor seconds of each step, and the peak memory.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import build_parser, count_cores, read_processor_name

LABELS = ("empty", "fox", "boar", "deer", "hare", "badger", "marten", "wolf", "lynx", "bear")
FOLDERS, SITES, BURST = 200, 1000, 3


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("csv", "coco"), default="csv")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # the second process
    arguments = parser.parse_args()
    if arguments.read:
        measure(arguments.read)
        return
    print(f"{read_processor_name()}, {count_cores()} cores; {arguments.rows:,} rows of {arguments.format}")
    with tempfile.TemporaryDirectory() as name:
        file = draw(Path(name), arguments.rows, arguments.format)
        subprocess.run([sys.executable, __file__, "--read", str(file)], check=True)


def draw(folder: Path, rows: int, form: str) -> Path:
    """Write the file and the empty pictures; return the path of the file."""
    names = [f"cam{row % FOLDERS:03d}/{row:07d}.jpg" for row in range(rows)]
    for number in range(FOLDERS):
        (folder / f"cam{number:03d}").mkdir()
    for name in names:
        (folder / name).touch()
    facts = [(LABELS[_chance(row // BURST, 10)], row // BURST, _chance(row // BURST, SITES)) for row in range(rows)]
    if form == "csv":
        file = folder / "pictures.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            table = csv.writer(out)
            table.writerow(["File", "Species", "Burst", "Camera"])
            table.writerows(
                [name, label, burst, f"site {site}"] for name, (label, burst, site) in zip(names, facts, strict=True)
            )
        return file
    file = folder / "camera_traps.json"
    images = [
        {"id": str(row), "file_name": name, "location": f"site {site}", "seq_id": str(burst)}
        for row, (name, (_, burst, site)) in enumerate(zip(names, facts, strict=True))
    ]
    annotations = [
        {"id": f"a{row}", "image_id": str(row), "category_id": LABELS.index(label)}
        for row, (label, _, _) in enumerate(facts)
    ]
    categories = [{"id": number, "name": label} for number, label in enumerate(LABELS)]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}), "utf-8")
    return file


def _chance(number: int, most: int) -> int:
    return int.from_bytes(hashlib.blake2b(str(number).encode(), digest_size=4).digest()) % most


def measure(file: Path) -> None:
    """Read, group and split the file, and print what it takes."""
    import polars as pl

    from bestiary.data.formats.read_options import make_read_options, name_group_columns
    from bestiary.data.joined_groups import join_groups
    from bestiary.data.picture_groups import add_picture_groups
    from bestiary.data.scan import _listed_files
    from bestiary.data.sources import list_sources
    from bestiary.data.split import SplitItem, stratified_group_split_unchecked
    from bestiary.group_rules import parse_group_rule, parse_site_rule
    from bestiary.profiling import PeakMemory

    is_csv = file.suffix == ".csv"
    rules = (
        (parse_group_rule("Burst"), parse_site_rule("Camera"))
        if is_csv
        else (parse_group_rule("source"), parse_site_rule("source"))
    )
    columns = "path=File,label=Species" if is_csv else None
    reading = name_group_columns(make_read_options(columns=columns), *rules)
    with PeakMemory() as memory:
        clock = _Clock()
        listing = list_sources([file], {}, reading=reading)
        clock.lap("list")
        pictures = _listed_files(listing).with_columns(error=pl.lit(None, pl.String), taken=pl.lit(None, pl.String))
        pictures = pictures.with_columns(
            sha256=pl.format("{}", pl.col("path").hash()), group=pl.col("row_id").cast(pl.Int64)
        )
        pictures, _ = add_picture_groups(pictures, *rules)
        joined, _ = join_groups(pictures)
        clock.lap("group")
        items = [
            SplitItem(sha256, label, group)
            for sha256, label, group in zip(pictures["sha256"], pictures["label"], joined.tolist(), strict=True)
        ]
        splits = stratified_group_split_unchecked(items, {"test": 0.15, "val": 0.15}, seed=0)
        clock.lap("split")
        clock.total()
    print(f"{len(splits):,} pictures, {len(set(joined.tolist())):,} groups; peak memory {memory.megabytes:.0f} MB")


class _Clock:
    def __init__(self) -> None:
        self.first = self.last = (time.perf_counter(), time.process_time())

    def lap(self, name: str) -> None:
        now = (time.perf_counter(), time.process_time())
        print(f"{name:6} {now[0] - self.last[0]:7.1f} s, processor {now[1] - self.last[1]:7.1f} s", flush=True)
        self.last = now

    def total(self) -> None:
        print(f"all    {self.last[0] - self.first[0]:7.1f} s, processor {self.last[1] - self.first[1]:7.1f} s")


if __name__ == "__main__":
    main()

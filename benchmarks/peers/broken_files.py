"""Four harmless broken pictures, and what a tool does when one of them lies in a training folder."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from peer_script import Row
from process import TIMED_OUT, Measured

CLASSES, PICTURES, NAME = 3, 20, "broken_one.jpg"
LOG_SUFFIXES = {".csv", ".html", ".json", ".jsonl", ".log", ".md", ".txt"}


def write_truncated(target: Path, whole: Path) -> None:
    content = whole.read_bytes()
    target.write_bytes(content[: len(content) * 6 // 10])


def write_empty(target: Path, _: Path) -> None:
    target.write_bytes(b"")


def write_text(target: Path, _: Path) -> None:
    target.write_text("This is a text file that somebody renamed.\n" * 20, encoding="utf-8")


def write_deep_png(target: Path, whole: Path) -> None:
    """Write a grey PNG of 16 bits a pixel under a name that ends in .jpg."""
    grey = np.asarray(Image.open(whole).convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(target, format="PNG")


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "truncated JPEG": write_truncated,
    "empty file": write_empty,
    "text named .jpg": write_text,
    "16-bit PNG named .jpg": write_deep_png,
}


def write_small_split(rows: list[Row], folder: Path, kind: str) -> Path:
    """Copy some pictures of the largest classes, add a broken one to train, and return the split's table."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["label"]] = counts.get(row["label"], 0) + 1
    largest = sorted(counts, key=lambda label: -counts[label])[:CLASSES]
    table = []
    for label in largest:
        chosen = [row for row in rows if row["label"] == label and row["split"] == "train"][:PICTURES]
        for number, row in enumerate(chosen):
            target = folder / label / f"{number:03}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(row["path"]).read_bytes())
            table.append((target, label, "train" if number < 14 else "val" if number < 17 else "test"))
    broken = folder / largest[0] / NAME
    WRITERS[kind](broken, Path(str(table[0][0])))
    table.append((broken, largest[0], "train"))
    path = folder / "split.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *table])
    return path


def describe_outcome(done: Measured, model: Path) -> str:
    """Return "stops" or "goes on", and whether the tool names the file in its output or its reports."""
    is_named = NAME in done.output or any(
        NAME in path.read_text(encoding="utf-8", errors="replace")
        for path in model.rglob("*")
        if path.suffix in LOG_SUFFIXES and path.is_file()
    )
    if done.code == TIMED_OUT:
        return "does not end"
    verb = "goes on" if done.code == 0 else "stops"
    return f"{verb}, names it" if is_named else f"{verb}, does not name it"


def last_line(output: str, folder: Path) -> str:
    """Return the last line of an error text, without the folder's path."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1].replace(str(folder), "…")[:200] if lines else ""

"""The runs of a folder as a leaderboard: ranked by their test score, but only among runs with the same split."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bestiary.errors import BestiaryError, RunError
from bestiary.files import read_json
from bestiary.recipe import Recipe
from bestiary.recipe_files import read_toml
from bestiary.report.format import format_estimate
from bestiary.text import format_duration

METRICS = ("macro_f1", "accuracy", "log_loss")
LOWER_IS_BETTER = ("log_loss",)
SORTS = (*METRICS, "seconds", "date", "name")
RUN_FILES = ("asked.toml", "metrics.json")  # a folder with one of these is a run


@dataclass(frozen=True)
class RunRow:
    """A finished run. split: digest of its split; tested: its split that was scored, "test" or "folds".

    metrics: by name, each with the ends of its 95 % interval. seconds: of the whole job. date: when it was started.
    """

    run: str
    method: str
    backbone: str
    split: str
    tested: str
    n: int
    seconds: float
    date: str
    metrics: dict[str, dict[str, float]]

    @property
    def group(self) -> tuple[str, str]:
        """What runs with the same test pictures have in common."""
        return self.split, self.tested


@dataclass(frozen=True)
class Leaderboard:
    """Finished runs by their test pictures, the largest group first; unfinished and damaged ones with the reason."""

    groups: tuple[tuple[RunRow, ...], ...]
    unfinished: dict[str, str]
    damaged: dict[str, str]

    def values(self) -> dict[str, Any]:
        """Return the leaderboard as plain values."""
        groups = [
            {"split digest": rows[0].split, "split": rows[0].tested, "runs": [asdict(row) for row in rows]}
            for rows in self.groups
        ]
        return {"groups": groups, "unfinished": self.unfinished, "damaged": self.damaged}


def read_leaderboard(folder: Path, sort: str = "macro_f1") -> Leaderboard:
    """Return the runs in a folder and in the folders below it, sorted within each group.

    sort: a metric (best first), "seconds" (shortest first), "date" (newest first) or "name". Raises RunError if the
    folder is missing, or has no runs.
    """
    if not folder.is_dir():
        raise RunError(
            f"There is no folder {folder}. Give the folder of your runs; `bestiary train` makes them in runs."
        )
    rows, unfinished, damaged = list[RunRow](), dict[str, str](), dict[str, str]()
    for run in iter_runs(folder):
        if not (run / "metrics.json").exists():
            unfinished[str(run)] = "it has no metrics.json yet"
            continue
        try:
            rows.append(read_row(run))
        except BestiaryError as error:
            damaged[str(run)] = str(error)
    if not (rows or unfinished or damaged):
        raise RunError(f"There are no runs in {folder}.")
    groups: dict[tuple[str, str], list[RunRow]] = {}
    for row in sorted(rows, key=lambda row: sort_key(row, sort), reverse=sort == "date"):
        groups.setdefault(row.group, []).append(row)
    largest_first = sorted(groups.values(), key=len, reverse=True)
    return Leaderboard(tuple(map(tuple, largest_first)), unfinished, damaged)


def iter_runs(folder: Path) -> Iterator[Path]:
    """Yield the run folders below a folder, or itself, in order; links and hidden folders are left out."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not Path(parent, name).is_symlink()
        )
        if set(names) & set(RUN_FILES):
            folders.clear()  # folds and evaluations inside a run are no runs of their own
            yield Path(parent)


def read_row(run: Path) -> RunRow:
    """Return the row of a finished run; raises RunError, or another BestiaryError, if it is damaged."""
    metrics, environment = read_json(run / "metrics.json"), read_json(run / "environment.json")
    model = Recipe.of(read_toml(run / "resolved.toml")).model
    try:
        return RunRow(
            run=str(run),
            method=model.method,
            backbone=model.network if model.method == "scratch" else Path(model.backbone).name,
            split=str(environment["split digest"]),
            tested=str(metrics["split"]),
            n=int(metrics["n"]),
            seconds=float(metrics["seconds"]["total"]),
            date=str(environment["started"]),
            metrics={name: _read_metric(metrics[name]) for name in METRICS},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"metrics.json or environment.json of {run} is incomplete: {error!r}.") from None


def _read_metric(metric: Mapping[str, Any]) -> dict[str, float]:
    return {end: float(metric[end]) for end in ("value", "low", "high")}


def sort_key(row: RunRow, sort: str) -> Any:
    """Return the key to sort a row by; "date" is sorted in reverse."""
    if sort in METRICS:
        value = row.metrics[sort]["value"]
        return value if sort in LOWER_IS_BETTER else -value
    return {"seconds": row.seconds, "date": row.date, "name": row.run}[sort]


def format_leaderboard(leaderboard: Leaderboard) -> str:
    """Return the leaderboard as text: a table for each group, then the runs that are not ranked."""
    blocks = [_format_group(rows) for rows in leaderboard.groups]
    if len(blocks) > 1:
        blocks.insert(0, f"{len(blocks)} different splits: scores are comparable only within a table.")
    for title, runs in (("Unfinished", leaderboard.unfinished), ("Damaged", leaderboard.damaged)):
        if runs:
            blocks.append("\n".join([f"{title}:", *(f"  {run}: {reason}" for run, reason in runs.items())]))
    return "\n\n".join(blocks)


def _format_group(rows: Sequence[RunRow]) -> str:
    first = rows[0]
    kind = "cross-validated pictures" if first.tested == "folds" else "test pictures"
    header = ("run", "macro-F1 (95 %)", "accuracy (95 %)", "time", "method", "started")
    lines = [header, *(_format_row(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    hint = (
        [] if len(rows) < 2 else ["Overlapping intervals do not decide; `bestiary compare RUN RUN` pairs the pictures."]
    )
    return "\n".join([f"Split {first.split[:12]}, {first.n:,} {kind}", *table, *hint])


def _format_row(row: RunRow) -> tuple[str, ...]:
    scores = (format_estimate(row.metrics[name]) for name in ("macro_f1", "accuracy"))
    return row.run, *scores, format_duration(row.seconds), f"{row.method} {row.backbone}", row.date[:16]

"""Writes the table of tools in README.md from benchmarks/results.json, between two markers.

    python benchmarks/peers/write_table.py [--check]

With --check nothing is written; the exit code is 1 if README.md differs from what results.json gives.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results.json"
BEGIN, END = "<!-- tools: written by benchmarks/peers/write_table.py -->", "<!-- tools: end -->"
BESTIARY = "bestiary"
HEADER = (
    "tool",
    "accuracy (95 %)",
    "macro-F1 (95 %)",
    "macro-F1 minus bestiary's, in points (95 %, paired)",
    "seconds to a finished model",
    "processor seconds",
    "pictures a second",
    "peak memory, MB",
    "installed, MB; without CUDA",
    "cold start, s; processor",
    "four broken files",
    "near-duplicates across its own split",
    "labels changed by export",
)
Entry = dict[str, Any]


# ---- Numbers of one tool -------------------------------------------------------------------------------------------


def median_of(entry: Entry, step: str, name: str) -> float | None:
    """Return the median over the runs of "train" or "predict"; None if there is none."""
    runs = entry.get(step)
    return statistics.median(run[name] for run in runs) if runs else None


def cold_start(entry: Entry) -> float | None:
    return statistics.median(entry["cold_start"]["seconds"]) if "cold_start" in entry else None


def pictures_a_second(entry: Entry, pictures: int) -> float | None:
    """Return the rate of a process that predicts the test pictures, less its start, which a single picture takes."""
    seconds, start = median_of(entry, "predict", "seconds"), cold_start(entry)
    return None if seconds is None or start is None else pictures / max(seconds - start, 0.01)


def torn_pairs(entry: Entry) -> float | None:
    torn: float | None = entry.get("split", {}).get("torn")
    return torn


def changed_labels(entry: Entry) -> float | None:
    changed: float | None = entry.get("export", {}).get("changed")
    return changed


# ---- Cells ---------------------------------------------------------------------------------------------------------


def format_number(value: float | None, digits: int = 0) -> str:
    """Return a number with thousands separators, or a dash.

    >>> format_number(5557.2), format_number(0.432, 2), format_number(None)
    ('5,557', '0.43', '–')
    """
    return "–" if value is None else f"{value:,.{digits}f}"


def format_interval(score: dict[str, float] | None, scale: float = 1, digits: int = 3, sign: str = "") -> str:
    """Return a score with its interval, or a dash.

    >>> format_interval({"value": 0.9, "low": 0.875, "high": 0.95})
    '0.900 (0.875 to 0.950)'
    """
    if score is None:
        return "–"
    value, low, high = (f"{score[name] * scale:{sign}.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def describe_runs(entry: Entry, own: Entry) -> str:
    """Return the median of the seconds, their range if there are several, and the ratio to bestiary's."""
    seconds, ours = median_of(entry, "train", "seconds"), median_of(own, "train", "seconds")
    if seconds is None or ours is None:
        return "–"
    values = [run["seconds"] for run in entry["train"]]
    spread = f" ({min(values):,.0f} to {max(values):,.0f}, n = {len(values)})" if len(values) > 1 else ""
    ratio = "" if entry is own else f"; {seconds / ours:.1f} times"
    return f"{seconds:,.0f}{spread}{ratio}"


def describe_cold_start(entry: Entry) -> str:
    """Return the medians of the seconds and of the processor seconds of a process that labels one picture."""
    if "cold_start" not in entry:
        return "–"
    return "; ".join(f"{statistics.median(entry['cold_start'][name]):.2f}" for name in ("seconds", "cpu_seconds"))


def describe_broken(entry: Entry) -> str:
    """Return how often training stops or goes on, and how many of the files are named."""
    if "broken" not in entry:
        return "–"
    outcomes = [broken["outcome"] for broken in entry["broken"].values()]
    counts = [(verb, sum(outcome.startswith(verb) for outcome in outcomes)) for verb in ("stops", "goes on")]
    named = sum(outcome.endswith("names it") and "not name" not in outcome for outcome in outcomes)
    return f"{', '.join(f'{verb} {count}' for verb, count in counts if count)}; names {named}"


def mark_better(text: str, value: float | None, ours: float | None, *, more: bool = False) -> str:
    """Return the text in bold if the value is better than bestiary's."""
    if value is None or ours is None or value == ours:
        return text
    return f"**{text}**" if (value > ours) == more else text


def list_cells(entry: Entry, own: Entry, pictures: int) -> list[str]:
    """Return the cells of a tool, in the order of `HEADER`."""
    difference = entry.get("minus_bestiary", {}).get("macro_f1")

    def cell(measure: Callable[[Entry], float | None], digits: int = 0, *, more: bool = False) -> str:
        return mark_better(format_number(measure(entry), digits), measure(entry), measure(own), more=more)

    is_better = difference is not None and difference["low"] > 0
    points = format_interval(difference, 100, 1, "+")
    size = f"{format_number(entry.get('installed_mb'))}; {format_number(entry.get('without_cuda_mb'))}"
    return [
        f"{entry['title']}: {entry['settings']}",
        format_interval(entry.get("accuracy")),
        format_interval(entry.get("macro_f1")),
        f"**{points}**" if is_better else points,
        mark_better(
            describe_runs(entry, own), median_of(entry, "train", "seconds"), median_of(own, "train", "seconds")
        ),
        cell(lambda tool: median_of(tool, "train", "cpu_seconds")),
        cell(lambda tool: pictures_a_second(tool, pictures), more=True),
        cell(lambda tool: median_of(tool, "train", "peak_mb")),
        mark_better(size, entry.get("installed_mb"), own.get("installed_mb")),
        mark_better(describe_cold_start(entry), cold_start(entry), cold_start(own)),
        describe_broken(entry),
        "has no splitter" if "split" in entry and torn_pairs(entry) is None else cell(torn_pairs),
        "no export" if "export" in entry and changed_labels(entry) is None else cell(changed_labels),
    ]


def render_rows(rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table, the header first, without the columns that no tool has a value in.

    >>> render_rows([["tool", "seconds", "cold start"], ["a", "3", "–"], ["b", "–", "–"]])
    ['| tool | seconds |', '|---|---|', '| a | 3 |', '| b | – |']
    """
    columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"–"}]
    head, *body = (f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))
    return [head, f"|{'---|' * len(columns)}", *body]


# ---- The table -----------------------------------------------------------------------------------------------------


def render_table(results: dict[str, Any]) -> str:
    """Return the Markdown between the markers."""
    tools, counts = results["tools"], results["pictures"]
    own = tools[BESTIARY]
    measured = {name: entry for name, entry in tools.items() if "macro_f1" in entry}
    rows = [list(HEADER), *(list_cells(entry, own, counts["test"]) for entry in measured.values())]
    skipped = [f"{e['title']}: {e['not_run']}" for name, e in tools.items() if name not in measured and "not_run" in e]
    loads = [load for entry in measured.values() for run in entry.get("train", []) for load in run["load"]]
    lines = [
        f"{counts['used']:,} of {counts['files']:,} pictures, the same for all: {counts['train']:,} to train,"
        f" {counts['val']} to validate, {counts['test']} to test. {results['processor']}, {results['threads']} threads;"
        f" load {min(loads):g} to {max(loads):g} while training: other jobs ran on the machine, so processor seconds"
        " say more than seconds. bestiary and the others ran in turn.",
        *results.get("notes", []),
        "",
        *render_rows(rows),
        "",
        "Bold: better than bestiary.",
        *describe_best_peer(measured, own),
        *describe_all_pictures(results.get("all_pictures")),
        *([f"Not run: {'; '.join(skipped)}."] if skipped else []),
    ]
    return "\n".join(lines)


def describe_all_pictures(results: dict[str, Any] | None) -> list[str]:
    """Return a sentence on the tools that were trained on the whole collection too."""
    if results is None:
        return []
    tools, counts = dict(results["tools"]), results["pictures"]
    own = tools.pop(BESTIARY)
    facts = [f"{own['title']} {format_costs(own)}, macro-F1 {format_interval(own['macro_f1'])}"]
    for entry in tools.values():
        ratios = [
            median_of(entry, "train", name) / median_of(own, "train", name)  # type: ignore[operator]
            for name in ("seconds", "cpu_seconds")
        ]
        points = format_interval(entry["minus_bestiary"]["macro_f1"], 100, 1, "+")
        facts.append(
            f"{entry['title']} {format_costs(entry)}, {ratios[0]:.1f} and {ratios[1]:.1f} times as many, {points}"
            " points"
        )
    return [f"With all {counts['files']:,} pictures ({counts['train']:,} to train): {'; '.join(facts)}."]


def format_costs(entry: Entry) -> str:
    """Return the medians of seconds and processor seconds of the trainings."""
    seconds, processor = (median_of(entry, "train", name) for name in ("seconds", "cpu_seconds"))
    return f"{format_number(seconds)} s ({format_number(processor)} processor seconds)"


def describe_best_peer(measured: dict[str, Entry], own: Entry) -> list[str]:
    """Return a sentence on the other tool with the highest macro-F1."""
    peers = [entry for name, entry in measured.items() if not name.startswith(BESTIARY)]
    if not peers:
        return []
    best = max(peers, key=lambda entry: float(entry["macro_f1"]["value"]))
    facts = [
        ("{:.1f} times the seconds", median_of(best, "train", "seconds"), median_of(own, "train", "seconds")),
        (
            "{:.1f} times the processor seconds",
            median_of(best, "train", "cpu_seconds"),
            median_of(own, "train", "cpu_seconds"),
        ),
        ("{:.1f} times the disk", best.get("installed_mb"), own.get("installed_mb")),
        ("{:.1f} times the cold start", cold_start(best), cold_start(own)),
    ]
    ratios = ", ".join(text.format(value / ours) for text, value, ours in facts if value and ours)
    points = format_interval(best["minus_bestiary"]["macro_f1"], 100, 1, "+")
    return [f"The best other macro-F1 is that of {best['title']}: {points} points against bestiary's, at {ratios}."]


def insert_table(readme: str, table: str) -> str:
    """Return the README with the table between its markers; raises SystemExit if a marker is missing."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise SystemExit(f"README.md needs each of the lines {BEGIN} and {END} once.")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def main() -> None:
    readme = README.read_text(encoding="utf-8")
    written = insert_table(readme, render_table(json.loads(RESULTS.read_text(encoding="utf-8"))))
    if "--check" in sys.argv[1:]:
        sys.exit(0 if written == readme else "README.md differs from results.json: run benchmarks/peers/write_table.py")
    README.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()

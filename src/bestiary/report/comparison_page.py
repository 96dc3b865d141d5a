"""A comparison of runs: a text table, and a page or drawing of the differences with their intervals."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bestiary.errors import UserError
from bestiary.evaluation.comparison import COMPARED, NO_DIFFERENCE, RunPredictions, verdict
from bestiary.files import write_text
from bestiary.report.comparison_changes import changed_answers, differing_settings
from bestiary.report.format import format_estimate
from bestiary.report.plots import Dot, ForestRow, forest_plot
from bestiary.report.render import render_page, standalone_svg
from bestiary.report.svg import Drawing
from bestiary.version import __version__

NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "log_loss": "log-loss"}
COLUMNS = ("run", *NAMES.values(), "only the first correct", "only this correct", "McNemar p")
ELLIPSIS = "…"  # in place of what Rich cuts off
COLORS = {"better": "right", "worse": "wrong", NO_DIFFERENCE: "muted"}


def require_page_suffix(out: Path) -> None:
    """Raise UserError for a file that is neither a page nor a drawing, before any work is done."""
    if out.suffix.lower() not in (".html", ".svg"):
        raise UserError(f"--out takes a file that ends in .html or .svg; got {out}.")


def write_comparison(comparison: Mapping[str, Any], out: Path, runs: Sequence[RunPredictions] = ()) -> None:
    """Write the result of `evaluation.comparison.compare_runs` as a drawing (.svg) or a page (.html).

    runs: the compared ones, from `align_runs`; without them the page has no pictures.
    """
    drawings = [_differences_plot(comparison, metric) for metric in COMPARED]
    if out.suffix.lower() == ".svg":
        write_text(out, standalone_svg(drawings))
        return
    values = {
        "version": __version__,
        "verdict": comparison_verdict(comparison),
        "caption": caption(comparison),
        "columns": COLUMNS,
        "rows": comparison_rows(comparison),
        "names": [run["run"] for run in comparison["runs"]],
        "settings": differing_settings([run["run"] for run in comparison["runs"]]),
        "changed": changed_answers(runs),
        "plots": [drawing.inline for drawing in drawings],
    }
    write_text(out, render_page("comparison.html", values))


def comparison_verdict(comparison: Mapping[str, Any]) -> str:
    """Return how the accuracy of the second of two runs differs from the first; of more runs, how many there are."""
    n = f"{comparison['n']:,} test pictures"
    if len(comparison["differences"]) != 1:
        return f"{len(comparison['runs'])} runs on the same {n}"
    [difference] = comparison["differences"]
    first, second = (Path(run["run"]).name or run["run"] for run in comparison["runs"])
    points = format_estimate(difference["accuracy"], 1, 100, "+")
    return f"{second} against {first}: accuracy {points} points, {verdict(difference, 'accuracy')}, on {n}"


def comparison_rows(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the table under COLUMNS: each run, and below it its difference to the first."""
    rows = []
    for run, difference in zip(comparison["runs"], [None, *comparison["differences"]], strict=True):
        rows.append((run["run"], *(format_estimate(run[metric], 4) for metric in COMPARED), "", "", ""))
        if difference is not None:
            test = difference["mcnemar"]
            cells = [f"{format_estimate(difference[m], 4, sign='+')} {verdict(difference, m)}" for m in COMPARED]
            p = f"{test['p']:.3g}" + (f" ({test['p_holm']:.3g})" if len(comparison["differences"]) > 1 else "")
            rows.append(("  minus the first", *cells, str(test["only_first"]), str(test["only_this"]), p))
    return rows


def caption(comparison: Mapping[str, Any]) -> str:
    """Return the caption of the table: the test pictures, and how intervals and p values are computed."""
    corrected = " In brackets: p corrected for the number of runs (Holm)." if len(comparison["differences"]) > 1 else ""
    groups = comparison["groups"]
    return (
        f"{comparison['n']:,} test pictures in {groups:,} group{'s' * (groups != 1)} (duplicates, groups, sites),"
        f" {len(comparison['labels'])} classes. 95 % intervals from {comparison['resamples']:,} resamples, the same for"
        " every run; the accuracy of a single run has a Wilson interval. McNemar's test is exact."
        + " ".join([corrected, *comparison.get("notes", ())])
    )


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Print the table."""
    print_text_table(COLUMNS, comparison_rows(comparison), caption(comparison))


def print_text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """Print a table with its caption: with borders on a terminal, as aligned plain text elsewhere.

    A terminal that is too narrow for the table gets a paragraph for each row, where nothing is cut off.
    """
    if not sys.stdout.isatty():
        lines = [columns, *rows]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        for line in lines:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            sys.stdout.write("  ".join(padded).rstrip() + "\n")
        sys.stdout.write(caption + "\n")
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table, console = Table(Column(columns[0], no_wrap=True), *columns[1:], caption=Text(caption)), Console()
    for row in rows:
        table.add_row(*map(Text, row))  # a name of a run is no markup
    with console.capture() as printed:
        console.print(table)
    if ELLIPSIS not in printed.get():
        console.print(table)
    else:
        console.print(_format_paragraphs(columns, rows), caption, sep="\n\n", markup=False, highlight=False)


def _format_paragraphs(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a paragraph for each row: its first cell, then a line for each other cell that is not empty.

    >>> print(_format_paragraphs(["run", "accuracy", "p"], [("runs/a", "0.9", "")]))
    runs/a
      accuracy  0.9
    """
    width = max(map(len, columns[1:]))
    paragraphs = (
        [first.strip(), *(f"  {name:{width}}  {cell}" for name, cell in zip(columns[1:], cells, strict=True) if cell)]
        for first, *cells in rows
    )
    return "\n\n".join("\n".join(lines) for lines in paragraphs)


def _differences_plot(comparison: Mapping[str, Any], metric: str) -> Drawing:
    """Return the differences of one metric: a row with its interval for each run after the first."""
    rows = []
    for difference in comparison["differences"]:
        estimate, result = difference[metric], verdict(difference, metric)
        dot = Dot(estimate["value"], format_estimate(estimate, 4, sign="+"), COLORS[result])
        interval = (estimate["low"], estimate["high"])
        rows.append(ForestRow(f"{difference['run']}: {result}", interval, [dot], COLORS[result]))
    better = "lower is better" if metric == "log_loss" else "higher is better"
    title = f"{NAMES[metric]}: this run minus the first ({better})"
    return forest_plot(title, rows, lambda tick: f"{tick:+g}" if tick else "0", signed=True)

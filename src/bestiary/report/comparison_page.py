"""A comparison of runs as one table (terminal, or a page) and one picture: differences with their intervals."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from bestiary.errors import UserError
from bestiary.evaluation.comparison import COMPARED, verdict
from bestiary.files import write_text
from bestiary.report import svg

NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "log_loss": "log-loss"}
COLUMNS = ("run", *NAMES.values(), "only the first right", "only this right", "McNemar p")
ROW, PANEL_TOP, PANEL_BOTTOM = 26, 46, 50
INKS = {"better": "good", "worse": "bad", "not told apart": "even"}
LOOK = (
    "svg.plot{font:13px system-ui,sans-serif;max-width:46rem;width:100%;background:#fff;color:#1b1b1b}"
    "svg.plot text{fill:#1b1b1b}.small{font-size:11px}.middle{text-anchor:middle}.end{text-anchor:end}"
    ".ink-grid{stroke:#ddd}.ink-muted{stroke:#777}.zero{stroke:#1b1b1b;stroke-dasharray:4 3}"
    "line.good{stroke:#0a7a3c}line.bad{stroke:#b3261e}line.even{stroke:#666}line{stroke-width:1.5}"
    "circle.good{fill:#0a7a3c}circle.bad{fill:#b3261e}circle.even{fill:#666}"
)


def require_page_suffix(out: Path) -> None:
    """Raise UserError for a file that is neither a page nor a drawing: before any work is done."""
    if out.suffix.lower() not in (".html", ".svg"):
        raise UserError(f"--out takes a file that ends in .html or .svg; got {out}.")


def write_comparison(comparison: Mapping[str, Any], out: Path) -> None:
    """Write the comparison (`evaluation.comparison.compared`) as a drawing (.svg) or a page (.html) of its own."""
    drawn = Markup("").join(_panel(comparison, name) for name in COMPARED)
    if out.suffix.lower() == ".svg":
        write_text(out, _stack_panels(comparison))
        return
    write_text(out, _page(comparison, drawn))


def comparison_rows(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the lines of the table under COLUMNS: each run, and under each later one its difference to the first."""
    lines = []
    for run, one in zip(comparison["runs"], [None, *comparison["differences"]], strict=True):
        lines.append((run["run"], *(_format_value(run[name]) for name in COMPARED), "", "", ""))
        if one is not None:
            test = one["mcnemar"]
            words = [f"{_format_value(one[name], signed=True)} {verdict(one, name)}" for name in COMPARED]
            p = f"{test['p']:.3g}" + (f" ({test['p_holm']:.3g})" if len(comparison["differences"]) > 1 else "")
            lines.append(("  minus the first", *words, str(test["only_first"]), str(test["only_this"]), p))
    return lines


def caption(comparison: Mapping[str, Any]) -> str:
    """Return what the table is about, in one or two sentences."""
    many = len(comparison["differences"]) > 1
    return (
        f"{comparison['n']:,} test pictures in {comparison['groups']:,} groups of duplicates, {len(comparison['labels'])} classes. 95"
        f" % intervals from {comparison['resamples']:,} resamples, the same for every run, but of one run's accuracy"
        " Wilson's; McNemar's test is exact."
        + (" In brackets: p corrected for the number of runs (Holm)." if many else "")
    )


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Print the table: drawn on a terminal, plain aligned text elsewhere."""
    print_text_table(COLUMNS, comparison_rows(comparison), caption(comparison))


def print_text_table(columns: Sequence[str], lines: Sequence[Sequence[str]], words: str) -> None:
    """Print lines of cells under their columns, and words below them: drawn on a terminal, plain text elsewhere."""
    if not sys.stdout.isatty():
        sys.stdout.write(_format_columns([columns, *lines]) + "\n" + words + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, caption=words)
    for line in lines:
        table.add_row(*line)
    Console().print(table)


def _format_value(measure: Mapping[str, float], *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{measure['value']:{sign}.4f} ({measure['low']:{sign}.4f} to {measure['high']:{sign}.4f})"


def _format_columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _panel(comparison: Mapping[str, Any], name: str) -> Markup:
    parts, height = _panel_parts(comparison, name)
    return svg.svg_document(
        f"Difference in {NAMES[name]} to {comparison['against']}", _describe_panel(comparison, name), parts, height
    )


def _panel_parts(comparison: Mapping[str, Any], name: str) -> tuple[list[str], float]:
    """Return the marks of one metric: a dot with its interval for each run after the first, and a line at zero."""
    differences = comparison["differences"]
    ends = [end for one in differences for end in (one[name]["low"], one[name]["high"])]
    reach = 1.15 * max(1e-3, *(abs(end) for end in ends))
    height = PANEL_TOP + 2 * ROW * len(differences) + PANEL_BOTTOM
    frame = svg.PlotArea(-reach, reach, 0, 1, left=20, top=PANEL_TOP, bottom=PANEL_BOTTOM, height=height)
    marks = svg.nice_ticks(-reach, reach)
    better = "lower is better" if name == "log_loss" else "higher is better"
    parts = [svg.text(20, 16, f"{NAMES[name]}: this run minus the first ({better})", "start")]
    base = height - PANEL_BOTTOM
    parts += [svg.draw_line(frame.x(mark), PANEL_TOP - 18, frame.x(mark), base, "ink-grid") for mark in marks]
    parts += [svg.text(frame.x(mark), base + 16, f"{mark:+g}" if mark else "0", "middle small") for mark in marks]
    parts.append(svg.draw_line(frame.x(0), PANEL_TOP - 18, frame.x(0), base, "zero"))
    for at, one in enumerate(differences):
        y, ink = PANEL_TOP + 2 * ROW * at + ROW, INKS[verdict(one, name)]
        low, value, high = (frame.x(one[name][end]) for end in ("low", "value", "high"))
        parts.append(svg.text(20, y - 12, f"{one['run']}: {verdict(one, name)}", "start small"))
        parts.append(svg.draw_line(low, y, high, y, ink))
        parts.append(svg.draw_circle(value, y, 4, ink, _format_value(one[name], signed=True)))
    return parts, height


def _describe_panel(comparison: Mapping[str, Any], name: str) -> str:
    return "; ".join(f"{one['run']}: {_format_value(one[name], signed=True)}" for one in comparison["differences"])


def _stack_panels(comparison: Mapping[str, Any]) -> str:
    """Return the panels below each other in one drawing with its own colours."""
    inside, top = [f"<style>{LOOK}</style>"], 0.0
    for name in COMPARED:
        parts, height = _panel_parts(comparison, name)
        inside.append(f'<g transform="translate(0 {top:g})">{"".join(parts)}</g>')
        top += height
    label = escape(". ".join(f"{NAMES[name]}: {_describe_panel(comparison, name)}" for name in COMPARED))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {svg.WIDTH} {top:g}" role="img"'
    return f'{head} aria-label="{label}">{"".join(inside)}</svg>\n'


def _page(comparison: Mapping[str, Any], panels: Markup) -> str:
    head = Markup("").join(Markup("<th scope=col>{}</th>").format(name) for name in COLUMNS)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in line))
        for line in comparison_rows(comparison)
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Comparison of runs</title><style>{LOOK} body{{font:16px/1.5 system-ui,sans-serif;max-width:72rem;"
        "margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}table{border-collapse:collapse;font-size:.85rem}"
        "td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left;vertical-align:top}"
        "div{overflow-x:auto}</style><main><h1>Comparison of runs</h1>"
    )
    text = Markup("<p>{}</p><div><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>{}</main></html>\n")
    return page + str(text.format(caption(comparison), head, body, panels))

"""The page of a search: what it found, what mattered, how much of that is luck, and its history as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from bestiary.files import read_json, write_text
from bestiary.report import svg
from bestiary.report.commands import retrain_command
from bestiary.report.render import render_page
from bestiary.version import __version__

PAGE, HISTORY = "tune.html", "history.svg"
ROW, TOP, BOTTOM = 26, 34, 44
# Colours of a picture that stands alone; on the page they come from its style.
LOOK = (
    "svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#1b1f24}.small{font-size:12px;fill:#565e67}"
    ".middle{text-anchor:middle}.end{text-anchor:end}.ink-grid{stroke:#dbddd6}.ink-muted{stroke:#565e67}"
    ".ink-right{stroke:#0a6680;stroke-width:2}.fill-right{fill:#0a6680}.fill-wrong{fill:#ae3d0a}.fill-other{fill:#6b5b95}"
)


def write_tune_page(result: Mapping[str, Any], out: Path) -> None:
    """Write `tune.html` and `history.svg` of a search (`tune.json`) into its folder."""
    parts, words = _history_marks(result["history"])
    values = {
        "name": out.resolve().name,
        "version": __version__,
        "found": result,
        "headline": describe_result(result),
        "history": svg.svg_document("Macro-F1 of each trial", words, parts, svg.HEIGHT),
        "importance": importance_plot(result["importance"]["settings"]),
        "luck": selection_bias_plot(result["luck"]["trials"]),
        "recipe": (out / "winner.toml").read_text(encoding="utf-8"),
        "run": Path(result["run"]).name,
        "command": retrain_winner_command(result),
        "pruning": describe_pruning(result["pruning"]),
        "test": describe_test_scores(result),
        "looks": describe_test_use(result["test scored"]),
    }
    write_text(out / PAGE, render_page(PAGE, values))
    write_text(out / HISTORY, _standalone_svg(parts, words))


def describe_result(result: Mapping[str, Any]) -> str:
    """Return what came out, in a sentence."""
    winner, default = result["winner"], result["default"]
    tried = result["trials"]
    number = tried["complete"] + tried["pruned"] + tried["failed"]
    if winner["default"] and number == 1:
        return f"Nothing but the default was tried; its macro-F1 is {_format_score(winner['macro_f1'])}."
    if winner["default"]:
        return f"None of {number} recipes was better than the default, whose macro-F1 is {_format_score(winner['macro_f1'])}."
    before = "" if default is None else f", the default {_format_score(default['macro_f1'])}"
    return (
        f"The best of {number} recipes, trial {winner['trial']}, has macro-F1 {_format_score(winner['macro_f1'])} by"
        f" {result['chosen by']}{before}."
    )


def describe_test_scores(result: Mapping[str, Any]) -> str:
    """Return how the winner does on test pictures."""
    f1, accuracy = result["test"]["macro_f1"], result["test"]["accuracy"]
    return f"On test pictures: macro-F1 {_format_interval(f1)}, accuracy {_format_interval(accuracy)}."


def describe_pruning(pruning: Mapping[str, float] | None) -> str:
    """Return how much training stopping the hopeless has saved."""
    if pruning is None:
        return ""
    return (
        f"Trials trained for {pruning['seconds']:,.0f} s; without stopping the hopeless ones it would have been about"
        f" {pruning['seconds without']:,.0f} s: {_format_percent(pruning['share saved'])} saved."
    )


def describe_test_use(test_evaluations: int) -> str:
    """Return how often the test pictures have been looked at."""
    if test_evaluations == 1:
        return "The test pictures were looked at once, for this winner."
    return (
        f"The test pictures were looked at {test_evaluations} times: the search was gone on with, and found another winner each"
        " time. The last score is a little too good if the choice to go on depended on the ones before."
    )


def importance_lines(importance: Mapping[str, Any], max_lines: int = 5) -> str:
    """Return which settings mattered, a line for each, under one that says what the shares are of."""
    lines = [f"  {_format_importance(one)}" for one in importance["settings"][:max_lines]]
    if not lines:
        return str(importance["words"])
    head = "The share of the differences between trials that each setting explains."
    return "\n".join([f"{head} {importance['words']}", *lines])


def retrain_winner_command(result: Mapping[str, Any]) -> str:
    """Return the command that trains with the winning recipe, on the same pictures unless others are named."""
    run, recipe = Path(result["run"]), Path(result["recipe"]).resolve()
    applied = run / "corrections.csv"
    return retrain_command(recipe, read_json(run / "environment.json"), applied if applied.exists() else None)


def _history_marks(lines: Sequence[Mapping[str, Any]]) -> tuple[list[str], str]:
    """Return the marks of all trials in the order of their ends, and a line of the best so far; and that in words."""
    lines = sorted(lines, key=lambda line: str(line["ended at"]))
    scored = [(line, line["macro_f1"] if line["macro_f1"] is not None else line["last_macro_f1"]) for line in lines]
    known = [(line, score) for line, score in scored if score is not None]
    low, high = _axis_limits([score for _, score in known])
    frame = svg.PlotArea(0, len(known) + 1, low, high)
    marks = svg.nice_ticks(low, high)
    numbers = [tick for tick in svg.nice_ticks(0, frame.x_high) if tick == round(tick)]
    parts = svg.axes(
        frame,
        numbers,
        marks,
        svg.format_axis_number,
        svg.format_axis_number,
        "trials as they ended",
        "validation macro-F1",
    )
    best, place = None, frame.x(0)
    for number, (line, score) in enumerate(known, start=1):
        at, height = frame.x(number), frame.y(max(score, low))
        if line["ended"] == "complete" and (best is None or score > best):
            if best is not None:
                parts.append(svg.draw_line(place, frame.y(best), at, frame.y(best), "ink-right"))
                parts.append(svg.draw_line(at, frame.y(best), at, height, "ink-right"))
            best, place = score, at
        ink = "fill-other" if line["default"] else "fill-right" if line["ended"] == "complete" else "fill-wrong"
        parts.append(svg.draw_circle(at, height, 5 if line["default"] else 3.5, ink, _note(line, score)))
    if best is not None:
        parts.append(svg.draw_line(place, frame.y(best), frame.x(frame.x_high), frame.y(best), "ink-right"))
    ended = sum(line["ended"] == "complete" for line, _ in known)
    words = f"{ended} trials went to their end, {len(known) - ended} were stopped; the best has {best or 0:.4f}"
    return parts, words


def _axis_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis: hopeless trials lie at its foot, where they do not flatten all others."""
    best, middle = max(scores), sorted(scores)[len(scores) // 2]
    low = max(0.0, min(scores), best - 4 * max(best - middle, 0.01))
    spare = 0.08 * max(best - low, 0.01)
    return max(0.0, low - spare), min(1.0, best + spare) if best < 1 else 1.0 + spare


def _note(line: Mapping[str, Any], score: float) -> str:
    settings = "the default" if line["default"] else ", ".join(f"{k} {v}" for k, v in line["settings"].items())
    return f"Trial {line['trial']}: {score:.4f}; {settings}"


def importance_plot(settings: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return a line for each setting: the share of the differences it explains, with its spread; None without any."""
    if not settings:
        return None
    height = TOP + 2 * ROW * len(settings) + BOTTOM
    frame = svg.PlotArea(0, 1, 0, 1, left=20, top=TOP, bottom=BOTTOM, height=height)
    parts = _vertical_grid(frame, [0, 0.25, 0.5, 0.75, 1], height)
    for number, one in enumerate(settings):
        y = TOP + 2 * ROW * number + ROW
        parts.append(svg.text(20, y - 9, one["setting"], "start small"))
        parts.append(svg.draw_line(frame.x(one["low"]), y, frame.x(one["high"]), y, "ink-right"))
        parts.append(svg.draw_circle(frame.x(one["median"]), y, 4, "fill-right", _format_importance(one)))
    return svg.svg_document("What mattered", "; ".join(map(_format_importance, settings)), parts, height)


def selection_bias_plot(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return a line for each trial: its score as the search saw it, and on fresh splits; None without second scores."""
    known = [row for row in rows if row["fresh"] is not None]
    if not known:
        return None
    ends = [end for row in known for end in (row["first"], *row["fresh"].values()) if end is not None]
    low, high = min(ends), max(ends)
    spare = 0.06 * max(high - low, 0.005)
    height = TOP + 2 * ROW * len(known) + BOTTOM
    frame = svg.PlotArea(low - spare, high + spare, 0, 1, left=20, top=TOP, bottom=BOTTOM, height=height)
    parts = _vertical_grid(frame, svg.nice_ticks(low - spare, high + spare), height)
    for number, row in enumerate(known):
        y, fresh = TOP + 2 * ROW * number + ROW, row["fresh"]
        parts.append(svg.text(20, y - 9, f"trial {row['trial']}{' (the default)' * row['default']}", "start small"))
        if fresh["low"] is not None:
            parts.append(svg.draw_line(frame.x(fresh["low"]), y, frame.x(fresh["high"]), y, "ink-right"))
        parts.append(
            svg.draw_circle(frame.x(fresh["value"]), y, 4, "fill-right", f"fresh splits: {fresh['value']:.4f}")
        )
        parts.append(svg.draw_circle(frame.x(row["first"]), y, 4, "fill-wrong", f"in the search: {row['first']:.4f}"))
    words = "; ".join(
        f"trial {row['trial']}: {row['first']:.4f} in the search, {row['fresh']['value']:.4f} on fresh splits"
        for row in known
    )
    return svg.svg_document("Scores in the search and on fresh splits", words, parts, height)


def _vertical_grid(frame: svg.PlotArea, marks: Sequence[float], height: float) -> list[str]:
    base = height - BOTTOM
    lines = [svg.draw_line(frame.x(mark), TOP - 16, frame.x(mark), base, "ink-grid") for mark in marks]
    return lines + [svg.text(frame.x(mark), base + 16, f"{mark:g}", "middle small") for mark in marks]


def _standalone_svg(parts: Sequence[str], words: str) -> str:
    """Return the history as a file of its own, with its own colours."""
    label = escape(f"Macro-F1 of each trial. {words}.")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {svg.WIDTH} {svg.HEIGHT}" role="img"'
    return f'{head} aria-label="{label}"><style>{LOOK}</style>{"".join(parts)}</svg>\n'


def _format_importance(setting: Mapping[str, Any]) -> str:
    return f"{setting['setting']} {_format_percent(setting['median'])} ({_format_percent(setting['low'])} to {_format_percent(setting['high'])})"


def _format_interval(measure: Mapping[str, float]) -> str:
    return f"{measure['value']:.3f} ({measure['low']:.3f} to {measure['high']:.3f})"


def _format_score(value: float) -> str:
    return f"{value:.4f}"


def _format_percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"

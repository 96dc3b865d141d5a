"""The page of a search: what it found, what mattered, how much of that is luck, and its history as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bestiary.files import read_json, write_text
from bestiary.report import svg
from bestiary.report.commands import retrain_command
from bestiary.report.format import format_estimate, format_short_percent
from bestiary.report.plots import Dot, ForestRow, forest_plot
from bestiary.report.render import render_page, standalone_svg
from bestiary.text import format_percent
from bestiary.version import __version__

PAGE, HISTORY = "tune.html", "history.svg"


def write_tune_page(result: Mapping[str, Any], out: Path) -> None:
    """Write `tune.html` and `history.svg` of a search (`tune.json`) into its folder."""
    history = _history_plot(result["history"])
    values = {
        "name": out.resolve().name,
        "version": __version__,
        "found": result,
        "headline": describe_result(result),
        "history": history.inline,
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
    write_text(out / HISTORY, standalone_svg([history]))


def describe_result(result: Mapping[str, Any]) -> str:
    """Return what came out, in a sentence."""
    winner, default = result["winner"], result["default"]
    tried = result["trials"]
    number = tried["complete"] + tried["pruned"] + tried["failed"]
    if winner["default"] and number == 1:
        return f"Nothing but the default was tried; its macro-F1 is {winner['macro_f1']:.4f}."
    if winner["default"]:
        return f"None of {number} recipes was better than the default, whose macro-F1 is {winner['macro_f1']:.4f}."
    before = "" if default is None else f", the default {default['macro_f1']:.4f}"
    return (
        f"The best of {number} recipes, trial {winner['trial']}, has macro-F1 {winner['macro_f1']:.4f} by"
        f" {result['chosen by']}{before}."
    )


def describe_test_scores(result: Mapping[str, Any]) -> str:
    """Return how the winner does on test pictures."""
    f1, accuracy = result["test"]["macro_f1"], result["test"]["accuracy"]
    return f"On test pictures: macro-F1 {format_estimate(f1)}, accuracy {format_estimate(accuracy)}."


def describe_pruning(pruning: Mapping[str, float] | None) -> str:
    """Return how much training stopping the hopeless has saved."""
    if pruning is None:
        return ""
    return (
        f"Trials trained for {pruning['seconds']:,.0f} s; without stopping the hopeless ones it would have been about"
        f" {pruning['seconds without']:,.0f} s: {format_percent(pruning['share saved'])} saved."
    )


def describe_test_use(test_evaluations: int) -> str:
    """Return how often the test pictures have been looked at."""
    if test_evaluations == 1:
        return "The test pictures were looked at once, for this winner."
    return (
        f"The test pictures were scored {test_evaluations} times: the search was resumed, and found another winner each"
        " time. The last score is a little too high if the choice to resume depended on the ones before."
    )


def importance_lines(importance: Mapping[str, Any], max_lines: int = 5) -> str:
    """Return which settings mattered, a line for each, under one that says what the shares are of."""
    lines = [f"  {one['setting']} {_format_importance(one)}" for one in importance["settings"][:max_lines]]
    if not lines:
        return str(importance["words"])
    head = "The share of the differences between trials that each setting explains."
    return "\n".join([f"{head} {importance['words']}", *lines])


def retrain_winner_command(result: Mapping[str, Any]) -> str:
    """Return the command that trains with the winning recipe, on the same pictures unless others are named."""
    run, recipe = Path(result["run"]), Path(result["recipe"]).resolve()
    applied = run / "corrections.csv"
    return retrain_command(recipe, read_json(run / "environment.json"), applied if applied.exists() else None)


def _history_plot(lines: Sequence[Mapping[str, Any]]) -> svg.Drawing:
    """Return a dot for each trial in the order of their ends, and a line of the best score so far."""
    lines = sorted(lines, key=lambda line: str(line["ended at"]))
    scored = [(line, line["macro_f1"] if line["macro_f1"] is not None else line["last_macro_f1"]) for line in lines]
    trials = [(line, score) for line, score in scored if score is not None]
    low, high = _axis_limits([score for _, score in trials])
    frame = svg.PlotArea(0, len(trials) + 1, low, high)
    x_ticks = [tick for tick in svg.nice_ticks(0, frame.x_high) if tick == round(tick)]
    text, labels = svg.format_axis_number, ("trials in the order of their ends", "validation macro-F1")
    parts = svg.axes(frame, x_ticks, svg.nice_ticks(low, high), text, text, *labels)
    best, steps, dots = None, list[str](), list[str]()
    for number, (line, score) in enumerate(trials, start=1):
        x, y, complete = frame.x(number), frame.y(max(score, low)), line["ended"] == "complete"
        if complete and (best is None or score > best):
            steps += [] if best is None else [f"{x},{frame.y(best)}"]
            steps.append(f"{x},{y}")
            best = score
        color = "fill-other" if line["default"] else "fill-right" if complete else "fill-wrong"
        dots.append(svg.draw_circle(x, y, 5 if line["default"] else 3.5, color, _note(line, score)))
    if best is not None:
        steps.append(f"{frame.x(frame.x_high)},{frame.y(best)}")
        parts.append(f'<polyline class="ink-right" points="{" ".join(steps)}"/>')
    n = sum(line["ended"] == "complete" for line, _ in trials)
    described = f"{n} trials were completed, {len(trials) - n} were stopped; the best score is {best or 0:.4f}"
    return svg.Drawing(f"Macro-F1 of each trial. {described}.", [*parts, *dots])


def _axis_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Return the limits of the axis; far lower scores are drawn at its foot, so that they do not flatten the others."""
    best, middle = max(scores), sorted(scores)[len(scores) // 2]
    low = max(0.0, min(scores), best - 4 * max(best - middle, 0.01))
    pad = 0.08 * max(best - low, 0.01)
    return max(0.0, low - pad), min(1.0, best + pad) if best < 1 else 1.0 + pad


def _note(line: Mapping[str, Any], score: float) -> str:
    settings = "the default" if line["default"] else ", ".join(f"{k} {v}" for k, v in line["settings"].items())
    return f"Trial {line['trial']}: {score:.4f}; {settings}"


def importance_plot(settings: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return a row for each setting: its importance with its interval; None without any."""
    rows = [
        ForestRow(one["setting"], (one["low"], one["high"]), [Dot(one["median"], _format_importance(one))])
        for one in settings
    ]
    title = "Fraction of the differences between trials explained"
    return forest_plot(title, rows, format_short_percent, limits=(0, 1)).inline if rows else None


def selection_bias_plot(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return a row for each trial: its score in the search, and on fresh splits; None without fresh scores."""
    trials = []
    for row in rows:
        if (fresh := row["fresh"]) is not None:
            interval = None if fresh["low"] is None else (fresh["low"], fresh["high"])
            dots = [
                Dot(row["first"], f"{row['first']:.4f} in the search", "wrong", 4),
                Dot(fresh["value"], f"{fresh['value']:.4f} on fresh splits", radius=4),
            ]
            trials.append(ForestRow(f"trial {row['trial']}{' (the default)' * row['default']}", interval, dots))
    return forest_plot("Macro-F1", trials, "{:g}".format).inline if trials else None


def _format_importance(setting: Mapping[str, Any]) -> str:
    return f"{100 * setting['median']:.0f} % ({100 * setting['low']:.0f} % to {100 * setting['high']:.0f} %)"

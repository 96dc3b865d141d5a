"""The page of a search: its winner, the importance of settings, the selection bias, and the history as a plot."""

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
        "result": result,
        "verdict": describe_result(result),
        "history": history.inline,
        "importance": importance_plot(result["importance"]["settings"]),
        "selection_bias": selection_bias_plot(result["luck"]["trials"]),
        "recipe": (out / "winner.toml").read_text(encoding="utf-8"),
        "run": Path(result["run"]).name,
        "command": retrain_winner_command(result),
        "pruning": describe_pruning(result["pruning"]),
        "test": f"{describe_test_scores(result)} {describe_test_use(result['test scored'])}",
    }
    write_text(out / PAGE, render_page(PAGE, values))
    write_text(out / HISTORY, standalone_svg([history]))


def describe_result(result: Mapping[str, Any]) -> str:
    """Return the outcome of the search as a sentence."""
    winner, default, number = result["winner"], result["default"], sum(result["trials"].values())
    if winner["default"] and number == 1:
        return f"Only the default was tried; its macro-F1 is {winner['macro_f1']:.4f}."
    if winner["default"]:
        return f"None of {number} recipes was better than the default, whose macro-F1 is {winner['macro_f1']:.4f}."
    comparison = "" if default is None else f", the default {default['macro_f1']:.4f}"
    return (
        f"The best of {number} recipes, trial {winner['trial']}, has macro-F1 {winner['macro_f1']:.4f} on"
        f" {result['chosen by']}{comparison}."
    )


def describe_test_scores(result: Mapping[str, Any]) -> str:
    """Return the test scores of the winner as a sentence."""
    f1, accuracy = result["test"]["macro_f1"], result["test"]["accuracy"]
    return f"On test pictures: macro-F1 {format_estimate(f1)}, accuracy {format_estimate(accuracy)}."


def describe_pruning(pruning: Mapping[str, float] | None) -> str:
    """Return the training time that pruning saved as a sentence."""
    if pruning is None:
        return ""
    return (
        f"Trials trained for {pruning['seconds']:,.0f} s; without stopping unpromising ones early it would have been"
        f" about {pruning['seconds without']:,.0f} s: {format_percent(pruning['share saved'])} saved."
    )


def describe_test_use(test_evaluations: int) -> str:
    """Return how often the test split has been scored."""
    if test_evaluations == 1:
        return "The test split was scored once, for this winner."
    return (
        f"The test split was scored {test_evaluations} times: the search was resumed, and chose a different winner each"
        " time. The last score is slightly too high if the decision to resume depended on the earlier ones."
    )


def importance_lines(importance: Mapping[str, Any], max_lines: int = 5) -> str:
    """Return the most important settings, one a line, below an explanation."""
    rows = importance["settings"][:max_lines]
    lines = [f"  {setting['setting']} {_format_importance(setting)}" for setting in rows]
    if not lines:
        return str(importance["words"])
    head = "Importance of settings: the fraction of the variation between trials that each explains."
    return "\n".join([f"{head} {importance['words']}", *lines])


def retrain_winner_command(result: Mapping[str, Any]) -> str:
    """Return the command that trains with the winning recipe on the same pictures."""
    run, recipe = Path(result["run"]), Path(result["recipe"]).resolve()
    corrections = run / "corrections.csv"
    return retrain_command(recipe, read_json(run / "environment.json"), corrections if corrections.exists() else None)


def _history_plot(lines: Sequence[Mapping[str, Any]]) -> svg.Drawing:
    """Return a dot for each trial in the order of their ends, and a line of the best score so far."""
    lines = sorted(lines, key=lambda line: str(line["ended at"]))
    scored = [(line, line["macro_f1"] if line["macro_f1"] is not None else line["last_macro_f1"]) for line in lines]
    trials = [(line, score) for line, score in scored if score is not None]
    low, high = _axis_limits([score for _, score in trials])
    frame = svg.PlotArea(0, len(trials) + 1, low, high)
    x_ticks = [tick for tick in svg.nice_ticks(0, frame.x_high) if tick == round(tick)]
    text, labels = svg.format_axis_number, ("trials in the order of completion", "validation macro-F1")
    parts = svg.axes(frame, x_ticks, svg.nice_ticks(low, high), text, text, *labels)
    best, steps, dots = 0.0, list[tuple[float, float]](), list[str]()
    for number, (line, score) in enumerate(trials, start=1):
        x, y, complete = frame.x(number), frame.y(max(score, low)), line["ended"] == "complete"
        if complete and (score > best or not steps):
            steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
            best = score
        color = "fill-other" if line["default"] else "fill-right" if complete else "fill-wrong"
        settings = "the default" if line["default"] else ", ".join(f"{k} {v}" for k, v in line["settings"].items())
        note = f"Trial {line['trial']}: {score:.4f}; {settings}"
        dots.append(svg.draw_circle(x, y, 5 if line["default"] else 3.5, color, note))
    if steps:
        points = " ".join(f"{x},{y}" for x, y in [*steps, (frame.x(frame.x_high), steps[-1][1])])
        parts.append(f'<polyline class="ink-right" points="{points}"/>')
    n = sum(line["ended"] == "complete" for line, _ in trials)
    description = f"{n} trials are complete, {len(trials) - n} were stopped; the best score is {best:.4f}"
    return svg.Drawing(f"Macro-F1 of each trial. {description}.", [*parts, *dots])


def _axis_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Return the limits of the axis; far lower scores are drawn at the bottom and do not flatten the others."""
    best, median = max(scores), sorted(scores)[len(scores) // 2]
    low = max(0.0, min(scores), best - 4 * max(best - median, 0.01))
    pad = 0.08 * max(best - low, 0.01)
    return max(0.0, low - pad), min(1.0, best + pad) if best < 1 else 1.0 + pad


def importance_plot(settings: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return a row for each setting: its importance with its interval; None without any."""
    rows = [
        ForestRow(row["setting"], (row["low"], row["high"]), [Dot(row["median"], _format_importance(row))])
        for row in settings
    ]
    title = "Fraction of the differences between trials explained"
    return forest_plot(title, rows, format_short_percent, limits=(0, 1)).inline if rows else None


def selection_bias_plot(trials: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return a row for each trial: its score in the search, and on fresh splits; None without fresh scores."""
    rows = []
    for trial in trials:
        if (fresh := trial["fresh"]) is not None:
            interval = None if fresh["low"] is None else (fresh["low"], fresh["high"])
            first = Dot(trial["first"], f"{trial['first']:.4f} in the search", "wrong", 4)
            second = Dot(fresh["value"], f"{fresh['value']:.4f} on fresh splits", radius=4)
            name = f"trial {trial['trial']}{' (the default)' * trial['default']}"
            rows.append(ForestRow(name, interval, [first, second]))
    return forest_plot("Macro-F1", rows, "{:g}".format).inline if rows else None


def _format_importance(setting: Mapping[str, Any]) -> str:
    return f"{100 * setting['median']:.0f} % ({100 * setting['low']:.0f} % to {100 * setting['high']:.0f} %)"

"""Judgements in words and plain tables, for terminals: pictures from elsewhere, spoilt pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bestiary.report.classification_report import classification_report
from bestiary.text import format_percent, format_points


def format_external_evaluation(metrics: Mapping[str, Any]) -> str:
    """Return what an evaluation on other pictures says: how far they are first, then what was left out, then scores."""
    lines = [metrics["shift"]["sentence"]]
    copies = metrics["copies"]["train"] + metrics["copies"]["val"]
    if copies:
        lines.append(f"{copies:,} are copies of pictures that the model was made with: left out.")
    if metrics["copies"]["test"]:
        lines.append(f"{metrics['copies']['test']:,} are copies of its test pictures: scored with the others.")
    if metrics["unreadable"]:
        lines.append(f"{metrics['unreadable']:,} cannot be read: left out.")
    if copies or metrics["unreadable"]:
        lines.append("Each that was left out is in pictures.parquet, with the reason.")
    if passed_over := metrics.get("passed_over"):
        lines.append(f"Passed over: {', '.join(f'{count:,} {reason}' for reason, count in passed_over.items())}.")
    for label, said in metrics["unknown_classes"].items():
        lines.append(
            f'The model does not know "{label}" ({said["pictures"]:,} pictures): it said "unknown"'
            f" {format_percent(said['value'])} of the time ({format_percent(said['low'])} to"
            f" {format_percent(said['high'])})."
        )
    if metrics["classes_without_pictures"]:
        lines.append(
            f"No pictures of {', '.join(metrics['classes_without_pictures'])} here: their rows are empty, and averages"
            " over all classes count them as 0."
        )
    if "per_class" not in metrics:
        return "\n".join([*lines, "No picture is of a class that the model knows: there is no accuracy to give."])
    f1 = metrics["present"]["macro_f1"]
    mean = f"Macro-F1 over the classes that have pictures: {f1['value']:.3f} ({f1['low']:.3f} to {f1['high']:.3f})."
    over = [mean] if metrics["classes_without_pictures"] else []  # else it is in the table already
    scores = classification_report(metrics, short=True)
    return "\n".join([*lines, "", scores, *over, metrics["slices"]["sentence"]])


def format_corruption_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return accuracies by corruption, a column for each strength, and what is still answered at the strongest."""
    clean = next(row for row in rows if row["corruption"] == "none")
    head = f"{'accuracy at strength':22}" + "".join(f"{strength:>8}" for strength in range(1, 6)) + "  answered at 5"
    lines = [f"As they are: {format_points(clean['accuracy'], 1)} % of {clean['n']:,} validation pictures right.", head]
    for name in dict.fromkeys(row["corruption"] for row in rows if row["corruption"] != "none"):
        own = sorted((row for row in rows if row["corruption"] == name), key=lambda row: row["strength"])
        cells = "".join(f"{row['accuracy']:8.1%}" for row in own)
        lines.append(f"{name.replace('_', ' '):22}{cells}{own[-1]['answered']:15.0%}")
    return "\n".join(lines)

"""Text for terminals: an evaluation on other pictures, a table of accuracies on corrupted pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bestiary.report.classification_report import classification_report
from bestiary.report.format import format_estimate
from bestiary.report.present_classes import present_metrics
from bestiary.text import describe_skipped, format_names, format_percent, format_points


def format_external_evaluation(metrics: Mapping[str, Any]) -> str:
    """Return the evaluation on other pictures: distribution shift, the averages, what was left out, the table."""
    lines = [metrics["shift"]["sentence"], *_present_class_average(metrics)]
    copies = metrics["copies"]["train"] + metrics["copies"]["val"]
    if copies:
        lines.append(f"{copies:,} are copies of training or validation pictures of the model: left out.")
    if metrics["copies"]["test"]:
        lines.append(f"{metrics['copies']['test']:,} are copies of its test pictures: scored like the others.")
    if metrics["unreadable"]:
        lines.append(f"{metrics['unreadable']:,} cannot be read: left out.")
    if copies or metrics["unreadable"]:
        lines.append("pictures.parquet lists those that were left out, with the reason.")
    if skipped := describe_skipped(metrics.get("passed_over", {})):
        lines.append(skipped)
    lines += [notice["message"] for notice in metrics.get("notices", ())]
    for label, unknown in metrics["unknown_classes"].items():
        lines.append(
            f'The model has no class "{label}" ({unknown["pictures"]:,} pictures): it predicted "unknown" for'
            f" {format_percent(unknown['value'])} ({format_percent(unknown['low'])} to"
            f" {format_percent(unknown['high'])})."
        )
    if "per_class" not in metrics:
        return "\n".join([*lines, "No picture has a class of the model, so there is no accuracy."])
    if absent := metrics["classes_without_pictures"]:
        lines.append(f"There are no pictures of {format_names(absent)}: not in the table, nor in its averages.")
    own = present_metrics(metrics)
    scores = classification_report(own | {"confusion": {"labels": list(own["per_class"])}}, short=True)
    decision = [metrics[name]["sentence"] for name in ("decision", "class_thresholds") if metrics.get(name)]
    return "\n".join([*lines, "", scores, *decision, metrics["slices"]["sentence"]])


def _present_class_average(metrics: Mapping[str, Any]) -> list[str]:
    """Return a sentence with macro-F1 and accuracy over the classes that have pictures; none without such classes."""
    if "per_class" not in metrics:
        return []
    n_absent, n = len(metrics["classes_without_pictures"]), len(metrics["per_class"])
    classes = f"{n - n_absent} of {n} classes, those with pictures" if n_absent else f"{n} classes"
    return [
        f"Macro-F1 over {classes}: {format_estimate(metrics['present']['macro_f1'])};"
        f" accuracy {format_estimate(metrics['accuracy'])}."
    ]


def format_corruption_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return accuracies by corruption, a column for each severity, and the coverage at the highest."""
    clean = next(row for row in rows if row["corruption"] == "none")
    lines = [
        f"Without corruption: accuracy {format_points(clean['accuracy'], 1)} % on {clean['n']:,} validation pictures.",
        f"{'accuracy at severity':22}" + "".join(f"{strength:>8}" for strength in range(1, 6)) + "  coverage at 5",
    ]
    for name in dict.fromkeys(row["corruption"] for row in rows if row["corruption"] != "none"):
        own = sorted((row for row in rows if row["corruption"] == name), key=lambda row: row["strength"])
        cells = "".join(f"{row['accuracy']:8.1%}" for row in own)
        lines.append(f"{name.replace('_', ' '):22}{cells}{own[-1]['answered']:15.0%}")
    return "\n".join(lines)

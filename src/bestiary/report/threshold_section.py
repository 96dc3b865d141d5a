"""Thresholds by class, in words and tables: for the report, the summary and the model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bestiary.report.format import format_interval, format_metric
from bestiary.report.markdown import escape, markdown_table
from bestiary.text import format_percent

HEAD = (
    "Class",
    "Threshold",
    "Stated precision",
    "Correct on validation",
    "Precision of answers",
    "Recall of answers",
    "Left unanswered",
)


def threshold_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the head and the rows of the table, for a page."""
    return {"threshold_head": HEAD, "threshold_rows": threshold_rows(metrics)}


def threshold_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of each class with a threshold, in the order of `HEAD`; empty without thresholds."""
    classes = (metrics.get("class_thresholds") or {}).get("classes", {})
    return [
        (
            name,
            f"{values['threshold']:.3f}",
            format_percent(values["precision"], 1) + ("" if values["is_met"] else " (not met)"),
            f"{values['validation']['correct']:,} of {values['validation']['answered']:,}"
            f" ({format_interval(values['validation'], 0)})",
            *(format_metric(values[key], 0) for key in ("precision_answered", "recall_answered")),
            f"{values['unanswered']:,} of {values['predicted']:,}",
        )
        for name, values in classes.items()
    ]


def iter_threshold_blocks(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sentence, the warnings and the table in Markdown; nothing without thresholds."""
    thresholds = metrics.get("class_thresholds")
    if not thresholds:
        return
    yield escape(thresholds["sentence"])
    yield from (f"> {escape(warning)}" for warning in thresholds["unmet"])
    yield markdown_table(HEAD, ((escape(row[0]), *row[1:]) for row in threshold_rows(metrics)))

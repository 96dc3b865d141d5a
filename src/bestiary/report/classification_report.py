"""The scores of a run as a text table, for terminals and logs."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from bestiary.text import format_names

_HEADER = ("", "precision", "recall", "95 % interval", "f1", "support")
MAX_LINES, WORST_LINES = 30, 20  # on a screen: of more classes the worst are shown


def classification_report(metrics: Mapping[str, Any], *, short: bool = False) -> str:
    """Return the table: a line per class, in the order of the confusion matrix, then the figures over all classes.

    short: of more than 30 classes only the 20 with the lowest F1, lowest first, and how many more there are.

    `metrics`: the body of metrics.json. The interval is that of recall; on the accuracy line, which stands in the
    recall column because it is the recall over all pictures, that of accuracy. Columns stay aligned for labels in any
    script, by their width on a terminal; control characters in labels are shown as "?".
    """
    n = str(metrics["n"])
    labels, left_out = metrics["confusion"]["labels"], 0
    if short and len(labels) > MAX_LINES:
        labels, left_out = _weakest_classes(metrics["per_class"], labels), len(labels) - WORST_LINES
    rows = [_class_row(label, metrics["per_class"][label]) for label in labels]
    accuracy, macro = metrics["accuracy"], metrics["macro_recall"]
    over_all = [
        ("accuracy", "", _format_rate(accuracy), _format_interval(accuracy), "", n),
        (
            "macro average",
            _format_rate(metrics["macro_precision"]),
            _format_rate(macro),
            _format_interval(macro),
            _format_rate(metrics["macro_f1"]),
            n,
        ),
        ("macro-F1", "", "", _format_interval(metrics["macro_f1"]), _format_rate(metrics["macro_f1"]), n),
    ]
    said = score_caveats(metrics)
    if left_out:
        said.insert(0, f"{left_out:,} more classes are not shown: above are those with the lowest F1.")
    notes = [textwrap.fill(note, 100) for note in said]
    return "\n".join([_align_columns([_HEADER, None, *rows, None, *over_all]), *(f"{note}\n" for note in notes)])


def score_caveats(metrics: Mapping[str, Any]) -> list[str]:
    """Return what must be said beside the scores: cross-validated, a split that leaks, classes that were not tested."""
    said = [metrics[key]["note"] for key in ("folds", "leaks") if (metrics.get(key) or {}).get("note")]
    untested = [label for label, one in metrics["per_class"].items() if one.get("support") == 0]
    if untested and metrics.get("split") != "elsewhere":  # there it is said beside what else the pictures lack
        said.append(
            f"No test picture shows {format_names(untested)}: nothing is known of how well they are recognised, and"
            " averages over all classes count them as 0."
        )
    return said


def _weakest_classes(per_class: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Return the classes with the lowest F1, lowest first; one that was not tested has none and comes last."""
    return sorted(labels, key=lambda label: (not per_class[label]["support"], per_class[label]["f1"]["value"] or 0.0))[
        :WORST_LINES
    ]


def _class_row(label: str, scores: Mapping[str, Any]) -> tuple[str, ...]:
    rates = (
        _format_rate(scores["precision"]),
        _format_rate(scores["recall"]),
        _format_interval(scores["recall"]),
        _format_rate(scores["f1"]),
    )
    return (_printable(label), *rates, str(scores["support"]))


def _format_rate(entry: Mapping[str, float]) -> str:
    return f"{entry['value']:.3f}"


def _format_interval(entry: Mapping[str, float]) -> str:
    return f"{entry['low']:.3f} to {entry['high']:.3f}"


def _printable(label: str) -> str:
    return "".join("?" if unicodedata.category(character) == "Cc" else character for character in label)


def _align_columns(rows: list[tuple[str, ...] | None]) -> str:
    """Return the rows as lines, the first column to the left and the others to the right; None is an empty line."""
    filled = [row for row in rows if row is not None]
    widths = [max(_width(row[column]) for row in filled) for column in range(len(_HEADER))]
    return "\n".join(_line(row, widths) if row is not None else "" for row in rows) + "\n"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    pads = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
    return "  ".join([row[0] + pads[0], *(pad + cell for cell, pad in zip(row[1:], pads[1:], strict=True))])


def _width(text: str) -> int:
    """Return how many columns of a terminal the text takes: two a wide East Asian letter, none a combining mark."""
    visible = [c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Cf")]
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in visible)

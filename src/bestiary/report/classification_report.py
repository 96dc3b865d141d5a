"""Classification report: the scores of a run as a text table, for terminals and logs."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from bestiary.report.format import format_interval, format_number
from bestiary.text import format_names

_HEADER = ("", "precision", "recall", "95 % interval", "f1", "support")
MAX_LINES, WORST_LINES = 30, 20  # on a terminal: of more classes the worst are listed


def classification_report(metrics: Mapping[str, Any], *, short: bool = False) -> str:
    """Return the table: a line per class, in the order of the confusion matrix, then the averages.

    metrics: the body of metrics.json. short: of more than 30 classes only the 20 with the lowest F1, lowest first, and
    how many more there are. The interval is that of recall, on the accuracy line that of accuracy. Columns are aligned
    for labels in any script, by their width on a terminal; control characters in labels become "?".
    """
    labels, notes = metrics["confusion"]["labels"], score_caveats(metrics)
    if short and len(labels) > MAX_LINES:
        notes.insert(0, f"{len(labels) - WORST_LINES:,} more classes are not shown; these have the lowest F1.")
        labels = _weakest_classes(metrics["per_class"], labels)
    rows = [(_printable(label), *_class_cells(metrics["per_class"][label])) for label in labels]
    n, macro = str(metrics["n"]), {key: metrics[f"macro_{key}"] for key in ("precision", "recall", "f1")}
    averages = [
        ("accuracy", "", _rate(metrics["accuracy"]), _interval(metrics["accuracy"]), "", n),
        ("macro average", *_class_cells(macro | {"support": n})),
        ("macro-F1", "", "", _interval(metrics["macro_f1"]), _rate(metrics["macro_f1"]), n),
    ]
    table = _align_columns([_HEADER, None, *rows, None, *averages])
    return "\n".join([table, *(f"{textwrap.fill(note, 100)}\n" for note in notes)])


def score_caveats(metrics: Mapping[str, Any]) -> list[str]:
    """Return the caveats of the scores: cross-validation, a leaking split, classes without test pictures."""
    caveats = [metrics[key]["note"] for key in ("folds", "leaks") if (metrics.get(key) or {}).get("note")]
    untested = [label for label, scores in metrics["per_class"].items() if scores.get("support") == 0]
    if untested and metrics.get("split") != "elsewhere":  # the text on other pictures lists them itself
        caveats.append(
            f"No test picture shows {format_names(untested)}: recall is unknown, and averages over all"
            " classes count it as 0."
        )
    return caveats


def _weakest_classes(per_class: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Return the classes with the lowest F1, lowest first; untested classes come last."""
    return sorted(labels, key=lambda label: (not per_class[label]["support"], per_class[label]["f1"]["value"] or 0.0))[
        :WORST_LINES
    ]


def _class_cells(scores: Mapping[str, Any]) -> tuple[str, ...]:
    recall = scores["recall"]
    return (_rate(scores["precision"]), _rate(recall), _interval(recall), _rate(scores["f1"]), str(scores["support"]))


def _rate(metric: Mapping[str, float]) -> str:
    return format_number(metric["value"])


def _interval(metric: Mapping[str, float]) -> str:
    return format_interval(metric, 3, 1)


def _printable(label: str) -> str:
    return "".join("?" if unicodedata.category(character) == "Cc" else character for character in label)


def _align_columns(rows: list[tuple[str, ...] | None]) -> str:
    """Return the rows as lines, the first column to the left and the others to the right; None is an empty line."""
    widths = [max(_width(row[column]) for row in rows if row) for column in range(len(_HEADER))]
    return "\n".join(_line(row, widths) if row is not None else "" for row in rows) + "\n"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    pads = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
    return "  ".join([row[0] + pads[0], *(pad + cell for cell, pad in zip(row[1:], pads[1:], strict=True))])


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal: two for wide East Asian letters, none for combining marks."""
    visible = [c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Cf")]
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in visible)

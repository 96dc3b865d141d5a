"""Report section on training: the learning curve, which classes overfit, and augmented pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bestiary.report import plots
from bestiary.run_folder import AUGMENTATION_SHEET


def learning_curve_values(lessons: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template context from `learning_curve.json`; an empty mapping gives an empty section."""
    gaps, curve = lessons.get("gaps", {}), lessons.get("curve", {})
    rows = [{"label": label, **entry} for label, entry in gaps.get("classes", {}).items()]
    rows.sort(key=lambda row: (row["val_recall"] or 0) - (row["train_recall"] or 0))
    sentences = [lessons.get("ended"), gaps.get("sentence"), curve.get("sentence")]
    return {
        "lessons": [sentence for sentence in sentences if sentence],
        "lesson_learner": curve.get("learner", ""),
        "lesson_plot": learning_curve_plot(curve),
        "lesson_rows": rows,
    }


def augmentation_values(run: Path, lessons: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template context: the sheet of a run folder as a `data:` address, None without one, and its words."""
    sheet = run / AUGMENTATION_SHEET
    if not sheet.is_file():
        return {"augmentation_sheet": None}
    address = "data:image/jpeg;base64," + base64.b64encode(sheet.read_bytes()).decode("ascii")
    return {"augmentation_sheet": address, "augmentation": lessons.get("augmentation", "")}


def learning_curve_plot(curve: Mapping[str, Any]) -> Markup:
    """Return validation macro-F1 against the number of training pictures, extrapolated by one doubling."""
    if not curve:
        return Markup("")
    points, twice = curve["points"], curve["twice"]
    x = [point["pictures"] for point in points] + [twice["pictures"]]
    scores = [point["macro_f1"] for point in points]
    measured = [score["value"] for score in scores]
    expected = [*[None] * (len(points) - 1), measured[-1], twice["macro_f1"]["value"]]
    series = [plots.Series("measured", "ink-right", [*measured, None]), plots.Series("expected", "ink-other", expected)]
    for end in ("low", "high"):
        ends = [score[end] for score in (*scores, twice["macro_f1"])]
        series.append(plots.Series(f"95 % {end}", "ink-muted", ends))
    y_label = "Learning curve: macro-F1 on validation"
    return plots.line_plot(
        x, series, x_label="Training pictures", y_label=y_label, x_log=True, x_ticks=x, as_percent=True
    )

"""The report's section on what the training tells: the learning curve, and which classes were learnt by heart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from bestiary.report import plots


def learning_curve_values(lessons: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values for the page from `learning_curve.json`; an empty mapping gives an empty section."""
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


def learning_curve_plot(curve: Mapping[str, Any]) -> Markup:
    """Return macro-F1 on validation against the number of training pictures, with its interval and a doubling more."""
    if not curve:
        return Markup("")
    points, twice = curve["points"], curve["twice"]
    x = [point["pictures"] for point in points] + [twice["pictures"]]
    scores = [point["macro_f1"] for point in points]
    last = scores[-1]["value"]
    ahead = [None] * (len(points) - 1)
    series = [
        plots.Series("measured", "ink-right", [*(score["value"] for score in scores), None]),
        plots.Series("expected", "ink-other", [*ahead, last, twice["macro_f1"]["value"]]),
        *(
            plots.Series(f"95 % {end}", "ink-muted", [*(score[end] for score in scores), twice["macro_f1"][end]])
            for end in ("low", "high")
        ),
    ]
    return plots.line_plot(
        "Learning curve", x, series, x_label="Training pictures", y_label="Macro-F1 on validation", x_log=True,
        x_ticks=x, as_percent=True,
    )  # fmt: skip

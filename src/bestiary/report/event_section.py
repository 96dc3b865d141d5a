"""Report section on event answers: the accuracy of one answer for each event, beside two baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bestiary.evaluation.event_answers import ANSWERS, CONFIDENT, NAMES, VOTE


def event_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of event answers and the rows of their table; empty for a run without given groups."""
    events = metrics.get("events")
    if not events:
        return {"events": {}, "event_rows": []}
    rows = [
        {"name": NAMES[name], "accuracy": events["accuracy"][name], "difference": events["differences"].get(name)}
        for name in (ANSWERS, VOTE, CONFIDENT)
    ]
    alone = {"name": "A picture alone", "accuracy": events["picture_accuracy"], "difference": None}
    return {"events": events, "event_rows": [*rows, alone]}

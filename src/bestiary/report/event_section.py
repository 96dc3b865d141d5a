"""Report section on event answers: the accuracy of one answer for each event, beside two baselines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bestiary.evaluation.event_answers import ANSWERS, CONFIDENT, NAMES, VOTE
from bestiary.group_rules import FOLDER, REGEX, TIME, parse_group_rule


def event_values(metrics: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Return the scores of event answers, the rows of their table and a command; empty without given groups."""
    events = metrics.get("events")
    if not events:
        return {"events": {}, "event_rows": [], "event_command": ""}
    rows = [
        {"name": NAMES[name], "accuracy": events["accuracy"][name], "difference": events["differences"].get(name)}
        for name in (ANSWERS, VOTE, CONFIDENT)
    ]
    alone = {"name": "A picture alone", "accuracy": events["picture_accuracy"], "difference": None}
    return {"events": events, "event_rows": [*rows, alone], "event_command": _event_command(events, run)}


def _event_command(events: Mapping[str, Any], run: Path) -> str:
    """Return the command that answers for the events of new pictures; empty if they come from a table or a format."""
    rule, site = parse_group_rule(events["rule"]), parse_group_rule(events["site"])
    words = ["bestiary", "predict", str(run), "new", "--group", events["rule"]]
    if rule.kind == TIME and site.kind in (FOLDER, REGEX):
        words += ["--site", events["site"]]
    return shlex.join([*words, "--out", "new.csv"]) if rule.kind in (FOLDER, REGEX, TIME) else ""

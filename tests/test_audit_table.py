"""What `bestiary audit` prints: a table on a terminal, plain lines elsewhere, the most serious first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bestiary import table
from bestiary.cli.audit_table import audit_json, audit_lines, print_audit
from bestiary.data.dataset import AuditedDataset

PLACE = Path("/pictures/cat")


def found(*rows: tuple[str, float, bool], **changed: Any) -> AuditedDataset:
    """An audit with these findings: check, score, whether it is an issue."""
    findings = [
        {"check": check, "row_id": at, "path": str(PLACE / f"{at}.jpg"), "score": score, "is_issue": is_issue}
        | {"message": f"Message {at}."}
        for at, (check, score, is_issue) in enumerate(rows)
    ]
    pictures = pl.DataFrame({"row_id": list(range(9))})
    return AuditedDataset(
        pictures, pl.DataFrame(findings, schema=table.FINDINGS), changed.pop("passed_over", {}), **changed
    )


def test_serious_checks_come_first_and_notes_last() -> None:
    audited = found(("alpha", 1, False), ("dark", 0.1, True), ("suspect-label", 0, True), ("truncated", 0, True))
    assert [(line.check, line.serious, line.is_issue) for line in audit_lines(audited)] == [
        ("truncated", True, True),
        ("suspect-label", False, True),
        ("dark", False, True),
        ("alpha", False, False),
    ]


def test_what_was_settled_does_not_count() -> None:
    audited = found(("suspect-label", 0, False), ("suspect-label", 0.05, True))
    (line,) = audit_lines(audited)
    assert (line.n, line.needs_you) == (1, True)
    assert line.example == "cat/1.jpg: Message 1."
    (line,) = audit_lines(found(("suspect-label", 0, False)))
    assert not line.needs_you


def test_elsewhere_than_on_a_terminal_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    audited = found(("dark", 0.1, True), not_looked_for={"outlier": "one class.", "suspect-label": "one class."})
    print_audit(audited, None)
    assert capsys.readouterr().out.splitlines() == [
        "9 pictures, 1 finding, 0 of them serious",
        "      1  dark             cat/0.jpg: Message 0.",
        "Skipped checks: outlier, suspect-label. Reason: one class.",
        "To see the pictures: the same command with --out audit, then open audit/audit.html.",
    ]


def test_on_a_terminal_it_is_a_table_with_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in {"COLUMNS": "100", "TERM": "xterm-256color", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_audit(found(("truncated", 0, True), ("outlier", 0.1, True)), Path("/a/audit.html"))
    out = capsys.readouterr().out
    assert "\x1b[1;31mtruncated" in out
    assert "\x1b[1;33moutlier" in out
    for words in ("What it is", "files that end too early", "The pictures side by side: /a/audit.html"):
        assert words in out


def test_a_message_or_a_name_is_never_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    audited = found(("dark", 0.1, True))
    hostile = audited.findings.with_columns(message=pl.lit("[bold]x[/nothing]"))
    print_audit(AuditedDataset(audited.pictures, hostile, {}), None)
    assert "[bold]x[/nothing]" in capsys.readouterr().out


def test_json_tells_what_is_serious_noted_and_not_looked_for() -> None:
    audited = found(("truncated", 0, True), ("alpha", 1, False), passed_over={"hidden": 2}, not_looked_for={"x": "y"})
    assert audit_json(audited, None) == {
        "pictures": 9,
        "findings": {"truncated": 1, "alpha": 1},
        "serious": {"truncated": 1},
        "noted": {"alpha": 1},
        "passed_over": {"hidden": 2},
        "not_looked_for": {"x": "y"},
        "page": None,
    }

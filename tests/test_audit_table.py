"""The summary of `bestiary audit`: a table on a terminal, plain lines elsewhere, the most serious first."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bestiary import table
from bestiary.cli.audit_table import audit_json, audit_rows, print_audit
from bestiary.data.dataset import AuditedDataset

FOLDER = Path("/pictures/cat")


def make_audit(*rows: tuple[str, float, bool], **changed: Any) -> AuditedDataset:
    """An audit with these findings: check, score, whether it is an issue."""
    findings = [
        {"check": check, "row_id": at, "path": str(FOLDER / f"{at}.jpg"), "score": score, "is_issue": is_issue}
        | {"message": f"Message {at}."}
        for at, (check, score, is_issue) in enumerate(rows)
    ]
    pictures = pl.DataFrame({"row_id": list(range(9))})
    return AuditedDataset(
        pictures, pl.DataFrame(findings, schema=table.FINDINGS), changed.pop("passed_over", {}), **changed
    )


def test_serious_checks_come_first_and_notes_last() -> None:
    audited = make_audit(("alpha", 1, False), ("dark", 0.1, True), ("suspect-label", 0, True), ("truncated", 0, True))
    assert [(row.check, row.serious, row.is_issue) for row in audit_rows(audited)] == [
        ("truncated", True, True),
        ("suspect-label", False, True),
        ("dark", False, True),
        ("alpha", False, False),
    ]


def test_what_was_settled_does_not_count() -> None:
    audited = make_audit(("suspect-label", 0, False), ("suspect-label", 0.05, True))
    (row,) = audit_rows(audited)
    assert (row.n, row.needs_person) == (1, True)
    assert row.example == "cat/1.jpg: Message 1."
    (row,) = audit_rows(make_audit(("suspect-label", 0, False)))
    assert not row.needs_person


def test_lines_are_plain_unless_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    audited = make_audit(("dark", 0.1, True), not_looked_for={"outlier": "one class.", "suspect-label": "one class."})
    print_audit(audited, None)
    assert capsys.readouterr().out.splitlines() == [
        "9 pictures. 1 finding: 0 need attention, 1 is worth knowing.",
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
    print_audit(make_audit(("truncated", 0, True), ("outlier", 0.1, True)), Path("/a/audit.html"))
    out = capsys.readouterr().out
    assert "\x1b[1;31mtruncated" in out
    assert "\x1b[1;33moutlier" in out
    for words in ("Meaning", "files that end too early", "The pictures side by side: /a/audit.html"):
        assert words in out


def test_a_message_or_a_name_is_never_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    audited = make_audit(("dark", 0.1, True))
    hostile = audited.findings.with_columns(message=pl.lit("[bold]x[/nothing]"))
    print_audit(AuditedDataset(audited.pictures, hostile, {}), None)
    assert "[bold]x[/nothing]" in capsys.readouterr().out


def test_json_lists_serious_findings_notes_and_skipped_checks() -> None:
    audited = make_audit(
        ("truncated", 0, True), ("alpha", 1, False), passed_over={"hidden": 2}, not_looked_for={"x": "y"}
    )
    assert audit_json(audited, None) == {
        "pictures": 9,
        "findings": {"truncated": 1, "alpha": 1},
        "severity": {
            **{"decide": 1, "know": 0, "note": 1, "serious": 1},
            "checks": {"truncated": {"issues": 1, "noted": 0}, "alpha": {"issues": 0, "noted": 1}},
        },
        "serious": {"truncated": 1},
        "noted": {"alpha": 1},
        "passed_over": {"hidden": 2},
        "not_looked_for": {"x": "y"},
        "notices": [],
        "label_issues": None,
        "page": None,
    }


def test_a_picture_is_named_by_its_path_in_the_collection() -> None:
    audited = make_audit(("dark", 0.1, True))
    paths = ["/pictures/train/cat/0.jpg", f"/pictures/test/{'long' * 20}/0.jpg"]
    audited = replace(audited, pictures=pl.DataFrame({"row_id": [0, 1], "path": paths}))
    for path in paths:
        findings = audited.findings.with_columns(path=pl.lit(path))
        (row,) = audit_rows(replace(audited, findings=findings))
        assert row.example == f"{path.removeprefix('/pictures/')}: Message 0."


def test_a_crop_is_named_with_its_region() -> None:
    audited = make_audit(("near-duplicate", 0.1, True))
    region = {"crop_left": 3, "crop_top": 4, "crop_width": 50, "crop_height": 60}
    pictures = pl.DataFrame({"row_id": [0, 1], "path": ["/pictures/cat/0.jpg", "/pictures/dog/1.jpg"]})
    crops = pictures.with_columns([pl.lit(value, pl.Int32).alias(name) for name, value in region.items()])
    (row,) = audit_rows(replace(audited, pictures=crops))
    assert row.example == "cat/0.jpg#xywh=3,4,50,60: Message 0."


def test_notices_are_not_repeated_where_stderr_is_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    audited = make_audit(("groups", 0.0, False), ("groups", 0.0, False))
    print_audit(audited, None)
    assert "Message 1." in capsys.readouterr().out
    print_audit(audited, None, repeats_notices=False)
    assert "Message 1." not in capsys.readouterr().out

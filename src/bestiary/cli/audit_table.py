"""What `bestiary audit` prints: a table on a terminal, plain lines elsewhere, the most serious first."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bestiary.text import describe_skipped

if TYPE_CHECKING:
    import polars as pl

    from bestiary.data.dataset import AuditedDataset


STYLES = ("dim", "default", "bold yellow", "bold red")  # noted, found, needs somebody, serious
MAX_NAME = 40  # characters of a picture's folder and name


@dataclass(frozen=True)
class AuditRow:
    """What is said of one check: how many findings, what they mean, the worst one, and whether somebody must decide."""

    check: str
    n: int
    meaning: str
    example: str
    serious: bool
    needs_you: bool
    is_issue: bool


def audit_json(dataset: AuditedDataset, page: Path | None) -> dict[str, Any]:
    """Return the audit as plain values; `findings` counts everything, `noted` the part of it that needs nothing."""
    findings = dataset.findings
    lines = audit_lines(dataset)
    return {
        "pictures": dataset.pictures.height,
        "findings": _count_by_check(findings),
        "serious": {line.check: line.n for line in lines if line.serious},
        "noted": _count_by_check(findings.filter(~findings["is_issue"])),
        "passed_over": dict(dataset.passed_over),
        "not_looked_for": dict(dataset.not_looked_for),
        "page": None if page is None else str(page),
    }


def print_audit(dataset: AuditedDataset, page: Path | None) -> None:
    """Print what was found on stdout, and where the page with the pictures is or how to get it."""
    from bestiary.evaluation.model_audit import skipped_check_messages

    lines = audit_lines(dataset)
    issues = sum(line.n for line in lines if line.is_issue)
    grave = sum(line.n for line in lines if line.serious)
    findings = f"{issues:,} finding{'s' * (issues != 1)}"
    count = dataset.pictures.height
    typer.echo(f"{count:,} picture{'s' * (count != 1)}, {findings}, {grave:,} of them serious")
    if sys.stdout.isatty():
        _print_table(lines)
    else:
        for line in lines:
            typer.echo(f"{line.n:7,}  {line.check:16} {line.example}")
    if skipped := describe_skipped(dataset.passed_over):
        typer.echo(skipped)
    for words in skipped_check_messages(dataset):
        typer.echo(words)
    if page is not None:
        typer.echo(f"The pictures side by side: {page.absolute()}")
    elif lines:
        typer.echo("To see the pictures: the same command with --out audit, then open audit/audit.html.")


def audit_lines(dataset: AuditedDataset) -> list[AuditRow]:
    """Return one line for each check that found something: serious, then the others, then what is only noted."""
    from bestiary.checks import FAILS_STRICT, find_check, severity_rank

    lines = []
    for (check,), rows in dataset.findings.group_by(["check"], maintain_order=True):
        name, issues = str(check), rows.filter("is_issue")
        shown = issues if issues.height else rows
        said, example, found_any = find_check(name), _format_example(shown.row(0, named=True)), issues.height > 0
        grave, open_question = found_any and name in FAILS_STRICT, found_any and said.needs_person
        lines.append(AuditRow(name, shown.height, said.meaning, example, grave, open_question, found_any))
    return sorted(lines, key=lambda line: (not line.serious, not line.is_issue, severity_rank(line.check)))


def _format_example(row: Mapping[str, Any]) -> str:
    """Return the message of a finding with the end of the picture's path, for it is the worst of its check."""
    from bestiary.report.audit_cards import middle_ellipsis
    from bestiary.text import escape_control_chars

    path, message = row["path"], str(row["message"])
    if not path:
        return escape_control_chars(message)
    place = middle_ellipsis(str(Path(*Path(path).parts[-2:])), MAX_NAME)
    return escape_control_chars(message.replace(path, place) if path in message else f"{place}: {message}")


def _print_table(lines: list[AuditRow]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not lines:
        return
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    shown.add_column("Check", no_wrap=True)
    shown.add_column("Found", justify="right", no_wrap=True)
    shown.add_column("What it is", ratio=2, overflow="fold")
    shown.add_column("The worst", ratio=3, overflow="fold")
    for line in lines:
        style = STYLES[line.serious + line.needs_you + line.is_issue]
        faint = "" if line.is_issue else "dim"
        shown.add_row(
            Text(line.check, style), Text(f"{line.n:,}", style), Text(line.meaning, faint), Text(line.example, faint)
        )
    Console().print(shown)


def _count_by_check(findings: pl.DataFrame) -> dict[str, int]:
    from bestiary import table

    named = findings["check"].to_list()
    return {check: named.count(check) for check in table.CHECKS if check in named}

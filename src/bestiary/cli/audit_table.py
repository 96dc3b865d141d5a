"""The summary that `bestiary audit` prints: a table on a terminal, plain lines elsewhere, the most serious first."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bestiary.text import common_folder, describe_skipped, escape_control_chars, locating_name

if TYPE_CHECKING:
    import polars as pl

    from bestiary.data.dataset import AuditedDataset
    from bestiary.finding_counts import CheckCount


STYLES = ("dim", "default", "bold yellow", "bold red")  # note, issue, needs a person, serious
MAX_FURTHER = 30  # messages about folders and tables beyond the first of each check


@dataclass(frozen=True)
class AuditRow:
    """The findings of one check: their number, meaning and worst example, and whether a person must decide.

    n: issues, or of a check without any its notes; noted: further findings, which need no action. name: for the list.
    """

    check: str
    name: str
    n: int
    noted: int
    meaning: str
    example: str
    serious: bool
    needs_person: bool
    is_issue: bool


def audit_json(dataset: AuditedDataset, page: Path | None) -> dict[str, Any]:
    """Return the audit as plain values; `findings` counts everything, `noted` those that need no action."""
    from bestiary.data.notices import read_notices
    from bestiary.finding_counts import count_findings

    findings, labels = dataset.findings, dataset.label_issues
    return {
        "pictures": dataset.pictures.height,
        "findings": _count_by_check(findings),
        "severity": count_findings(findings, labels).facts(),
        "serious": {row.check: row.n for row in audit_rows(dataset) if row.serious},
        "noted": _count_by_check(findings.filter(~findings["is_issue"])),
        "passed_over": dict(dataset.passed_over),
        "not_looked_for": dict(dataset.not_looked_for),
        "notices": read_notices(findings),
        "label_issues": None if labels is None else asdict(labels) | {"is_doubtful": labels.is_doubtful},
        "page": None if page is None else str(page),
    }


def print_audit(dataset: AuditedDataset, page: Path | None, *, repeats_notices: bool = True) -> None:
    """Print the findings on stdout, and the path of the page with the pictures or how to get it.

    repeats_notices: False where the reader of stdout has seen the notices about the sources on stderr.
    """
    from bestiary.evaluation.model_audit import skipped_check_messages
    from bestiary.finding_counts import count_findings

    rows, count = audit_rows(dataset), dataset.pictures.height
    counts = count_findings(dataset.findings, dataset.label_issues)
    typer.echo(f"{count:,} picture{'s' * (count != 1)}. {counts.describe()}")
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        for row in rows:
            typer.echo(f"{row.n:7,}  {row.name:16} {row.example}{_format_noted(row)}")
    if dataset.label_issues is not None:
        typer.echo(dataset.label_issues.describe())
    for message in _further_notices(dataset.findings) if repeats_notices else ():
        typer.echo(message)
    for message in filter(None, (describe_skipped(dataset.passed_over), *skipped_check_messages(dataset))):
        typer.echo(message)
    if page is not None:
        typer.echo(f"The pictures side by side: {page.absolute()}")
    elif rows:
        typer.echo("To see the pictures: the same command with --out audit, then open audit/audit.html.")


def _further_notices(findings: pl.DataFrame) -> list[str]:
    """Return the messages about folders and tables that are not the example of their check: each is to be read."""
    from bestiary.checks import ABOUT_SOURCE

    by_check = (findings.filter(findings["check"] == check)["message"].to_list() for check in ABOUT_SOURCE)
    further = [escape_control_chars(message) for messages in by_check for message in messages[1:]]
    more = len(further) - MAX_FURTHER
    return further[:MAX_FURTHER] + ([f"{more:,} more of these are in findings.parquet."] if more > 0 else [])


def audit_rows(dataset: AuditedDataset) -> list[AuditRow]:
    """Return one row for each check with findings: serious ones, then other issues, then notes."""
    from bestiary import table
    from bestiary.finding_counts import count_findings

    paths = dataset.pictures.get_column("path", default=dataset.findings["path"])
    root = common_folder(paths.drop_nulls().to_list())
    counts = count_findings(dataset.findings, dataset.label_issues).checks
    findings = table.name_rows(dataset.findings.with_columns(file="path"), dataset.pictures)
    return [_audit_row(count, findings, root) for count in counts]


def _audit_row(count: CheckCount, findings: pl.DataFrame, root: str) -> AuditRow:
    check, is_issue = count.check, count.issues > 0
    own = findings.filter((findings["check"] == check.name) & (findings["is_issue"] == is_issue))
    return AuditRow(
        check.name,
        check.list_name,
        own.height,
        count.noted if is_issue else 0,
        check.meaning,
        _format_example(own.row(0, named=True), root),
        serious=count.serious > 0,
        needs_person=is_issue and check.needs_person,
        is_issue=is_issue,
    )


def _format_noted(row: AuditRow) -> str:
    return f" ({row.noted:,} more need{'s' * (row.noted == 1)} no action)" if row.noted else ""


def _format_example(finding: Mapping[str, Any], root: str) -> str:
    """Return the message of a finding with the path of its picture in the collection, whose folder is `root`.

    finding: `path` names the crop too, `file` does not.
    """
    file, path, message = finding["file"], finding["path"], str(finding["message"])
    if not path:
        return escape_control_chars(message)
    name = locating_name(path, root)
    return escape_control_chars(message.replace(file, name) if file in message else f"{name}: {message}")


def _print_table(rows: list[AuditRow]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    grid.add_column("Check", no_wrap=True)
    grid.add_column("Found", justify="right", no_wrap=True)
    grid.add_column("Meaning", ratio=2, overflow="fold")
    grid.add_column("Worst example", ratio=3, overflow="fold")
    for row in rows:
        style = STYLES[row.serious + row.needs_person + row.is_issue]
        faint = "" if row.is_issue else "dim"
        example = row.example + _format_noted(row)
        cells = ((row.name, style), (f"{row.n:,}", style), (row.meaning, faint), (example, faint))
        grid.add_row(*(Text(*cell) for cell in cells))
    Console().print(grid)


def _count_by_check(findings: pl.DataFrame) -> dict[str, int]:
    from bestiary import table

    counts = Counter(findings["check"].to_list())
    return {check: counts[check] for check in table.CHECKS if check in counts}

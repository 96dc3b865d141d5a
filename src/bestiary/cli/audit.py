"""The command that checks pictures before training: `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestiary.cli.app import CHECK_FAILED, app
from bestiary.cli.options import (
    AsJson,
    Classes,
    Corrections,
    Labels,
    Pictures,
    Quiet,
    RecipeName,
    Threads,
    build_recipe,
)
from bestiary.cli.output import print_json
from bestiary.errors import require_extra

if TYPE_CHECKING:
    from bestiary.data.dataset import AuditedDataset


@app.command()
def audit(
    pictures: Pictures,
    labels: Labels = None,
    classes: Classes = None,
    corrections: Corrections = None,
    out: Annotated[Path | None, typer.Option(help="Write audit.html and findings.parquet into this folder.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if anything serious was found.")] = False,
    recipe: RecipeName = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, for example data.suspects=false.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with the pictures: faults, duplicates, suspect labels, shortcuts."""
    require_extra("train")
    from bestiary import flow
    from bestiary.checks import FAILS_STRICT
    from bestiary.cli.audit_table import audit_json, print_audit
    from bestiary.data.assign_splits import why_not_trainable
    from bestiary.progress import make_reporter

    asked = build_recipe(recipe, settings, method=None, backbone=None, classes=classes, seed=None)
    show = make_reporter(quiet=quiet)
    found = flow.audit(pictures, labels=labels, corrections=corrections, recipe=asked, threads=threads, reporter=show)
    page = None if out is None else _write_audit(found, out, source=", ".join(map(str, pictures)))
    refused = why_not_trainable(found, asked.data, seed=asked.seed)
    if as_json:
        print_json(audit_json(found, page) | {"training_refused": refused})
    else:
        print_audit(found, page)
        if refused:
            typer.echo(f"Training on these pictures would be refused. {refused}")
    if strict and FAILS_STRICT & set(
        found.findings.filter("is_issue")["check"]
    ):  # what somebody decided to keep is none
        raise typer.Exit(CHECK_FAILED)


def _write_audit(dataset: AuditedDataset, folder: Path, *, source: str) -> Path:
    """Write `pictures.parquet`, `findings.parquet` and `audit.html`; return the path of the page."""
    from bestiary import table
    from bestiary.report.audit_page import write_audit_page

    pictures, findings, skipped_checks = dataset.pictures, dataset.findings, dataset.not_looked_for
    table.write(pictures, folder / "pictures.parquet")
    table.write(findings, folder / "findings.parquet")
    passed_over = dataset.passed_over
    return write_audit_page(pictures, findings, passed_over, folder, source=source, not_looked_for=skipped_checks)

"""The command `audit`: check pictures before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestiary.cli import options
from bestiary.cli.app import CHECK_FAILED, app
from bestiary.cli.output import is_stderr_stdout, print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import require_extra

if TYPE_CHECKING:
    from bestiary.data.dataset import AuditedDataset


EXAMPLES = "bestiary audit pictures\nbestiary audit pictures --out audit --strict"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def audit(
    pictures: options.Pictures,
    labels: options.Labels = None,
    classes: options.Classes = None,
    label_depth: options.LabelDepth = None,
    split: options.SplitOption = None,
    group: options.GroupOption = None,
    site: options.SiteOption = None,
    crop: options.CropOption = None,
    corrections: options.Corrections = None,
    format_name: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    pictures_folder: options.PicturesFolder = None,
    leave_out: options.LeaveOut = None,
    boxes: options.BoxesOption = None,
    out: Annotated[Path | None, typer.Option(help="Write audit.html and findings.parquet into this folder.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 if there are serious findings.")] = False,
    recipe: options.RecipeName = None,
    settings: options.Settings = None,
    threads: options.Threads = None,
    cluster: options.ClusterOption = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Check pictures for broken files, duplicates, label errors and shortcuts."""
    require_extra("train")
    from bestiary import flow
    from bestiary.checks import FAILS_STRICT
    from bestiary.cli.audit_table import audit_json, print_audit
    from bestiary.cluster.ray_table_map import open_table_map
    from bestiary.data.assign_splits import why_not_trainable
    from bestiary.data.formats.read_options import make_read_options
    from bestiary.files import require_outside
    from bestiary.locks import output_lock
    from bestiary.progress import make_reporter

    values = options.build_recipe(
        recipe, settings, classes=classes, label_depth=label_depth, split=split, group=group, site=site, crop=crop
    )
    reading = make_read_options(format_name, columns, pictures_folder, leave_out, boxes)
    reporter = make_reporter(quiet=quiet)
    require_outside(out, pictures)
    with output_lock(out):
        with open_table_map(cluster, threads=threads, reporter=reporter) as table_map:
            dataset = flow.audit(
                pictures,
                labels=labels,
                corrections=corrections,
                reading=reading,
                recipe=values,
                threads=threads,
                cluster=table_map,
                reporter=reporter,
            )
        page = None if out is None else _write_audit(dataset, out, source=", ".join(map(str, pictures)))
    reason = why_not_trainable(dataset, values.data, seed=values.seed)
    if as_json:
        print_json(audit_json(dataset, page) | {"training_refused": reason})
    else:
        print_audit(dataset, page, repeats_notices=quiet or not is_stderr_stdout())
        if reason:
            typer.echo(f"Training on these pictures would be refused. {reason}")
    issues = dataset.findings.filter("is_issue")  # without findings that a correction keeps
    if strict and FAILS_STRICT & set(issues["check"]):
        raise typer.Exit(CHECK_FAILED)


def _write_audit(dataset: AuditedDataset, folder: Path, *, source: str) -> Path:
    """Write `pictures.parquet`, `findings.parquet` and `audit.html`; return the path of the page."""
    from bestiary import table
    from bestiary.report.audit_page import write_audit_page

    pictures, findings, skipped = dataset.pictures, dataset.findings, dataset.passed_over
    table.write(pictures, folder / "pictures.parquet")
    table.write(findings, folder / "findings.parquet")
    return write_audit_page(
        pictures,
        findings,
        skipped,
        folder,
        source=source,
        not_looked_for=dataset.not_looked_for,
        label_issues=dataset.label_issues,
    )

"""Commands that look at pictures before anything is learnt: `audit`, `fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import CHECK_FAILED, app
from bestiary.cli.options import AsJson, Corrections, Labels, Pictures, Quiet, Threads
from bestiary.cli.output import print_json
from bestiary.errors import needs_extra


@app.command()
def audit(
    pictures: Pictures,
    labels: Labels = None,
    corrections: Corrections = None,
    out: Annotated[Path | None, typer.Option(help="Write audit.html and findings.parquet into this folder.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if anything serious was found.")] = False,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with the pictures."""
    needs_extra("train")
    from bestiary import flow, table
    from bestiary.data.audit import SERIOUS
    from bestiary.deliver.audit_page import write_audit_page
    from bestiary.progress import reporter

    show = reporter(quiet=quiet)
    found = flow.audit(pictures, labels=labels, corrections=corrections, threads=threads, reporter=show)
    if out is not None:
        table.write(found.pictures, out / "pictures.parquet")
        table.write(found.findings, out / "findings.parquet")
        write_audit_page(found.pictures, found.findings, found.passed_over, out, source=", ".join(map(str, pictures)))
    counts = {check: found.findings["check"].to_list().count(check) for check in table.CHECKS}
    counts = {check: count for check, count in counts.items() if count}
    if as_json:
        print_json({"pictures": found.pictures.height, "findings": counts, "passed_over": dict(found.passed_over)})
    else:
        typer.echo(f"{found.pictures.height:,} pictures, {found.findings.height:,} findings")
        for check, count in counts.items():
            example = found.findings["message"].gather(found.findings["check"].index_of(check) or 0).item()
            typer.echo(f"{count:7,}  {check:16} {example}")
    serious = found.findings.filter(found.findings["is_issue"])["check"]  # what somebody decided to keep is none
    if strict and SERIOUS & set(serious):
        raise typer.Exit(CHECK_FAILED)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help='The collection to download: "animals10".')],
    out: Annotated[Path | None, typer.Option(help="An empty or new folder; ./NAME when not given.")] = None,
    threads: Threads = None,  # noqa: ARG001 - every command takes it
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download a known collection; prints its folder."""
    from bestiary.data.fetch import fetch as download
    from bestiary.progress import reporter

    folder = download(name, out or Path(name), reporter=reporter(quiet=quiet))
    if as_json:
        print_json({"pictures": str(folder), "labels": name})
    else:
        typer.echo(str(folder))

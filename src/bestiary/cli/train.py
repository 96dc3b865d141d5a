"""Commands that learn: `train`, `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Classes, Corrections, Labels, Method, Quiet, RecipeName, Threads, build_recipe
from bestiary.cli.output import print_run
from bestiary.errors import UserError, require_extra


@app.command()
def train(
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PICTURES…", help="A folder per class, split folders, an archive or a table; several are merged."
        ),
    ] = None,
    method: Annotated[Method | None, typer.Option(help="How to learn; probe is fast and needs no torch.")] = None,
    backbone: Annotated[str | None, typer.Option(help="lite0 or lite2; finetune takes any timm name as well.")] = None,
    recipe: RecipeName = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the recipe.")] = None,
    labels: Labels = None,
    classes: Classes = None,
    corrections: Corrections = None,
    seed: Annotated[int | None, typer.Option(min=0, help="For the split and all chance.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, max=50, help="Test every picture once, with this many models; for few pictures."),
    ] = None,
    leak_report: Annotated[
        bool, typer.Option("--leak-report", help="Say how much a split that ignores duplicates would have flattered.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/<date>-<method>-<digest> when not given.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Be done, report included, in this time: 90s, 10m, 2h, 1h30m.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run.")] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Audit, split, train, evaluate, report; prints the run."""
    require_extra("train")
    from bestiary import flow
    from bestiary.context import Context
    from bestiary.cli.options import parse_duration
    from bestiary.machine import is_main_process
    from bestiary.progress import make_reporter
    from bestiary.study import leakage
    from bestiary.training.methods import run_worker

    if not is_main_process():
        run_worker(threads=threads)
        return
    show = make_reporter(quiet=quiet)
    if resume is not None:
        given = [
            pictures,
            method,
            backbone,
            recipe,
            settings,
            labels,
            classes,
            corrections,
            seed,
            folds,
            out,
            budget,
            leak_report or None,
        ]
        if any(value not in (None, []) for value in given):
            raise UserError("--resume goes on with a run as it was asked for; give it nothing else but --threads.")
        print_run(flow.resume(resume, threads=threads, reporter=show), as_json)
        return
    if not pictures:
        raise UserError("Which pictures? Give a folder with one folder of pictures for each class.")
    asked = build_recipe(recipe, settings, method=method, backbone=backbone, classes=classes, seed=seed, folds=folds)
    if leak_report:
        leakage.check_leak_report_supported(asked)
    run = flow.train(
        pictures,
        labels=labels,
        corrections=corrections,
        recipe=asked,
        out=out,
        threads=threads,
        budget_seconds=None if budget is None else parse_duration(budget),
        reporter=show,
    )
    found = leakage.leak_report(run.path, Context.create(threads, show)) if leak_report else None
    print_run(run, as_json, leaks=found)

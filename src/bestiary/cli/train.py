"""The command `train`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli import options
from bestiary.cli.app import app
from bestiary.cli.completion import complete_run
from bestiary.cli.output import describe_predict_command, print_run
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import InterruptedRun, UserError, require_extra
from bestiary.text import format_names

WITH_RESUME = {"resume", "cluster", "workers", "threads", "quiet", "as_json"}  # options that --resume may be given with
NOT_BEGUN = (
    "Interrupted before there was a run: no run folder was made, and there is nothing to resume. What was measured and"
    " computed so far is cached: the same command will be faster."
)

EXAMPLES = "bestiary train pictures\nbestiary train pictures --method finetune --set train.epochs=10 --budget 10m"
LOG_HELP = "Also log epochs and test scores of finetune or scratch: into RUN/tensorboard, or to MLflow's own server."


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def train(
    ctx: typer.Context,
    pictures: options.OptionalPictures = None,
    method: options.MethodOption = None,
    backbone: options.Backbone = None,
    recipe: options.RecipeName = None,
    settings: options.Settings = None,
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
    costs: options.CostsOption = None,
    thresholds: options.ThresholdsOption = None,
    prove: options.ProveOption = None,
    seed: options.Seed = None,
    folds: Annotated[int | None, typer.Option(min=2, max=50, help="Cross-validate with this many folds.")] = None,
    leak_report: Annotated[
        bool, typer.Option("--leak-report", help="Measure how much a split that ignores duplicates inflates the score.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The run folder; default: runs/<date>-<method>-<digest>.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time limit, report included: 90s, 10m, 2h, 1h30m.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Resume an interrupted run.", autocompletion=complete_run)] = None,
    log: Annotated[options.ExperimentLog | None, typer.Option(help=LOG_HELP)] = None,
    device: options.DeviceOption = options.Device.auto,
    cluster: options.ClusterOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="finetune, scratch: train with so many processes of the cluster, which share the processors."
        ),
    ] = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Audit and split pictures, train a model, evaluate it and write a report; prints the run."""
    require_extra("train")
    from bestiary import flow, run_folder
    from bestiary.cluster.train import connect_job, connect_resumed_job
    from bestiary.context import Context
    from bestiary.data.formats.read_options import make_read_options
    from bestiary.files import require_outside
    from bestiary.locks import output_lock
    from bestiary.machine import is_main_process
    from bestiary.progress import make_reporter
    from bestiary.study import leakage
    from bestiary.training.methods import run_worker

    reporter = make_reporter(quiet=quiet)
    if resume is not None:
        _check_resume_options(ctx)
        if not is_main_process():
            run_worker(run_folder.load_recipe(resume).train.device, threads=threads)
            return
        with connect_resumed_job(cluster, workers, resume, threads=threads, reporter=reporter) as remote:
            run = flow.resume(resume, threads=threads, reporter=reporter, **remote)
        print_run(run, as_json)
        if not as_json:
            reporter.info(describe_predict_command(run.path))
        return
    if not pictures:
        raise UserError("PICTURES is missing. Give a folder with one folder of pictures for each class.")
    values = options.build_recipe(
        recipe,
        settings,
        method=method,
        backbone=backbone,
        classes=classes,
        seed=seed,
        folds=folds,
        label_depth=label_depth,
        split=split,
        group=group,
        site=site,
        crop=crop,
        costs=costs,
        thresholds=thresholds,
        prove=prove,
        device=device,
    )
    if not is_main_process():
        run_worker(values.train.device, threads=threads)
        return
    if leak_report:
        leakage.check_leak_report_supported(values)
    reading = make_read_options(format_name, columns, pictures_folder, leave_out, boxes)
    budget_seconds = None if budget is None else options.parse_duration(budget)
    require_outside(out, pictures)
    run_folder.require_free_folder(out)
    # Another process with the same --out is refused before it works on the pictures.
    with (
        output_lock(out),
        connect_job(
            cluster, workers, values, threads=threads, reporter=reporter, budget_seconds=budget_seconds
        ) as remote,
    ):
        try:
            run = flow.train(
                pictures,
                labels=labels,
                corrections=corrections,
                reading=reading,
                recipe=values,
                out=out,
                threads=threads,
                budget_seconds=budget_seconds,
                log=None if log is None else log.value,
                reporter=reporter,
                **remote,
            )
        except KeyboardInterrupt:  # once there is a run folder, it is an InterruptedRun
            raise InterruptedRun(None, message=NOT_BEGUN) from None
    leaks = leakage.leak_report(run.path, Context.create(threads, reporter)) if leak_report else None
    print_run(run, as_json, leaks=leaks)
    if not as_json:
        reporter.info(describe_predict_command(run.path))


def _check_resume_options(ctx: typer.Context) -> None:
    """Raise UserError, naming them, if there are options that cannot be given with `--resume`."""
    names = []
    for parameter in ctx.command.params:
        name = str(parameter.name)
        source = ctx.get_parameter_source(name)
        if name not in WITH_RESUME and source is not None and source.name == "COMMANDLINE":
            names.append(parameter.opts[-1] if parameter.param_type_name == "option" else name.upper())
    if names:
        raise UserError(
            f"{format_names(names, len(names))} cannot be given with --resume, which takes pictures and settings from"
            " the interrupted run. Only --cluster, --workers, --threads, --quiet and --json may be added."
        )

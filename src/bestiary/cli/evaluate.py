"""The command `evaluate`: score a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import (
    AsJson,
    BoxesOption,
    Classes,
    ColumnsOption,
    Corrections,
    FormatOption,
    LabelDepth,
    Labels,
    LeaveOut,
    PicturesFolder,
    PredictionDevice,
    PredictionDeviceOption,
    Quiet,
    RunPath,
    Threads,
    parse_names,
)
from bestiary.cli.output import is_stderr_stdout, print_json, print_run
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import UserError, require_extra

if TYPE_CHECKING:
    from bestiary.evaluation.external import ExternalEvaluation


EXAMPLES = "bestiary evaluate runs/latest\nbestiary evaluate runs/latest other-pictures"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def evaluate(
    run: RunPath,
    pictures: Annotated[Path | None, typer.Argument(metavar="[PICTURES]", help="Other labelled pictures.")] = None,
    labels: Labels = None,
    corrections: Corrections = None,
    format_name: FormatOption = None,
    columns: ColumnsOption = None,
    pictures_folder: PicturesFolder = None,
    leave_out: LeaveOut = None,
    boxes: BoxesOption = None,
    classes: Classes = None,
    label_depth: LabelDepth = None,
    name: Annotated[str | None, typer.Option(help="Name of the result folder, in RUN/evaluations.")] = None,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Score validation pictures with noise, blur, … at 5 severities.")
    ] = False,
    device: PredictionDeviceOption = PredictionDevice.auto,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score a run on its test split again, or on other labelled pictures."""
    require_extra("train")
    from bestiary import flow
    from bestiary.context import Context
    from bestiary.data.dataset import DataSource
    from bestiary.data.formats.read_options import make_read_options
    from bestiary.evaluation.corruptions import evaluate_corrupted
    from bestiary.evaluation.external import evaluate_external
    from bestiary.progress import make_reporter
    from bestiary.recipe_sections import FeaturesConfig
    from bestiary.report.evaluation_page import write_evaluation_page
    from bestiary.report.text_tables import format_corruption_table

    reading = make_read_options(format_name, columns, pictures_folder, leave_out, boxes)
    reporter, features = make_reporter(quiet=quiet), FeaturesConfig(device=device.value)
    if corruptions:
        if pictures is not None or labels is not None or reading is not None:
            raise UserError(
                "--corruptions uses the run's own validation pictures. Remove PICTURES and the options that read them."
            )
        rows = evaluate_corrupted(run, threads=threads, device=device.value, reporter=reporter).to_dicts()
        print_json({"corruptions": rows}) if as_json else typer.echo(format_corruption_table(rows))
    elif pictures is None:
        if (labels, name, corrections, classes, label_depth, reading) != (None,) * 6:
            raise UserError(
                "--labels, --classes, --corrections, --label-depth, --name, --format, --columns,"
                " --pictures, --leave-out and --boxes need PICTURES: the labelled pictures to score."
            )
        context = Context.create(threads, reporter, features, "evaluate")
        print_run(flow.evaluate(run, context), as_json)
    else:
        names = () if classes is None else tuple(parse_names(classes))
        source = DataSource(pictures, labels, corrections, label_depth, names, reading=reading)
        context = Context.create(threads, reporter, features, "evaluate pictures")
        evaluation = evaluate_external(run, source, context, name=name)
        write_evaluation_page(evaluation.path, threads=threads)
        _print_external(evaluation, as_json, with_notices=quiet or not is_stderr_stdout())


def _print_external(evaluation: ExternalEvaluation, as_json: bool, *, with_notices: bool) -> None:
    """Print the scores; with_notices: those about the pictures, too, which stderr had before."""
    from bestiary.report.text_tables import format_external_evaluation

    if as_json:
        print_json({"evaluation": str(evaluation.path), "metrics": evaluation.metrics})
    else:
        metrics = evaluation.metrics if with_notices else evaluation.metrics | {"notices": []}
        text = format_external_evaluation(metrics)
        typer.echo(f"{text}\n\nReport: {evaluation.path / 'report.html'}")

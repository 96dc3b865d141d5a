"""The command `tune`: hyperparameter search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bestiary.cli.app import app
from bestiary.cli.completion import complete_backbone, complete_override, complete_search
from bestiary.cli.options import (
    AsJson,
    BoxesOption,
    Classes,
    ClusterOption,
    ColumnsOption,
    Corrections,
    CropOption,
    Device,
    DeviceOption,
    FormatOption,
    GroupOption,
    LabelDepth,
    Labels,
    LeaveOut,
    Method,
    Pictures,
    PicturesFolder,
    Quiet,
    RecipeName,
    SiteOption,
    SplitOption,
    Threads,
)
from bestiary.cli.output import describe_predict_command, print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import require_extra

EXAMPLES = (
    "bestiary tune pictures --budget 30m\nbestiary tune pictures --trials 20 --search probe.regularisation=0.001..1"
)


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def tune(
    pictures: Pictures,
    method: Annotated[Method | None, typer.Option(help="Training method; probe is fast and needs no torch.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time limit for this call, including the winner's report: 30m, 2h.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Total number of trials; without --budget 60 (probe), 30 (scratch), 20 (finetune)."),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="Setting to search: section.key=low..high or section.key=[value, value].",
            autocompletion=complete_search,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="As in train, but one; then it is not searched.", autocompletion=complete_backbone),
    ] = None,
    recipe: RecipeName = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="section.key=value, overrides the recipe; then it is not searched.",
            autocompletion=complete_override,
        ),
    ] = None,
    labels: Labels = None,
    classes: Classes = None,
    label_depth: LabelDepth = None,
    split: SplitOption = None,
    group: GroupOption = None,
    site: SiteOption = None,
    crop: CropOption = None,
    corrections: Corrections = None,
    format_name: FormatOption = None,
    columns: ColumnsOption = None,
    pictures_folder: PicturesFolder = None,
    leave_out: LeaveOut = None,
    boxes: BoxesOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed for the split and for training.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="SQLite file or Optuna URL (postgresql://…) that several processes may share; default: OUT/tune.db."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the search; default: runs/tune-<method>-<digest>.")
    ] = None,
    inner_folds: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of inner folds for validation; 0: the validation split. Default: by its size."
        ),
    ] = None,
    fresh_seeds: Annotated[
        int | None,
        typer.Option(min=0, help="Number of new splits to rescore the best five trials on, to measure selection bias."),
    ] = None,
    device: DeviceOption = Device.auto,
    cluster: ClusterOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials at a time, as workers of the cluster that split its processors; default: one each."
        ),
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search hyperparameters, selected on validation only. The same command resumes an interrupted search."""
    require_extra("train")
    require_extra("tune")
    from bestiary.cli.options import build_recipe, parse_duration
    from bestiary.cluster.tune import connect_trial_workers
    from bestiary.data.dataset import DataSource
    from bestiary.data.formats.read_options import make_read_options
    from bestiary.progress import make_reporter
    from bestiary.tune import tune as tuning

    request = tuning.SearchRequest(
        recipe=build_recipe(
            recipe,
            settings,
            method=method,
            backbone=backbone,
            classes=classes,
            seed=seed,
            label_depth=label_depth,
            split=split,
            group=group,
            site=site,
            crop=crop,
            device=device,
        ),
        search=tuple(search or ()),
        trials=trials,
        budget_seconds=None if budget is None else parse_duration(budget),
        inner_folds=inner_folds,
        fresh_seeds=fresh_seeds,
    )
    reading = make_read_options(format_name, columns, pictures_folder, leave_out, boxes)
    source, reporter = DataSource(pictures, labels, corrections, reading=reading), make_reporter(quiet=quiet)
    with connect_trial_workers(cluster, workers, request.recipe, threads=threads, reporter=reporter) as trial_workers:
        result = tuning.tune(
            source, request, out=out, storage=storage, threads=threads, reporter=reporter, workers=trial_workers
        )
    if as_json:
        print_json(result)
        return
    _print_result(result)
    if result["winner"] is not None:
        reporter.info(describe_predict_command(Path(result["run"])))


def _print_result(result: dict[str, Any]) -> None:
    from bestiary.tune import page as tune_page

    if result["winner"] is None:
        best = result["best so far"]
        state = "No trial is complete yet" if best is None else f"The best macro-F1 so far is {best:.4f}"
        typer.echo(f"{state}. Other processes continue the search.")
        return
    lines = [
        tune_page.describe_result(result),
        result["luck"]["sentence"],
        tune_page.importance_lines(result["importance"]),
        tune_page.describe_pruning(result["pruning"]),
        tune_page.describe_test_scores(result),
        tune_page.describe_test_use(result["test scored"]),
        f"Recipe: {result['recipe']}\nPage:   {result['page']}",
        f"To train with it again: {tune_page.retrain_winner_command(result)}",
        result["run"],
    ]
    typer.echo("\n".join(filter(None, lines)))

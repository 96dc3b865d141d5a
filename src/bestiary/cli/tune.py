"""The command that searches recipes: `tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bestiary.cli.app import app
from bestiary.cli.options import (
    AsJson,
    Classes,
    Corrections,
    Labels,
    Method,
    Pictures,
    Quiet,
    RecipeName,
    Threads,
    build_recipe,
)
from bestiary.cli.output import print_json
from bestiary.errors import require_extra


@app.command()
def tune(
    pictures: Pictures,
    method: Annotated[Method | None, typer.Option(help="How to learn; probe is fast and needs no torch.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Let this call be done, the winner's report included, in this time: 30m, 2h.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many in all; without it or --budget 60, 30 (scratch), 20 (finetune).")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option("--search", help="What to try: section.key=low..high, or section.key=[value, value]."),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="lite0 or lite2, not searched then.")] = None,
    recipe: RecipeName = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, over the recipe; not searched then.")
    ] = None,
    labels: Labels = None,
    classes: Classes = None,
    corrections: Corrections = None,
    seed: Annotated[int | None, typer.Option(min=0, help="For the split and all chance.")] = None,
    storage: Annotated[
        Path | None, typer.Option(help="An SQLite file that several processes may share; OUT/tune.db when not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the search; runs/tune-<method>-<digest> when not given.")
    ] = None,
    inner_folds: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Choose by so many folds of training and validation; 0: by the validation split; else by its size.",
        ),
    ] = None,
    fresh_seeds: Annotated[
        int | None, typer.Option(min=0, help="How often the best five are scored again, to tell luck from gain.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search for a better recipe, choosing by validation alone; the same command goes on with it."""
    require_extra("train")
    require_extra("tune")
    from bestiary.cli.options import parse_duration
    from bestiary.data.dataset import DataSource
    from bestiary.progress import make_reporter
    from bestiary.tune import tune as tuning

    request = tuning.SearchRequest(
        recipe=build_recipe(recipe, settings, method=method, backbone=backbone, classes=classes, seed=seed),
        search=tuple(search or ()),
        trials=trials,
        budget_seconds=None if budget is None else parse_duration(budget),
        inner_folds=inner_folds,
        fresh_seeds=fresh_seeds,
    )
    source, reporter = DataSource(pictures, labels, corrections), make_reporter(quiet=quiet)
    result = tuning.tune(source, request, out=out, storage=storage, threads=threads, reporter=reporter)
    print_json(result) if as_json else _print_result(result)


def _print_result(result: dict[str, Any]) -> None:
    from bestiary.tune import page as tune_page

    if result["winner"] is None:
        best = result["best so far"]
        so_far = "No trial has gone to its end yet" if best is None else f"The best macro-F1 so far is {best:.4f}"
        typer.echo(f"{so_far}. Other processes go on with the search.")
        return
    typer.echo(tune_page.describe_result(result))
    typer.echo(result["luck"]["sentence"])
    typer.echo(tune_page.importance_lines(result["importance"]))
    for words in (tune_page.describe_pruning(result["pruning"]), tune_page.describe_test_scores(result)):
        if words:
            typer.echo(words)
    typer.echo(tune_page.describe_test_use(result["test scored"]))
    typer.echo(f"Recipe: {result['recipe']}\nPage:   {result['page']}")
    typer.echo(f"To train with it again: {tune_page.retrain_winner_command(result)}")
    typer.echo(result["run"])

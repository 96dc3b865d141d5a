"""The command that compares recipes: `study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Classes, Corrections, Labels, Quiet, Threads, parse_names
from bestiary.cli.output import print_json
from bestiary.errors import UserError, require_extra


class MultiValueCommand(TyperCommand):
    """A command whose --seeds takes several numbers: `--seeds 0 1 2` as well as `--seeds 0,1,2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the numbers after --seeds into one value, and parse."""
        if "--seeds" in args:
            start = args.index("--seeds") + 1
            end = start
            while end < len(args) and args[end].replace(",", "").isdecimal():
                end += 1
            if end > start:
                args = [*args[:start], ",".join(args[start:end]), *args[end:]]
        return super().parse_args(ctx, args)


@app.command(cls=MultiValueCommand)
def study(
    pictures: Annotated[
        Path, typer.Argument(metavar="PICTURES", help="A folder per class, split folders, an archive or a table.")
    ],
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE…",
            help="A TOML file, a name (original-v1), a method for its defaults (probe), or a run folder.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="original: crop, resize, mirrored copies, normalised, longer, then bestiary's methods."),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N…", help="0 1 2: each decides a split and all chance in training.")
    ] = "0,1,2",
    against: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="What all others are held against; the first when not given.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, for all recipes that it has an effect on."),
    ] = None,
    labels: Labels = None,
    classes: Classes = None,
    corrections: Corrections = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder; it goes on if it is there. studies/<pictures>-<digest> when not given."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Cut the epochs of all recipes by the same share, to fit: 30m, 2h.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Hold recipes against each other under several seeds: what helped, by how much, how sure; goes on after a kill."""
    require_extra("train")
    from bestiary.cli.options import parse_duration
    from bestiary.progress import make_reporter
    from bestiary.recipe import write_toml
    from bestiary.study.page import print_study
    from bestiary.study.study import study as studied

    chosen = [] if classes is None else [f"data.{write_toml({'classes': parse_names(classes)}).strip()}"]
    done = studied(
        pictures,
        recipes or [],
        preset=preset,
        settings=[*(settings or []), *chosen],
        seeds=_parse_seeds(seeds),
        against=against,
        labels=labels,
        corrections=corrections,
        out=out,
        budget_seconds=None if budget is None else parse_duration(budget),
        threads=threads,
        reporter=make_reporter(quiet=quiet),
    )
    page = str(done.path / "study.html")
    if as_json:
        print_json({"study": str(done.path), "page": page, "results": done.results})
    else:
        print_study(done.results)
        typer.echo(f"Page: {page}")
        typer.echo(str(done.path))
    if done.failed:
        cell, reason = next(iter(done.failed.items()))
        raise UserError(f"{len(done.failed)} trainings failed. The first of them ({cell}): {reason}")


def _parse_seeds(text: str) -> list[int]:
    parts = [part for part in text.replace(" ", ",").split(",") if part]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f'--seeds takes whole numbers from 0, for example --seeds 0 1 2; got "{text}".')
    return [int(part) for part in parts]

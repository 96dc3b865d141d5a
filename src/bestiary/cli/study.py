"""The command `study`: compare recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bestiary.cli.app import app
from bestiary.cli.completion import complete_override, complete_words
from bestiary.cli.options import (
    AsJson,
    BoxesOption,
    Classes,
    ColumnsOption,
    Corrections,
    Device,
    DeviceOption,
    FormatOption,
    GroupOption,
    LabelDepth,
    Labels,
    LeaveOut,
    PicturesFolder,
    Quiet,
    SiteOption,
    SplitOption,
    Threads,
    parse_names,
)
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import UserError, require_extra


class MultiValueCommand(CommandWithExamples):
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


EXAMPLES = "bestiary study pictures probe finetune --seeds 0 1 2\nbestiary study pictures --preset original --budget 2h"


@app.command(cls=MultiValueCommand, epilog=EXAMPLES)
def study(
    pictures: Annotated[
        Path, typer.Argument(metavar="PICTURES", help="One folder per class, split folders, an archive or a table.")
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
        typer.Option(
            help="original: crop, resize, mirrored copies, normalised, longer, then bestiary's methods. crop: whole"
            " pictures against the boxes in them.",
            autocompletion=complete_words("original", "crop"),
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N…", help="Random seeds, such as 0 1 2: one split and one training run per seed.")
    ] = "0,1,2",
    against: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="The recipe that all others are compared with; default: the first."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a recipe setting of all recipes that use it: section.key=value.",
            autocompletion=complete_override,
        ),
    ] = None,
    labels: Labels = None,
    classes: Classes = None,
    label_depth: LabelDepth = None,
    split: SplitOption = None,
    group: GroupOption = None,
    site: SiteOption = None,
    corrections: Corrections = None,
    format_name: FormatOption = None,
    columns: ColumnsOption = None,
    pictures_folder: PicturesFolder = None,
    leave_out: LeaveOut = None,
    boxes: BoxesOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Study folder, resumed if it exists; default: studies/<pictures>-<digest>."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time limit, such as 30m or 2h: reduces the epochs of all recipes by the same factor."),
    ] = None,
    device: DeviceOption = Device.auto,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare recipes over several seeds: differences, intervals, p values. Resumes if interrupted."""
    require_extra("train")
    from bestiary.cli.options import parse_duration
    from bestiary.context import Context
    from bestiary.data.dataset import DataSource
    from bestiary.data.formats.read_options import make_read_options
    from bestiary.progress import make_reporter
    from bestiary.recipe_arguments import study_device_settings
    from bestiary.study.page import print_study
    from bestiary.study.study import StudyOptions
    from bestiary.study.study import study as run_study

    chosen = [] if classes is None else [f"data.classes={json.dumps(parse_names(classes), ensure_ascii=False)}"]
    chosen += [] if label_depth is None else [f"data.label_depth={label_depth}"]
    chosen += [] if split is None else [f"data.split={split.value}"]
    chosen += [f"data.{key}={json.dumps(rule)}" for key, rule in (("group", group), ("site", site)) if rule is not None]
    chosen += study_device_settings(device.value)
    options = StudyOptions(
        recipes or [],
        preset,
        [*(settings or []), *chosen],
        _parse_seeds(seeds),
        against,
        None if budget is None else parse_duration(budget),
    )
    reading = make_read_options(format_name, columns, pictures_folder, leave_out, boxes)
    context = Context.create(threads, make_reporter(quiet=quiet))
    done = run_study(DataSource(pictures, labels, corrections, reading=reading), options, out=out, context=context)
    page = str(done.path / "study.html")
    if as_json:
        print_json({"study": str(done.path), "page": page, "results": done.results})
    else:
        print_study(done.results)
        typer.echo(f"Page: {page}")
        typer.echo(str(done.path))
    if done.failed:
        cell, reason = next(iter(done.failed.items()))
        raise UserError(f"{len(done.failed)} training runs failed. The first ({cell}): {reason}")


def _parse_seeds(text: str) -> list[int]:
    parts = [part for part in text.replace(" ", ",").split(",") if part]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f'--seeds takes whole numbers from 0, for example --seeds 0 1 2; got "{text}".')
    return [int(part) for part in parts]

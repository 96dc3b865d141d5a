"""The command line: parse, call, print, exit code. Results go to stdout; progress and notices to stderr.

Everything heavy is imported inside the commands, so that `bestiary --help` is quick.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from bestiary import __version__
from bestiary.errors import BestiaryError, InterruptedRun, UserError, needs

if TYPE_CHECKING:
    from bestiary.flow import Run
    from bestiary.recipe import Recipe

DONE, CHECK_FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


class Commands(TyperGroup):
    """The commands; Ctrl-C in one of them ends in our own message and exit code, not in those of the parser."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedRun(None) from None


app = typer.Typer(
    name="bestiary",
    cls=Commands,
    help="A folder of labelled pictures in, a classifier that you can trust out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Method(StrEnum):
    """Three ways to learn."""

    probe = "probe"
    finetune = "finetune"
    scratch = "scratch"


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


Pictures = Annotated[
    Path, typer.Argument(metavar="PICTURES", help="A folder per class, split folders, an archive or a table.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, for example runs/latest.")]
Labels = Annotated[str | None, typer.Option(help='Folder names to labels: "animals10", or a CSV of folder,label.')]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notices.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object on stdout.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; all cores when not given.")]


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 a check failed, 2 the user's input, 130 interrupted."""
    try:
        app()
    except InterruptedRun as error:
        _stop(error, INTERRUPTED)
    except BestiaryError as error:
        _stop(error, USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(f"The disk is full: {error}. Free some space and run the command again.\n")
        os._exit(USER_ERROR)  # Python would try once more to write what is left


def _stop(error: BestiaryError, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"{error}\n")
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"bestiary {__version__}")
        raise typer.Exit


@app.command()
def train(
    pictures: Annotated[
        Path | None,
        typer.Argument(metavar="PICTURES", help="A folder per class, split folders, an archive or a table."),
    ] = None,
    method: Annotated[Method | None, typer.Option(help="How to learn; probe is fast and needs no torch.")] = None,
    backbone: Annotated[str | None, typer.Option(help="lite0 or lite2; finetune takes any timm name as well.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the recipe.")] = None,
    labels: Labels = None,
    classes: Annotated[str | None, typer.Option(help="Only these labels: a,b,c.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="For the split and all chance.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/<date>-<method>-<digest> when not given.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run.")] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Audit, split, train, evaluate, report; prints the run."""
    needs("polars", extra="train")
    from bestiary import flow
    from bestiary.progress import reporter

    show = reporter(quiet=quiet)
    if resume is not None:
        given = [pictures, method, backbone, recipe, settings, labels, classes, seed, out]
        if any(value is not None for value in given):
            raise UserError("--resume goes on with a run as it was asked for; give it nothing else but --threads.")
        _print_run(flow.resume(resume, threads=threads, reporter=show), as_json)
        return
    if pictures is None:
        raise UserError("Which pictures? Give a folder with one folder of pictures for each class.")
    asked = _recipe(recipe, settings, method=method, backbone=backbone, classes=classes, seed=seed)
    run = flow.train(pictures, labels=labels, recipe=asked, out=out, threads=threads, reporter=show)
    _print_run(run, as_json)


@app.command()
def evaluate(run: RunPath, threads: Threads = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Score a run on its own test split once more."""
    needs("polars", extra="train")
    from bestiary import flow
    from bestiary.progress import reporter

    _print_run(flow.evaluate(run, threads=threads, reporter=reporter(quiet=quiet)), as_json)


@app.command()
def audit(
    pictures: Pictures,
    labels: Labels = None,
    out: Annotated[Path | None, typer.Option(help="Write audit.html and findings.parquet into this folder.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if anything serious was found.")] = False,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with the pictures."""
    needs("polars", extra="train")
    from bestiary import flow, table
    from bestiary.data.audit import SERIOUS
    from bestiary.deliver.audit_page import write_audit_page
    from bestiary.progress import reporter

    found = flow.audit(pictures, labels=labels, threads=threads, reporter=reporter(quiet=quiet))
    if out is not None:
        table.write(found.pictures, out / "pictures.parquet")
        table.write(found.findings, out / "findings.parquet")
        write_audit_page(found.pictures, found.findings, found.passed_over, out, source=str(pictures))
    counts = {check: found.findings["check"].to_list().count(check) for check in table.CHECKS}
    counts = {check: count for check, count in counts.items() if count}
    if as_json:
        _print_json({"pictures": found.pictures.height, "findings": counts, "passed_over": dict(found.passed_over)})
    else:
        typer.echo(f"{found.pictures.height:,} pictures, {found.findings.height:,} findings")
        for check, count in counts.items():
            example = found.findings["message"].gather(found.findings["check"].index_of(check) or 0).item()
            typer.echo(f"{count:7,}  {check:16} {example}")
    if strict and SERIOUS & counts.keys():
        raise typer.Exit(CHECK_FAILED)


@app.command()
def predict(
    run: RunPath,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Pictures, or folders of them.")],
    form: Annotated[Format, typer.Option("--format", help="How to write the answers.")] = Format.table,
    top: Annotated[int, typer.Option(min=1, help="How many labels to show in a table.")] = 1,
    heatmaps: Annotated[Path | None, typer.Option(help="Write pictures with the evidence drawn on, here.")] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Name what is in pictures, or say "unknown"."""
    from bestiary.deliver import answers
    from bestiary.inference.predictor import MANY, Predictor
    from bestiary.progress import reporter

    sources = answers.pictures_in(paths)
    many = len(sources) >= MANY
    predictor = Predictor(run, threads=threads, engine="fastest" if many else "onnxruntime")
    with reporter(quiet=quiet or not many).task("Predicting", len(sources)) as advance:
        found = answers.counted(predictor.predict_many(sources), advance)
        if heatmaps is not None:
            found = answers.with_heatmaps(found, heatmaps, predictor.bundle.view)
        answers.write(found, "json" if as_json else form.value, sys.stdout, classes=predictor.classes, top=top)


@app.command()
def report(run: RunPath, threads: Threads = None, quiet: Quiet = False, as_json: AsJson = False) -> None:  # noqa: ARG001
    """Write report.html again; prints its path."""
    needs("polars", extra="train")
    from bestiary.deliver.report import write_report

    path = write_report(run)
    _print_json({"report": str(path)}) if as_json else typer.echo(str(path))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="A folder for the drawn pictures and the run; it must not exist.")] = Path(
        "demo"
    ),
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draw a small collection with faults, and train on it."""
    needs("polars", extra="train")
    from bestiary import flow
    from bestiary.data.drawn import draw_collection
    from bestiary.progress import reporter

    show = reporter(quiet=quiet)
    drawn = draw_collection(out / "pictures")
    show.say(f"{drawn.about} They are in {drawn.folder}.")
    run = flow.train(drawn.folder, out=out / "run", threads=threads, reporter=show)
    if as_json:
        _print_run(run, as_json)
    else:
        typer.echo((run.path / "classification_report.txt").read_text(encoding="utf-8"))
        typer.echo(f"Report: {(run.path / 'report.html').absolute()}")


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
        _print_json({"pictures": str(folder), "labels": name})
    else:
        typer.echo(str(folder))


def _recipe(
    file: Path | None,
    settings: list[str] | None,
    *,
    method: Method | None,
    backbone: str | None,
    classes: str | None,
    seed: int | None,
) -> Recipe:
    """Return the recipe of a file, with `--set` over it, and the named options over both."""
    from bestiary.recipe import Recipe, read_toml, with_settings

    asked = with_settings(read_toml(file) if file else {}, settings or [])
    Recipe.of(asked)  # what is wrong in here is told before the options are laid over it
    named: dict[tuple[str, str], Any] = {
        ("model", "method"): method.value if method else None,
        ("model", "backbone"): backbone,
        ("data", "classes"): None if classes is None else _names(classes),
    }
    for (section, key), value in named.items():
        if value is not None:
            asked.setdefault(section, {})[key] = value
    return Recipe.of(asked if seed is None else asked | {"seed": seed})


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f'--classes takes labels, for example --classes cat,dog; got "{text}".')
    return names


def _print_run(run: Run, as_json: bool) -> None:
    if as_json:
        _print_json({"run": str(run.path), "report": str(run.path / "report.html"), "metrics": run.metrics})
        return
    typer.echo((run.path / "classification_report.txt").read_text(encoding="utf-8"))
    typer.echo(f"Report: {run.path / 'report.html'}")
    typer.echo(str(run.path))


def _print_json(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, ensure_ascii=False))

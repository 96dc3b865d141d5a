"""Commands that use a finished run: `predict`, `report`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Format, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.errors import SourceError, needs_extra

if TYPE_CHECKING:
    from bestiary.inference.predictor import Prediction


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
        passing, read = _counting_read(found)
        answers.write(passing, "json" if as_json else form.value, sys.stdout, classes=predictor.classes, top=top)
    if not read[True]:
        raise SourceError(_none_read(read.total()))


def _counting_read(found: Iterable[Prediction]) -> tuple[Iterator[Prediction], Counter[bool]]:
    """Return the answers as they are, and how many pictures could be read (True) and not, once they have passed."""
    read = Counter[bool]()

    def passing() -> Iterator[Prediction]:
        for answer in found:
            read[answer.error is None] += 1
            yield answer

    return passing(), read


def _none_read(count: int) -> str:
    pictures = "The picture" if count == 1 else f"None of the {count:,} pictures"
    return f"{pictures} could {'not ' if count == 1 else ''}be read; the answers say why."


@app.command()
def report(run: RunPath, threads: Threads = None, quiet: Quiet = False, as_json: AsJson = False) -> None:  # noqa: ARG001
    """Write report.html again; prints its path."""
    needs_extra("train")
    from bestiary.deliver.report import write_report

    path = write_report(run)
    print_json({"report": str(path)}) if as_json else typer.echo(str(path))

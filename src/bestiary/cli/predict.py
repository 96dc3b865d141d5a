"""Commands that use a finished run: `predict`, `report`, `export`, `serve`."""

from __future__ import annotations

import io
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Format, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.errors import SourceError, UserError
from bestiary.inference import heatmap
from bestiary.text import describe_skipped

if TYPE_CHECKING:
    from bestiary.inference.output_file import PredictionFile
    from bestiary.inference.predictor import Prediction

NAMED, UNKNOWN, UNREAD = "named", "unknown", "could not be read"


@app.command()
def predict(
    run: RunPath,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…", help='Pictures, folders, patterns like "new/**/*.jpg", or - for a list on stdin.'
        ),
    ],
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="How to write the answers; table by default. In csv, what a spreadsheet would run as a formula has ./"
            " (a path) or ' (any other text) before it.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels to show in a table.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write into this file: .jsonl, .csv or .parquet.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out: what is written is skipped.")] = False,
    heatmaps: Annotated[Path | None, typer.Option(help="Write pictures with the evidence drawn on, here.")] = None,
    link_into: Annotated[
        Path | None, typer.Option(help="Make links to the pictures here, in a folder for each label.")
    ] = None,
    sets: Annotated[
        float | None, typer.Option(help="Also name as few labels as hold the true one this often, for example 0.95.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Name what is in pictures, or say "unknown"."""
    from bestiary.inference import inputs, link_folders, writers
    from bestiary.inference.conformal import conformal_threshold, explain_full_set
    from bestiary.inference.predictor import FAST_ENGINE_MIN_PICTURES, Predictor
    from bestiary.progress import make_reporter

    if resume and out is None:
        raise UserError("--resume goes on with the file of --out; say which.")
    if link_into is not None and not resume:
        link_folders.require_empty_folder(link_into)
    passed_over = Counter[str]()
    named = inputs.find_pictures(paths, sys.stdin.buffer, passed_over)
    sources, many = _requested_pictures(named, FAST_ENGINE_MIN_PICTURES, all_at_once=inputs.LIST not in paths)
    predictor = Predictor(run, threads=threads, engine="fastest" if many else "onnxruntime")
    file = _answer_file(out, form, predictor.classes, resume=resume, sets=sets is not None)
    if file is not None:
        sources = list(file.pending(sources)) if isinstance(sources, list) else file.pending(sources)
    bound = None if sets is None else conformal_threshold(predictor.bundle.sets, sets)
    total = len(sources) if isinstance(sources, list) else None
    with make_reporter(quiet=quiet or not many).progress("Predicting", total) as advance:
        found = writers.count_progress(predictor.predict_many(sources), advance)
        if bound is not None:
            found = writers.add_prediction_sets(found, bound)
        if heatmaps is not None:
            found = heatmap.save_heatmaps(found, heatmaps, predictor.bundle.preprocess, resume=resume)
        if link_into is not None:
            found = link_folders.link_by_label(found, link_into)
        passing, read = _count_results(found)
        if file is not None:
            file.write(passing)
        else:
            written = "json" if as_json else (form or Format.table).value
            writers.write_predictions(
                passing, written, _stdout(), classes=predictor.classes, top=top, sets=sets is not None
            )
    for words in (describe_skipped(passed_over), explain_full_set(predictor.bundle.sets, sets) if sets else ""):
        if words:
            make_reporter(quiet=quiet).info(words)
    if read.total() and read.total() == read[UNREAD]:
        raise SourceError(_no_readable_message(read.total()))
    if out is not None:
        make_reporter(quiet=quiet).info(_format_counts(read))
        print_json({"answers": str(out)}) if as_json else typer.echo(str(out))


def _requested_pictures(
    paths: Iterator[Path], many: int, *, all_at_once: bool
) -> tuple[list[Path] | Iterator[Path], bool]:
    """Return the pictures and whether they are many; a list on standard input is read only as it is needed."""
    if all_at_once:
        pictures = list(paths)
        return pictures, len(pictures) >= many
    first = list(itertools.islice(paths, many))
    return itertools.chain(first, paths), len(first) >= many


def _answer_file(
    out: Path | None, form: Format | None, classes: tuple[str, ...], *, resume: bool, sets: bool
) -> PredictionFile | None:
    from bestiary.inference.output_file import PredictionFile, format_from_suffix

    if out is None:
        return None
    return PredictionFile(out, form.value if form else format_from_suffix(out), classes, resume=resume, sets=sets)


def _stdout() -> TextIO:
    """Return stdout, which writes out what is no text in the name of a file instead of stopping at it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return sys.stdout


def _count_results(predictions: Iterable[Prediction]) -> tuple[Iterator[Prediction], Counter[str]]:
    """Return the answers as they are, and how many pictures were named, unknown or unread, once they have passed."""
    read = Counter[str]()

    def passing() -> Iterator[Prediction]:
        for answer in predictions:
            read[UNREAD if answer.error is not None else UNKNOWN if answer.unknown else NAMED] += 1
            yield answer

    return passing(), read


def _format_counts(read: Counter[str]) -> str:
    """Return what became of the pictures, in a sentence."""
    parts = [f"{read[kind]:,} {kind}" for kind in (NAMED, UNKNOWN, UNREAD) if read[kind]]
    return f"{read.total():,} picture{'' if read.total() == 1 else 's'}: {', '.join(parts) or 'nothing left to do'}."


def _no_readable_message(count: int) -> str:
    pictures = "The picture" if count == 1 else f"None of the {count:,} pictures"
    return f"{pictures} could {'not ' if count == 1 else ''}be read; the answers say why."

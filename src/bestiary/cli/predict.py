"""The command `predict`: label pictures with a finished run."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from bestiary.cli.app import app
from bestiary.cli.options import (
    AsJson,
    ClusterOption,
    ColumnsOption,
    Format,
    PicturesFolder,
    PredictionDevice,
    PredictionDeviceOption,
    Quiet,
    RunPath,
    Threads,
)
from bestiary.cli.output import print_json
from bestiary.cli.prediction_output import (
    choose_event_file,
    count_complete,
    describe_complete,
    list_job_conditions,
    open_output,
    track_events,
)
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import SourceError, UserError
from bestiary.text import describe_skipped

if TYPE_CHECKING:
    from bestiary.box import PictureFile
    from bestiary.inference.predictor import Prediction
    from bestiary.machine import FeatureDevice

NAMED, UNKNOWN, UNREAD = "named", "unknown", "could not be read"
FORMAT_HELP = (
    "Output format; default: table. In csv, a cell that a spreadsheet would run as a formula starts with ./ (a path) or"
    " ' (any other text)."
)
PATHS_HELP = (
    'Pictures, folders, patterns ("new/**/*.jpg"), or - for stdin; URIs (s3://, gs://, hdfs://); for a model trained'
    " with --crop boxes, a file with boxes of pictures, such as MegaDetector results."
)
OUT_HELP = (
    "Write into this file: .jsonl, .csv or .parquet, or as --format says; camtrap-dp: a folder. A URI is uploaded to."
)
TABLE_HELP = (
    "Predict the pictures that this CSV lists (commas, semicolons or tabs; column path, file_name, File …), in the"
    " folder PATH. With --out FILE.csv its rows keep their columns. --columns path=…,time=…,box=… names columns."
)
PACKAGE_HELP = "For camtrap-dp: the package with datapackage.json, deployments.csv and perhaps media.csv."
GROUP_HELP = (
    "Also answer for each event, a group of pictures: folder, regex:PATTERN (on paths), time:60s (no longer gap in"
    " capture time), or a column of --table."
)
SITE_HELP = "With --group time:…, cameras, which share no event: folder, regex:PATTERN or a column of --table."
EVENTS_HELP = "File of the event answers: .csv, .jsonl or .parquet; default: NAME.events.csv beside --out NAME.csv."
MOST_PIXELS = 170_000_000  # as of a recipe; Pillow refuses larger ones
MAX_PIXELS_HELP = (
    "Maximum number of pixels of a decoded picture; default: as in training. Large JPEGs are decoded at a lower scale."
)


EXAMPLES = (
    "bestiary predict runs/latest new/*.jpg\nbestiary predict runs/latest new --group time:60s --out predictions.csv"
)


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def predict(
    run: RunPath,
    named: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help=PATHS_HELP),
    ],
    form: Annotated[Format | None, typer.Option("--format", help=FORMAT_HELP)] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of labels to show in a table.")] = 1,
    output: Annotated[str | None, typer.Option("--out", metavar="PATH", help=OUT_HELP)] = None,
    table: Annotated[Path | None, typer.Option(metavar="FILE", help=TABLE_HELP)] = None,
    columns: ColumnsOption = None,
    pictures_folder: PicturesFolder = None,
    package: Annotated[Path | None, typer.Option(metavar="DIR", help=PACKAGE_HELP)] = None,
    group: Annotated[str | None, typer.Option("--group", metavar="RULE", help=GROUP_HELP)] = None,
    site: Annotated[str | None, typer.Option("--site", metavar="RULE", help=SITE_HELP)] = None,
    events: Annotated[Path | None, typer.Option("--events", metavar="FILE", help=EVENTS_HELP)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Append to --out, skipping pictures in it; same model and options.")
    ] = False,
    heatmaps: Annotated[
        Path | None, typer.Option(help="Save pictures with heatmaps, named by their label, in this folder.")
    ] = None,
    link_into: Annotated[Path | None, typer.Option(help="Make links in this folder, in a subfolder per label.")] = None,
    sets: Annotated[float | None, typer.Option(help="Add prediction sets with this coverage, such as 0.95.")] = None,
    unknown_label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Label of unknown pictures; default: their nearest class.")
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, max=MOST_PIXELS, help=MAX_PIXELS_HELP)] = None,
    cluster: ClusterOption = None,
    device: PredictionDeviceOption = PredictionDevice.auto,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Predict the labels of pictures, or "unknown"."""
    from bestiary.cli import remote
    from bestiary.cli.boxes import read_boxes, read_table
    from bestiary.group_rules import TIME
    from bestiary.inference import heatmap, inputs, link_folders, writers
    from bestiary.inference.bundle import require_run_first
    from bestiary.inference.conformal import conformal_threshold, explain_full_set
    from bestiary.inference.event_answers import write_events
    from bestiary.inference.output_formats.conversion import Conversion
    from bestiary.inference.predictor import FAST_ENGINE_MIN_PICTURES, EngineName, Predictor
    from bestiary.inference.resume_record import prediction_conditions
    from bestiary.locks import output_lock
    from bestiary.progress import make_reporter

    paths, uris = remote.split_uris(named)
    require_run_first(run, paths)
    out, output_uri = remote.locate_output(output)
    check_uri_options(uris, output_uri, table, group, heatmaps, link_into, form)
    if cluster is not None:
        from bestiary.cluster.connection import check_address
        from bestiary.cluster.predict import iter_predictions, publish_output, run_job, start_job

        check_address(cluster)
        check_cluster_options(out, group, heatmaps, link_into, device)
    if resume and out is None:
        raise UserError("--resume appends to the file of --out. Add --out FILE.")
    if group is None and (site is not None or events is not None):
        raise UserError("--site and --events are for events. Add --group folder, regex:PATTERN, time:60s or a column.")
    events = choose_event_file(events, out, form, as_json=as_json, resume=resume) if group is not None else None
    if link_into is not None and not resume:
        link_folders.require_empty_folder(link_into)
    output_name = remote.describe_output(out, output_uri)
    skipped, counts = Counter[str](), Counter[str]()
    listed = None if table is None else read_table(run, table, _single_folder(paths), columns, pictures_folder)
    boxes = None if listed is not None or uris else read_boxes(run, paths, columns, pictures_folder)
    has_boxes = boxes is not None or (listed is not None and listed.has_boxes)
    if has_boxes and link_into is not None:
        raise UserError("--link-into makes links to whole pictures. Leave it out for boxes.")
    pictures: Iterable[PictureFile] = inputs.find_pictures(paths, sys.stdin.buffer, skipped)
    if uris:
        pictures = remote.iter_remote_pictures(uris, skipped)
    elif boxes is not None:
        pictures = boxes.files
    elif listed is not None:
        pictures = listed.iter_files()
    if form == Format.megadetector:  # it has a picture once, with all its boxes
        pictures = inputs.group_by_picture(pictures)
    is_whole = listed is None and inputs.LIST not in paths and cluster is None
    sources, is_bulk = _requested_pictures(pictures, FAST_ENGINE_MIN_PICTURES, all_at_once=is_whole)
    engine: EngineName = "fastest" if is_bulk else "onnxruntime"
    notices = make_reporter(quiet=quiet)
    where: FeatureDevice = device.value if cluster is None else "cpu"
    predictor = Predictor(run, threads=threads, engine=engine, device=where, max_pixels=max_pixels, reporter=notices)
    warnings = [] if has_boxes else [predictor.bundle.describe_whole_pictures()]
    warnings += [] if boxes is None else boxes.notices
    for message in filter(None, warnings):
        notices.info(message)
    if unknown_label is not None:
        writers.check_unknown_label(unknown_label, predictor.classes)
    if heatmaps is not None and (reason := predictor.bundle.explain_no_heatmap()):
        raise UserError(f"{reason} Leave --heatmaps out.")
    bound = None if sets is None else conformal_threshold(predictor.bundle.sets, sets)
    digest = boxes.digest if boxes is not None else listed.digest if listed is not None and has_boxes else None
    conditions = prediction_conditions(predictor.bundle, sets, unknown_label, digest)
    conversion = Conversion(
        *(predictor.classes, predictor.bundle.graph_sha256),
        *(_single_folder(paths) if boxes is None else boxes.folder, unknown_label),
        table=listed,
        package=package,
        boxes=has_boxes,
        detector={} if boxes is None else boxes.detector,
    )
    goes_on = resume or cluster is not None
    is_uploaded = goes_on and remote.is_uploaded(output_uri)
    with (
        contextlib.nullcontext() if is_uploaded else remote.upload_afterwards(output_uri, resume=goes_on),
        output_lock(out, events, heatmaps, link_into),
    ):
        if link_into is not None and not resume:
            link_folders.require_empty_folder(link_into)  # again: another process may have filled it
        job, complete = None, None
        if out is not None and group is None and (is_uploaded or (resume and cluster is None)):
            complete = count_complete(
                *(out, form, conversion, conditions, sources), name=output_name, is_uploaded=is_uploaded
            )
        elif cluster is not None and out is not None:
            job = start_job(out, sources, list_job_conditions(conditions, conversion, form, predictor.engine_name))
            complete = job.count if job.is_finished else None
        if complete is not None:
            notices.info(describe_complete(output_name, complete))
            print_json({"answers": output_name}) if as_json else typer.echo(output_name)
            return
        with contextlib.nullcontext() if job is None else publish_output(job):
            staging = None if job is None else job.work.staging
            file = open_output(out, form, conversion, conditions, resume=resume and job is None, staging=staging)
            tracker = None
            if group is not None:
                sources = sources if isinstance(sources, list) or not group.startswith(TIME) else list(sources)
                tracker = track_events(predictor, (group, site), sources, conversion, paths, file)
            total = len(sources) if isinstance(sources, list) else None
            if job is not None and cluster is not None and file is not None:
                run_job(job, predictor, cluster, threads=threads, boxes=has_boxes, reporter=notices)
                total, stream = job.count, iter_predictions(job, file.note_state)
            else:
                if file is not None:
                    file.check_stored(sources if uris and isinstance(sources, list) else ())
                    total = file.count_pending(sources) if isinstance(sources, list) else None
                    sources = file.pending(sources)
                stream = predictor.predict_many(
                    remote.read_ahead(sources, predictor.bundle.max_bytes) if uris else sources
                )
            title, is_long = ("Predicting", is_bulk) if job is None else ("Writing the predictions", True)
            with make_reporter(quiet=quiet or not is_long).progress(title, total) as advance:
                predictions = writers.count_progress(stream, advance)
                if tracker is not None:
                    predictions = tracker.track(predictions)
                if bound is not None:
                    predictions = writers.add_prediction_sets(predictions, bound)
                if unknown_label is not None:
                    predictions = writers.relabel_unknown(predictions, unknown_label)
                if heatmaps is not None:
                    predictions = heatmap.save_heatmaps(
                        predictions, heatmaps, predictor.bundle.preprocess, sources=paths, resume=resume
                    )
                if link_into is not None:
                    predictions = link_folders.link_by_label(
                        predictions, link_into, predictor.classes, unknown_label=unknown_label
                    )
                predictions = _count_results(predictions, counts)
                notes = file.write(predictions) if file is not None else None
                if file is None:
                    name, classes = "json" if as_json else (form or Format.table).value, predictor.classes
                    writers.write_predictions(
                        *(predictions, name, _stdout()),
                        classes=classes,
                        top=top,
                        more=writers.MoreColumns(sets is not None, bool(predictor.bundle.class_thresholds), has_boxes),
                        events=tracker if events is None else None,
                    )
                if tracker is not None and events is not None:
                    write_events(tracker.answers(), events, predictor.classes)
    reporter = make_reporter(quiet=quiet)
    full_set = explain_full_set(predictor.bundle.sets, sets) if sets else ""
    event_notes = [] if tracker is None else tracker.describe()
    for message in filter(None, (describe_skipped(skipped), full_set, *(notes or ()), *event_notes)):
        reporter.info(message)
    if counts.total() and counts.total() == counts[UNREAD]:
        raise SourceError(_no_readable_message(counts.total()))
    if out is not None:
        reporter.info(_format_counts(counts, has_boxes=boxes is not None))
        written = {"answers": output_name} | ({} if events is None else {"events": str(events)})
        print_json(written) if as_json else typer.echo("\n".join(written.values()))


def check_uri_options(
    uris: Sequence[str],
    output_uri: str | None,
    table: Path | None,
    group: str | None,
    heatmaps: Path | None,
    link_into: Path | None,
    form: Format | None,
) -> None:
    """Raise UserError for an option that does not go with URIs."""
    from bestiary.cli import remote

    options = {"--table": table, "--group": group, "--heatmaps": heatmaps, "--link-into": link_into}
    remote.check_uri_options(uris, output_uri, options | {f"--format {form}": form == Format.camtrap_dp})


def check_cluster_options(
    out: Path | None, group: str | None, heatmaps: Path | None, link_into: Path | None, device: PredictionDevice
) -> None:
    """Raise UserError for an option that a cluster has no meaning for."""
    if out is None:
        raise UserError("--cluster writes a file. Add --out FILE.csv, .jsonl or .parquet.")
    if group is not None:
        raise UserError(
            "--group is answered from all predictions, on this computer. Predict without it; then run the command"
            " without --cluster, with --resume and --group: it predicts nothing again."
        )
    for option, value in (("--heatmaps", heatmaps), ("--link-into", link_into)):
        if value is not None:
            raise UserError(f"{option} writes files on this computer. Leave it out, or leave out --cluster.")
    if device not in (PredictionDevice.auto, PredictionDevice.cpu):
        raise UserError(f"--device {device}: the workers of a cluster compute on processors. Leave it out.")


def _requested_pictures(
    paths: Iterable[PictureFile], bulk_size: int, *, all_at_once: bool
) -> tuple[list[PictureFile] | Iterator[PictureFile], bool]:
    """Return the pictures, and whether there are `bulk_size` or more; a list on stdin is read lazily."""
    if all_at_once:
        pictures = list(paths)
        return pictures, len(pictures) >= bulk_size
    rest = iter(paths)
    first = list(itertools.islice(rest, bulk_size))
    return itertools.chain(first, rest), len(first) >= bulk_size


def _single_folder(paths: Sequence[Path]) -> Path | None:
    """Return the folder that file names are relative to: the only path, if it is a folder."""
    return paths[0] if len(paths) == 1 and os.path.isdir(paths[0]) else None  # noqa: PTH112 - names that are too long


def _stdout() -> TextIO:
    """Return stdout, set to escape the bytes of a file name that are not UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return sys.stdout


def _count_results(predictions: Iterable[Prediction], counts: Counter[str]) -> Iterator[Prediction]:
    """Yield the predictions, counting named, unknown and unreadable pictures."""
    for prediction in predictions:
        counts[UNREAD if prediction.error is not None else UNKNOWN if prediction.unknown else NAMED] += 1
        yield prediction


def _format_counts(counts: Counter[str], *, has_boxes: bool) -> str:
    """Return the number of pictures, or of boxes and pictures, by result as a sentence."""
    parts = [f"{counts[kind]:,} {kind}" for kind in (NAMED, UNKNOWN, UNREAD) if counts[kind]]
    total = counts.total()
    noun = "boxes and pictures without one" if has_boxes else f"picture{'s' * (total != 1)}"
    return f"{total:,} {noun}: {', '.join(parts) or 'nothing left to do'}."


def _no_readable_message(count: int) -> str:
    subject = "The picture could not" if count == 1 else f"None of the {count:,} pictures could"
    return f"{subject} be read. The output contains the error of each."

"""The Python interface: a function for each command, with its options as keyword arguments.

Every function shows progress on a terminal and in a notebook (`quiet=True` hides it), passes it to `on_event`, takes
runs as paths or as what `train` returned, and raises UserError where the command would end with exit code 2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from bestiary import flow
from bestiary.api_results import Comparison, ExportedModel
from bestiary.box import PictureFile
from bestiary.cluster.ray_table_map import open_table_map
from bestiary.cluster.train import connect_job, connect_resumed_job
from bestiary.context import Context
from bestiary.data.boxed_pictures import read_boxed_pictures
from bestiary.data.dataset import AuditedDataset, DataSource, Sources
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.formats.read_options import make_read_options
from bestiary.errors import UserError, did_you_mean
from bestiary.evaluation.comparison import align_runs, compare_runs, read_run_predictions
from bestiary.evaluation.external import ExternalEvaluation, evaluate_external
from bestiary.events import Event, choose_reporter
from bestiary.export import verify
from bestiary.export.formats import PRECISIONS, Kind
from bestiary.inference.device_choice import check_device
from bestiary.inference.embedding_file import EmbeddingOptions, write_embeddings
from bestiary.inference.predict import Pictures, list_sources
from bestiary.machine import Device, FeatureDevice, available_cores
from bestiary.progress import Reporter
from bestiary.recipe_arguments import RecipeLike, combine_recipe
from bestiary.recipe_sections import FeaturesConfig
from bestiary.report import comparison_page
from bestiary.report.evaluation_page import write_evaluation_page
from bestiary.report.results import Run
from bestiary.run_location import RunLocation, locate_run

OnEvent = Callable[[Event], object]
Columns = str | Mapping[str, str]  # "path=File,label=Species", or a mapping of such roles to columns


def audit(
    pictures: Sources,
    *,
    labels: str | None = None,
    corrections: Path | str | None = None,
    format: str | None = None,
    columns: Columns | None = None,
    pictures_folder: Path | str | None = None,
    leave_out: Sequence[str] | None = None,
    boxes: Path | str | None = None,
    group: str | None = None,
    site: str | None = None,
    crop: str | None = None,
    recipe: RecipeLike | None = None,
    threads: int | None = None,
    cluster: str | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
    reporter: Reporter | None = None,
) -> AuditedDataset:
    """Return the pictures of one source or several, grouped by duplicates, with all findings; see `train`."""
    reporter = choose_reporter(quiet=quiet, on_event=on_event, reporter=reporter)
    requested = combine_recipe(recipe, group=group, site=site, crop=crop)
    reading = make_read_options(format, columns, pictures_folder, leave_out, boxes)
    with open_table_map(cluster, threads=threads, reporter=reporter) as table_map:
        return flow.audit(
            pictures,
            labels=labels,
            corrections=corrections,
            reading=reading,
            recipe=requested,
            threads=threads,
            cluster=table_map,
            reporter=reporter,
        )


def train(
    pictures: Sources,
    *,
    method: str | None = None,
    backbone: str | None = None,
    seed: int | None = None,
    recipe: RecipeLike | None = None,
    labels: str | None = None,
    corrections: Path | str | None = None,
    format: str | None = None,
    columns: Columns | None = None,
    pictures_folder: Path | str | None = None,
    leave_out: Sequence[str] | None = None,
    boxes: Path | str | None = None,
    group: str | None = None,
    site: str | None = None,
    crop: str | None = None,
    folds: int | None = None,
    out: Path | str | None = None,
    device: Device = "auto",
    threads: int | None = None,
    budget_seconds: float | None = None,
    log: str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Audit and split the pictures, train, calibrate and export a model, test it and write the report; return the run.

    pictures: a folder per class, split folders, an archive or a table, or several of these, which are merged. method:
    "probe", "finetune" or "scratch"; backbone, seed, folds: as in the command; recipe: a Recipe, its settings as a
    mapping, a TOML file or the name of a built-in recipe. labels: a map of folder names to labels; corrections: a file
    of label decisions. format, columns, pictures_folder, leave_out: how a table or another format is read, as in the
    command. group, site: what stays in one split, such as a column, "folder", "regex:…" or "time:60s". crop:
    "boxes" looks at the boxes of a table or another format, or of the file `boxes`, instead of whole pictures.
    budget_seconds: settings that the recipe leaves open are chosen so that the job ends in time.
    device: "auto", "cpu", "cuda", "mps" or "coreml", as in the command. cluster, workers: as in the command.
    log: "tensorboard" or "mlflow", for the epochs of finetune and scratch.
    quiet: show no progress; on_event: called with each `bestiary.events.Event`. Raises UserError, RecipeError if an
    argument contradicts the recipe, IntegrityError if the exported model differs from the trained one, InterruptedRun
    on Ctrl-C.
    """
    reporter = choose_reporter(quiet=quiet, on_event=on_event, reporter=reporter)
    requested = combine_recipe(
        recipe,
        method=method,
        backbone=backbone,
        seed=seed,
        folds=folds,
        group=group,
        site=site,
        crop=crop,
        device=None if device == "auto" else device,
    )
    reading = make_read_options(format, columns, pictures_folder, leave_out, boxes)
    with connect_job(
        cluster, workers, requested, threads=threads, reporter=reporter, budget_seconds=budget_seconds
    ) as remote:
        return flow.train(
            pictures,
            labels=labels,
            corrections=corrections,
            reading=reading,
            recipe=requested,
            out=out,
            threads=threads,
            budget_seconds=budget_seconds,
            log=log,
            reporter=reporter,
            **remote,
        )


def resume(
    run: RunLocation,
    *,
    cluster: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Finish an interrupted run from its pictures, recipe and last checkpoint, and return it.

    However it ended (Ctrl-C, a full disk, SIGKILL), the scores equal those of an uninterrupted run. Raises RunError if
    the run is finished, or in use by another process. cluster, workers: as in `train`, whether or not it began there.
    """
    reporter, path = choose_reporter(quiet=quiet, on_event=on_event, reporter=reporter), locate_run(run)
    with connect_resumed_job(cluster, workers, path, threads=threads, reporter=reporter) as remote:
        return flow.resume(path, threads=threads, reporter=reporter, **remote)


def evaluate(
    run: RunLocation,
    pictures: Sources | None = None,
    *,
    labels: str | None = None,
    corrections: Path | str | None = None,
    format: str | None = None,
    columns: Columns | None = None,
    pictures_folder: Path | str | None = None,
    leave_out: Sequence[str] | None = None,
    boxes: Path | str | None = None,
    classes: Sequence[str] | None = None,
    label_depth: int | None = None,
    name: str | None = None,
    device: FeatureDevice = "auto",
    threads: int | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
    reporter: Reporter | None = None,
) -> Run | ExternalEvaluation:
    """Score a finished run on its own test split again, which it counts, or on other labelled pictures; return both.

    What comes back has `path`, with `report.html`, and `metrics`. The other arguments belong to `pictures`: labels,
    corrections, label_depth: see `train`; classes: use only these labels; name: of the folder in RUN/evaluations.
    Raises UserError if they are passed without pictures.
    """
    check_device(device)
    reporter, path = choose_reporter(quiet=quiet, on_event=on_event, reporter=reporter), locate_run(run)
    options: dict[str, object] = {"labels": labels, "corrections": corrections, "classes": classes}
    options |= {"label_depth": label_depth, "name": name, "format": format, "columns": columns}
    options |= {"pictures_folder": pictures_folder, "leave_out": leave_out, "boxes": boxes}
    if pictures is None:
        if unused := [option for option, value in options.items() if value is not None]:
            raise UserError(f"{', '.join(unused)} need pictures: the labelled pictures to score.")
        return flow.evaluate(path, Context.create(threads, reporter, FeaturesConfig(device=device), "evaluate"))
    reading = make_read_options(format, columns, pictures_folder, leave_out, boxes)
    source = DataSource(pictures, labels, corrections, label_depth, tuple(classes or ()), reading=reading)
    context = Context.create(threads, reporter, FeaturesConfig(device=device), "evaluate pictures")
    evaluation = evaluate_external(path, source, context, name=name)
    write_evaluation_page(evaluation.path, threads=threads)
    return evaluation


def compare(
    *runs: RunLocation,
    intersection: bool = False,
    labels_of: RunLocation | None = None,
    out: Path | str | None = None,
    resamples: int = 2000,
) -> Comparison:
    """Compare runs with the first of them on the same test pictures: paired differences with 95 % intervals.

    intersection: compare only the test pictures that all share; labels_of: score all with the labels of this run; out:
    also write a page (.html) or a chart (.svg). Raises UserError if the test pictures or their labels differ.
    """
    if len(runs) < 2:
        raise UserError('A comparison needs two runs or more: bestiary.compare("runs/a", "runs/b").')
    page = None if out is None else Path(out)
    if page is not None:
        comparison_page.require_page_suffix(page)
    label_run = None if labels_of is None else str(locate_run(labels_of))
    tables = [read_run_predictions(locate_run(run)) for run in runs]
    results = compare_runs(align_runs(tables, intersection=intersection, labels_of=label_run), resamples=resamples)
    if page is not None:
        comparison_page.write_comparison(results, page)
    return Comparison(results)


def export(
    run: RunLocation,
    to: Kind = "onnx",
    *,
    out: Path | str | None = None,
    force: bool = False,
    with_pictures: bool = True,
    threads: int | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
) -> ExportedModel:
    """Export the model in another format, verified on the run's own pictures.

    to: "onnx", "onnx-int8" or "openvino". out: a new folder, or a new .onnx file; default: in RUN/export. force: even
    if accuracy drops by more than one point; with_pictures: an 8-bit model carries ten pictures that verify it on other
    processors. Raises IntegrityError if verification fails, UserError if `out` exists.
    """
    if to not in PRECISIONS:
        raise UserError(f'There is no format "{to}". {did_you_mean(to, PRECISIONS)}')
    path, parity = verify.export(
        locate_run(run),
        to,
        out=None if out is None else Path(out),
        force=force,
        with_pictures=with_pictures,
        threads=threads or available_cores(),
        reporter=choose_reporter(quiet=quiet, on_event=on_event),
    )
    return ExportedModel(path, parity)


def read_boxes(
    file: Path | str,
    *,
    format: str | None = None,
    columns: Columns | None = None,
    pictures_folder: Path | str | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
) -> list[PictureFile]:
    """Return the boxes of a file, such as MegaDetector results, for `predict` with a model that was trained on boxes.

    The boxes of a picture are together; a picture without one is its path. format, columns, pictures_folder: how the
    file is read, as in `train`. Raises SourceError if its format is not recognised, or it has no boxes.
    """
    options = make_read_options(format, columns, pictures_folder) or ReadOptions()
    boxed = read_boxed_pictures(Path(file), replace(options, boxes=True, left_out=()))
    reporter = choose_reporter(quiet=quiet, on_event=on_event)
    for notice in boxed.notices:
        reporter.info(notice)
    return boxed.files


def embed(
    run: RunLocation,
    pictures: Pictures,
    *,
    nearest: int = 0,
    with_map: bool = False,
    device: FeatureDevice = "auto",
    threads: int | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
) -> pl.DataFrame:
    """Return the features of pictures by the run's network: a row each with `path`, `error` and `features`.

    pictures: as in `predict`. features: float32 (channels,), the input of the last layer; null with an `error`.
    nearest: adds a column of so many training pictures, the most similar first, each with `path`, `label` and cosine
    `similarity`; with_map: adds `x` and `y`, the first two principal components. The table is in memory; the command
    `embed` writes a file of any length. Raises RunError for an export in 8 bits, SourceError if no picture can be read.
    """
    check_device(device)
    reporter = choose_reporter(quiet=quiet, on_event=on_event)
    context = Context.create(threads, reporter, FeaturesConfig(device=device))
    options = EmbeddingOptions(nearest, with_map)
    with tempfile.TemporaryDirectory(prefix="bestiary-") as folder:
        out = Path(folder) / "features.parquet"
        write_embeddings(locate_run(run), list_sources(pictures, reporter), out, options, context)
        return pl.read_parquet(out, memory_map=False)

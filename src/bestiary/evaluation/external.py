"""External validation: a finished run scored on other labelled pictures, with their distribution shift."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import run_folder, table
from bestiary.array_types import Ints
from bestiary.context import Context
from bestiary.data.dataset import AuditedDataset, DataSource, load_dataset
from bestiary.data.detail_check import check_content
from bestiary.data.duplicate_groups import group_duplicates
from bestiary.data.duplicates import find_duplicate_pairs
from bestiary.data.hamming_search import find_near_pairs, hash_bits
from bestiary.data.manifest import match_number_label
from bestiary.data.notices import read_notices
from bestiary.data.view_search import STEPS
from bestiary.errors import MachineError, SourceError
from bestiary.evaluation import intervals
from bestiary.evaluation.decision import decision_metrics
from bestiary.evaluation.metrics import CLASS_AVERAGES
from bestiary.evaluation.predictions import join_pictures, predict_table, score_table
from bestiary.evaluation.shift import distribution_shift
from bestiary.evaluation.slices import find_weak_slices
from bestiary.evaluation.threshold_metrics import threshold_metrics
from bestiary.files import move_to_free_name, next_free_name, write_json
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.picture import DecodeLimits
from bestiary.summary import Row, Summary, SummaryRepr, score_rows
from bestiary.text import format_names

FOLDER = "evaluations"


@dataclass(frozen=True)
class ExternalPictures:
    """External pictures (`table.PICTURES`) without those that the run was trained on, and how many were left out."""

    pictures: pl.DataFrame
    unreadable: int
    seen: dict[str, int]


@dataclass(frozen=True, repr=False)
class ExternalEvaluation(SummaryRepr):
    """A finished evaluation: its folder in the run, and the content of its `metrics.json`."""

    path: Path
    metrics: dict[str, Any]

    def summary(self) -> Summary:
        """Return the scores with their intervals, and how many pictures were left out."""
        copies, absent = self.metrics["copies"], self.metrics["classes_without_pictures"]
        rows: list[Row | tuple[str, str]] = [
            *score_rows(self.metrics | self.metrics.get("present", {})),
            *([("macro-F1 is without", format_names(absent))] if absent else []),
            ("pictures", f"{self.metrics['pictures']:,}"),
            ("left out", f"{self.metrics['unreadable']:,} unreadable, {copies['train'] + copies['val']:,} copies"),
        ]
        return Summary(f"Evaluation {self.path}", tuple(rows))


def evaluate_external(
    run: Path, source: DataSource, context: Context, *, name: str | None = None
) -> ExternalEvaluation:
    """Score a finished run on other labelled pictures and write `evaluations/<name>/` into it.

    The run's rules of groups and sites, by which intervals are computed, are used as far as they fit these pictures.

    The folder contains `metrics.json`, `predictions.parquet` and `pictures.parquet`: every picture, with the reason if
    it was left out. The rest of the run does not change.
    """
    recipe, bundle = run_folder.load_resolved_recipe(run), read_bundle(run)
    validation = table.read(run / "predictions.parquet", table.PREDICTIONS).filter(pl.col("split") == "val")
    data = recipe.data.model_copy(update={"classes": source.classes, "split": "keep"})
    source = replace(source, model_classes=tuple(bundle.classes))
    dataset = load_dataset(source, recipe.model_copy(update={"data": data}), context, for_split=False)
    dataset = replace(dataset, pictures=restore_number_labels(dataset.pictures, bundle.classes))
    near_bits = data.near_duplicate_bits if data.near_duplicates else None
    run_pictures = read_run_pictures(run)
    if near_bits is not None and "thumbnail" not in run_pictures.columns:
        context.reporter.info(
            "This run was made by an older version and has no thumbnails: copies of its training pictures"
            " are not detected if they are mirrored, rotated, cropped or shifted."
        )
    external = drop_seen_copies(dataset, run_pictures, near_bits=near_bits, limits=recipe.limits, context=context)
    device = context.features.device
    predictor = Predictor(run, threads=context.threads, engine="fastest", device=device, reporter=context.reporter)
    predictions = predict_table(predictor, external.pictures, context.reporter)
    resamples, seed = recipe.evaluate.resamples, recipe.seed
    validation = join_pictures(validation, run_pictures, "group")
    metrics = score_external(external, predictions, validation, bundle, resamples=resamples, seed=seed)
    metrics |= {"passed_over": dict(dataset.passed_over), "notices": read_notices(dataset.findings)}
    reading = {} if source.reading is None else {"reading": source.reading.facts()}
    about = {"run": str(run), "source": str(source.paths[0].absolute()), **reading}

    def contents(folder: Path) -> None:
        table.write(annotate_all_pictures(dataset.pictures, external), folder / "pictures.parquet")
        table.write(predictions, folder / "predictions.parquet")
        write_json(folder / "metrics.json", about | metrics)

    return ExternalEvaluation(create_evaluation_folder(run, name or source.paths[0].stem, contents), metrics)


def read_run_pictures(run: Path) -> pl.DataFrame:
    """Return the pictures that a run used (`table.PICTURES`), with their thumbnails where the run has them."""
    pictures = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("split").is_not_null())
    if not (run / "thumbnails.parquet").exists():  # a run of before December 2026
        return pictures
    thumbnails = table.read(run / "thumbnails.parquet", table.THUMBNAILS)
    joined = pictures.join(thumbnails, on="sha256", how="inner", maintain_order="left")
    return joined if joined.height == pictures.height else pictures  # those of boxes, in a study of whole pictures


def restore_number_labels(pictures: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """Return the pictures with the labels of whole numbers and truth values as the run has them.

    Runs from before December 2026 have 1.0 for the 1 of a floating-point column, and True as a CSV had it. A CSV with
    1.0 and 1.00 has both as labels, and the run may have 1.
    """
    older: dict[str, str] = {}
    for label in set(pictures["label"].drop_nulls()) - set(classes):
        truths = (label.capitalize(), label.upper()) if label in ("true", "false") else ()
        spellings = (match_number_label(label, classes), *truths)
        older.update((label, spelling) for spelling in spellings if spelling is not None and spelling in classes)
    return pictures.with_columns(pl.col("label").replace(older))


def drop_seen_copies(
    dataset: AuditedDataset,
    run_pictures: pl.DataFrame,
    *,
    near_bits: int | None,
    limits: DecodeLimits,
    context: Context,
) -> ExternalPictures:
    """Return the readable pictures without copies of the run's training and validation pictures.

    run_pictures: as `read_run_pictures` returns them. Copies are those that would be kept in one split, see
    `group_duplicates`: equal files, and near-duplicates if `near_bits` is not None. Runs without thumbnails find none
    that are mirrored, turned, cropped or shifted. `seen` counts the copies by the split of the original; copies of test
    pictures stay. Raises SourceError if no picture is left.
    """
    readable = dataset.pictures.filter(pl.col("error").is_null())
    if near_bits is None or "thumbnail" not in run_pictures.columns:
        copies = _splits_of_equal_hashes(readable, run_pictures, near_bits)
    else:
        near = partial(_group_near_copies, near_bits=near_bits, limits=limits, context=context)
        copies = _splits_of_copies(readable, run_pictures, dataset.thumbnails, near)
    copies = _add_boxes_of_same_files(copies, readable, run_pictures)
    seen = {split: int((copies == split).sum()) for split in table.SPLITS}
    unseen = readable.filter(~copies.is_in(["train", "val"]).fill_null(False))
    unreadable = dataset.pictures.height - readable.height
    if not unseen.height:
        raise SourceError(
            f"None of the {dataset.pictures.height:,} pictures can be scored: {unreadable:,} cannot be read,"
            f" {seen['train'] + seen['val']:,} are copies of pictures that the run was trained or calibrated on."
        )
    return ExternalPictures(unseen.with_columns(split=pl.lit("elsewhere")), unreadable, seen)


def annotate_all_pictures(pictures: pl.DataFrame, external: ExternalPictures) -> pl.DataFrame:
    """Return all pictures (`table.PICTURES`): scored ones with `split`, the others with `error`."""
    scored = pl.col("row_id").is_in(external.pictures["row_id"].implode())
    copy = pl.lit("It is a copy of a picture that the run was trained or calibrated on.")
    crops = [name for name in table.CROPS if name in pictures.columns]
    return pictures.select([*table.PICTURES, *crops]).with_columns(
        split=pl.when(scored).then(pl.lit("elsewhere")), error=pl.when(~scored).then(pl.coalesce("error", copy))
    )


def score_external(
    external: ExternalPictures,
    predictions: pl.DataFrame,
    validation: pl.DataFrame,
    bundle: Bundle,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the content of an evaluation's `metrics.json`: distribution shift, then the metrics.

    Metrics and `slices` are over the pictures of the run's classes. `unknown_classes`: by label that is not a class of
    the run, the fraction predicted "unknown" (out-of-distribution). `classes_without_pictures`, and `present`: the
    averages over the other classes only.
    """
    is_class = predictions["label"].is_in(list(bundle.classes))
    groups = external.pictures["group"].to_numpy()
    body: dict[str, Any] = {
        "split": "elsewhere",
        "pictures": predictions.height,
        "unreadable": external.unreadable,
        "copies": external.seen,
        "shift": distribution_shift(
            validation, predictions.with_columns(group=groups), bundle.classes, threshold=bundle.threshold
        ),
        "unknown_classes": _unknown_rates(predictions.filter(~is_class), groups[~is_class.to_numpy()]),
        "classes_without_pictures": [name for name in bundle.classes if name not in set(predictions["label"])],
    }
    if is_class.any():
        own, own_groups = predictions.filter(is_class), groups[is_class.to_numpy()]
        scores = score_table(own, own_groups, bundle, resamples=resamples, seed=seed)
        body |= scores | {"present": _present_class_averages(scores)}
        body |= decision_metrics(own, own_groups, bundle, resamples=resamples, seed=seed)
        body |= threshold_metrics(own, own_groups, bundle)
        body["slices"] = find_weak_slices(own, external.pictures)
    return body


def create_evaluation_folder(run: Path, name: str, contents: Callable[[Path], None]) -> Path:
    """Return a new folder for an evaluation of a run, filled by `contents`.

    It is filled under a temporary name: two processes get two folders, each of them whole. Raises MachineError.
    """
    parent = run / FOLDER
    try:
        parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=parent) as temporary:
            folder = Path(temporary) / "evaluation"
            contents(folder)
            return move_to_free_name(folder, lambda: next_evaluation_folder(run, name))
    except OSError as error:
        raise MachineError(f"Cannot write into {parent}: {error.strerror or error}.") from None


def next_evaluation_folder(run: Path, name: str) -> Path:
    """Return a new folder for an evaluation of a run: `evaluations/<name>`, with a number if that exists."""
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "pictures"
    return run / FOLDER / next_free_name(name, lambda free: (run / FOLDER / free).exists())


def _splits_of_copies(
    readable: pl.DataFrame,
    run_pictures: pl.DataFrame,
    thumbnails: pl.DataFrame,
    group: Callable[[pl.DataFrame], Ints],
) -> pl.Series:
    """Return for each picture the split of its copy in the run, null without one; training comes before the others."""
    columns = ["path", "label", "sha256", "width", "height", "phash", "thumbnail", "colours", "error"]
    columns += [name for name in table.CROPS if name in run_pictures.columns and name in readable.columns]
    own = readable.join(thumbnails, on="sha256", how="left", maintain_order="left")
    both = pl.concat([run_pictures.select(columns), own.select(columns)])
    groups = group(both)
    order = {split: rank for rank, split in enumerate(table.SPLITS)}
    originals = pl.DataFrame({"group": groups[: run_pictures.height], "copy": run_pictures["split"]})
    originals = originals.sort(pl.col("copy").replace_strict(order)).unique("group", keep="first", maintain_order=True)
    queries = pl.DataFrame({"group": groups[run_pictures.height :]})
    return queries.join(originals, on="group", how="left", maintain_order="left")["copy"]


def _add_boxes_of_same_files(copies: pl.Series, readable: pl.DataFrame, run_pictures: pl.DataFrame) -> pl.Series:
    """Return the splits of copies, also for other boxes of a file that the run has boxes of."""
    has_crops = "crop_left" in readable.columns and readable["crop_left"].count() > 0
    if not has_crops or "file_sha256" not in run_pictures.columns:
        return copies
    order = {split: rank for rank, split in enumerate(table.SPLITS)}
    originals = run_pictures.sort(pl.col("split").replace_strict(order)).unique("file_sha256", keep="first")
    files = readable.select("file_sha256").join(
        originals.select("file_sha256", "split"), on="file_sha256", how="left", maintain_order="left"
    )
    both = pl.DataFrame({"near": copies, "file": files["split"]}, schema={"near": pl.String, "file": pl.String})
    earlier = pl.min_horizontal(pl.all().replace_strict(order, default=None, return_dtype=pl.Int64))
    return both.select(
        earlier.replace_strict(dict(enumerate(table.SPLITS)), default=None, return_dtype=pl.String)
    ).to_series()


def _group_near_copies(pictures: pl.DataFrame, near_bits: int, limits: DecodeLimits, context: Context) -> Ints:
    """Return the groups of duplicates as the audit forms them, int64 (n,)."""
    with context.reporter.progress("Searching for duplicates of training pictures", STEPS) as advance:
        pairs = find_duplicate_pairs(pictures, near_bits, threads=context.threads, advance=advance)
    return group_duplicates(pictures, check_content(pictures, pairs, limits, context)).group


def _splits_of_equal_hashes(readable: pl.DataFrame, run_pictures: pl.DataFrame, near_bits: int | None) -> pl.Series:
    """Return for each picture the split of its copy in the run, null without one; training comes before the others."""
    order = {split: rank for rank, split in enumerate(table.SPLITS)}
    originals = run_pictures.filter(pl.col("split").is_not_null()).sort(pl.col("split").replace_strict(order))
    first = originals.unique("sha256", keep="first", maintain_order=True).select("sha256", copy="split")
    copies: list[str | None] = readable.join(first, on="sha256", how="left", maintain_order="left")["copy"].to_list()
    if near_bits is not None and originals.height:
        pairs = find_near_pairs(hash_bits([*originals["phash"], *readable["phash"]]), near_bits)
        across = pairs[(pairs[:, 0] < originals.height) & (pairs[:, 1] >= originals.height)]
        for original, copy in sorted(across[:, :2].tolist()):
            row = copy - originals.height
            copies[row] = min((copies[row] or "test", originals["split"][original]), key=order.__getitem__)
    return pl.Series(copies, dtype=pl.String)


def _unknown_rates(predictions: pl.DataFrame, groups: Ints) -> dict[str, dict[str, float]]:
    """Return for each label the number of pictures, and the fraction predicted "unknown" with Wilson's interval."""
    rates: dict[str, dict[str, float]] = {}
    for label in predictions["label"].unique().sort():
        own = (predictions["label"] == label).to_numpy()
        rate = intervals.rate_metric(float(predictions["unknown"].to_numpy()[own].mean()), len(np.unique(groups[own])))
        rates[label] = {"pictures": int(own.sum()), **rate}
    return rates


def _present_class_averages(scores: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the macro averages over the classes that have pictures, with their combined intervals.

    If all classes have pictures, these are the averages over all classes, with the intervals of those.
    """
    present = [rates for rates in scores["per_class"].values() if rates["support"]]
    averages = {name: scores[name] for name in CLASS_AVERAGES if name.startswith("macro_")}
    if len(present) < len(scores["per_class"]):
        for name in averages:
            rates = [class_rates[name.removeprefix("macro_")] for class_rates in present]
            values, lows, highs = (np.array([rate[end] for rate in rates]) for end in ("value", "low", "high"))
            ends = intervals.mover_interval(values, lows, highs)
            averages[name] = intervals.metric_value(float(values.mean()), *ends)
    return averages

"""A finished run on labelled pictures from elsewhere: how far they are, which ones it cannot know, how it does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import files as files_module
from bestiary import run_folder, table
from bestiary.context import Context
from bestiary.data.corrections import read_corrections
from bestiary.data.dataset import AuditedDataset, audit_sources
from bestiary.data.hamming_search import find_near_pairs, hash_bits
from bestiary.errors import SourceError
from bestiary.evaluation import intervals
from bestiary.evaluation.metrics import CLASS_AVERAGES
from bestiary.evaluation.predictions import predict_table, score_table
from bestiary.evaluation.shift import distribution_shift
from bestiary.evaluation.slices import find_weak_slices
from bestiary.files import next_free_name
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.machine import available_cores
from bestiary.progress import Reporter

FOLDER = "evaluations"


@dataclass(frozen=True)
class ExternalPictures:
    """Pictures from elsewhere (`table.PICTURES`), those of them that the run has learnt from left out and counted."""

    pictures: pl.DataFrame
    unreadable: int
    seen: dict[str, int]


@dataclass(frozen=True)
class ExternalEvaluation:
    """A finished evaluation: its folder in the run, and what its `metrics.json` says."""

    path: Path
    metrics: dict[str, Any]


def evaluate_external(
    run: Path,
    pictures: Path,
    *,
    labels: str | None = None,
    corrections: Path | None = None,
    name: str | None = None,
    threads: int | None = None,
    reporter: Reporter,
) -> ExternalEvaluation:
    """Score a finished run on other labelled pictures and write `evaluations/<name>/` into it.

    It holds `metrics.json`, `predictions.parquet` and `pictures.parquet`: every picture, and why it was left out if it
    was. The rest of the run stays as it is.
    """
    recipe, workers = run_folder.load_resolved_recipe(run), threads or available_cores()
    bundle, known = read_bundle(run), table.read(run / "predictions.parquet", table.PREDICTIONS)
    alike = recipe.data.model_copy(update={"classes": ()})
    decided = None if corrections is None else read_corrections(corrections)
    context = Context(threads=workers, reporter=reporter)
    collection = audit_sources([pictures], labels, alike, recipe.limits, context, decided)
    near_bits = alike.near_duplicate_bits if alike.near_duplicates else None
    learnt = table.read(run / "pictures.parquet", table.PICTURES)
    found = drop_seen_copies(collection, learnt, near_bits=near_bits)
    predictions = predict_table(Predictor(run, threads=workers, engine="fastest"), found.pictures, reporter)
    validation = known.filter(pl.col("split") == "val")
    resamples, seed = recipe.evaluate.resamples, recipe.seed
    metrics = score_external(found, predictions, validation, bundle, resamples=resamples, seed=seed)
    metrics["passed_over"] = dict(collection.passed_over)
    folder = next_evaluation_folder(run, name or pictures.stem)
    table.write(annotate_all_pictures(collection.pictures, found), folder / "pictures.parquet")
    table.write(predictions, folder / "predictions.parquet")
    files_module.write_json(folder / "metrics.json", {"run": str(run), "source": str(pictures.absolute()), **metrics})
    return ExternalEvaluation(folder, metrics)


def drop_seen_copies(collection: AuditedDataset, learnt: pl.DataFrame, *, near_bits: int | None) -> ExternalPictures:
    """Return the readable pictures that are no copies of those in `learnt` (`sha256, phash, split`).

    A copy is an equal file, or a perceptual hash within `near_bits` bits; mirrored and cropped copies are not looked
    for. `seen` counts the copies by the split of the run that holds the original; copies of test pictures stay.
    Raises SourceError if nothing is left.
    """
    readable = collection.pictures.filter(pl.col("error").is_null())
    copies = _copies(readable, learnt, near_bits)
    seen = {split: int((copies == split).sum()) for split in table.SPLITS}
    kept = readable.filter(~copies.is_in(["train", "val"]).fill_null(False))
    if not kept.height:
        raise SourceError(
            f"None of the {collection.pictures.height:,} pictures can be scored:"
            f" {collection.pictures.height - readable.height:,} cannot be read, {seen['train'] + seen['val']:,} are"
            " copies of pictures that the run was trained or calibrated on."
        )
    return ExternalPictures(
        kept.with_columns(split=pl.lit("elsewhere")), collection.pictures.height - readable.height, seen
    )


def annotate_all_pictures(pictures: pl.DataFrame, external: ExternalPictures) -> pl.DataFrame:
    """Return all pictures (`table.PICTURES`), with `split` where they were scored and `error` where they were not."""
    scored = pl.col("row_id").is_in(external.pictures["row_id"].implode())
    copy = pl.lit("It is a copy of a picture that the run was trained or calibrated on.")
    return pictures.select(list(table.PICTURES)).with_columns(
        split=pl.when(scored).then(pl.lit("elsewhere")),
        error=pl.when(~scored).then(pl.coalesce("error", copy)),
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
    """Return what `metrics.json` of an evaluation says: shift first, then the metrics of the contract.

    They are over the pictures of classes that the run knows, and so are `find_weak_slices`. `unknown_classes`: by label that it
    does not know, how often it said "unknown". `classes_without_pictures`, and `present`: the averages over the other
    classes only.
    """
    known = predictions["label"].is_in(list(bundle.classes))
    groups = external.pictures["group"].to_numpy()
    body: dict[str, Any] = {
        "split": "elsewhere",
        "pictures": predictions.height,
        "unreadable": external.unreadable,
        "copies": external.seen,
        "shift": distribution_shift(validation, predictions, bundle.classes, threshold=bundle.threshold),
        "unknown_classes": _unknown_rates(predictions.filter(~known), groups[~known.to_numpy()]),
        "classes_without_pictures": [name for name in bundle.classes if name not in set(predictions["label"])],
    }
    if known.any():
        own = groups[known.to_numpy()]
        scores = score_table(
            predictions.filter(known), own, bundle.classes, threshold=bundle.threshold, resamples=resamples, seed=seed
        )
        body |= scores | {"present": _present_class_averages(scores)}
        body["slices"] = find_weak_slices(predictions.filter(known), external.pictures)
    return body


def next_evaluation_folder(run: Path, name: str) -> Path:
    """Return a folder for one more evaluation of a run: `evaluations/<name>`, with a number if that is taken."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "pictures"
    return run / FOLDER / next_free_name(plain, lambda free: (run / FOLDER / free).exists())


def _copies(readable: pl.DataFrame, learnt: pl.DataFrame, near_bits: int | None) -> pl.Series:
    """Return for each picture the split of the run's picture that it repeats, null if none; training comes first."""
    order = {split: place for place, split in enumerate(table.SPLITS)}
    learnt = learnt.filter(pl.col("split").is_not_null()).sort(pl.col("split").replace_strict(order))
    first = learnt.unique("sha256", keep="first", maintain_order=True).select("sha256", copy="split")
    copies: list[str | None] = readable.join(first, on="sha256", how="left", maintain_order="left")["copy"].to_list()
    if near_bits is not None and learnt.height:
        pairs = find_near_pairs(hash_bits([*learnt["phash"], *readable["phash"]]), near_bits)
        across = pairs[(pairs[:, 0] < learnt.height) & (pairs[:, 1] >= learnt.height)]
        for one, other in sorted(across[:, :2].tolist()):
            place = other - learnt.height
            copies[place] = min((copies[place] or "test", learnt["split"][one]), key=order.__getitem__)
    return pl.Series(copies, dtype=pl.String)


def _unknown_rates(strangers: pl.DataFrame, groups: Any) -> dict[str, dict[str, float]]:
    """Return for each label how many pictures it has, and the share called unknown with Wilson's interval."""
    found: dict[str, dict[str, float]] = {}
    for label in strangers["label"].unique().sort():
        own = (strangers["label"] == label).to_numpy()
        share = float(strangers["unknown"].to_numpy()[own].mean())
        low, high = intervals.wilson_interval(np.array(share), np.array(len(np.unique(groups[own]))))
        found[label] = {"pictures": int(own.sum()), **intervals.metric_value(share, float(low), float(high))}
    return found


def _present_class_averages(scores: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the averages over the classes that have pictures, with their rates' intervals combined.

    Where all have some, these are the averages over all classes, and so are their intervals.
    """
    present = [one for one in scores["per_class"].values() if one["support"]]
    names = [name for name in CLASS_AVERAGES if name.startswith("macro_")]
    if len(present) == len(scores["per_class"]):
        return {name: scores[name] for name in names}
    return {name: _mean_rate(present, name.removeprefix("macro_")) for name in names}


def _mean_rate(classes: Sequence[dict[str, Any]], rate: str) -> dict[str, float]:
    values, lows, highs = (np.array([one[rate][end] for one in classes]) for end in ("value", "low", "high"))
    return intervals.metric_value(float(values.mean()), *intervals.mover_interval(values, lows, highs))
